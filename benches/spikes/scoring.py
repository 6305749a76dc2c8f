"""What counts as found, as early and as false. All counts are in logged points.

**Labelled runs** (:func:`score`). An event is a major label of kind ``spike``, ``divergence`` or
``nan``. It is found by an alarm from one point before its start to two points after its end, of a
divergence or ``nan`` at most 50 points after its start; the delay is that of the first such alarm,
never below zero. Alarms in any other label that goes up or is doubtful (all but ``none`` and
``lr_decay_drop``; from one point before its start to two points and a tenth of its length after
its end) count neither way. Every other alarm is false; it counts as one with the alarm before it
if that was false, too, and at most 10 points earlier. A run is clean if all its labels are
``none``, or it has none; it is silent if it has no alarm at all.

**Injected faults** (:func:`latency`). A fault is found by the first alarm in the fault's window
that is not also raised on the same stretch without the fault, so that noise earns nothing.

**Failures** (:func:`failure`, :func:`lead`). A run fails at the first step where its loss is half
as high again as the best so far, is so for half of the 10 steps from there on, and never again gets
as low as that best. The lead of an alarm is the number of steps from it to the failure. Alarms more
than 100 steps before the failure earn no lead, and those more than 50 steps after it are too late.

**Rates** come with the exact 95 % interval of a Poisson count (Garwood, 1936).
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

MERGED = 10
EVENTS = ("spike", "divergence", "nan")
FAILED, HOLDS = 1.5, 10
EARLIEST, LATEST = 100, 50


class Label(NamedTuple):
    """A labelled range of points, ``first`` and ``last`` included."""

    kind: str
    severity: str
    first: int
    last: int

    @property
    def is_event(self):
        return self.severity == "major" and self.kind in EVENTS

    @property
    def window(self):
        """Where an alarm finds the event."""
        end = self.last + 2
        return self.first - 1, end if self.kind == "spike" else min(end, self.first + 50)

    @property
    def excused(self):
        """Where an alarm is not false, or None."""
        if self.kind in {"none", "lr_decay_drop"}:
            return None
        return self.first - 1, self.last + 2 + (self.last - self.first) // 10


@dataclass
class Score:
    """Counts over one run or, added up, over several."""

    found: int = 0
    events: int = 0
    false: int = 0
    points: int = 0
    clean: int = 0
    silent: int = 0
    delays: list[int] = field(default_factory=list)

    def __add__(self, other):
        return Score(*(mine + theirs for mine, theirs in zip(self.row, other.row, strict=True)))

    @property
    def row(self):
        return (
            self.found,
            self.events,
            self.false,
            self.points,
            self.clean,
            self.silent,
            self.delays,
        )

    @property
    def recall(self):
        return self.found / self.events if self.events else math.nan

    @property
    def precision(self):
        alarms = self.found + self.false
        return self.found / alarms if alarms else math.nan

    @property
    def f1(self):
        if not self.found:
            return 0.0
        return 2 * self.precision * self.recall / (self.precision + self.recall)

    @property
    def median_delay(self):
        return float(np.median(self.delays)) if self.delays else math.nan


def score(alarms, labels, points):
    """The counts of one labelled run."""
    alarms = np.unique(np.asarray(alarms, dtype=int)).tolist()
    result = Score(points=points)
    for label in labels:
        if label.is_event:
            first, last = label.window
            hits = [i for i in alarms if first <= i <= last]
            result.events += 1
            result.found += bool(hits)
            result.delays += [max(0, hits[0] - label.first)] if hits else []
    result.false = episodes(i for i in alarms if not excused(i, labels))
    if all(label.kind == "none" for label in labels):
        result.clean, result.silent = 1, int(not alarms)
    return result


def excused(point, labels):
    """Whether an alarm there counts neither way."""
    spans = [label.excused for label in labels]
    return any(span[0] <= point <= span[1] for span in spans if span)


def episodes(alarms):
    """How many alarms, where one soon after another counts as the same."""
    count, last = 0, -math.inf
    for alarm in alarms:
        count += alarm - last > MERGED
        last = alarm
    return count


def latency(alarms, without, start, window):
    """Points from the start of a fault to the alarm that it raises, or None."""
    ignored = set(without)
    own = [i for i in alarms if start <= i < start + window and i not in ignored]
    return min(own) - start if own else None


def failure(loss):
    """The step at which a run fails, or None if it does not."""
    known = np.where(np.isfinite(loss), loss, math.inf)
    best = np.minimum.accumulate(known)
    up = ~(known < FAILED * best)
    for step in np.flatnonzero(up):
        stays = up[step : step + HOLDS].mean() >= 0.5
        if stays and known[step:].min() > best[step]:
            return int(step)
    return None


def lead(alarms, failed):
    """Steps by which an alarm comes before the failure, below zero if after it, or None."""
    near = [i for i in alarms if failed - EARLIEST <= i <= failed + LATEST]
    return failed - min(near) if near else None


def lead_by_chance(rate):
    """The mean lead of alarms that come at random at this rate per step; None counts as 0."""
    if rate <= 0:
        return 0.0
    return EARLIEST - (1 - math.exp(-rate * EARLIEST)) / rate


def garwood(count, level=0.95):
    """The exact two-sided confidence interval of the mean of a Poisson count."""
    tail = (1 - level) / 2
    low = _mean_where(lambda mean: _at_most(count - 1, mean) < 1 - tail, count) if count else 0.0
    return low, _mean_where(lambda mean: _at_most(count, mean) < tail, count)


def _at_most(count, mean):
    """The probability of so many or fewer."""
    logs = np.cumsum(np.log(np.r_[1.0, np.arange(1, count + 1)]))
    terms = np.arange(count + 1) * math.log(mean) - mean - logs
    return float(np.exp(terms).sum())


def _mean_where(beyond, count):
    """By halving: the smallest mean for which ``beyond`` holds."""
    low, high = 1e-9, count + 20 * math.sqrt(count + 1)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high
