"""Lines of a text file that may be anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["lines", "text"]

_HEAD_BYTES = 8192
_LONGEST_LINE = 1 << 24  # characters; a log line is some hundreds


def lines(path: Path) -> Iterator[str]:
    """The lines of ``path`` with their ends, so that a line that was cut off can be told.

    Bytes that are not UTF-8 become U+FFFD: they spoil the cell that they stand in, not the file.

    Raises:
        ValueError: If the file is empty, binary, or has a line of more than 16 Mi characters.
    """
    _check_text(path)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        number = 1
        while line := file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise ValueError(
                    f"path: line {number} of {path} is longer than {_LONGEST_LINE:,} characters"
                )
            yield line
            number += 1


def text(path: Path) -> str:
    """The whole of ``path``.

    Raises:
        ValueError: If the file is empty or binary.
    """
    _check_text(path)
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _check_text(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip():
        raise ValueError(f"path: {path} is empty")
    if b"\0" in head:
        raise ValueError(f"path: {path} is binary, expected a text log")
