"""Rules on where a training loss goes: nowhere, not down, slowly up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from gyrostat import _core
from gyrostat.findings import Finding
from gyrostat.rules._rule import BLOCKS, CONFIDENCE, Rule, loss_finding, middle, pace_changes

__all__ = ["LossNotDecreasing", "LossPlateau", "SlowDivergence"]


@dataclass(slots=True)
class _Flat:
    told: bool = False


class LossPlateau(Rule[_Flat]):
    """Tells when the second half of the run so far has brought nothing that matters.

    The run is held as at most 64 medians of blocks. Over the newer half of them even the steepest
    descent within the 95 % interval of the Theil-Sen slope must come to less than 1 % of the level,
    or to a tenth of the noise of one point, which is all that counts for a loss near zero. With too
    little data to say so, nothing is said. The episode ends with a descent (a Mann-Kendall z of -3)
    of more than 2 % of the level and the noise.

    A run that has converged is on a plateau as well: the finding is an info.

    Sources: Mann (1945), Kendall (1975); Sen (1968) for the interval of the slope.
    """

    _LEASTBLOCKS = 24
    _EVERY = 4
    _GAIN_OF_LEVEL = 0.01
    _GAIN_OF_NOISE = 0.1
    _DESCENT = -3.0
    _END_OF_LEVEL = 0.02

    def __init__(self) -> None:
        super().__init__(_Flat())
        self._blocks = _core.Blocks(BLOCKS)

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
        if n < self._LEASTBLOCKS or n % self._EVERY:
            return None
        half = n // 2
        trend = blocks.trend(half, CONFIDENCE)
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
        return loss_finding(
            "loss-plateau",
            step,
            value=level,
            message=f"the loss has stayed at {level:.4g} since step {begin}",
            evidence={"since": begin, "z": z, "gain_at_most": gain, "noise": noise},
        )

    def reset(self) -> None:
        """Forgets the run so far, as after a restart."""
        self._blocks, self._memory = _core.Blocks(BLOCKS), _Flat()


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


class LossNotDecreasing(Rule[_FromTheStart]):
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

    _LEASTBLOCKS = 8
    _MANYBLOCKS = 24
    _LEAST_STEPS = 128
    _LATE = 2
    _NO_DESCENT = -1.0
    _DESCENT = -3.0
    _DROP_OF_NOISE = 2.0 / 3.0
    _DROP_OF_LEVEL = 0.01
    _FROM_FIRST = 3.0
    _SAME = 0.1

    def __init__(self) -> None:
        super().__init__(_FromTheStart())
        self._blocks = _core.Blocks(BLOCKS)

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
        if not self._blocks.push(loss, step) or len(self._blocks) < self._LEASTBLOCKS:
            return None
        return self._judge(step)

    def _note(self, loss: float, step: int, lr: float | None) -> None:
        """Takes in what tells whether, and from when on, the run is to be judged."""
        memory = self._memory
        if memory.first_step is None and math.isfinite(loss):
            memory.first_step, memory.first = step, loss
        began = memory.gap == 0
        if pace_changes(memory, step):
            self._blocks = _core.Blocks(BLOCKS)
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
        trend, noise = blocks.trend(n, CONFIDENCE), blocks.noise(n)
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
        hardly = n >= self._MANYBLOCKS and drop <= least
        if early or not (still or hardly):
            return None
        memory.settled = True
        return loss_finding(
            "loss-not-decreasing",
            step,
            value=now,
            expected=first,
            message=f"the loss began at {first:.4g} and is at {now:.4g}",
            evidence={"since": memory.first_step, "z": trend[0], "noise": noise},
        )


@dataclass(slots=True)
class _Rising:
    told: bool = False
    best: float | None = None
    noise: float = 0.0
    pending: list[float] = field(default_factory=list)


class SlowDivergence(Rule[_Rising]):
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
        super().__init__(_Rising())
        self._blocks = _core.Blocks(BLOCKS)
        self._window = _core.Window(self._SHORT[0][0])

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
            memory.noise = blocks.noise(BLOCKS)
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
            now = middle(self._window.values[-self._NEWEST :])
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
        now = middle(levels[-self._NEWEST :])
        best = memory.best if memory.best is not None else now
        steps = sorted(abs(b - a) for a, b in pairwise(levels))
        noise = max(memory.noise, middle(steps) * self._NOISE_OF_STEPS)
        over = now - best
        if not (over > self._RISE * noise > 0.0) or levels[0] > levels[-1]:
            return None
        trend = _core.trend(levels, CONFIDENCE)
        if trend is None or trend[0] < least_z:
            return None
        rise = trend[1] * (len(levels) - 1)
        if rise < self._RISE * noise:
            return None
        memory.told = True
        return loss_finding(
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
        self._blocks, self._memory = _core.Blocks(BLOCKS), _Rising()
        self._window.clear()

    def _check(self, memory: _Rising) -> None:
        if len(memory.pending) >= self._CHUNK:
            raise ValueError("state: pending holds too many values")
