"""The check: splits in, verified pairs out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.findings import Finding
from gyrostat.leakage.arrays import as_numpy, one_shape, sketch_array
from gyrostat.leakage.baseline import read_baseline
from gyrostat.leakage.beyond import Beyond, chances, check_beyond
from gyrostat.leakage.coded import code_column
from gyrostat.leakage.entities import link
from gyrostat.leakage.fixer import Resplit
from gyrostat.leakage.images import sketch_images
from gyrostat.leakage.options import TextOptions
from gyrostat.leakage.progress import Bars
from gyrostat.leakage.report import LeakageReport, Overlaps, Subject
from gyrostat.leakage.splits import Column, Split, open_split
from gyrostat.leakage.tokens import Ragged, open_tokens

__all__ = ["check_leakage", "resplit"]

_EXAMPLES = 5


def check_leakage(
    splits: Mapping[str, Any],
    *,
    text: str | None = None,
    image: str | bool | None = None,
    tokens: str | bool | None = None,
    pad: int | Sequence[int] = (),
    label: str | Mapping[str, Any] | None = None,
    group: str | Mapping[str, Any] | None = None,
    time: str | Mapping[str, Any] | None = None,
    near: float | None = 0.8,
    within: bool = False,
    exact: bool = False,
    baseline: str | os.PathLike[str] | None = None,
    options: TextOptions | None = None,
    ignore: Sequence[str] = (),
    grid: float | Mapping[str, float] | None = None,
    entity: str | Sequence[str] | None = None,
    columns: bool = True,
) -> LeakageReport:
    """Finds rows that are in more than one split, exactly or nearly, and leakage through columns.

    Three kinds of pairs are found, and each pair is reported once, as the strictest that holds:

    - ``exact``: the same bytes; for table rows the same cells.
    - ``normalised``: texts with the same words in the same order, lower-cased as Unicode says,
      whatever punctuation, symbols and white space stand between them. Table rows with the same
      cells once text is lower-cased and its white space trimmed, and numbers that are not whole
      are rounded to 6 significant digits.
    - ``near``: Jaccard similarity of at least ``near``. Texts are compared by their sets of word
      5-grams; fewer than 5 words make one 5-gram, the whole text. Each letter of a script without
      spaces (Han, kana, Thai, Lao, Khmer, Myanmar) is a word. ``options`` changes what is compared.
      Table rows are compared by their sets of (column, normalised cell).

    Images, arrays of three and more dimensions and sequences of token ids have kinds and a
    similarity of their own: see ``image``, ``splits`` and ``tokens``.

    Candidates come from MinHash (Broder, "On the resemblance and containment of documents", 1997)
    in bands chosen so that a pair right at ``near`` is missed with a probability below 0.0001,
    for table rows from blocks of columns, which miss none. The similarity of every candidate is
    then computed exactly, so that no reported pair is an estimate. The report tells the recall that
    the bands guarantee, and the one measured: for some hundred texts drawn at random, all near
    duplicates are looked up without bands. ``exact=True`` does that for every text by a prefix
    filter (Bayardo, Ma and Srikant, "Scaling up all pairs similarity search", 2007): it misses
    nothing and takes some times longer. Two texts are taken for the same if XXH3-128 says so, two
    words or shingles if 64 bits do.

    Cells compare as in Python: ``1 == 1.0 == True``, ``-0.0 == 0.0``, text byte by byte, instants
    whatever their unit (without a time zone they are UTC). Null, NaN and not-a-time are one value
    that equals itself. Missing texts match nothing.

    A group of n copies has n^2 / 2 pairs, and so has a family made from one template. Where there
    are more than 8 million pairs and 8 a row, the groups of copies with the most pairs are cut
    short: each of their rows is paired with the first of its copies in each other split alone.
    Where the sets of look-alikes that share a band meet more than 67 million times and 64 times a
    text, the largest ones are not compared in full, unless ``exact``: each text is compared with
    the first 16 of each split. So time and memory stay linear; the summary counts what was cut.

    Pairs are the same, bit by bit, on any number of threads.

    Tables of few values have equal rows by chance. Pairs of rows that chance explains are still
    pairs, but of severity info; the finding says how many chance gives
    (:class:`gyrostat.leakage.rows.Chance`).

    Tables are also searched for rows that are copies but for a column or two, for columns that tell
    the label, group rows, order the splits in time, look ahead or identify rows, and for signs of
    preprocessing that saw the test rows. docs/leakage_beyond_copies.md has the rule of each.

    Args:
        splits: Data by name of the split, the earliest (train) first. Each is a sequence of str
            (None is missing), a one-dimensional NumPy array of text, a two-dimensional one of
            rows, or a table or column of pandas, polars, pyarrow, Hugging Face datasets or anything
            else that speaks the Arrow PyCapsule protocol. Text is read where it lies. An empty
            split has no pairs. Bytes are no text: decode them first, so that it is you who says
            what becomes of invalid UTF-8. Arrays and tensors of three and more dimensions are rows
            of elements that compare as cells do; normalised, those that are not whole are rounded
            to 11 significant bits, as float16 holds them; near, the rows are cut into 64 blocks of
            elements, each a cell.
        text: Column of texts to compare. None compares whole rows, by columns of the same names
            in any order, without those of ``label``, ``group`` and ``time``.
        image: True where the splits are images: arrays or tensors of shape (N, H, W),
            (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels, or sequences of arrays, PIL
            images, paths or encoded bytes; or the column of a table that holds such (None is
            missing). Files and bytes need Pillow. Exact is the same pixels; normalised the same as
            8-bit RGB but for turning by quarters and mirroring; near is said in
            ``docs/images.md``: the best likeness of grey thumbnails turned, scaled and shifted
            onto each other, of at least ``near`` and of more than unrelated images of this data
            reach by chance.
        tokens: True where the splits are sequences of token ids: lists of ints, arrays of integers
            of shape (N, length), Arrow lists; or the column of a table that holds such. Each id is
            a word; exact is the same ids.
        pad: Id or ids that ``tokens`` takes for padding, as if they were not there.
        label: Column of labels, or labels by split. Pairs then tell whether theirs differ.
        group: Column of groups, such as patients, or groups by split, that should each be in one
            split only.
        time: Column of times, or times by split: numbers, dates, time stamps, or ISO 8601 text.
            A later split should hold nothing older than the newest row of an earlier one.
        near: Least similarity of near duplicates, in (0, 1]. None looks for none.
        within: Whether pairs inside one split count as well. With one split alone they always do.
        exact: Whether texts are compared so that no near duplicate is missed.
        baseline: File of accepted pairs that :meth:`LeakageReport.save_baseline` wrote. They are
            neither listed nor counted; the rows to keep are those without a baseline.
        options: What the tokens of texts are; see :class:`gyrostat.leakage.TextOptions`.
        ignore: Columns, such as row numbers, that are left out of everything.
        grid: Step by column, or one for all: in the normal form of a row numbers are rounded to
            whole multiples of it, instead of 6 significant digits.
        entity: Column or columns that tell who or what a row is of, such as name and address:
            records of one entity are found in spite of typing errors, as
            :func:`gyrostat.leakage.find_entities` does, and are in ``report.entities``.
        columns: Whether columns are searched.

    Returns:
        The report. ``report.pairs`` are the pairs, ``report.clusters`` the rows that hang together
        by them, ``report.clean_rows(split)`` the rows to keep.

    Raises:
        TypeError: If a split is nothing of the above, or holds something else than it should.
        ValueError: If there is no split, a column is missing, columns differ or repeat, ``near`` or
            ``grid`` is out of range, ``baseline`` is no such file, or a str holds lone surrogates.
        OSError: If ``baseline`` cannot be read.
    """
    if not isinstance(splits, Mapping):
        raise TypeError(f"splits: expected a mapping by name, got {type(splits).__name__}")
    if not splits:
        raise ValueError("splits: expected at least one, got none")
    if options is None:
        options = TextOptions()
    elif not isinstance(options, TextOptions):
        raise TypeError(f"options: expected TextOptions or None, got {type(options).__name__}")
    accepted = [] if baseline is None else read_baseline(baseline)
    if sum(choice not in (None, False) for choice in (text, image, tokens)) > 1:
        raise ValueError("text: expected one of text, image and tokens, got more")
    with Bars() as bars:
        given = _subject(splits, text, image, tokens, bars)
        opened = given.splits
        labels = _side("label", label, opened)
        groups = _side("group", group, opened)
        times = _side("time", time, opened)
        ignore, fields = _names("ignore", ignore, opened), _names("entity", entity, opened)
        within = within or len(opened) == 1
        shared: dict[str, Any] = {
            "labels": labels,
            "near": near,
            "within": within,
            "examples": _EXAMPLES,
            "progress": bars,
        }
        compared: list[str] = []
        if given.what is not None and baseline is not None:
            raise ValueError(f"baseline: expected texts or rows of a table, got {given.what}")
        if given.what is not None:
            leaks, what = _pairs_of(given, pad, exact=bool(exact), shared=shared), given.what
        else:
            named = [c for c in (label, group, time) if isinstance(c, str)]
            is_text, tables = _tables(opened, text, [*named, *ignore])
            compared = [] if is_text else [name for name, _ in tables[0]]
            what = "texts" if is_text else f"rows of {len(compared):,} columns"
            leaks = _core.find_leaks(
                list(zip([split.name for split in opened], tables, strict=True)),
                text=options.fields() if is_text else None,
                exact=bool(exact),
                accepted=accepted,
                grids=_grids(grid, compared),
                **shared,
            )
        found: list[Finding] = []
        searched: int | None = None
        bare = given.what is not None or (text is None and not compared)
        if columns and not bare:
            found, searched = check_beyond(
                opened,
                compared=compared,
                skipped={*ignore, *([text] if text is not None else [])},
                label=labels,
                label_name=label if isinstance(label, str) else None,
                time=time if isinstance(time, str) else None,
                groups={*fields, *([group] if isinstance(group, str) else [])},
            )
        beyond = Beyond(
            findings=found,
            searched=searched,
            chance=chances(opened, compared, near, leaks.counts()),
            entities=link(opened, fields, labels, within=within) if fields else None,
            label=code_column("label", labels, normalised=False) if labels is not None else None,
            groups=code_column("group", groups, normalised=False) if groups is not None else None,
        )
    subject = Subject(
        rows={split.name: split.rows for split in opened},
        columns=len(compared) or None,
        near=near,
        within=within,
        what=what,
    )
    overlaps = Overlaps(
        groups=_core.shared_groups(groups, _EXAMPLES) if groups is not None else [],
        times=_core.time_disorder(times) if times is not None else [],
    )
    return LeakageReport(leaks, subject, overlaps, accepted, beyond)


def resplit(
    splits: Mapping[str, Any],
    sizes: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    keep: bool = True,
    **options: Any,
) -> Resplit:
    """Makes new splits in which no copy, declared group or entity is in two of them.

    Args:
        splits: As for :func:`gyrostat.check_leakage`; one split alone is split for the first time.
        sizes: Share (or number) of rows by name of the new split. None keeps names and sizes.
        seed: Of the random choices; equal seeds give equal splits.
        keep: Whether rows stay in the split of the same name as far as that allows.
        **options: Of :func:`gyrostat.check_leakage`: which rows are copies, ``group``, ``entity``,
            and the ``label`` whose shares are to be the same in all splits.

    Returns:
        The new split of each row, and the difference to the old ones.

    Raises:
        TypeError, ValueError: As :func:`gyrostat.check_leakage`; ValueError if ``sizes`` are none.
    """
    report = check_leakage(splits, **{"columns": False, **options, "within": True})
    return report.resplit(sizes, seed=seed, keep=keep)


@dataclass(frozen=True, slots=True)
class _Opened:
    """The splits, and what is compared of them if it is no text and no table."""

    splits: list[Split]
    images: list[_core.ImageSketcher] | None = None
    arrays: list[_core.ArraySketcher] | None = None
    tokens: list[_core.ArrowColumn | Ragged] | None = None

    @property
    def what(self) -> str | None:
        """What is compared, in words; None for texts and tables."""
        if self.images is not None:
            return "images"
        if self.arrays is not None:
            return "arrays"
        return None if self.tokens is None else "token ids"


def _pairs_of(
    given: _Opened, pad: int | Sequence[int], *, exact: bool, shared: Mapping[str, Any]
) -> _core.Leaks:
    """The pairs of what is no text and no table."""
    names = [split.name for split in given.splits]
    if given.images is not None:
        return _core.find_image_leaks(list(zip(names, given.images, strict=True)), **shared)
    if given.arrays is not None:
        return _core.find_array_leaks(list(zip(names, given.arrays, strict=True)), **shared)
    ids = list(zip(names, map(_ids, given.tokens or []), strict=True))
    return _core.find_token_leaks(ids, pads=_pads(pad), exact=exact, **shared)


def _subject(
    splits: Mapping[str, Any],
    text: str | None,
    image: str | bool | None,
    tokens: str | bool | None,
    bars: Bars,
) -> _Opened:
    named = {str(name): data for name, data in splits.items()}
    if image is True:
        images = [sketch_images(name, data, bars) for name, data in named.items()]
        return _Opened(_alone(named, images), images=images)
    if tokens is True:
        ids = [open_tokens(name, data) for name, data in named.items()]
        return _Opened(_alone(named, ids), tokens=ids)
    if text is None and not image and not tokens:
        arrays = {name: as_numpy(data) for name, data in named.items()}
        if any(array is not None and array.ndim > 2 for array in arrays.values()):
            rows = _sketch_arrays(arrays, bars)
            return _Opened(_alone(named, rows), arrays=rows)
    opened = [open_split(name, data) for name, data in named.items()]
    if image:
        for split in opened:
            split.column("image", image)
        pairs = ((name, _raw_column(data, image)) for name, data in named.items())
        return _Opened(opened, images=[sketch_images(name, data, bars) for name, data in pairs])
    if tokens:
        chosen = [open_tokens(split.name, split.column("tokens", tokens)) for split in opened]
        return _Opened(opened, tokens=chosen)
    return _Opened(opened)


def _alone(names: Iterable[str], rows: Sequence[Any]) -> list[Split]:
    """Splits without columns of a name."""
    return [Split(name, {"": column}) for name, column in zip(names, rows, strict=True)]


def _sketch_arrays(
    arrays: Mapping[str, NDArray[Any] | None], bars: Bars
) -> list[_core.ArraySketcher]:
    rows = []
    for name, array in arrays.items():
        if array is None or array.ndim == 0:
            raise TypeError(f"splits: expected an array in every split, got none as {name!r}")
        rows.append((name, array))
    one_shape([(name, array.shape[1:]) for name, array in rows])
    return [sketch_array(name, array, bars) for name, array in rows]


def _raw_column(data: Any, name: str) -> Any:
    """A column of a table as its own library holds it."""
    if type(data).__module__.partition(".")[0] == "datasets":
        data = data.with_format("arrow")[:]
    return data[name]


def _ids(tokens: _core.ArrowColumn | Ragged) -> Any:
    return (tokens.ids, tokens.starts) if isinstance(tokens, Ragged) else tokens


def _pads(pad: int | Sequence[int]) -> list[int]:
    pads = [pad] if isinstance(pad, int | np.integer) else list(pad)
    if not all(isinstance(id_, int | np.integer) for id_ in pads):
        raise TypeError(f"pad: expected an id or ids, got {pad!r}")
    return [int(id_) for id_ in pads]


def _tables(
    opened: Sequence[Split], text: str | None, without: Sequence[str]
) -> tuple[bool, list[list[tuple[str, Column]]]]:
    """Whether texts are compared, and the columns of each split that are."""
    if text is not None:
        return True, [[("", split.column("text", text))] for split in opened]
    if all(split.is_text for split in opened):
        return True, [[("", split.columns[""])] for split in opened]
    return False, _rows(opened, without=without)


def _names(parameter: str, given: str | Sequence[str] | None, splits: Sequence[Split]) -> list[str]:
    """Columns that every split has."""
    names = [given] if isinstance(given, str) else list(given or ())
    for split in splits:
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"{parameter}: expected names of columns, got {name!r}")
            split.column(parameter, name)
    return names


def _grids(grid: float | Mapping[str, float] | None, columns: Sequence[str]) -> list[float | None]:
    """The step of each column."""
    if grid is None:
        return []
    if not columns:
        raise ValueError("grid: expected rows of columns to compare, got texts")
    if not isinstance(grid, Mapping):
        return [float(grid)] * len(columns)
    if unknown := [name for name in grid if name not in columns]:
        raise ValueError(f"grid: expected columns that are compared ({columns}), got {unknown}")
    return [float(grid[name]) if name in grid else None for name in columns]


def _side(
    parameter: str, given: str | Mapping[str, Any] | None, splits: Sequence[Split]
) -> list[Column] | None:
    """One column a split that stands beside what is compared."""
    if given is None:
        return None
    if isinstance(given, str):
        return [split.column(parameter, given) for split in splits]
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{parameter}: expected the name of a column, or values by split, "
            f"got {type(given).__name__}"
        )
    names = [split.name for split in splits]
    if sorted(map(str, given)) != sorted(names):
        raise ValueError(f"{parameter}: expected values for {names}, got {sorted(map(str, given))}")
    sides = {str(name): open_split(str(name), values) for name, values in given.items()}
    for split in splits:
        side = sides[split.name]
        if len(side.columns) != 1 or side.rows != split.rows:
            raise ValueError(
                f"{parameter}: expected {split.rows} values for {split.name!r}, "
                f"got {len(side.columns)} columns of {side.rows}"
            )
    return [next(iter(sides[name].columns.values())) for name in names]


def _rows(splits: Sequence[Split], without: Sequence[str]) -> list[list[tuple[str, Column]]]:
    """The columns to compare, in the order of the first split."""
    first = splits[0]
    for split in splits[1:]:
        if odd := sorted(first.columns.keys() ^ split.columns.keys()):
            raise ValueError(
                f"splits: expected the same columns in {first.name!r} and {split.name!r}, "
                f"got {odd} in one of them"
            )
    names = [name for name in first.columns if name not in without]
    if not names:
        raise ValueError("splits: expected columns to compare, got none beside label, group, time")
    return [[(name, split.columns[name]) for name in names] for split in splits]
