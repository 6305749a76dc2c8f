"""Contents: what the arrays of each batch say of the data."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import CATALOGUE, Culprit, Finding, Severity
from gyrostat.guard.outliers import RANGE as _RANGE
from gyrostat.guard.outliers import compare_range, outlier_batch
from gyrostat.rules import BatchRules

__all__ = ["Contents"]

_VERSION = 1
_REPEATS = 4
_LOOK_EVERY = 10
_LOOKS = 5
_LEAST_PADDING = 0.05
_BATCHES = 32
_LEAST_BATCHES = 10
_LARGEST = 16 << 20  # bytes; larger arrays are looked at only when a step was bad


class Contents:
    """Rules on the batches that the guard hands out: order of labels, padding, repetition.

    Nobody says which array is what. Labels are taken to be integers of one axis, tokens integers of
    two; the padding is what the rows of tokens end with. It is told of only if no other array of
    the batch marks it, by 0, False or -100 where the padding is. Floating-point arrays are compared
    with those of the 32 batches before; what is out of their range is told, and acted on only where
    loss or gradient stand out as well.

    Attributes:
        is_sorted: Whether the batches were found to come sorted by label.
    """

    def __init__(self) -> None:
        self._rules = BatchRules()
        self._last: str | None = None
        self._repeats = 0
        self._unmarked = 0
        self.is_sorted = False
        self._ranges: dict[int, deque[float]] = {}

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
        if (outlier := self._outlier(arrays, identity, step)) is not None:
            found.append(outlier)
        labels = [a for a in arrays if a.dtype.kind in "iu" and a.ndim == 1 and len(a) > 1]
        if labels:
            found += self._rules.update(step, labels=labels[-1])
            self.is_sorted |= any(f.code == "sorted-labels" for f in found)
        if step % _LOOK_EVERY == 0 and (padding := _unmarked_padding(arrays)) is not None:
            found += self._rules.update(step, is_padding=padding)
            self._unmarked += 1
            if self._unmarked == _LOOKS:
                found.append(_unmarked(float(padding.mean()), step))
        return tuple(found)

    def _outlier(self, arrays: Sequence[NDArray[Any]], identity: str, step: int) -> Finding | None:
        found: Finding | None = None
        for place, array in enumerate(arrays):
            if array.dtype.kind != "f" or not array.size or array.nbytes > _LARGEST:
                continue
            known = self._ranges.setdefault(place, deque(maxlen=_BATCHES))
            largest = float(np.maximum(array.max(), -array.min()))
            usual = max(known, default=0.0)
            odd = not largest < _RANGE * usual
            if odd and len(known) >= _LEAST_BATCHES and usual > 0.0:
                found = found or outlier_batch(
                    compare_range(array, usual), step, Culprit(batch=identity), Severity.INFO
                )
            elif math.isfinite(largest):
                known.append(largest)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return {
            "version": _VERSION,
            "rules": self._rules.state_dict(),
            "last": self._last,
            "repeats": self._repeats,
            "unmarked": self._unmarked,
            "is_sorted": self.is_sorted,
            "ranges": {str(place): list(known) for place, known in self._ranges.items()},
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state; this is then left as it was.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a state of Contents, version {_VERSION}")
        last, repeats, unmarked = d.get("last"), d.get("repeats"), d.get("unmarked")
        if not isinstance(last, str | None):
            raise ValueError(f"state: expected last to be an identity, got {last!r}")
        if not isinstance(repeats, int) or not isinstance(unmarked, int):
            raise ValueError("state: expected repeats and unmarked to be counts")
        if not isinstance(d.get("is_sorted"), bool):
            raise ValueError("state: expected is_sorted to be a flag")
        try:
            ranges = {
                int(place): deque(map(float, known), _BATCHES)
                for place, known in d["ranges"].items()
            }
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ValueError("state: expected ranges to be numbers by place") from error
        rules = BatchRules()
        rules.load_state_dict(d.get("rules", {}))
        self._ranges = ranges
        self._rules, self._last = rules, last
        self._repeats, self._unmarked = repeats, unmarked
        self.is_sorted = d["is_sorted"]


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


def _unmarked(share: float, step: int) -> Finding:
    return Finding(
        "unmasked-padding",
        CATALOGUE["unmasked-padding"].severity,
        step=step,
        signal="batch",
        value=share,
        message=f"{share:.0%} of the tokens are padding, and nothing in the batch marks it",
    )


def _unmarked_padding(arrays: Sequence[NDArray[Any]]) -> NDArray[np.bool_] | None:
    """Where the rows of tokens end with padding that no array marks; None if there are none."""
    for tokens in arrays:
        if (
            tokens.dtype.kind not in "iu"
            or tokens.ndim != 2
            or not len(tokens)
            or tokens.shape[1] < 2
        ):
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
