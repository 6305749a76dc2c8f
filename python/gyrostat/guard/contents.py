"""Contents: what the arrays of each batch say of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import CATALOGUE, Culprit, Finding
from gyrostat.rules import BatchRules

__all__ = ["Contents"]

_VERSION = 1
_REPEATS = 4
_LOOK_EVERY = 10
_LEAST_PADDING = 0.05


class Contents:
    """Rules on the batches that the guard hands out: order of labels, padding, repetition.

    Nobody says which array is what. Labels are taken to be integers of one axis, tokens integers of
    two; the padding is what the rows of tokens end with. It is told of only if no other array of
    the batch marks it, by 0, False or -100 where the padding is.
    """

    def __init__(self) -> None:
        self._rules = BatchRules()
        self._last: str | None = None
        self._repeats = 0

    def update(
        self, identity: str, arrays: Sequence[NDArray[Any]], step: int
    ) -> tuple[Finding, ...]:
        """Judges one batch.

        Args:
            identity: Its identity.
            arrays: Its arrays, the first axis of each that of its samples.
            step: The step.
        """
        self._repeats = self._repeats + 1 if identity == self._last else 0
        self._last = identity
        found: list[Finding] = []
        if self._repeats == _REPEATS - 1:
            found.append(_repeated(identity, step))
        if self._repeats:
            return tuple(found)
        labels = [a for a in arrays if a.dtype.kind in "iu" and a.ndim == 1 and len(a) > 1]
        if labels:
            found += self._rules.update(step, labels=labels[-1])
        if step % _LOOK_EVERY == 0 and (padding := _unmarked_padding(arrays)) is not None:
            found += self._rules.update(step, is_padding=padding)
        return tuple(found)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return {
            "version": _VERSION,
            "rules": self._rules.state_dict(),
            "last": self._last,
            "repeats": self._repeats,
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state; this is then left as it was.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a state of Contents, version {_VERSION}")
        last, repeats = d.get("last"), d.get("repeats")
        if not isinstance(last, str | None) or not isinstance(repeats, int):
            raise ValueError("state: expected last to be an identity and repeats a count")
        rules = BatchRules()
        rules.load_state_dict(d.get("rules", {}))
        self._rules, self._last, self._repeats = rules, last, repeats


def _repeated(identity: str, step: int) -> Finding:
    return Finding(
        "repeated-batch",
        CATALOGUE["repeated-batch"].severity,
        step=step,
        signal="batch",
        value=float(_REPEATS),
        message=f"the same batch came {_REPEATS} times in a row",
        culprit=Culprit(batch=identity),
    )


def _unmarked_padding(arrays: Sequence[NDArray[Any]]) -> NDArray[np.bool_] | None:
    """Where the rows of tokens end with padding that no array marks; None if there are none."""
    for tokens in arrays:
        if tokens.dtype.kind not in "iu" or tokens.ndim != 2 or tokens.shape[1] < 2:
            continue
        ends = tokens[:, -1]
        values, counts = np.unique(ends, return_counts=True)
        pad = values[counts.argmax()]
        if pad == -100:
            continue  # labels, marked as they are
        same = (tokens == pad)[:, ::-1]
        padding = np.logical_and.accumulate(same, axis=1)[:, ::-1]
        if padding.mean() < _LEAST_PADDING or padding[:, -1].mean() < 0.5:
            return None
        marked = any(_marks(array, padding) for array in arrays if array is not tokens)
        return None if marked else padding
    return None


def _marks(array: NDArray[Any], padding: NDArray[np.bool_]) -> bool:
    if array.shape != padding.shape:
        return False
    inside, outside = array[padding], array[~padding]
    if array.dtype.kind in "iu" and (inside == -100).all():
        return True
    # Zeros of tokens beside are padding again, and mark nothing.
    is_mask = array.dtype.kind in "bf" or set(np.unique(outside).tolist()) <= {1}
    return bool(is_mask and not inside.any() and outside.any())
