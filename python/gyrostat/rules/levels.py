"""Rules on the level of a training loss: it has shifted, or is too low to be true."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from gyrostat import _core
from gyrostat.findings import Finding, Severity
from gyrostat.rules._rule import Rule, loss_finding, pace_changes

__all__ = ["LevelShift", "LossSuspiciouslyLow"]


@dataclass(slots=True)
class _Level:
    points: int = 0
    last_step: int | None = None
    gap: int = 0
    rate: float | None = None
    rate_ratio: float = 1.0
    rate_changed_at: int = 0
    first: list[float] = field(default_factory=list)


class LevelShift(Rule[_Level]):
    """Tells when the level of the loss has changed from one point to another, and stays.

    The last 24 points are compared with the up to 56 before them. Both halves of the 24 must lie
    three times the noise of a point beyond what is expected, on one side. In independent noise the
    medians of twelve points after and of 28 before differ with a deviation of 0.43 of that noise,
    so this is seven of their own, which leaves room for heavy tails. Where neighbouring points are
    more alike than independent ones (von Neumann, 1941), as those of a smoothed loss, the noise
    counts for up to 3.5 times as much. Expected is the level before, or that level moved on along
    its trend, so that neither a descent nor its end counts. Nine tenths of the points after must
    lie beyond nine tenths of those before, and the second half may have moved on by no more than
    half of the shift, nor back by more than three tenths: a slope is no shift, and a spike that
    decays is none. Told 24 to 32 points after it began. When the number of steps between two points
    changes by a factor of 4, the comparison begins anew.

    A shift up is a warning: other data, a divergence that has found a new level, or a restart, told
    as such where the highest points come within a fifth of the first ones of the run; a loss that
    falls again from there is a shift as well. A shift down is an info: an epoch boundary at which a
    model has memorised its data, or other data. If the learning rate is known to have changed by a
    factor of 1.5 or more from one point to the next at that place, a shift down is an info with the
    cause ``"learning-rate"``.
    """

    _BEFORE = 56
    _AFTER = 24
    _LEAST_BEFORE = 16
    _EVERY = 8
    _RISE = 3.0
    _DRIFT = 0.5
    _RETURN = 0.3
    _FIRST = 3
    _NEAR_FIRST = 0.8
    _RATE_RATIO = 1.5
    _RATE_NEAR = 12  # points that the change of the rate may lie before the 24

    def __init__(self) -> None:
        super().__init__(_Level())
        self._window = _core.Window(self._BEFORE + self._AFTER)

    def update(self, loss: float, step: int, lr: float | None = None) -> Finding | None:
        """Judges the next loss.

        Args:
            loss: The training loss.
            step: Its step.
            lr: The learning rate, if known.
        """
        memory = self._memory
        memory.points += 1
        if lr is not None and lr > 0.0 and lr != memory.rate:
            self._note_rate(lr)
        if pace_changes(memory, step):
            self._window.clear()
        if len(memory.first) < self._FIRST and math.isfinite(loss):
            memory.first.append(loss)
        held = self._window.push(loss)
        if memory.points % self._EVERY or held < self._LEAST_BEFORE + self._AFTER:
            return None
        shift = self._window.shift(self._AFTER)
        if shift is None:
            return None
        before, rise, drift, after, noise, separate = shift
        if abs(rise) < self._RISE or not separate or drift > self._DRIFT:
            return None
        restarts = rise > 0.0 and self._is_back_at_the_start(before, noise)
        if drift < -self._RETURN and not restarts:
            return None
        self._window.clear()
        return self._finding(step, before, after, rise, noise, restarts=restarts)

    def _is_back_at_the_start(self, before: float, noise: float) -> bool:
        """Whether the highest points after the shift come near to the first of the run."""
        first = sorted(self._memory.first)[self._FIRST // 2]
        highest = sorted(self._window.values[-self._AFTER :])[-self._FIRST // 2]
        way = first - before
        return way > self._RISE * noise and highest - before >= self._NEAR_FIRST * way

    def _note_rate(self, lr: float) -> None:
        memory = self._memory
        if memory.rate is not None and math.isfinite(lr):
            ratio = lr / memory.rate
            if not 1.0 / self._RATE_RATIO < ratio < self._RATE_RATIO:
                memory.rate_ratio, memory.rate_changed_at = ratio, memory.points
        memory.rate = lr if math.isfinite(lr) else None

    def _finding(
        self,
        step: int,
        before: float,
        after: float,
        rise: float,
        noise: float,
        *,
        restarts: bool,
    ) -> Finding:
        memory = self._memory
        evidence: dict[str, Any] = {"noise": noise, "points_ago": self._AFTER, "cause": None}
        severity = Severity.WARNING if rise > 0.0 else Severity.INFO
        message = f"the level of the loss went from {before:.4g} to {after:.4g} within few points"
        since = memory.points - memory.rate_changed_at
        if memory.rate_changed_at and since <= self._AFTER + self._RATE_NEAR:
            evidence |= {"cause": "learning-rate", "rate_ratio": memory.rate_ratio}
            message += f", as the learning rate changed by a factor of {memory.rate_ratio:.3g}"
        elif restarts:
            evidence |= {"cause": "restart"}
            message += ", with points as high as the first of the run: a restart, or as bad as one"
        return loss_finding(
            "level-shift",
            step,
            severity=severity,
            value=after,
            expected=before,
            score=abs(rise) / self._RISE,
            message=message,
            evidence=evidence,
        )


@dataclass(slots=True)
class _Low:
    points: int = 0
    initial: float | None = None
    told_negative: bool = False
    told_low: bool = False


class LossSuspiciouslyLow(Rule[_Low]):
    """Tells when the loss has gone where a healthy one rarely does.

    Looked at every 16 points, over the last 32: most of them below zero, where a cross-entropy or a
    squared error cannot be; or their median 1/500 or less of that of the first 16, a fall that
    takes a task without noise in its labels, memorised data, or the answer among the inputs. Both
    are infos, told once each: a policy-gradient loss or a log-density is negative without fault.
    """

    _WINDOW = 32
    _FIRST = 16
    _EVERY = 16
    _SHARE = 1.0 / 500.0

    def __init__(self) -> None:
        super().__init__(_Low())
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
        if memory.points % self._EVERY or held < self._FIRST:
            return None
        values = sorted(self._window.values)
        level = values[held // 2]
        if memory.initial is None:
            memory.initial = level
        if level < 0.0 and not memory.told_negative:
            memory.told_negative = True
            message = f"most losses are below zero, about {level:.4g}"
        elif 0.0 <= level <= self._SHARE * memory.initial and not memory.told_low:
            memory.told_low = True
            message = f"the loss is about {level:.3g}, after {memory.initial:.4g} at first"
        else:
            return None
        return loss_finding(
            "loss-suspiciously-low",
            step,
            value=level,
            expected=memory.initial,
            message=message,
            evidence={"initial": memory.initial},
        )
