"""Rules on validation losses, beside the training loss of the same run.

Each is fed once per evaluation with the level of the training loss at that time. All of them need
the two losses to be measured alike: the same function, reduction and regularisation. What is not
finite is left out. A run of more than 64 evaluations is held as means of two, of four and so on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gyrostat import _core
from gyrostat.findings import CATALOGUE, Finding
from gyrostat.rules._memory import load_memory, plain_memory
from gyrostat.rules._rule import CONFIDENCE, VERSION, Rule

__all__ = ["Generalisation", "Overfitting", "TrainValGap", "Underfitting", "ValidationTooLow"]

_MOST = 64
_NOISE = 3.0
"""What counts must exceed so many times the noise of one evaluation."""


@dataclass(slots=True)
class _Evaluations:
    """The evaluations so far, joined in pairs each time that 64 are held."""

    told: bool = False
    joined: int = 1
    waiting: int = 0
    val_sum: float = 0.0
    train_sum: float = 0.0
    vals: list[float] = field(default_factory=list)
    trains: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def add(self, val: float, train: float, step: int) -> bool:
        """True if there is a new one to look at."""
        if not (abs(val) < _HUGE and abs(train) < _HUGE):
            return False
        self.val_sum += val
        self.train_sum += train
        self.waiting += 1
        if self.waiting < self.joined:
            return False
        self.vals.append(self.val_sum / self.waiting)
        self.trains.append(self.train_sum / self.waiting)
        self.steps.append(float(step))
        self.val_sum, self.train_sum, self.waiting = 0.0, 0.0, 0
        if len(self.vals) == _MOST:
            self.joined *= 2
            self.vals = _pair_means(self.vals)
            self.trains = _pair_means(self.trains)
            self.steps = self.steps[1::2]
        return True


_HUGE = 1e150  # no sum or difference of two such overflows


class _Rule(Rule[_Evaluations]):
    """What the rules have in common: the evaluations that they remember."""

    def __init__(self) -> None:
        super().__init__(_Evaluations())

    @property
    def told(self) -> bool:
        """Whether the episode that was told is still on."""
        return self._memory.told

    def _check(self, memory: _Evaluations) -> None:
        lengths = {len(memory.vals), len(memory.trains), len(memory.steps)}
        if len(lengths) > 1 or max(lengths) >= _MOST or memory.joined < 1:
            raise ValueError("state: not a state of evaluations")


class Overfitting(_Rule):
    """Tells when the validation loss rises from its best while the training loss falls.

    Since the best evaluation there must be five more at least, a Mann-Kendall test must find a rise
    (z of 2.6: six values in order do so by chance once in 720), each of the newest three must stand
    three times the noise of an evaluation and 1 % above the best median of three in a row, since
    the best of many is low by chance, and the training loss must have gone down all the while
    (negative Theil-Sen slope). The noise is how far evaluations lie from the middle between their
    neighbours. A new best ends the episode.

    Sources: Prechelt (1998), "Early stopping - but when?", for measuring from the best so far;
    Mann (1945), Kendall (1975).
    """

    _LEAST = 6
    _Z = 2.6
    _RISE_OF_LEVEL = 0.01

    def update(self, val_loss: float, step: int, train_loss: float) -> Finding | None:
        """Judges the next evaluation.

        Args:
            val_loss: The validation loss.
            step: Its step.
            train_loss: The level of the training loss at that time.
        """
        memory = self._memory
        if not memory.add(val_loss, train_loss, step):
            return None
        vals = memory.vals
        best = min(range(len(vals)), key=vals.__getitem__)
        if len(vals) - best < self._LEAST:
            memory.told = False
            return None
        if memory.told:
            return None
        usual_best = min(sorted(vals[i : i + 3])[1] for i in range(len(vals) - 2))
        rise = min(vals[-3:]) - usual_best
        least = max(_NOISE * _noise(vals), self._RISE_OF_LEVEL * abs(vals[best]))
        up = _core.trend(vals[best:], CONFIDENCE)
        down = _core.trend(memory.trains[best:], CONFIDENCE)
        if up is None or down is None or up[0] < self._Z or rise <= least or down[1] >= 0.0:
            return None
        memory.told = True
        return _finding(
            "overfitting",
            step,
            value=val_loss,
            expected=vals[best],
            score=rise / least if least > 0.0 else None,
            message=(
                f"the validation loss has risen to {val_loss:.4g} from its best of "
                f"{vals[best]:.4g} at step {int(memory.steps[best])}, while the training loss falls"
            ),
            evidence={
                "best_step": int(memory.steps[best]),
                "evaluations_since": (len(vals) - 1 - best) * memory.joined,
                "train_loss": train_loss,
                "z": up[0],
            },
        )


class TrainValGap(_Rule):
    """Tells when the validation loss falls ever further behind the training loss.

    Of eight evaluations or more, the gap must grow (a Mann-Kendall test over all of them, z of
    3.1), and exceed three times its own noise and a tenth of the training loss. The episode ends
    with a gap of less than half of that.

    Sources: Mann (1945), Kendall (1975); the tenth is that of SageMaker Debugger's rule Overfit.
    """

    _LEAST = 8
    _Z = 3.1
    _SHARE = 0.1

    def update(self, val_loss: float, step: int, train_loss: float) -> Finding | None:
        """Judges the next evaluation.

        Args:
            val_loss: The validation loss.
            step: Its step.
            train_loss: The level of the training loss at that time.
        """
        memory = self._memory
        if not memory.add(val_loss, train_loss, step) or len(memory.vals) < self._LEAST:
            return None
        gaps = [val - train for val, train in zip(memory.vals, memory.trains, strict=True)]
        trend = _core.trend(gaps, CONFIDENCE)
        gap = sorted(gaps[-3:])[1]
        least = max(_NOISE * _noise(gaps), self._SHARE * abs(memory.trains[-1]))
        wide = trend is not None and trend[0] >= self._Z and gap > least
        if memory.told or not wide or trend is None:
            memory.told = memory.told and gap > least / 2.0
            return None
        memory.told = True
        return _finding(
            "train-val-gap",
            step,
            value=val_loss,
            expected=train_loss,
            score=gap / least if least > 0.0 else None,
            message=f"the validation loss is {gap:.4g} above the training loss, and the gap grows",
            evidence={"gap": gap, "train_loss": train_loss, "z": trend[0]},
        )


class Underfitting(_Rule):
    """Tells when training and validation loss have stopped together, with little learnt.

    Over the newer half of at least twelve evaluations neither loss may still fall, nor rise: the
    steepest descent within the 95 % interval of its Theil-Sen slope, and the slope itself, come to
    less than 1 % of its level. The
    two must lie within three times their noise or 5 % of each other, so that it is not the amount
    of data that limits, and the training loss above three quarters of the first one seen: an
    untrained network predicts about as well as a constant, so this is what inputs have told so far.
    The labels may simply not follow from the inputs any better: the finding is an info.

    Sources: Sen (1968); Goodfellow, Bengio and Courville (2016), section 5.2, for the term.
    """

    _LEAST = 12
    _GAIN = 0.01
    _GAP = 0.05
    _LEFT = 0.75

    def update(self, val_loss: float, step: int, train_loss: float, first: float) -> Finding | None:
        """Judges the next evaluation.

        Args:
            val_loss: The validation loss.
            step: Its step.
            train_loss: The level of the training loss at that time.
            first: The training loss at the beginning of the run.
        """
        memory = self._memory
        added = memory.add(val_loss, train_loss, step)
        if memory.told or not added or len(memory.vals) < self._LEAST:
            return None
        half = len(memory.vals) // 2
        if not self._flat(memory.vals[-half:]) or not self._flat(memory.trains[-half:]):
            return None
        gaps = [val - train for val, train in zip(memory.vals, memory.trains, strict=True)]
        gap = sorted(gaps[-half:])[half // 2]
        near = max(_NOISE * _noise(gaps), self._GAP * abs(train_loss))
        if abs(gap) > near or not memory.trains[-1] > self._LEFT * first > 0.0:
            return None
        memory.told = True
        return _finding(
            "underfitting",
            step,
            value=train_loss,
            expected=first,
            message=(
                f"training and validation loss stay at {train_loss:.4g} and {val_loss:.4g}; "
                f"the run began at {first:.4g}"
            ),
            evidence={"gap": gap, "val_loss": val_loss},
        )

    def _flat(self, values: list[float]) -> bool:
        trend = _core.trend(values, CONFIDENCE)
        level = sorted(values)[len(values) // 2]
        most = self._GAIN * abs(level) / len(values)
        return trend is not None and -trend[2] <= most and trend[1] <= most


class ValidationTooLow(_Rule):
    """Tells when the validation loss is a tenth of the training loss or less, three times in a row.

    Dropout, augmentation, label smoothing and averaging over an epoch raise a training loss above
    the validation loss, by a few times at most. Ten times hints at answers among the inputs that
    only validation sees, or at two losses that are not measured alike.
    """

    _TIMES = 3
    _SHARE = 0.1

    def update(self, val_loss: float, step: int, train_loss: float) -> Finding | None:
        """Judges the next evaluation.

        Args:
            val_loss: The validation loss.
            step: Its step.
            train_loss: The level of the training loss at that time.
        """
        memory = self._memory
        if not memory.add(val_loss, train_loss, step) or len(memory.vals) < self._TIMES:
            return None
        pairs = zip(memory.vals[-self._TIMES :], memory.trains[-self._TIMES :], strict=True)
        if not all(val <= self._SHARE * train for val, train in pairs if train > 0.0):
            memory.told = False
            return None
        if memory.told or min(memory.trains[-self._TIMES :]) <= 0.0:
            return None
        memory.told = True
        return _finding(
            "loss-suspiciously-low",
            step,
            value=val_loss,
            expected=train_loss,
            message=(
                f"the validation loss of {val_loss:.4g} is far below the training loss of "
                f"{train_loss:.4g}"
            ),
            evidence={"train_loss": train_loss},
        )


@dataclass(slots=True)
class _Training:
    first: list[float] = field(default_factory=list)
    since: list[float] = field(default_factory=list)
    level: float | None = None


class Generalisation:
    """All rules on validation losses, fed as one.

    Example:
        >>> rule = Generalisation()
        >>> for epoch in range(12):
        ...     rule.see(2.0 * 0.8**epoch)
        ...     found = rule.update(1.0 + 0.02 * (epoch - 4) ** 2, step=100 * epoch)
        ...     if found:
        ...         break
        >>> found[0].code, found[0].step
        ('overfitting', 900)
    """

    _FIRST = 8
    _SINCE = 32

    def __init__(self) -> None:
        self._training = _Training()
        self._since: deque[float] = deque(maxlen=self._SINCE)
        self._overfitting = Overfitting()
        self._gap = TrainValGap()
        self._underfitting = Underfitting()
        self._low = ValidationTooLow()

    def see(self, loss: float) -> None:
        """Takes in a training loss between two evaluations; one that is not finite is left out."""
        if math.isfinite(loss):
            self._since.append(loss)
            if len(self._training.first) < self._FIRST:
                self._training.first.append(loss)

    def update(self, val_loss: float, step: int) -> tuple[Finding, ...]:
        """Judges the next evaluation.

        The level of the training loss is the median of the last 32 losses since the evaluation
        before, or that of the time before if none was seen. Without any, nothing is judged. Where
        there is overfitting, a gap is not told as well.

        Args:
            val_loss: The validation loss; NaN and Inf are left out.
            step: Its step.

        Returns:
            What is new; mostly nothing.
        """
        if self._since:
            ordered = sorted(self._since)
            self._training.level = ordered[len(ordered) // 2]
            self._since.clear()
        level = self._training.level
        if level is None or not math.isfinite(val_loss):
            return ()
        first = sorted(self._training.first)[len(self._training.first) // 2]
        over = self._overfitting.update(val_loss, step, level)
        gap = self._gap.update(val_loss, step, level)
        found = (
            over,
            None if self._overfitting.told else gap,
            self._underfitting.update(val_loss, step, level, first),
            self._low.update(val_loss, step, level),
        )
        return tuple(f for f in found if f is not None)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        self._training.since = list(self._since)
        rules = {name.lstrip("_"): rule.state_dict() for name, rule in self._rules().items()}
        return {"version": VERSION, **plain_memory(self._training), **rules}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rules that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rules are then left as they were.
        """
        loaded = Generalisation()
        training = load_memory(_Training, d, VERSION)
        if len(training.since) > self._SINCE or len(training.first) > self._FIRST:
            raise ValueError("state: since or first holds too many losses")
        if training.level is not None and not training.first:
            raise ValueError("state: a level without a first loss")
        loaded._training = training
        loaded._since.extend(training.since)
        for name, rule in loaded._rules().items():
            rule.load_state_dict(d.get(name.lstrip("_"), {}))
        vars(self).update(vars(loaded))

    def _rules(self) -> dict[str, _Rule]:
        return {name: rule for name, rule in vars(self).items() if isinstance(rule, _Rule)}


def _finding(
    code: str,
    step: int,
    *,
    value: float,
    expected: float,
    message: str,
    evidence: Mapping[str, Any],
    score: float | None = None,
) -> Finding:
    return Finding(
        code,
        CATALOGUE[code].severity,
        step=step,
        signal="val_loss",
        value=value,
        expected=expected,
        score=score,
        message=message,
        evidence=evidence,
    )


def _noise(values: list[float]) -> float:
    """Standard deviation of one evaluation, whatever the trend.

    A value minus the mean of its neighbours has the variance 3/2 in independent noise.
    """
    if len(values) < 3:
        return math.inf
    off = sorted(
        abs(here - (left + right) / 2.0)
        for left, here, right in zip(values, values[1:], values[2:], strict=False)
    )
    return 1.4826 * off[len(off) // 2] / math.sqrt(1.5)


def _pair_means(values: list[float]) -> list[float]:
    return [(a + b) / 2.0 for a, b in zip(values[::2], values[1::2], strict=True)]
