"""Files that stay readable, whatever byte a kill or a power cut comes at."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "append_line",
    "end_last_line",
    "placed_lines",
    "read_lines",
    "size_of",
    "sync_file",
    "sync_folder",
]


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one line of strict JSON; on return it is on the disk."""
    is_new = not path.exists()
    with path.open("ab") as file:
        file.write((json.dumps(record, allow_nan=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def read_lines(path: Path) -> Iterator[Any]:
    """The values of the lines; what a kill cut short, or is no JSON, is left out."""
    return (value for _, value in placed_lines(path))


def placed_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The same, each with the byte that its line begins at."""
    place = 0
    with path.open("rb") as file:
        for line in file:
            start, place = place, place + len(line)
            try:
                yield start, json.loads(line)
            except (ValueError, RecursionError):
                continue


def size_of(path: Path) -> int:
    """Bytes in the file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def end_last_line(path: Path) -> None:
    """Closes a line that a kill cut short, so that the next one starts on its own."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def sync_file(path: Path) -> None:
    """Waits until the content of a file is on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
