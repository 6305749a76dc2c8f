"""One way in: whatever a run left behind, read by what it is."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from pathlib import Path

from gyrostat.runlogs.csv_log import read_csv
from gyrostat.runlogs.jsonl_log import read_jsonl
from gyrostat.runlogs.table import RunLog
from gyrostat.runlogs.text import lines, text
from gyrostat.runlogs.trainer_state import read_trainer_state

__all__ = ["read_run"]

_TABLES = (".csv", ".tsv")
_JSON_LINES = (".jsonl", ".ndjson")
_STATE = "trainer_state.json"
_PEEKED_LINES = 1000
_SHOWN_FILES = 20


def read_run(path: str | os.PathLike[str]) -> RunLog:
    """Reads the log of one finished run.

    Args:
        path: A ``.csv`` or ``.tsv`` file with a header, a ``.jsonl`` or ``.ndjson`` file, a
            ``trainer_state.json`` of the Hugging Face Trainer, or a folder that holds one such run.

    Returns:
        The training rows as columns, the evaluations apart, and notes on how the file was read.

    Raises:
        TypeError: If ``path`` is not a path, such as an open file.
        FileNotFoundError: If there is nothing at ``path``.
        OSError: If it cannot be opened.
        ValueError: If it is not a log of these kinds, has no training loss, or is a folder with no
            run or several.
    """
    path = _as_path(path)
    if path.is_dir():
        path = _find(path)
    elif not path.is_file():
        raise ValueError(f"path: {path} is neither a file nor a folder")
    return _read(path)


def _as_path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"path: expected a str or os.PathLike, got {type(path).__name__}")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: there is no {path}")
    return path


def _read(path: Path, *, peek: bool = False) -> RunLog:
    limit = _PEEKED_LINES if peek else None
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return read_csv(itertools.islice(lines(path), limit), path)
    if suffix in _JSON_LINES:
        return read_jsonl(itertools.islice(lines(path), limit), path)
    if suffix == ".json":
        return read_trainer_state(text(path), path)
    known = ", ".join((*_TABLES, *_JSON_LINES))
    raise ValueError(f"path: expected {known} or {_STATE}, got {path.name!r}")


def _find(folder: Path) -> Path:
    """The one run in a folder."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        by_name = (Path(parent, name) for name in sorted(files))
        found += [path for path in by_name if _is_run(path)]
    found = _one_a_run(found)
    if not found:
        raise ValueError(f"path: no log of a run in {folder}")
    if len(found) > 1:
        listed = "\n".join(f"  {path}" for path in found[:_SHOWN_FILES])
        more = "\n  ..." if len(found) > _SHOWN_FILES else ""
        raise ValueError(f"path: {len(found)} runs in {folder}, name one:\n{listed}{more}")
    return found[0]


def _is_run(path: Path) -> bool:
    if path.suffix.lower() == ".json" and path.name != _STATE:
        return False
    try:
        return path.is_file() and len(_read(path, peek=True)) > 0
    except ValueError:
        return False


def _one_a_run(found: list[Path]) -> list[Path]:
    """Of the files that tell of one run, the one that tells most.

    A Trainer writes its state into the folder of the run and into each ``checkpoint-N``, the last
    of which has the whole history; other logs beside it repeat a part of it.
    """
    states: dict[Path, list[Path]] = defaultdict(list)
    for path in found:
        if path.name == _STATE:
            states[path.parent.parent if _checkpoint(path) else path.parent].append(path)
    best = {run: max(paths, key=_reach) for run, paths in states.items()}
    others = [path for path in found if path.name != _STATE and path.parent not in best]
    return sorted([*best.values(), *others])


def _checkpoint(path: Path) -> int | None:
    match = re.fullmatch(r"checkpoint-(\d{1,18})", path.parent.name)
    return int(match[1]) if match else None


def _reach(path: Path) -> float:
    number = _checkpoint(path)
    return float("inf") if number is None else number
