"""Restarts: healthy snapshots of a guarded run on disk, and the newest of them read back."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gyrostat.guard.checkpoints import read_checkpoint, write_checkpoint
from gyrostat.guard.policy import Policy
from gyrostat.guard.snapshots import Pace
from gyrostat.guard.subject import Subject

__all__ = ["SnapshotFiles"]

_LOG = logging.getLogger("gyrostat")
_VERSION = 1
_NAME = "{:06d}-step-{}.safetensors"
_NAMES = "[0-9]*-step-*.safetensors"
_NO_STEP = -1
_BITS = 40


@dataclass(slots=True)
class _Candidate:
    step: int
    state: dict[str, Any]
    clean: int = 0


class SnapshotFiles:
    """Writes snapshots that have proved healthy, at a pace, and keeps the newest few.

    A snapshot is held until so many clean steps in a row have followed it, and then written. A bad
    step before that drops it: whoever goes on from the file meets these clean steps first.

    Args:
        folder: Where the files are; made when the first is written.
        policy: Pace, and how many are kept.
        subject: Tells what its tensors are, and has the ranks agree.
        proof: Clean steps that have to follow.
    """

    def __init__(self, folder: Path, policy: Policy, subject: Subject, proof: int) -> None:
        self._folder = folder
        self._kept = policy.checkpoints_kept
        self._subject = subject
        self._codec = subject.codec
        self._proof = proof
        self._pace = Pace(policy.checkpoint_share, policy.checkpoint_every)
        self._is_first = True
        self._candidate: _Candidate | None = None

    @property
    def wanted(self) -> bool:
        """Whether the snapshot that is taken now should be offered."""
        # The first goes at once: it tells what the next ones cost, and whether they can be written.
        is_due = self._is_first or self._pace.due()
        return self._kept > 0 and self._candidate is None and is_due

    def offer(self, step: int, state: dict[str, Any]) -> None:
        """Holds a snapshot until it has proved healthy.

        Args:
            step: Its step, by the guard's count.
            state: What :func:`~gyrostat.guard.checkpoints.write_checkpoint` takes; not changed by
                anyone from here on.
        """
        self._candidate = _Candidate(step, state)

    def clean_step(self) -> None:
        """Says that a step went well; writes what has proved healthy by it."""
        self._pace.step()
        held = self._candidate
        if held is None:
            return
        held.clean += 1
        if held.clean >= self._proof:
            self._candidate = None
            self._is_first = False
            with self._pace.taking():
                self._write(held)

    def bad_step(self) -> None:
        """Says that a step went badly."""
        self._pace.step()
        self._candidate = None

    def newest(self) -> dict[str, Any] | None:
        """The state of the newest file that can be read, or None.

        One that is damaged is told in the log and renamed, and the one before it is read. Of
        several ranks all call it: they go back to the newest step that each of them has.
        """
        paths = self._paths()
        state = None
        while True:
            while paths and (state := self._read(paths[-1])) is None:
                paths.pop()
            step = _step_of(paths[-1]) if paths else _NO_STEP
            lowest = self._lowest(step)
            (agreed,) = self._subject.all_of(step == lowest, step=0)
            if agreed:
                break
            while paths and _step_of(paths[-1]) > lowest:
                paths.pop()
        if paths:
            self._candidate = None
            self._is_first = False
        return state if paths else None

    def _read(self, path: Path) -> dict[str, Any] | None:
        with self._pace.taking():  # until one is written, a read tells what it may cost
            try:
                state, meta = read_checkpoint(path, codec=self._codec)
            except ValueError as error:
                _LOG.warning("%s; the checkpoint before it is taken", error)
                path.rename(path.with_name(f"{path.name}.damaged"))
                return None
        if meta.get("version") != _VERSION:
            raise ValueError(f"run_dir: {path} is no checkpoint of a guard, version {_VERSION}")
        found: dict[str, Any] = state
        return found

    def _lowest(self, step: int) -> int:
        """The lowest of the steps of all ranks, found bit by bit."""
        above, lowest = step - _NO_STEP, 0
        for bit in reversed(range(_BITS)):
            (more,) = self._subject.all_of(above >= lowest + (1 << bit), step=0)
            lowest += more << bit
        return lowest + _NO_STEP

    def _paths(self) -> list[Path]:
        """The files in the order of writing."""
        return sorted(self._folder.glob(_NAMES))

    def _write(self, held: _Candidate) -> None:
        paths = self._paths()
        number = 1 + (int(paths[-1].name.partition("-")[0]) if paths else 0)
        path = self._folder / _NAME.format(number, held.step)
        meta = {"version": _VERSION, "step": held.step}
        # A run does not end because its checkpoint cannot be written.
        try:
            write_checkpoint(path, held.state, meta, codec=self._codec)
            for half in self._folder.glob(f".{_NAMES}.tmp"):  # what a kill has left
                half.unlink()
            for old in [*paths, path][: -self._kept]:
                old.unlink()
        except OSError as error:
            _LOG.error("the checkpoint of step %d was not written: %s", held.step, error)
        except (TypeError, ImportError) as error:
            _LOG.error("no checkpoints are written: %s", error)
            self._kept = 0


def _step_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
