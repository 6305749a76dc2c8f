"""The check: splits in, verified pairs out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.leakage.arrays import as_numpy, one_shape, sketch_array
from gyrostat.leakage.images import sketch_images
from gyrostat.leakage.report import LeakageReport, Overlaps, Subject
from gyrostat.leakage.splits import Column, Split, open_split
from gyrostat.leakage.tokens import Ragged, open_tokens

__all__ = ["check_leakage"]

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
) -> LeakageReport:
    """Finds rows that are in more than one split, exactly or nearly.

    Three kinds of pairs are found, and each pair is reported once, as the strictest that holds:

    - ``exact``: the same bytes; for table rows the same cells.
    - ``normalised``: texts with the same words in the same order, lower-cased as Unicode says,
      whatever punctuation, symbols and white space stand between them. Table rows with the same
      cells once text is lower-cased and its white space trimmed, and numbers that are not whole
      are rounded to 6 significant digits.
    - ``near``: Jaccard similarity of at least ``near``. Texts are compared by their sets of word
      5-grams; fewer than 5 words make one 5-gram, the whole text. Each letter of a script without
      spaces (Han, kana, Thai, Lao, Khmer, Myanmar) is a word. Table rows are compared by their
      sets of (column, normalised cell).

    Images, arrays of three and more dimensions and sequences of token ids have kinds and a
    similarity of their own: see ``image``, ``splits`` and ``tokens``.

    Candidates come from MinHash (Broder, "On the resemblance and containment of documents", 1997)
    in bands chosen so that a pair right at ``near`` is missed with a probability below 0.0001,
    for table rows from blocks of columns, which miss none. The similarity of every candidate is
    then computed exactly, so that no reported pair is an estimate. Two texts are taken for the
    same if XXH3-128 says so.

    Cells compare as in Python: ``1 == 1.0 == True``, ``-0.0 == 0.0``, text byte by byte, instants
    whatever their unit (without a time zone they are UTC). Null, NaN and not-a-time are one value
    that equals itself. Missing texts match nothing.

    A group of n copies has n^2 / 2 pairs. Of groups with more than 1,000, each row is paired with
    the first of its copies in each other split alone; the summary counts them.

    Args:
        splits: Data by name of the split, the earliest (train) first. Each is a sequence of str
            (None is missing), a one-dimensional NumPy array of text, a two-dimensional one of
            rows, or a table or column of pandas, polars, pyarrow, Hugging Face datasets or anything
            else that speaks the Arrow PyCapsule protocol. Text is read where it lies. An empty
            split has no pairs. Arrays and tensors of three and more dimensions are rows of elements
            that compare as cells do; normalised, those that are not whole are rounded to 11
            significant bits, as float16 holds them; near, the rows are cut into 64 blocks of
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

    Returns:
        The report. ``report.pairs`` are the pairs, ``report.clean_rows(split)`` the rows to keep.

    Raises:
        TypeError: If a split is nothing of the above, or holds something else than it should.
        ValueError: If there is no split, a column is missing, columns differ or repeat, ``near`` is
            out of range, or a str holds lone surrogates.
    """
    if not isinstance(splits, Mapping):
        raise TypeError(f"splits: expected a mapping by name, got {type(splits).__name__}")
    if not splits:
        raise ValueError("splits: expected at least one, got none")
    if sum(choice not in (None, False) for choice in (text, image, tokens)) > 1:
        raise ValueError("text: expected one of text, image and tokens, got more")
    with _Bars() as bars:
        subject = _subject(splits, text, image, tokens, bars)
        opened = subject.splits
        labels = _side("label", label, opened)
        groups = _side("group", group, opened)
        times = _side("time", time, opened)
        within = within or len(opened) == 1
        names = [split.name for split in opened]
        options: dict[str, Any] = {
            "labels": labels,
            "near": near,
            "within": within,
            "examples": _EXAMPLES,
            "progress": bars,
        }
        columns: int | None = None
        if subject.images is not None:
            found = list(zip(names, subject.images, strict=True))
            leaks, what = _core.find_image_leaks(found, **options), "images"
        elif subject.arrays is not None:
            rows = list(zip(names, subject.arrays, strict=True))
            leaks, what = _core.find_array_leaks(rows, **options), "arrays"
        elif subject.tokens is not None:
            ids = list(zip(names, map(_ids, subject.tokens), strict=True))
            leaks, what = _core.find_token_leaks(ids, pads=_pads(pad), **options), "token ids"
        else:
            is_text, tables = _tables(opened, text, (label, group, time))
            columns = None if is_text else len(tables[0])
            what = "texts" if is_text else f"rows of {columns:,} columns"
            pairs = list(zip(names, tables, strict=True))
            leaks = _core.find_leaks(pairs, text=is_text, **options)
    overlaps = Overlaps(
        groups=_core.shared_groups(groups, _EXAMPLES) if groups is not None else [],
        times=_core.time_disorder(times) if times is not None else [],
    )
    rows_of = {split.name: split.rows for split in opened}
    about = Subject(rows=rows_of, columns=columns, near=near, within=within, what=what)
    return LeakageReport(leaks, about, overlaps)


@dataclass(frozen=True, slots=True)
class _Opened:
    """The splits, and what is compared of them if it is no text and no table."""

    splits: list[Split]
    images: list[_core.ImageSketcher] | None = None
    arrays: list[_core.ArraySketcher] | None = None
    tokens: list[_core.ArrowColumn | Ragged] | None = None


def _subject(
    splits: Mapping[str, Any],
    text: str | None,
    image: str | bool | None,
    tokens: str | bool | None,
    bars: _Bars,
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
    arrays: Mapping[str, NDArray[Any] | None], bars: _Bars
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
    opened: Sequence[Split], text: str | None, sides: Sequence[Any]
) -> tuple[bool, list[list[tuple[str, Column]]]]:
    """Whether texts are compared, and the columns of each split that are."""
    if text is not None:
        return True, [[("", split.column("text", text))] for split in opened]
    if all(split.is_text for split in opened):
        return True, [[("", split.columns[""])] for split in opened]
    return False, _rows(opened, without=[side for side in sides if isinstance(side, str)])


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


class _Bars:
    """One progress bar a phase; silent where the output is no terminal or notebook."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, phase: str, done: int, total: int) -> None:
        from tqdm.auto import tqdm

        if phase != self._phase:
            self.__exit__()
            self._phase = phase
            self._bar = tqdm(desc=phase, total=total, disable=None, leave=False, delay=0.5)
        self._bar.update(done - self._bar.n)
