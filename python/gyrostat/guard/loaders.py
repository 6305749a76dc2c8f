"""What a loader gives: the arrays of a batch, and where the batch came from."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["PlainSource", "Source", "leaves", "rebuilt"]


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


def rebuilt(batch: Any, leaf: Callable[[Any], Any] = lambda value: value) -> Any:
    """The same batch in containers of its own, so that a ``pop`` on one is not seen in the other.

    Args:
        batch: Dicts, lists and tuples are rebuilt; anything else is a leaf.
        leaf: What becomes of a leaf.
    """
    kind = type(batch)
    if kind is dict:
        return {key: rebuilt(value, leaf) for key, value in batch.items()}
    if kind is list or kind is tuple:
        return kind(rebuilt(value, leaf) for value in batch)
    if isinstance(batch, tuple) and hasattr(batch, "_make"):  # a named tuple
        return kind._make(rebuilt(value, leaf) for value in batch)
    if isinstance(batch, UserDict):
        twin = copy.copy(batch)
        twin.data = {key: rebuilt(value, leaf) for key, value in batch.data.items()}
        return twin
    return leaf(batch)


@runtime_checkable
class Source(Protocol):
    """A loader that tells more than its batches. The adapter of a framework supplies it."""

    def read(self, bad: AbstractSet[int]) -> Iterator[tuple[tuple[int, ...], Any] | None]:
        """Starts an epoch at once; gives the samples of each batch, if known, and the batch.

        Samples in ``bad``, a set that may grow meanwhile, are left out where that can be done
        before they are loaded. None stands for a batch of which nothing is left.
        """

    def fetch(self, samples: Sequence[int]) -> Any:
        """A batch of these samples; only asked for samples that were told."""

    def keep(self, batch: Any) -> Any:
        """A twin of the batch that can be held in memory for long."""

    def position(self) -> Any:
        """The loader's own account of where it stands, or None if it keeps none."""

    def go_to(self, position: Any) -> None:
        """Lets the next :meth:`read` go on from such a position."""

    def random(self) -> Any:
        """Where the loader's own generators of random numbers stand, as plain values, or None."""

    def set_random(self, state: Any) -> None:
        """Puts them back there."""


class PlainSource:
    """Any iterable as a :class:`Source`: lists, generators, the loaders of any framework."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader

    # ARG002: which samples they are is not known.
    def read(self, bad: AbstractSet[int]) -> Iterator[tuple[tuple[int, ...], Any] | None]:  # noqa: ARG002
        """The batches, of which the samples are not known."""
        return (((), batch) for batch in self._loader)

    def fetch(self, samples: Sequence[int]) -> Any:
        """Never called: no sample is told."""
        raise NotImplementedError(f"samples: this loader tells none, got {samples!r}")

    def keep(self, batch: Any) -> Any:
        """The same arrays in containers of their own."""
        return rebuilt(batch)

    def position(self) -> Any:
        """What the loader's ``state_dict`` says, if it has that and ``load_state_dict``."""
        if not hasattr(self._loader, "load_state_dict"):
            return None
        try:
            return self._loader.state_dict()  # type: ignore[attr-defined]
        except AttributeError:  # some loaders have the method and, behind it, nothing
            return None

    def go_to(self, position: Any) -> None:
        """Hands the position to the loader's ``load_state_dict``."""
        self._loader.load_state_dict(position)  # type: ignore[attr-defined]

    def random(self) -> Any:
        """None: what generators it has is not known."""
        return None

    def set_random(self, state: Any) -> None:
        """Nothing to do."""
