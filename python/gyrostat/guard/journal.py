"""The journal: one line of JSON an incident, on disk before the run goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gyrostat.findings import Finding, plain
from gyrostat.guard._disk import append_line, end_last_line, placed_lines, size_of
from gyrostat.guard.policy import Action

__all__ = ["Incident", "Journal"]

_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Findings of one step, what was done, and where the run stood.

    Attributes:
        step: The guard's count of steps.
        findings: What was found.
        action: What was done.
        proposed: What the policy would have done; differs from ``action`` under ``observe``.
        batch: Identity of the batch, if ``guard.batches`` handed it out.
        position: Epoch and index of the batch, counted by ``guard.batches``.
        left_out: Identities of the batches that are left out from here on.
        forgiven: Identities of batches left out before that turned out innocent.
        restored_step: For a rollback, the step that the run went back to.
        lr_factor: Factor on the learning rate from here on.
        probe: Identity of the earlier batch that was tried again, if one was.
        probe_healthy: Whether its loss was as usual, so that the data is at fault.
        causes: The likeliest causes of what was found so far, with their scores.
        time: Seconds since the Unix epoch.
    """

    step: int
    findings: tuple[Finding, ...]
    action: Action
    proposed: Action
    batch: str | None = None
    position: tuple[int, int] | None = None
    left_out: tuple[str, ...] = ()
    forgiven: tuple[str, ...] = ()
    restored_step: int | None = None
    lr_factor: float = 1.0
    probe: str | None = None
    probe_healthy: bool | None = None
    causes: tuple[tuple[str, float], ...] = ()
    time: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The incident as plain values."""
        return {
            "version": _VERSION,
            "step": self.step,
            "findings": [f.to_dict() for f in self.findings],
            "action": str(self.action),
            "proposed": str(self.proposed),
            "batch": self.batch,
            "position": plain(self.position),
            "left_out": list(self.left_out),
            "forgiven": list(self.forgiven),
            "restored_step": self.restored_step,
            "lr_factor": self.lr_factor,
            "probe": self.probe,
            "probe_healthy": self.probe_healthy,
            "causes": plain(self.causes),
            "time": self.time,
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: If ``d`` is no incident of a known version.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"journal: expected an incident of version {_VERSION}")
        try:
            position = d["position"]
            return cls(
                step=int(d["step"]),
                findings=tuple(Finding.from_dict(f) for f in d["findings"]),
                action=Action(d["action"]),
                proposed=Action(d["proposed"]),
                batch=d["batch"],
                position=None if position is None else (int(position[0]), int(position[1])),
                left_out=tuple(d["left_out"]),
                forgiven=tuple(d["forgiven"]),
                restored_step=d["restored_step"],
                lr_factor=float(d["lr_factor"]),
                probe=d["probe"],
                probe_healthy=d["probe_healthy"],
                causes=tuple((str(code), float(score)) for code, score in d["causes"]),
                time=float(d["time"]),
            )
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"journal: not an incident: {error!r}") from error

    def __str__(self) -> str:
        what = str(self.action)
        if self.action != self.proposed:
            what += f" (would {self.proposed})"
        if self.restored_step is not None:
            what += f" to step {self.restored_step}"
        if self.lr_factor != 1.0:
            what += f", learning rate x {self.lr_factor:.3g}"
        if self.probe_healthy is not None:
            what += ", an earlier batch " + ("is fine" if self.probe_healthy else "fails as well")
        return f"step {self.step}: {what}: " + "; ".join(str(f) for f in self.findings)


class Journal:
    """Append-only JSON lines. A kill at any byte loses at most the line being written.

    Args:
        path: The file; None keeps the journal in memory only.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self._placed: list[tuple[int, Incident]] = []
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._placed = _read(self.path) if self.path.exists() else []
        end_last_line(self.path)

    @property
    def incidents(self) -> list[Incident]:
        """The incidents, without those of steps that were made again after a restart."""
        return [incident for _, incident in self._placed]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return 0 if self.path is None else size_of(self.path)

    def append(self, incident: Incident) -> None:
        """Adds one incident; on return it is on the disk."""
        self._placed.append((self.size, incident))
        if self.path is not None:
            append_line(self.path, incident.to_dict())

    def resume(self, step: int, size: int) -> None:
        """Says that the run goes on from ``step``, where the file had ``size`` bytes.

        What was added since is of steps that will be made again. It stays in the file, followed by
        a line that says so, and is read no more.
        """
        kept = [(place, incident) for place, incident in self._placed if place < size]
        if self.path is not None and len(kept) < len(self._placed):
            record = {"version": _VERSION, "resumed_at_step": step, "kept_bytes": size}
            append_line(self.path, record | {"time": time.time()})
        self._placed = kept

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Iterator[Incident]:
        """The incidents of a journal on disk; lines that a kill cut short are left out."""
        return (incident for _, incident in _read(Path(path)))


def _read(path: Path) -> list[tuple[int, Incident]]:
    found: list[tuple[int, Incident]] = []
    for place, line in placed_lines(path):
        kept = line.get("kept_bytes") if isinstance(line, dict) else None
        if isinstance(kept, int):
            found = [pair for pair in found if pair[0] < kept]
            continue
        try:
            found.append((place, Incident.from_dict(line)))
        except ValueError:
            continue
    return found
