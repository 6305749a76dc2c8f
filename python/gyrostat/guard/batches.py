"""Batches: an identity for each, and the list of those to leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core

__all__ = ["Batch", "BatchRegistry", "leaves"]

_DIGITS = 16  # of 32: 64 bits, so a chance collision among 10^6 batches has odds of 3e-8


@dataclass(frozen=True, slots=True)
class Batch:
    """Where a batch came from and what it holds.

    Attributes:
        identity: Hash of its content: the same data has the same identity after a restart.
        epoch: How many times ``guard.batches`` was started before.
        index: Position within the epoch, batches left out included.
    """

    identity: str
    epoch: int
    index: int


def leaves(
    batch: object, convert: Callable[[object], object | None] | None = None
) -> Iterator[NDArray[Any]]:
    """The arrays and plain values of a nested batch, in order.

    Mappings, sequences and objects with attributes are entered; numbers, text and bytes become
    arrays of bytes. What is none of these counts by its type alone.

    Args:
        batch: What the loader gave.
        convert: Turns a framework's tensor into something of the above, and gives None for
            anything else.
    """
    if convert is not None and (converted := convert(batch)) is not None:
        yield from leaves(converted)
    elif isinstance(batch, np.ndarray) and not batch.dtype.hasobject:
        yield np.ascontiguousarray(batch)
    elif isinstance(batch, bytes | str | int | float | complex | bool | np.generic | None):
        yield np.frombuffer(repr(batch).encode("utf-8", "surrogatepass"), dtype=np.uint8)
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from leaves(str(key))
            yield from leaves(value, convert)
    elif isinstance(batch, list | tuple | np.ndarray):
        for item in batch:
            yield from leaves(item, convert)
    elif hasattr(batch, "__dict__"):
        yield from leaves(vars(batch), convert)
    else:
        yield from leaves(type(batch).__qualname__)


class BatchRegistry:
    """Hands out batches, remembers the present one, leaves the bad ones out.

    Args:
        leaves_of: Turns a batch into its arrays; the framework's adapter supplies it.
    """

    def __init__(self, leaves_of: Callable[[object], Iterable[NDArray[Any]]] = leaves) -> None:
        self._leaves_of = leaves_of
        self.bad: set[str] = set()
        self.current: Batch | None = None
        self.epoch = -1
        self.left_out = 0

    def iterate(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yields the batches of ``loader`` that are not known to be bad."""
        self.epoch += 1
        for index, data in enumerate(loader):
            identity = _core.fingerprint(list(self._leaves_of(data)))[:_DIGITS]
            if identity in self.bad:
                self.left_out += 1
                continue
            self.current = Batch(identity, self.epoch, index)
            yield data
        self.current = None
