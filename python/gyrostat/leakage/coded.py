"""The columns of all splits as arrays, which is what statistics over columns start from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.leakage.splits import Column, Split

__all__ = ["Coded", "Stack", "code_column", "readable", "stack"]

ALL = 2**62
"""More rows than there can be."""


class Coded:
    """One column of all splits, one after the other.

    Attributes:
        name: Its name.
        holds: ``"numbers"``, ``"instants"``, ``"text"``, ``"other"``, or ``"nothing"`` if every
            cell is missing.
        whole: Whether these are whole numbers.
        words: Words of the distinct texts, on average.
        codes: int64, shape ``(rows,)``: equal cells have equal codes from 0 up in the order of
            their first appearance; -1 is missing (null, NaN, not-a-time).
        values: float64, shape ``(rows,)``: the numbers, or instants in seconds since 1970; NaN is
            missing. Empty for what is neither.
        distinct: Number of distinct values.
    """

    def __init__(self, name: str, core: _core.ColumnCodes) -> None:
        self.name = name
        self.core = core
        self.holds = core.holds
        self.whole = core.whole
        self.words = core.words
        self.codes = core.codes
        self.values = core.values
        self.distinct = len(core)

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Whether the cell is missing, by row."""
        return self.codes < 0

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each code."""
        return np.bincount(self.codes[~self.missing], minlength=self.distinct)

    def text(self, code: int) -> str:
        """A value as people read it."""
        return self.core.text(int(code))


@dataclass(frozen=True, slots=True)
class Stack:
    """The rows of all splits, one split after the other, or a sample of them.

    Attributes:
        names: Names of the splits.
        starts: First row of each split, and one past the last row.
        columns: By name.
    """

    names: tuple[str, ...]
    starts: NDArray[np.int64]
    columns: dict[str, Coded]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.starts[-1])

    @property
    def split(self) -> NDArray[np.int64]:
        """The number of the split of each row."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.starts))

    def part(self, index: int) -> slice:
        """The rows of one split."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))


def stack(
    splits: Sequence[Split], names: Iterable[str], *, normalised: bool, most: int = ALL
) -> Stack:
    """Codes the columns ``names``, which each split has.

    Args:
        splits: In order.
        names: Of the columns.
        normalised: Whether cells are equal if their normal forms are: text regardless of case and
            white space, numbers to 6 significant digits.
        most: Rows of each split that are read, evenly spread.
    """
    names = list(names)
    asked = [(name, [split.columns[name] for split in splits]) for name in names]
    coded = _core.column_codes(asked, normalised, most)
    return Stack(
        names=tuple(split.name for split in splits),
        starts=np.concatenate([[0], np.cumsum([min(split.rows, most) for split in splits])]).astype(
            np.int64
        ),
        columns={name: Coded(name, core) for name, core in zip(names, coded, strict=True)},
    )


def readable(
    splits: Sequence[Split], names: Iterable[str], *, normalised: bool, most: int = ALL
) -> Stack:
    """As :func:`stack`, without the columns that hold what cannot be compared, such as lists."""
    names = list(names)
    try:
        return stack(splits, names, normalised=normalised, most=most)
    except (TypeError, ValueError):
        good = []
        for name in names:
            try:
                stack(splits, [name], normalised=normalised, most=1)
            except (TypeError, ValueError):
                continue
            good.append(name)
        return stack(splits, good, normalised=normalised, most=most)


def code_column(name: str, parts: Sequence[Column], *, normalised: bool, most: int = ALL) -> Coded:
    """One column, given split by split."""
    (core,) = _core.column_codes([(name, list(parts))], normalised, most)
    return Coded(name, core)
