"""Slots in which results travel from a device to the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

__all__ = ["Event", "Past", "Ring"]

Label = tuple[int, tuple[str, ...]]
"""Step, and names of the tensors that were missing."""


class Event(Protocol):
    """A point in the work of a device; ``torch.cuda.Event`` is one."""

    def record(self) -> None:
        """Sets the point."""

    def query(self) -> bool:
        """Whether the device has passed it."""

    def synchronize(self) -> None:
        """Waits until it has."""


class Past:
    """The event of a device that is never behind."""

    def record(self) -> None:
        """Does nothing."""

    def query(self) -> bool:
        """Always true."""
        return True

    def synchronize(self) -> None:
        """Does nothing."""


class Ring:
    """Hands out slots; they come back in the order in which they were taken.

    Args:
        events: One for each slot.

    Attributes:
        dropped: How many results were given up.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.dropped = 0
        self._events = events
        self._free = deque(range(len(events)))
        self._taken: deque[tuple[int, Label]] = deque()

    def take(self, label: Label) -> int | None:
        """A slot for a new result; None if the device has yet to fill every one.

        If every slot is taken and the oldest was filled, its result is given up.
        """
        if not self._free:
            self.dropped += 1
            slot, _ = self._taken[0]
            if not self._events[slot].query():
                return None
            self._free.append(slot)
            self._taken.popleft()
        slot = self._free.popleft()
        self._taken.append((slot, label))
        return slot

    def mark(self, slot: int) -> None:
        """Tells that the work that fills the slot is queued."""
        self._events[slot].record()

    def arrived(self, *, wait: bool = False) -> Iterator[tuple[int, Label]]:
        """The slots that were filled; each is free again once the next one is asked for."""
        while self._taken:
            slot, label = self._taken[0]
            if wait:
                self._events[slot].synchronize()
            elif not self._events[slot].query():
                return
            yield slot, label
            self._taken.popleft()
            self._free.append(slot)
