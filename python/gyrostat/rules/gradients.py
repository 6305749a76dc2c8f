"""Rules on gradients: not finite, and far above their own history, with the layer to blame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import Culprit, Finding, Severity, plain
from gyrostat.spikes import SpikeDetector

__all__ = ["GradientRule"]

_LEAST_RATIO = 10.0
_SMOOTHING = 0.05
_NAMED = 5
_SEEN = 20
_COMMON = math.log(50.0)
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
        self._places: dict[str, int] = {}
        self._levels = np.empty(0)  # NaN until the tensor has had a norm above 0
        self._spreads = np.empty(0)
        self._last: tuple[tuple[str, ...], NDArray[np.intp]] = (), np.empty(0, dtype=np.intp)
        self._seen = 0
        self._expected: float | None = None  # while a spike lasts

    def update(self, norms: Mapping[str, float], step: int) -> Finding | None:
        """Judges the gradients of one step.

        Args:
            norms: L2 norm by name; NaN or Inf if the tensor holds either.
            step: The step.
        """
        values = np.fromiter(norms.values(), np.float64, len(norms))
        if not np.isfinite(values).all():
            sick = [name for name, norm in norms.items() if not math.isfinite(norm)]
            return self._not_finite(sick, norms, step)
        total = math.hypot(*norms.values())
        verdict = self._detector.update(total, step=step)
        at = self._at(tuple(norms))
        with np.errstate(divide="ignore"):
            logs = np.log(values)
        rises = logs - self._levels[at]
        # The detector takes a level that stays for the new one; a gradient ten times too large
        # stays too large.
        if self._expected is None and verdict is not None:
            self._expected = verdict.expected
        if self._expected is None and self._seen >= _SEEN:
            known = np.count_nonzero(rises == rises)  # noqa: PLR0124 - what is not NaN
            if known and 2 * np.count_nonzero(rises >= _COMMON) >= known:
                self._expected = total / float(np.nanmedian(np.exp(rises)))
        if self._expected and total >= _LEAST_RATIO * self._expected:
            return self._spike(norms, total, self._expected, step)
        self._expected = None
        if self._seen >= _SEEN:
            # Far out of its own range, where the global norm does not show it.
            far = (rises >= _LONE_RISE) & (rises >= _LONE_SPREADS * self._spreads[at])
            if far.any():
                return self._lone(list(norms)[int(far.argmax())], norms, step)
        self._learn(at, logs)
        return None

    def rises(self, norms: Mapping[str, float]) -> dict[str, float]:
        """How many times its own level each norm is, of those that are finite and known."""
        return {
            name: norm / level
            for name, norm in norms.items()
            if (level := self._level(name)) is not None and math.isfinite(norm)
        }

    def blame(self, norms: Mapping[str, float]) -> tuple[str, float] | None:
        """The tensor that rose most above its own level, and by what factor."""
        rises = self.rises(norms)
        if not rises:
            return None
        layer = max(rises, key=lambda name: rises[name])
        return layer, rises[layer]

    def _level(self, name: str) -> float | None:
        """The norm that is usual for a tensor, if it is known."""
        level = self._levels[self._places[name]] if name in self._places else math.nan
        return None if math.isnan(level) else math.exp(level)

    def _at(self, names: tuple[str, ...]) -> NDArray[np.intp]:
        """Where the levels of these tensors are kept."""
        if names != self._last[0]:
            for name in names:
                self._places.setdefault(name, len(self._places))
            new = len(self._places) - len(self._levels)
            self._levels = np.append(self._levels, np.full(new, math.nan))
            self._spreads = np.append(self._spreads, np.full(new, _FIRST_SPREAD))
            self._last = names, np.array([self._places[name] for name in names], dtype=np.intp)
        return self._last[1]

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

    def _lone(self, name: str, norms: Mapping[str, float], step: int) -> Finding:
        norm, expected = norms[name], self._level(name) or math.nan
        ratio = norm / expected
        return Finding(
            "gradient-spike",
            Severity.WARNING,
            step=step,
            signal="grad_norm",
            value=norm,
            expected=expected,
            score=math.log(ratio) / _LONE_RISE,
            message=f"gradient norm of {name} {norm:.4g}, {ratio:.3g} times its level",
            culprit=Culprit(layer=name),
            evidence={"ratio": ratio, "layer_ratio": ratio, "tensor": name},
        )

    def _learn(self, at: NDArray[np.intp], logs: NDArray[np.float64]) -> None:
        self._seen += 1
        some = np.isfinite(logs)
        at, logs = at[some], logs[some]
        levels = self._levels[at]
        levels = np.where(np.isnan(levels), logs, levels)
        spreads = self._spreads[at]
        self._levels[at] = levels + _SMOOTHING * (logs - levels)
        self._spreads[at] = spreads + _SMOOTHING * (np.abs(logs - levels) - spreads)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return {
            "version": 2,
            "detector": self._detector.state_dict(),
            "levels": self._by_name(self._levels),
            "spreads": self._by_name(self._spreads),
            "seen": self._seen,
            "expected": plain(self._expected),
        }

    def _by_name(self, column: NDArray[np.float64]) -> dict[str, float]:
        known = ~np.isnan(self._levels)
        return {name: float(column[i]) for name, i in self._places.items() if known[i]}

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
        self._places = {name: i for i, name in enumerate(levels)}
        self._levels = np.array(list(levels.values()), dtype=np.float64)
        self._spreads = np.array([spreads[name] for name in levels], dtype=np.float64)
        self._last = (), np.empty(0, dtype=np.intp)
        self._seen, self._expected = d["seen"], expected
