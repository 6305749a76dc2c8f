"""All rules on the curve of a training loss, beside spikes: where it goes, and what it repeats.

Each rule is online: what it says at a step uses nothing later. Steps may be uneven, and a loss that
is not finite is left out. Each says a thing once per episode, not at every step. The constants are
in units of the run's own noise or of the null distribution of a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gyrostat.findings import Finding, Severity
from gyrostat.rules._rule import VERSION
from gyrostat.rules.levels import LevelShift, LossSuspiciouslyLow
from gyrostat.rules.patterns import LossOscillation, RepeatedEpochPattern
from gyrostat.rules.trends import LossNotDecreasing, LossPlateau, SlowDivergence

__all__ = ["LossCurve"]


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
        return {"version": VERSION, **rules}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rules that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rules are then left as they were.
        """
        if not isinstance(d, Mapping) or d.get("version") != VERSION:
            raise ValueError(f"state: expected a mapping of version {VERSION}")
        loaded = LossCurve()
        for name, rule in vars(loaded).items():
            rule.load_state_dict(d.get(name.lstrip("_"), {}))
        vars(self).update(vars(loaded))


_NOTHING = (None,) * 7
