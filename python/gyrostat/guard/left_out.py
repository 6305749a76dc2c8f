"""The registry file: which batches and samples are left out, across restarts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gyrostat.guard._disk import append_line, end_last_line, placed_lines, size_of

__all__ = ["LeftOut", "RegistryFile", "read_left_out"]

_VERSION = 1


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is left out.

    Attributes:
        batches: Identities of batches.
        samples: Indices into the data set.
    """

    batches: frozenset[str] = frozenset()
    samples: frozenset[int] = frozenset()

    def after(self, record: object) -> LeftOut:
        """The same after one line of the file; what is no such line changes nothing."""
        if not isinstance(record, dict) or record.get("version") != _VERSION:
            return self
        batches, samples = record.get("batches"), record.get("samples")
        if not isinstance(batches, list) or not isinstance(samples, list):
            return self
        named = {b for b in batches if isinstance(b, str)}
        placed = {s for s in samples if isinstance(s, int) and not isinstance(s, bool)}
        if record.get("action") == "leave-out":
            return LeftOut(self.batches | named, self.samples | placed)
        if record.get("action") == "forgive":
            return LeftOut(self.batches - named, self.samples - placed)
        return self


def read_left_out(
    path: str | os.PathLike[str], so_far: LeftOut | None = None, *, size: int | None = None
) -> LeftOut:
    """What a registry file leaves out; nothing if there is no such file.

    Args:
        path: The file. Lines that a kill cut short are passed over.
        so_far: What was left out before its first line.
        size: Without the lines of a guard that were added since the file had so many bytes.
    """
    found = LeftOut() if so_far is None else so_far
    path = Path(path)
    if path.exists():
        for place, record in placed_lines(path):
            is_later = size is not None and place >= size
            if not (is_later and isinstance(record, dict) and record.get("step") is not None):
                found = found.after(record)
    return found


class RegistryFile:
    """Append-only JSON lines, on the disk before the run goes on.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end_last_line(self.path)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return size_of(self.path)

    def append(
        self,
        action: str,
        batches: Iterable[str],
        samples: Iterable[int],
        reason: str,
        step: int | None = None,
    ) -> None:
        """Adds one line: ``action`` is ``"leave-out"`` or ``"forgive"``.

        ``step`` is that of the guard that adds it; None for anybody else.
        """
        record = {
            "version": _VERSION,
            "action": action,
            "batches": list(batches),
            "samples": list(samples),
            "reason": reason,
            "step": step,
            "time": time.time(),
        }
        append_line(self.path, record)
