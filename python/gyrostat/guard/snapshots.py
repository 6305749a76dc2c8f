"""Snapshots: states of the run held in memory, and which of them are known to be healthy."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Pace", "Snapshot", "SnapshotRing"]


@dataclass(slots=True)
class Snapshot:
    """The run as it stood between two steps.

    Attributes:
        step: The step that was to come, by the guard's count.
        state: What the subject needs to go back there; None for a run that is only observed.
        weights: Largest absolute value by parameter, to tell damage by.
        rules: State of the detectors and rules.
        position: Steps of training that the weights had seen.
        mark: The boundary between two batches, by ``BatchRegistry.mark``; None where the guard
            does not hand out the batches.
        clean: Clean steps in a row that followed.
    """

    step: int
    state: object
    weights: Mapping[str, float]
    rules: Mapping[str, Any]
    position: int
    mark: int | None = None
    clean: int = 0


class SnapshotRing:
    """The last few snapshots.

    A state is known to be healthy only by what follows: a snapshot counts as healthy after so many
    clean steps in a row. The newest healthy one is never dropped for a newer one.

    Args:
        kept: How many are held.
        healthy_after: Clean steps in a row that make a snapshot healthy.
    """

    def __init__(self, kept: int, healthy_after: int) -> None:
        self._kept = kept
        self._healthy_after = healthy_after
        self._ring: list[Snapshot] = []

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def newest(self) -> Snapshot | None:
        """The snapshot taken last, healthy or not."""
        return self._ring[-1] if self._ring else None

    @property
    def oldest(self) -> Snapshot | None:
        """The oldest snapshot that is held."""
        return self._ring[0] if self._ring else None

    @property
    def healthy(self) -> Snapshot | None:
        """The newest healthy snapshot; the oldest of all if none has proved itself so far."""
        proven = (s for s in reversed(self._ring) if s.clean >= self._healthy_after)
        return next(proven, self.oldest)

    def add(self, snapshot: Snapshot) -> None:
        """Holds ``snapshot``; one that is not the newest healthy one goes if there are too many."""
        self._ring.append(snapshot)
        if len(self._ring) > self._kept:
            keep = self.healthy
            expendable = [s for s in self._ring[:-1] if s is not keep]
            self._ring.remove(expendable[0] if expendable else self._ring[0])

    def clean_step(self) -> None:
        """Says that a step went well."""
        for snapshot in self._ring:
            snapshot.clean += 1

    def bad_step(self) -> None:
        """Says that a step went badly: proof of health begins anew where it was not complete."""
        for snapshot in self._ring:
            if snapshot.clean < self._healthy_after:
                snapshot.clean = 0

    def take_back(self, *, older: bool) -> Snapshot:
        """The snapshot to go back to; those after it are dropped.

        Args:
            older: Whether the newest healthy one has not helped, so that the one before it is to be
                taken, as long as there is one.

        Raises:
            IndexError: If there is no snapshot.
        """
        target = self.healthy
        if target is None:
            raise IndexError("there is no snapshot")
        place = self._ring.index(target)
        place = max(place - 1, 0) if older else place
        del self._ring[place + 1 :]
        return self._ring[place]


class Pace:
    """Says when the next snapshot is due.

    Args:
        share: Share of the run's time that snapshots may cost.
        every: Steps between two snapshots, in place of ``share``.
    """

    def __init__(self, share: float, every: int | None = None) -> None:
        self._share = share
        self._every = every
        self._cost = math.inf
        self._credit = 0.0
        self._steps = 0
        self._last: float | None = None

    def due(self) -> bool:
        """Whether enough steps, or time, have gone by since the last snapshot."""
        if self._every is not None:
            return self._steps >= self._every
        return self._steps >= _LEAST_STEPS and self._credit >= self._cost

    def step(self) -> None:
        """Says that one more step was made."""
        now = time.perf_counter()
        if self._last is not None:
            # A pause, such as a validation run, is no time that snapshots may be paid from.
            self._credit += self._share * min(now - self._last, _LONGEST_STEP)
        self._last = now
        self._steps += 1

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Measures what a snapshot costs."""
        began = time.perf_counter()
        yield
        ended = time.perf_counter()
        self._cost = ended - began
        self._credit = 0.0
        self._steps = 0
        self._last = ended


_LEAST_STEPS = 10
_LONGEST_STEP = 60.0  # seconds
