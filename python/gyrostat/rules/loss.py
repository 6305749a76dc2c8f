"""Rules on the curve of a training loss, beside spikes: where it goes, and what it repeats.

Each rule is online: what it says at a step uses nothing later. Steps may be uneven, and a loss that
is not finite is left out. Each says a thing once per episode, not at every step. The constants are
in units of the run's own noise or of the null distribution of a test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from gyrostat import _core
from gyrostat.findings import CATALOGUE, Finding, Severity
from gyrostat.rules._memory import load_memory, plain_memory

__all__ = [
    "LevelShift",
    "LossCurve",
    "LossNotDecreasing",
    "LossOscillation",
    "LossPlateau",
    "LossSuspiciouslyLow",
    "RepeatedEpochPattern",
    "SlowDivergence",
]

_VERSION = 1
_BLOCKS = 64
"""Blocks that hold a whole run: the longest test sees 64 values, whatever the length of the run."""
_CONFIDENCE = 2.0
"""Half width of a slope's interval, in standard deviations: about 95 %."""

_GAP_RATIO = 4


@dataclass(slots=True)
class _Flat:
    told: bool = False


class LossPlateau:
    """Tells when the second half of the run so far has brought nothing that matters.

    The run is held as at most 64 medians of blocks. Over the newer half of them even the steepest
    descent within the 95 % interval of the Theil-Sen slope must come to less than 1 % of the level,
    or to a tenth of the noise of one point, which is all that counts for a loss near zero. With too
    little data to say so, nothing is said. The episode ends with a descent (a Mann-Kendall z of -3)
    of more than 2 % of the level and the noise.

    A run that has converged is on a plateau as well: the finding is an info.

    Sources: Mann (1945), Kendall (1975); Sen (1968) for the interval of the slope.
    """

    _LEAST_BLOCKS = 24
    _EVERY = 4
    _GAIN_OF_LEVEL = 0.01
    _GAIN_OF_NOISE = 0.1
    _DESCENT = -3.0
    _END_OF_LEVEL = 0.02

    def __init__(self) -> None:
        self._blocks = _core.Blocks(_BLOCKS)
        self._memory = _Flat()

    def update(self, loss: float, step: int) -> Finding | None:
        """Judges the next loss.

        Args:
            loss: The training loss.
            step: Its step.
        """
        blocks, memory = self._blocks, self._memory
        if not blocks.push(loss, step):
            return None
        n = len(blocks)
        if n < self._LEAST_BLOCKS or n % self._EVERY:
            return None
        half = n // 2
        trend = blocks.trend(half, _CONFIDENCE)
        if trend is None:
            return None
        z, slope, low, _ = trend
        noise = blocks.noise(half)
        level = float(np.median(blocks.levels[-half:]))
        if memory.told:
            end = max(noise, self._END_OF_LEVEL * abs(level))
            memory.told = z > self._DESCENT or -slope * half < end
            return None
        most = max(self._GAIN_OF_LEVEL * abs(level), self._GAIN_OF_NOISE * noise)
        gain = max(-low * half, 0.0)
        # Neither is a climb a plateau.
        if gain > most or slope * half > most:
            return None
        memory.told = True
        begin = int(blocks.ends[-half - 1])
        return _finding(
            "loss-plateau",
            step,
            value=level,
            message=f"the loss has stayed at {level:.4g} since step {begin}",
            evidence={"since": begin, "z": z, "gain_at_most": gain, "noise": noise},
        )

    def reset(self) -> None:
        """Forgets the run so far, as after a restart."""
        self._blocks, self._memory = _core.Blocks(_BLOCKS), _Flat()

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return _state(self._memory, blocks=self._blocks)

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        memory = load_memory(_Flat, d, _VERSION)
        self._blocks = _blocks(d)
        self._memory = memory


@dataclass(slots=True)
class _FromTheStart:
    first_step: int | None = None
    first: float = 0.0
    last_step: int | None = None
    gap: int = 0
    peak_rate: float | None = None
    warm_step: int | None = None
    settled: bool = False
    descended: bool = False


