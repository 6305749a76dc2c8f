"""Snapshots: healthy states of the run, held in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Snapshot", "SnapshotRing"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The run as it stood before the update of one healthy step.

    Attributes:
        step: That step.
        state: What the subject needs to go back there.
        weights: Largest absolute value by parameter, to tell damage by.
        rules: State of the detectors and rules.
    """

    step: int
    state: object
    weights: Mapping[str, float]
    rules: Mapping[str, Any]


class SnapshotRing:
    """The last few snapshots.

    Args:
        kept: How many are held.
    """

    def __init__(self, kept: int) -> None:
        self._ring: deque[Snapshot] = deque(maxlen=kept)
        self._used = False

    @property
    def newest(self) -> Snapshot | None:
        """The snapshot taken last, or None."""
        return self._ring[-1] if self._ring else None

    def add(self, snapshot: Snapshot) -> None:
        """Holds ``snapshot``; the oldest goes if there are too many."""
        self._ring.append(snapshot)
        self._used = False

    def take_back(self) -> Snapshot:
        """The snapshot to go back to.

        The newest at first. If the run failed again before a new one was taken, the newest did not
        help: it is dropped, and the one before it is given, as long as there is one.
        """
        if self._used and len(self._ring) > 1:
            self._ring.pop()
        self._used = True
        return self._ring[-1]
