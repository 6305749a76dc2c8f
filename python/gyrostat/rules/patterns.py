"""Rules on what a training loss repeats: a period, or the order of the epoch before."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gyrostat import _core
from gyrostat.findings import Finding, Severity
from gyrostat.rules._rule import Rule, loss_finding

__all__ = ["LossOscillation", "RepeatedEpochPattern"]


@dataclass(slots=True)
class _Swinging:
    points: int = 0
    seen: int = 0
    gone: int = 0
    told: bool = False


class LossOscillation(Rule[_Swinging]):
    """Tells when the loss goes up and down with a period.

    Every 64 points the autocorrelation of the last 256 (at least 128) about their trend is taken,
    outliers cut off. A period P of 2 points to a quarter of the window is found where the
    correlation peaks at P, is negative in between, and comes back at 2P. Of n independent points a
    correlation has the deviation 1/sqrt(n), 0.09 or less; the peak must reach 0.35, and twice in a
    row; sixteen looks in a row without one end the episode. A loss that alternates, of period 2 or
    3, is a warning: updates that overshoot look so. Longer periods are an info: batches sorted by
    length or kind make them.

    Source: Box and Jenkins (1970) for the deviation of a correlation (Bartlett's formula).
    """

    _WINDOW = 256
    _LEAST = 128
    _EVERY = 64
    _PEAK = 0.35
    _ECHO = 0.2
    _TROUGH = -0.2
    _TIMES = 2
    _OVER = 16
    _ALTERNATING = 3

    def __init__(self) -> None:
        super().__init__(_Swinging())
        self._window = _core.Window(self._WINDOW)

    def update(self, loss: float, step: int) -> Finding | None:
        """Judges the next loss.

        Args:
            loss: The training loss.
            step: Its step.
        """
        held = self._window.push(loss)
        memory = self._memory
        memory.points += 1
        if memory.points % self._EVERY or held < self._LEAST:
            return None
        correlation = self._window.autocorrelation(held // 2 - 1)
        period = self._period(correlation)
        memory.seen = 0 if period is None else min(memory.seen + 1, self._TIMES)
        if period is None:
            memory.gone = min(memory.gone + 1, self._OVER)
            memory.told = memory.told and memory.gone < self._OVER
            return None
        memory.gone = 0
        if memory.told or memory.seen < self._TIMES:
            return None
        memory.told = True
        peak = correlation[period - 1]
        alternating = period <= self._ALTERNATING
        return loss_finding(
            "loss-oscillation",
            step,
            severity=Severity.WARNING if alternating else Severity.INFO,
            value=peak,
            score=peak / self._PEAK,
            message=f"the loss goes up and down with a period of {period} points",
            evidence={"period": period, "correlation": peak},
        )

    def _period(self, correlation: list[float]) -> int | None:
        """The first lag whose correlation peaks as that of a periodic loss does."""
        for period in range(2, len(correlation) // 2 + 1):
            peak = correlation[period - 1]
            if (
                peak >= self._PEAK
                and peak >= max(correlation[period - 2], correlation[period])
                and min(correlation[: period - 1]) <= self._TROUGH
                and max(correlation[2 * period - 2 : 2 * period + 1]) >= self._ECHO
            ):
                return period
        return None

    def reset(self) -> None:
        """Forgets the run so far, as after a shift of its level."""
        self._window.clear()
        self._memory = _Swinging()


@dataclass(slots=True)
class _Epochs:
    epoch: int | None = None
    last: float | None = None
    now: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    likeness: float = 0.0
    weight: float = 0.0
    variance: float = 0.0
    told: bool = False


class RepeatedEpochPattern(Rule[_Epochs]):
    """Tells when one epoch goes through its batches in the order of the epoch before.

    The changes of the loss from point to point, at most the first 1,024 of an epoch, are compared
    with those at the same places of the epoch before by Spearman's rank correlation. Changes of
    independent noise correlate by -1/2 with their neighbours, which widens the deviation of the
    correlation under the null to sqrt(1.5/n). The epochs are taken together, each with 0.8 times
    the weight of the next; their mean must be five deviations or more, in one epoch in 3.5 million
    by chance, and 0.2 or more. At least 24 places must be known. The change across the boundary is
    left out. The episode ends when the mean falls below 0.1.

    The logged points must fall on the same batches in every epoch: with a log of every tenth step
    and epochs of 1,004 steps they do not, and nothing is found.

    Source: Spearman (1904).
    """

    _LONGEST = 1024
    _LEAST = 24
    _DEVIATIONS = 5.0
    _LEAST_CORRELATION = 0.2
    _FADING = 0.8

    def __init__(self) -> None:
        super().__init__(_Epochs())

    def update(self, loss: float, step: int, epoch: float | None = None) -> Finding | None:
        """Judges the next loss.

        Args:
            loss: The training loss.
            step: Its step.
            epoch: Number of its epoch, or epochs gone by as a fraction; nothing is judged without.
        """
        memory = self._memory
        if epoch is None or not math.isfinite(epoch):
            return None
        number = max(math.floor(epoch), 0)
        if number == memory.epoch:
            if len(memory.now) < self._LONGEST:
                change = 0.0 if memory.last is None else loss - memory.last
                memory.now.append(change if math.isfinite(change) else 0.0)
            memory.last = loss if math.isfinite(loss) else None
            return None
        found = self._compare(step) if memory.epoch is not None else None
        follows = memory.epoch is not None and number == memory.epoch + 1
        memory.before = memory.now if follows else []
        memory.now, memory.epoch = [], number
        memory.last = loss if math.isfinite(loss) else None
        return found

    def _compare(self, step: int) -> Finding | None:
        memory = self._memory
        n = min(len(memory.now), len(memory.before))
        if n < self._LEAST:
            return None
        r = _rank_correlation(np.array(memory.now[:n]), np.array(memory.before[:n]))
        memory.likeness = self._FADING * memory.likeness + n * r
        memory.weight = self._FADING * memory.weight + n
        memory.variance = self._FADING**2 * memory.variance + 1.5 * n
        mean = memory.likeness / memory.weight
        deviations = memory.likeness / math.sqrt(memory.variance)
        if memory.told:
            memory.told = mean > self._LEAST_CORRELATION / 2.0
            return None
        if deviations < self._DEVIATIONS or mean < self._LEAST_CORRELATION:
            return None
        memory.told = True
        return loss_finding(
            "repeated-epoch-pattern",
            step,
            value=mean,
            score=deviations / self._DEVIATIONS,
            message=(
                f"the loss goes up and down in epoch {memory.epoch} where it did in the epoch "
                f"before: rank correlation {mean:.2f} over {n} points an epoch"
            ),
            evidence={"correlation": mean, "points": n, "epoch": memory.epoch},
        )

    def _check(self, memory: _Epochs) -> None:
        if max(len(memory.now), len(memory.before)) > self._LONGEST:
            raise ValueError("state: an epoch holds too many changes")
        if memory.weight < 0.0 or memory.variance < 0.0:
            raise ValueError("state: weight and variance must not be negative")


def _rank_correlation(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Spearman's, ties given their mean rank; 0 if one of them does not vary."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    power = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / power if power > 0.0 else 0.0


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