class LossNotDecreasing:
    """Tells when the loss of a run has not gone down since it began.

    Judged from the 40th point and the 128th step on, over the medians of blocks of the whole run. A
    run that has once descended is not judged any more: by a Mann-Kendall z of -3, and by two thirds
    of the noise of a point and 1 % of the level at least; or by three times that from its very
    first point. A finding needs a z above -1 and a newer half that lies no more than a tenth of the
    noise below the first quarter; or, from the 120th point on, a way down of less than 1 %. While a
    known learning rate still rises to its first peak, and for as long again, nothing is said. A
    loss that was ever zero or below is none of those that must go down, such as that of a policy
    gradient; nor is one whose first step is more than twice the gap to its next: that is no start.
    When the number of steps between two points changes by a factor of 4, the blocks begin anew.

    Sources: Mann (1945), Kendall (1975).
    """

    _LEAST_BLOCKS = 8
    _MANY_BLOCKS = 24
    _LEAST_STEPS = 128
    _LATE = 2
    _NO_DESCENT = -1.0
    _DESCENT = -3.0
    _DROP_OF_NOISE = 2.0 / 3.0
    _DROP_OF_LEVEL = 0.01
    _FROM_FIRST = 3.0
    _SAME = 0.1

    def __init__(self) -> None:
        self._blocks = _core.Blocks(_BLOCKS)
        self._memory = _FromTheStart()

    @property
    def descended(self) -> bool:
        """Whether the loss has gone down, or is one of those that need not."""
        return self._memory.descended

    def update(self, loss: float, step: int, lr: float | None = None) -> Finding | None:
        """Judges the next loss.

        Args:
            loss: The training loss.
            step: Its step.
            lr: The learning rate, if known.
        """
        memory = self._memory
        if memory.settled:
            return None
        self._note(loss, step, lr)
        if not self._blocks.push(loss, step) or len(self._blocks) < self._LEAST_BLOCKS:
            return None
        return self._judge(step)

    def _note(self, loss: float, step: int, lr: float | None) -> None:
        """Takes in what tells whether, and from when on, the run is to be judged."""
        memory = self._memory
        if memory.first_step is None and math.isfinite(loss):
            memory.first_step, memory.first = step, loss
        began = memory.gap == 0
        if _pace_changes(memory, step):
            self._blocks = _core.Blocks(_BLOCKS)
        late = began and memory.gap and (memory.first_step or 0) > self._LATE * memory.gap
        if late or loss <= 0.0:
            memory.settled = memory.descended = True
        if (
            lr is not None
            and math.isfinite(lr)
            and (memory.peak_rate is None or lr > memory.peak_rate)
        ):
            memory.peak_rate, memory.warm_step = lr, step

    def _judge(self, step: int) -> Finding | None:
        memory, blocks = self._memory, self._blocks
        n, levels = len(blocks), blocks.levels
        trend, noise = blocks.trend(n, _CONFIDENCE), blocks.noise(n)
        if memory.settled or memory.first_step is None or trend is None:
            return None
        first = float(np.median(levels[: n // 4]))
        now = float(np.median(levels[-(n // 2) :]))
        drop, least = first - now, self._DROP_OF_LEVEL * first
        real = max(self._DROP_OF_NOISE * noise, least)
        from_first = memory.first - now > self._FROM_FIRST * real
        if from_first or (trend[0] <= self._DESCENT and drop > real):
            memory.settled = memory.descended = True
            return None
        warm = memory.first_step if memory.warm_step is None else memory.warm_step
        early = abs(step - memory.first_step) < self._LEAST_STEPS
        early = early or abs(step - warm) < abs(warm - memory.first_step)
        still = trend[0] > self._NO_DESCENT and drop <= self._SAME * noise
        hardly = n >= self._MANY_BLOCKS and drop <= least
        if early or not (still or hardly):
            return None
        memory.settled = True
        return _finding(
            "loss-not-decreasing",
            step,
            value=now,
            expected=first,
            message=f"the loss began at {first:.4g} and is at {now:.4g}",
            evidence={"since": memory.first_step, "z": trend[0], "noise": noise},
        )

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return _state(self._memory, blocks=self._blocks)

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        memory = load_memory(_FromTheStart, d, _VERSION)
        self._blocks = _blocks(d)
        self._memory = memory


@dataclass(slots=True)
class _Rising:
    told: bool = False
    best: float | None = None
    noise: float = 0.0
    pending: list[float] = field(default_factory=list)


class SlowDivergence:
    """Tells when the loss climbs so slowly that no single step is a spike.

    Three looks: at the newest 16 of at most 64 blocks of the whole run, and at the newest 24 and 12
    medians of five points. A Mann-Kendall test must find a rise (z of 4.2, 5 and 4.2: values in
    random order go that far once in 75,000, in 3.5 million and in 75,000 looks), the rise must come
    to three times the noise of a point (within five points, or between neighbouring medians where
    that is more), and the level must stand that far above the best of the run. The episode ends
    when the level has come half of the way back.

    Sources: Mann (1945), Kendall (1975); Sen (1968).
    """

    _LONG, _LONG_Z = 16, 4.2
    _SHORT = ((24, 5.0), (12, 4.2))
    _RISE = 3.0
    _CHUNK = 5
    _NEWEST = 4  # medians that make the level of now
    # Medians of five independent points differ by 0.51 of the noise of one, in the median.
    _NOISE_OF_STEPS = 1.0 / 0.51

    def __init__(self) -> None:
        self._blocks = _core.Blocks(_BLOCKS)
        self._window = _core.Window(self._SHORT[0][0])
        self._memory = _Rising()

    def update(self, loss: float, step: int) -> Finding | None:
        """Judges the next loss.

        Args:
            loss: The training loss.
            step: Its step.
        """
        if not math.isfinite(loss):
            return None
        memory, blocks = self._memory, self._blocks
        memory.pending.append(loss)
        full = blocks.push(loss, step)
        if full:
            level = blocks.levels[-1]
            memory.best = level if memory.best is None else min(memory.best, level)
            memory.noise = blocks.noise(_BLOCKS)
        if len(memory.pending) < self._CHUNK:
            return None
        median = sorted(memory.pending)[self._CHUNK // 2]
        memory.pending = []
        held = self._window.push(median)
        if memory.best is None:
            return None
        # What costs time is looked at only where the level has risen.
        least = self._RISE * memory.noise
        if memory.told:
            now = _middle(self._window.values[-self._NEWEST :])
            memory.told = now - memory.best > least / 2.0
            return None
        if median - memory.best <= least:
            return None
        found = None
        for count, least_z in self._SHORT:
            if found is None and held >= count:
                found = self._look(self._window.values[-count:], least_z, step)
        if found is None and full and len(blocks) >= self._LONG:
            found = self._look(blocks.levels[-self._LONG :], self._LONG_Z, step)
        return found

    def _look(self, levels: list[float], least_z: float, step: int) -> Finding | None:
        memory = self._memory
        now = _middle(levels[-self._NEWEST :])
        best = memory.best if memory.best is not None else now
        steps = sorted(abs(b - a) for a, b in pairwise(levels))
        noise = max(memory.noise, _middle(steps) * self._NOISE_OF_STEPS)
        over = now - best
        if not (over > self._RISE * noise > 0.0) or levels[0] > levels[-1]:
            return None
        trend = _core.trend(levels, _CONFIDENCE)
        if trend is None or trend[0] < least_z:
            return None
        rise = trend[1] * (len(levels) - 1)
        if rise < self._RISE * noise:
            return None
        memory.told = True
        return _finding(
            "slow-divergence",
            step,
            value=now,
            expected=best,
            score=min(rise, over) / (self._RISE * noise),
            message=f"the loss has climbed to {now:.4g} from {best:.4g} at its best",
            evidence={"z": trend[0], "rise": rise, "noise": noise},
        )

    def reset(self) -> None:
        """Forgets the run so far, as after a shift of its level."""
        self._blocks, self._memory = _core.Blocks(_BLOCKS), _Rising()
        self._window.clear()

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return _state(self._memory, blocks=self._blocks, window=self._window)

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        memory = load_memory(_Rising, d, _VERSION)
        if len(memory.pending) >= self._CHUNK:
            raise ValueError("state: pending holds too many values")
        blocks, window = _blocks(d), _window(d)
        self._blocks, self._window, self._memory = blocks, window, memory


@dataclass(slots=True)
class _Level:
    points: int = 0
    last_step: int | None = None
    gap: int = 0
    rate: float | None = None
    rate_ratio: float = 1.0
    rate_changed_at: int = 0
    first: list[float] = field(default_factory=list)


class LevelShift:
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
        self._window = _core.Window(self._BEFORE + self._AFTER)
        self._memory = _Level()

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
        if _pace_changes(memory, step):
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
        return _finding(
            "level-shift",
            step,
            severity=severity,
            value=after,
            expected=before,
            score=abs(rise) / self._RISE,
            message=message,
            evidence=evidence,
        )

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return _state(self._memory, window=self._window)

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        memory = load_memory(_Level, d, _VERSION)
        self._window = _window(d)
        self._memory = memory


@dataclass(slots=True)
class _Swinging:
    points: int = 0
    seen: int = 0
    gone: int = 0
    told: bool = False


class LossOscillation:
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
        self._window = _core.Window(self._WINDOW)
        self._memory = _Swinging()

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
        return _finding(
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

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return _state(self._memory, window=self._window)

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        memory = load_memory(_Swinging, d, _VERSION)
        self._window = _window(d)
        self._memory = memory


@dataclass(slots=True)
class _Low:
    points: int = 0
    initial: float | None = None
    told_negative: bool = False
    told_low: bool = False


class LossSuspiciouslyLow:
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
        self._window = _core.Window(self._WINDOW)
        self._memory = _Low()

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
        return _finding(
            "loss-suspiciously-low",
            step,
            value=level,
            expected=memory.initial,
            message=message,
            evidence={"initial": memory.initial},
        )

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return _state(self._memory, window=self._window)

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        memory = load_memory(_Low, d, _VERSION)
        self._window = _window(d)
        self._memory = memory


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


class RepeatedEpochPattern:
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
        self._memory = _Epochs()

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
        return _finding(
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

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return _state(self._memory)

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        memory = load_memory(_Epochs, d, _VERSION)
        if max(len(memory.now), len(memory.before)) > self._LONGEST:
            raise ValueError("state: an epoch holds too many changes")
        if memory.weight < 0.0 or memory.variance < 0.0:
            raise ValueError("state: weight and variance must not be negative")
        self._memory = memory


class LossCurve:
    """All rules on the curve of a training loss, fed as one.

    After a shift of the level the rules on trends and repetition begin anew. A run that has not
    gone down since its start is not told to be on a plateau as well.

    Example:
        >>> curve = LossCurve()
        >>> found = [f for i in range(200) for f in curve.update(2.3 + 0.01 * (-1) ** (i // 3), i)]
        >>> found[0].code
        'loss-not-decreasing'
    """

    def __init__(self) -> None:
        self._not_decreasing = LossNotDecreasing()
        self._plateau = LossPlateau()
        self._divergence = SlowDivergence()
        self._shift = LevelShift()
        self._oscillation = LossOscillation()
        self._low = LossSuspiciouslyLow()
        self._epochs = RepeatedEpochPattern()

    def update(
        self, loss: float, step: int, lr: float | None = None, epoch: float | None = None
    ) -> tuple[Finding, ...]:
        """Judges the next loss.

        Args:
            loss: The training loss; NaN and Inf are left out.
            step: Its step.
            lr: The learning rate, if known.
            epoch: Number of its epoch, or epochs gone by as a fraction, if known.

        Returns:
            What is new; mostly nothing.
        """
        shift = self._shift.update(loss, step, lr)
        if shift is not None:
            self._divergence.reset()
            self._oscillation.reset()
            if shift.severity >= Severity.WARNING:
                self._plateau.reset()  # a level that went down is the way on, not a new run
        still_high = self._not_decreasing.update(loss, step, lr)
        plateau = self._plateau.update(loss, step)
        found = (
            shift,
            still_high,
            plateau if self._not_decreasing.descended else None,
            self._divergence.update(loss, step),
            self._oscillation.update(loss, step),
            self._low.update(loss, step),
            None if epoch is None else self._epochs.update(loss, step, epoch),
        )
        if found == _NOTHING:
            return ()
        return tuple(f for f in found if f is not None)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        rules = {name.lstrip("_"): rule.state_dict() for name, rule in vars(self).items()}
        return {"version": _VERSION, **rules}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rules that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rules are then left as they were.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a mapping of version {_VERSION}")
        loaded = LossCurve()
        for name, rule in vars(loaded).items():
            rule.load_state_dict(d.get(name.lstrip("_"), {}))
        vars(self).update(vars(loaded))


_NOTHING = (None,) * 7


def _middle(values: list[float]) -> float:
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2.0


def _pace_changes(memory: _FromTheStart | _Level, step: int) -> bool:
    """Whether a point stands for far more or fewer steps than the one before it."""
    last, usual = memory.last_step, memory.gap
    memory.last_step = step
    if last is None or step <= last:
        return False
    gap = memory.gap = step - last
    return usual > 0 and (gap >= _GAP_RATIO * usual or usual >= _GAP_RATIO * gap)


def _finding(
    code: str,
    step: int,
    *,
    value: float,
    message: str,
    evidence: Mapping[str, Any],
    severity: Severity | None = None,
    expected: float | None = None,
    score: float | None = None,
) -> Finding:
    return Finding(
        code,
        CATALOGUE[code].severity if severity is None else severity,
        step=step,
        signal="loss",
        value=value,
        expected=expected,
        score=score,
        message=message,
        evidence=evidence,
    )


def _state(memory: object, **cores: _core.Blocks | _core.Window) -> dict[str, Any]:
    held = {name: core.state_dict() for name, core in cores.items()}
    return {"version": _VERSION, **plain_memory(memory), **held}


def _blocks(d: Mapping[str, Any]) -> _core.Blocks:
    blocks = _core.Blocks(_BLOCKS)
    blocks.load_state_dict(_inner(d, "blocks"))
    return blocks


def _window(d: Mapping[str, Any]) -> _core.Window:
    window = _core.Window(8)
    window.load_state_dict(_inner(d, "window"))
    return window


def _inner(d: Mapping[str, Any], name: str) -> dict[str, Any]:
    inner = d.get(name)
    if not isinstance(inner, Mapping):
        raise ValueError(f"state: expected {name} to be a mapping, got {type(inner).__name__}")
    return dict(inner)


def _rank_correlation(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Spearman's, ties given their mean rank; 0 if one of them does not vary."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    power = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / power if power > 0.0 else 0.0


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
