"""The check: splits in, verified pairs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from gyrostat import _core
from gyrostat.leakage.options import TextOptions
from gyrostat.leakage.report import LeakageReport, Overlaps, Subject
from gyrostat.leakage.splits import Column, Split, open_split

__all__ = ["check_leakage"]

_EXAMPLES = 5


def check_leakage(
    splits: Mapping[str, Any],
    *,
    text: str | None = None,
    label: str | Mapping[str, Any] | None = None,
    group: str | Mapping[str, Any] | None = None,
    time: str | Mapping[str, Any] | None = None,
    near: float | None = 0.8,
    within: bool = False,
    exact: bool = False,
    options: TextOptions | None = None,
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
      spaces (Han, kana, Thai, Lao, Khmer, Myanmar) is a word. ``options`` changes what is compared.
      Table rows are compared by their sets of (column, normalised cell).

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

    Args:
        splits: Data by name of the split, the earliest (train) first. Each is a sequence of str
            (None is missing), a one-dimensional NumPy array of text, a two-dimensional one of
            rows, or a table or column of pandas, polars, pyarrow, Hugging Face datasets or anything
            else that speaks the Arrow PyCapsule protocol. Text is read where it lies. An empty
            split has no pairs. Bytes are no text: decode them first, so that it is you who says
            what becomes of invalid UTF-8.
        text: Column of texts to compare. None compares whole rows, by columns of the same names
            in any order, without those of ``label``, ``group`` and ``time``.
        label: Column of labels, or labels by split. Pairs then tell whether theirs differ.
        group: Column of groups, such as patients, or groups by split, that should each be in one
            split only.
        time: Column of times, or times by split: numbers, dates, time stamps, or ISO 8601 text.
            A later split should hold nothing older than the newest row of an earlier one.
        near: Least similarity of near duplicates, in (0, 1]. None looks for none.
        within: Whether pairs inside one split count as well. With one split alone they always do.
        exact: Whether texts are compared so that no near duplicate is missed.
        options: What the tokens of texts are; see :class:`gyrostat.leakage.TextOptions`.

    Returns:
        The report. ``report.pairs`` are the pairs, ``report.clusters`` the rows that hang together
        by them, ``report.clean_rows(split)`` the rows to keep.

    Raises:
        TypeError: If a split is nothing of the above, or holds something else than it should.
        ValueError: If there is no split, a column is missing, columns differ or repeat, ``near`` is
            out of range, or a str holds lone surrogates.
    """
    if not isinstance(splits, Mapping):
        raise TypeError(f"splits: expected a mapping by name, got {type(splits).__name__}")
    if not splits:
        raise ValueError("splits: expected at least one, got none")
    if options is None:
        options = TextOptions()
    elif not isinstance(options, TextOptions):
        raise TypeError(f"options: expected TextOptions or None, got {type(options).__name__}")
    opened = [open_split(str(name), data) for name, data in splits.items()]
    labels = _side("label", label, opened)
    groups = _side("group", group, opened)
    times = _side("time", time, opened)
    bare = text is None and all(split.is_text for split in opened)
    if text is not None:
        tables = [[("", split.column("text", text))] for split in opened]
    elif bare:
        tables = [[("", split.columns[""])] for split in opened]
    else:
        tables = _rows(opened, without=[c for c in (label, group, time) if isinstance(c, str)])
    within = within or len(opened) == 1
    with _Bars() as bars:
        leaks = _core.find_leaks(
            list(zip([split.name for split in opened], tables, strict=True)),
            text=options.fields() if text is not None or bare else None,
            labels=labels,
            near=near,
            within=within,
            exact=bool(exact),
            examples=_EXAMPLES,
            progress=bars,
        )
    subject = Subject(
        rows={split.name: split.rows for split in opened},
        columns=None if text is not None or bare else len(tables[0]),
        near=near,
        within=within,
    )
    overlaps = Overlaps(
        groups=_core.shared_groups(groups, _EXAMPLES) if groups is not None else [],
        times=_core.time_disorder(times) if times is not None else [],
    )
    return LeakageReport(leaks, subject, overlaps)


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
