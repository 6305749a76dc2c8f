"""The baseline: pairs that somebody has looked at and accepted, so that CI tells new ones alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["read_baseline", "write_baseline"]

_FORMAT = "gyrostat leakage baseline"
_VERSION = 1

Identity = tuple[str, str, bool]
"""A pair by its content: the identities of its rows, and whether their labels differ."""


def read_baseline(path: str | os.PathLike[str]) -> list[Identity]:
    """The accepted pairs of a file that :func:`write_baseline` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no baseline, or one of a later version.
    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"baseline: {path} is no JSON: {error}") from error
    if not isinstance(held, dict) or held.get("format") != _FORMAT:
        raise ValueError(f"baseline: {path} is no {_FORMAT}")
    if held.get("version") != _VERSION:
        version = held.get("version")
        raise ValueError(f"baseline: expected version {_VERSION}, got {version!r} in {path}")
    try:
        pairs = [(str(left), str(right), conflict) for left, right, conflict in held["pairs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"baseline: {path} holds something else than pairs: {error!r}") from error
    if not all(isinstance(conflict, bool) for _, _, conflict in pairs):
        raise ValueError(f"baseline: expected true or false for label conflicts in {path}")
    return pairs


def write_baseline(path: str | os.PathLike[str], pairs: Iterable[Identity]) -> None:
    """Writes pairs one a line, sorted, so that a version control system shows what changed."""
    lines = ",\n".join(json.dumps(pair) for pair in sorted(set(pairs)))
    head = f'{{"format": "{_FORMAT}", "version": {_VERSION}, "pairs": ['
    Path(path).write_text(f"{head}\n{lines}\n]}}\n", encoding="utf-8")
