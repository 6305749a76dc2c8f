"""Stretch: the batches over which the loss stays up, which wrong labels alone would explain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from gyrostat.findings import plain

__all__ = ["Stretch"]

_VERSION = 1
_BEFORE = 64  # steps that tell the usual loss
_LEAD = 16  # steps before the first alarm in which the stretch may have begun
_HEIGHT = 5  # steps that tell how far up the loss went
_BACK = 16  # steps that tell that it is back
_OUTLYING = 20  # spreads above the usual that a loss counts for that is no number
_MOST = 1024  # steps that a stretch is followed for, and batches that are remembered


class Stretch:
    """Follows the loss from an alarm until it is back, and names the batches in between.

    The first and the last batch are those that make a sudden change of the mean likeliest (the
    cumulative sum of Page, "Continuous inspection schemes", Biometrika 41, 1954), each way half
    way between the usual loss and that after the alarm. While the loss is not back every batch is
    under suspicion: the model may be learning labels that are still wrong.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[list[str], float]] = []
        self._alarm: int | None = None
        self._closed: list[str] = []

    def update(self, identities: Sequence[str], loss: float) -> None:
        """Adds one step: its batches and their loss."""
        self._steps.append((list(identities), loss))
        if self._alarm is None:
            del self._steps[: -(_BEFORE + _LEAD)]
        elif self._is_back() or len(self._steps) - self._alarm >= _MOST - _LEAD:
            self._closed = [*self._closed, *self._open()][-_MOST:]
            del self._steps[:-_BEFORE]
            self._alarm = None

    def alarm(self) -> None:
        """Says that the last step was bad although its inputs were as usual."""
        if self._alarm is None and self._steps:
            self._alarm = len(self._steps) - 1

    def batches(self) -> list[str]:
        """Identities of the batches to suspect, each once, the first one first."""
        return list(dict.fromkeys([*self._closed, *self._open()]))

    def _open(self) -> list[str]:
        if self._alarm is None:
            return []
        usual, spread = self._usual()
        losses = [loss for _, loss in self._steps]
        finite = [loss for loss in losses if math.isfinite(loss)]
        # Higher than all else, and finite, so that sums can be compared.
        high = max([*finite, usual + _OUTLYING * spread])
        losses = [loss if math.isfinite(loss) else high for loss in losses]
        at = self._alarm
        half = (fmean(losses[at : at + _HEIGHT]) - usual) / 2
        excess = [loss - usual - half for loss in losses]
        first = at - _best(excess[max(0, at - _LEAD) : at][::-1])
        last = at + _best(excess[at + 1 :]) if self._is_back() else len(losses) - 1
        return [identity for own, _ in self._steps[first : last + 1] for identity in own]

    def _is_back(self) -> bool:
        assert self._alarm is not None  # noqa: S101 - asked by the callers
        if len(self._steps) - self._alarm <= _BACK:
            return False
        usual, spread = self._usual()
        last = (loss for _, loss in self._steps[-_BACK:])
        return median(loss if math.isfinite(loss) else math.inf for loss in last) <= usual + spread

    def _usual(self) -> tuple[float, float]:
        """The loss before the alarm, and its spread."""
        assert self._alarm is not None  # noqa: S101 - asked by the callers
        before = [x for _, x in self._steps[: max(1, self._alarm - _LEAD)] if math.isfinite(x)]
        usual = median(before or [0.0])
        return usual, 1.4826 * median([abs(loss - usual) for loss in before] or [0.0])

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        steps = plain([[list(own), loss] for own, loss in self._steps])
        return {
            "version": _VERSION,
            "steps": steps,
            "alarm": self._alarm,
            "closed": list(self._closed),
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state; the stretch is then left as it was.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a state of Stretch, version {_VERSION}")
        try:
            steps = [([str(i) for i in own], float(loss)) for own, loss in d["steps"]]
            alarm, closed = d["alarm"], [str(i) for i in d["closed"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state: not a stretch: {error!r}") from error
        if not (alarm is None or (isinstance(alarm, int) and 0 <= alarm < len(steps))):
            raise ValueError(f"state: expected alarm to be a step of it, got {alarm!r}")
        self._steps, self._alarm, self._closed = steps, alarm, closed


def _best(excess: Sequence[float]) -> int:
    """How many of the first values to take for the largest sum, the fewest."""
    best, most, total = 0, 0.0, 0.0
    for count, value in enumerate(excess, 1):
        total += value
        if total > most:
            best, most = count, total
    return best
