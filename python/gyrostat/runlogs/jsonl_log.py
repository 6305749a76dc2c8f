"""Runs logged as one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gyrostat.runlogs.table import LogTable, RunLog

__all__ = ["flat", "read_jsonl"]


def read_jsonl(lines: Iterable[str], path: Path) -> RunLog:
    """Reads JSON lines, with records of other kinds and other text between them.

    NaN and Infinity may stand bare or as strings; null was not logged.

    Args:
        lines: The lines of the file, with their ends.
        path: Where they come from.

    Raises:
        ValueError: If no line holds a loss.
    """
    table, notes = LogTable(), []
    foreign, is_cut = 0, False
    for line in lines:
        if not (stripped := line.strip("\0 \t\r\n")):
            continue
        record = _parse(stripped)
        if isinstance(record, dict):
            table.add(flat(record))
        elif not line.endswith(("\n", "\r")):
            is_cut = True
        else:
            foreign += 1
    if foreign:
        notes.append(f"{foreign:,} lines are not JSON objects and left out")
    if is_cut:
        notes.append("the last line is cut off and left out")
    return table.run_log(path, "jsonl", notes)


def flat(record: Mapping[str, object]) -> dict[str, object]:
    """The cells of one record: its numbers and texts, and those one level below."""
    return dict(_cells(record))


def _cells(record: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in record.items():
        if isinstance(value, dict):
            for inner, cell in value.items():
                if isinstance(cell, str | int | float):
                    yield f"{name}/{inner}", cell
        elif isinstance(value, str | int | float):
            yield name, value


def _parse(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
