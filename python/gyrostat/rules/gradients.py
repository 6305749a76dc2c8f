"""Rules on gradients: not finite, and far above their own history, with the layer to blame."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from gyrostat.findings import Culprit, Finding, Severity, plain
from gyrostat.spikes import SpikeDetector

__all__ = ["GradientRule"]

_LEAST_RATIO = 10.0
_SMOOTHING = 0.05
_NAMED = 5
_SEEN = 20
_COMMON = 50.0
_LONE_RISE = math.log(50.0)
_LONE_SPREADS = 10.0
_FIRST_SPREAD = 0.3


class GradientRule:
    """Watches the L2 norm of each gradient.

    The norm of a healthy gradient is heavy-tailed and often doubles without harm, so
    ``gradient-spike`` needs both a verdict of :class:`~gyrostat.SpikeDetector` on the global norm
    and ten times the expected norm. Blame goes to the tensor that rose most above its own level,
    an exponential mean of the log norm over healthy steps (weight 0.05). A tensor whose norm is 50
    times its level, and whose log is ten of its mean deviations above it, is a ``gradient-spike``
    by itself, once it was seen 20 times; so are all of them if half of them are.
    """

    def __init__(self) -> None:
        self._detector = SpikeDetector()
        self._levels: dict[str, float] = {}
        self._spreads: dict[str, float] = {}
        self._seen = 0
        self._expected: float | None = None  # while a spike lasts

    def update(self, norms: Mapping[str, float], step: int) -> Finding | None:
        """Judges the gradients of one step.

        Args:
            norms: L2 norm by name; NaN or Inf if the tensor holds either.
            step: The step.
        """
        sick = [name for name, norm in norms.items() if not math.isfinite(norm)]
        if sick:
            return self._not_finite(sick, norms, step)
        total = math.hypot(*norms.values())
        verdict = self._detector.update(total, step=step)
        # The detector takes a level that stays for the new one; a gradient ten times too large
        # stays too large.
        if self._expected is None and verdict is not None:
            self._expected = verdict.expected
        if self._expected is None and (rises := self.rises(norms)):
            usual = statistics.median(rises.values())
            self._expected = total / usual if self._seen >= _SEEN and usual >= _COMMON else None
        if self._expected and total >= _LEAST_RATIO * self._expected:
            return self._spike(norms, total, self._expected, step)
        self._expected = None
        if self._seen >= _SEEN and (lone := self._lone(norms, step)) is not None:
            return lone
        self._learn(norms)
        return None

    def rises(self, norms: Mapping[str, float]) -> dict[str, float]:
        """How many times its own level each norm is, of those that are finite and known."""
        return {
            name: norm / math.exp(self._levels[name])
            for name, norm in norms.items()
            if name in self._levels and math.isfinite(norm)
        }

    def blame(self, norms: Mapping[str, float]) -> tuple[str, float] | None:
        """The tensor that rose most above its own level, and by what factor."""
        rises = self.rises(norms)
        if not rises:
            return None
        layer = max(rises, key=lambda name: rises[name])
        return layer, rises[layer]

    def _not_finite(self, sick: list[str], norms: Mapping[str, float], step: int) -> Finding:
        # A NaN made inside the model spreads from where it arose towards the input; a NaN that
        # reaches every tensor came from the loss or the batch, and no layer is to blame.
        culprit = Culprit() if len(sick) == len(norms) else Culprit(layer=sick[-1])
        named = ", ".join(sick[:_NAMED]) + (", ..." if len(sick) > _NAMED else "")
        return Finding(
            "gradient-not-finite",
            Severity.CRITICAL,
            step=step,
            signal="grad_norm",
            value=math.nan,
            message=f"{len(sick)} of {len(norms)} gradients hold NaN or Inf: {named}",
            culprit=culprit,
            evidence={"tensors": sick[:100], "of": len(norms)},
        )

    def _spike(
        self, norms: Mapping[str, float], total: float, expected: float, step: int
    ) -> Finding:
        ratio = total / expected
        blamed = self.blame(norms)
        evidence: dict[str, Any] = {"ratio": ratio}
        if blamed is not None:
            evidence |= {"layer_ratio": blamed[1]}
        return Finding(
            "gradient-spike",
            Severity.WARNING,
            step=step,
            signal="grad_norm",
            value=total,
            expected=expected,
            score=ratio / _LEAST_RATIO,
            message=f"gradient norm {total:.4g}, {ratio:.3g} times the expected",
            culprit=Culprit(layer=blamed[0] if blamed else None),
            evidence=evidence,
        )

    def _lone(self, norms: Mapping[str, float], step: int) -> Finding | None:
        """A tensor far out of its own range, where the global norm does not show it."""
        for name, norm in norms.items():
            level = self._levels.get(name, math.inf)
            if norm > 0 and (rise := math.log(norm) - level) >= _LONE_RISE:
                if rise < _LONE_SPREADS * self._spreads[name]:
                    continue
                ratio, expected = math.exp(rise), math.exp(level)
                return Finding(
                    "gradient-spike",
                    Severity.WARNING,
                    step=step,
                    signal="grad_norm",
                    value=norm,
                    expected=expected,
                    score=rise / _LONE_RISE,
                    message=f"gradient norm of {name} {norm:.4g}, {ratio:.3g} times its level",
                    culprit=Culprit(layer=name),
                    evidence={"ratio": ratio, "layer_ratio": ratio, "tensor": name},
                )
        return None

    def _learn(self, norms: Mapping[str, float]) -> None:
        self._seen += 1
        for name, norm in norms.items():
            if norm > 0:
                log = math.log(norm)
                level = self._levels.setdefault(name, log)
                spread = self._spreads.setdefault(name, _FIRST_SPREAD)
                self._levels[name] = level + _SMOOTHING * (log - level)
                self._spreads[name] = spread + _SMOOTHING * (abs(log - level) - spread)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return {
            "version": 2,
            "detector": self._detector.state_dict(),
            "levels": plain(self._levels),
            "spreads": plain(self._spreads),
            "seen": self._seen,
            "expected": plain(self._expected),
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state.
        """
        if d.get("version") != 2 or not isinstance(d.get("seen"), int):
            raise ValueError("state: expected a state of GradientRule, version 2")
        try:
            levels, spreads = (
                {str(k): float(v) for k, v in d[column].items()} for column in ("levels", "spreads")
            )
            expected = None if d["expected"] is None else float(d["expected"])
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ValueError("state: levels and spreads must be numbers") from error
        if levels.keys() != spreads.keys():
            raise ValueError("state: levels and spreads must be of the same names")
        self._detector.load_state_dict(d.get("detector", {}))
        self._levels, self._spreads, self._seen = levels, spreads, d["seen"]
        self._expected = expected
