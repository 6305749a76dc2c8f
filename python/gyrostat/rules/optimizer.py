"""Rules on the optimizer: its learning rate, and its memory of the gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import Culprit, Finding, Severity, plain
from gyrostat.rules._memory import load_memory, plain_memory

__all__ = ["LearningRateJump", "OptimizerStateRule"]

_VERSION = 1


@dataclass
class _Rates:
    last: list[float] = field(default_factory=list)
    highest: list[float] = field(default_factory=list)
    seen: int = 0
    factor: float = 1.0


class LearningRateJump:
    """Tells a learning rate that is a multiple of what it was one step before.

    Schedules change the rate by little from step to step, but for warm restarts, which go back to
    a rate that was in use before, and the first steps of a warm-up. What is ``ratio`` times the
    last rate and twice the highest so far is taken for a mistake. It is over when the rate falls
    by at least half of what it jumped.

    Args:
        ratio: How many times the last rate is a jump.
    """

    def __init__(self, ratio: float = 4.0) -> None:
        self._ratio = ratio
        self._memory = _Rates()

    @property
    def factor(self) -> float:
        """The factor that takes the jump back; 1.0 when there is none."""
        return self._memory.factor

    def update(self, rates: Sequence[float], step: int) -> Finding | None:
        """Judges the learning rates of one step.

        Args:
            rates: One for each group of parameters.
            step: The step.

        Returns:
            ``lr-jump`` at the step of the jump, else None.
        """
        m = self._memory
        rates = [float(rate) for rate in rates]
        if len(rates) != len(m.last) or not all(map(math.isfinite, rates)):
            self._memory = _Rates([r if math.isfinite(r) else 0.0 for r in rates], list(rates))
            return None
        m.seen += 1
        found = None
        rises = [
            (now / was, g)
            for g, (now, was) in enumerate(zip(rates, m.last, strict=True))
            if was > 0
        ]
        ratio, group = max(rises, default=(0.0, 0))
        new = rates[group] > _NEW * m.highest[group] if rises else False
        if m.seen >= _WARM_UP and ratio >= self._ratio and new:
            found = _jump(rates[group], m.last[group], ratio, group, step)
            m.factor /= ratio
        elif m.factor < 1.0 and rises and ratio <= _FALLEN * m.factor:
            m.factor = 1.0
        m.last = rates
        m.highest = [max(h, r * m.factor) for h, r in zip(m.highest, rates, strict=True)]
        return found

    def accept(self) -> None:
        """Takes the present rate for what it is to be."""
        self._memory.factor = 1.0
        self._memory.highest = list(self._memory.last)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return {"version": _VERSION, **plain_memory(self._memory)}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        self._memory = load_memory(_Rates, d, _VERSION)


_WARM_UP = 10
_NEW = 2.0
_FALLEN = 2.0


def _jump(rate: float, was: float, ratio: float, group: int, step: int) -> Finding:
    return Finding(
        "lr-jump",
        Severity.WARNING,
        step=step,
        signal="lr",
        value=rate,
        expected=was,
        score=ratio,
        message=f"learning rate {rate:.3g} after {was:.3g}, {ratio:.3g} times as high",
        evidence={"ratio": ratio, "group": group},
    )


class OptimizerStateRule:
    """Tells whether an optimizer's memory can come from the gradients that it was given.

    Whatever its betas, Adam's mean of squares ``v`` cannot lose more than a part of itself at a
    step, ``v_t = b v + (1 - b) g^2 >= b v``, and neither it nor a mean of gradients can gain more
    than the gradient has to give: ``|v_t| <= |v| + |g|^2``, ``|m_t| <= |m| + |g|``. With a factor
    of 4 to spare, which covers weight decay and momentum without dampening, what breaks these
    bounds was changed by something else: a flipped bit, a state loaded by half, a state lost.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._first = self._second = self._gradients = np.empty(0)

    def update(
        self,
        names: Sequence[str],
        first: NDArray[np.float64],
        second: NDArray[np.float64],
        gradients: Mapping[str, float],
        step: int,
        *,
        ranks: Sequence[int] = (),
    ) -> Finding | None:
        """Judges the optimizer's memory before the update of a step.

        Args:
            names: The parameters that the optimizer remembers something of.
            first: L2 norm of the mean of gradients, or momentum, by parameter; NaN if unknown.
            second: The same for the mean of squares.
            gradients: L2 norm of each gradient of this step by parameter name.
            step: The step.
            ranks: The rank that each of ``names`` is from, if there are several.

        Returns:
            ``optimizer-state-damage`` with the parameter to blame, or None.
        """
        found = None
        names = tuple(names)
        if self._names and not names:
            found = _damage(None, "the optimizer has lost its memory", step, {})
        elif names == self._names:
            found = self._compare(first, second, step, ranks)
        self._names, self._first, self._second = names, first, second
        self._gradients = np.array([gradients.get(name, math.nan) for name in names])
        return found

    def forget(self) -> None:
        """Begins anew, as after a state was loaded."""
        vars(self).update(vars(OptimizerStateRule()))

    def _compare(
        self,
        first: NDArray[np.float64],
        second: NDArray[np.float64],
        step: int,
        ranks: Sequence[int],
    ) -> Finding | None:
        g = self._gradients
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            rise = np.fmax(
                np.where(self._first > 0, first / (self._first + g), 0.0),
                np.where(self._second > 0, second / (self._second + g * g), 0.0),
            )
            fall = np.where(self._second > _TINY, self._second / second, 0.0)
        # NaN compares as false: where the gradient was not finite nothing can be said. A memory
        # that is not finite itself shows in the gradient of the next step.
        worst = np.fmax(rise, fall)
        worst[np.isnan(worst)] = 0.0
        if not worst.size or (ratio := float(worst.max())) < _BOUND:
            return None
        layer = self._names[int(worst.argmax())]
        share = float(np.mean(worst >= _BOUND))
        how = "fell" if fall[int(worst.argmax())] >= _BOUND else "rose"
        message = f"the optimizer's memory of {layer} {how} by more than gradients can make it"
        hit = (
            tuple(sorted({ranks[i] for i in np.flatnonzero(worst >= _BOUND).tolist()}))
            if ranks
            else ()
        )
        evidence = {"ratio": ratio, "share": share, "how": how}
        return _damage(layer, message, step, evidence, hit)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return {
            "version": _VERSION,
            "names": list(self._names),
            "first": plain(self._first.tolist()),
            "second": plain(self._second.tolist()),
            "gradients": plain(self._gradients.tolist()),
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a state of OptimizerStateRule, version {_VERSION}")
        names = d.get("names")
        if not isinstance(names, list):
            raise ValueError("state: names must be a list")
        columns = []
        for column in ("first", "second", "gradients"):
            try:
                columns.append(np.array([float(v) for v in d[column]], dtype=np.float64))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"state: {column} must be numbers") from error
            if len(columns[-1]) != len(names):
                raise ValueError(f"state: {column} must have one number for each name")
        self._names = tuple(map(str, names))
        self._first, self._second, self._gradients = columns


_BOUND = 4.0
_TINY = 1e-30  # a norm below it may underflow to zero by itself


def _damage(
    layer: str | None,
    message: str,
    step: int,
    evidence: dict[str, Any],
    ranks: tuple[int, ...] = (),
) -> Finding:
    return Finding(
        "optimizer-state-damage",
        Severity.CRITICAL,
        step=step,
        signal="optimizer_state",
        score=evidence.get("ratio"),
        message=message,
        culprit=Culprit(layer=layer, ranks=ranks),
        evidence=evidence,
    )
