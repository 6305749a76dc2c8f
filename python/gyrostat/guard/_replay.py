"""The batches held in memory for a replay."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from gyrostat.guard.loaders import Source

__all__ = ["Batch", "Epoch", "Item", "ReplayMemory"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Where a batch came from and what it holds.

    Attributes:
        identity: Hash of its content: the same data has the same identity after a restart.
        epoch: How many times ``guard.batches`` was started before.
        index: Position within the epoch, batches left out included.
        samples: Indices of its samples in the data set, where the loader tells them.
    """

    identity: str
    epoch: int
    index: int
    samples: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch under way: its number, and the random states that its loader began with.

    ``random`` is that of the framework, ``own`` that of the loader's own generators.
    """

    number: int
    random: Any
    own: Any


@dataclass(slots=True)
class Item:
    """A batch and what it takes to hand it out again, in this process or the next.

    ``random`` and ``position`` are those of the generators and the loader just before it was
    fetched. ``data`` is None once the content is lost; ``size`` is in bytes.
    """

    serial: int
    batch: Batch
    data: Any
    size: int
    source: Source
    epoch: Epoch
    random: Any
    position: Any


class ReplayMemory:
    """The last batches that the loader gave, without a gap, as far as they fit.

    Args:
        limit: How many bytes they may take. The oldest go first.

    Attributes:
        first: Serial number of the oldest that is held, or of the next one to come.
        floor: The oldest mark; nothing is held before there is one.
    """

    def __init__(self, limit: int) -> None:
        self.first = 0
        self.floor: int | None = None
        self._limit = limit
        self._bytes = 0
        self._items: deque[Item] = deque()

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def at(self, serial: int) -> Item | None:
        """The batch of that number, if it is held."""
        place = serial - self.first
        return self._items[place] if 0 <= place < len(self._items) else None

    def add(self, item: Item) -> None:
        """Holds the next batch; one that was added before stays as it is."""
        if item.serial < self.first + len(self._items):
            return
        if self.floor is None:
            self.first = item.serial + 1
            return
        self._items.append(replace(item, data=item.source.keep(item.data)))
        self._bytes += item.size
        self._trim(self.floor)

    def change(self, item: Item, data: Any, batch: Batch, size: int) -> None:
        """Gives an item, held or not, another content."""
        if self.at(item.serial) is item:
            self._bytes += size - item.size
        item.data, item.batch, item.size = data, batch, size

    def forget_before(self, serial: int) -> None:
        """Frees the batches before that number, for good."""
        self.floor = max(serial, self.floor or 0)
        self._trim(self.floor)

    def clear(self, following: int) -> None:
        """Frees all; the next one to come has the number ``following``."""
        self._items.clear()
        self._bytes = 0
        self.first, self.floor = following, None

    def _trim(self, floor: int) -> None:
        while self._items and (self._bytes > self._limit or self.first < floor):
            self._bytes -= self._items.popleft().size
            self.first += 1
