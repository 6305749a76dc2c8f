"""Runs logged as csv: Lightning's, Keras's, exports and everybody's own."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from gyrostat.runlogs.table import LogTable, RunLog

__all__ = ["read_csv"]

_BLANK = frozenset({"", "None", "none", "NULL", "null", "NA", "N/A", "<NA>", "-"})


def read_csv(lines: Iterable[str], path: Path) -> RunLog:
    """Reads a table with a header row, divided by commas, semicolons or tabs.

    A blank cell was not logged; the texts nan, inf and infinity are values. Rows of validation may
    stand among those of training, each filling its own columns.

    Args:
        lines: The lines of the file, with their ends.
        path: Where they come from.

    Raises:
        ValueError: If it is not such a table, or has no loss.
    """
    source = _Source(lines)
    rows = csv.reader(source, delimiter=source.delimiter(), skipinitialspace=True)
    table, notes = LogTable(), []
    try:
        header = next(rows)
        misfits, repeats = _fill(table, header, rows, source)
    except csv.Error as error:
        raise ValueError(f"path: {path} is not a csv file: {error}") from error
    if source.is_cut:
        notes.append("the last line has no end: what it holds may be cut off")
    if misfits:
        notes.append(f"{misfits:,} rows have more or fewer cells than the header")
    if repeats:
        notes.append(f"the header is repeated {repeats:,} times")
    try:
        return table.run_log(path, "csv", notes)
    except ValueError as error:
        shown = ", ".join(repr(name[:60]) for name in header[:20])
        raise ValueError(f"{error}; the header is {shown}") from error


class _Source:
    """Hands on lines, and knows whether the last one lacks its end."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._first = next((line for line in self._lines if line.strip()), "")
        self.is_cut = False

    def delimiter(self) -> str:
        return max(",;\t", key=self._first.count)

    def __iter__(self) -> Iterator[str]:
        yield self._first
        for line in self._lines:
            self.is_cut = not line.endswith(("\n", "\r"))
            yield line


def _fill(
    table: LogTable, header: list[str], rows: Iterable[list[str]], source: _Source
) -> tuple[int, int]:
    """Adds the rows, and counts those that do not fit and those that repeat the header."""
    names = _distinct(header)
    misfits = repeats = 0
    for cells in rows:
        fits = len(cells) == len(names)
        if not cells or cells == header:
            repeats += bool(cells)
            continue
        if source.is_cut and not (fits and cells[-1]):
            break  # a value that was not written to its end would read as another value
        misfits += not fits
        table.add({n: c for n, c in zip(names, cells, strict=False) if c not in _BLANK})
    return misfits, repeats


def _distinct(header: list[str]) -> list[str]:
    """Names of the columns; one that comes a second time gets a name that nothing reads."""
    seen: dict[str, int] = {}
    out = []
    for name in map(str.strip, header):
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return out
