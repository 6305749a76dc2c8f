"""Rules on low precision: gradients lost below a format, and a loss scale that finds no rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gyrostat.findings import Finding
from gyrostat.rules._columns import (
    EPISODES,
    ColumnRule,
    Layers,
    layers_of,
    starts,
    tensor_finding,
)
from gyrostat.rules._rule import Rule
from gyrostat.tensors import TensorTable

__all__ = ["GradientUnderflow", "LossScaleThrash"]

_MARGIN: Mapping[str, float] = {"float16": 32.0, "float8_e4m3fn": 1.0, "float8_e5m2": 1.0}


class GradientUnderflow(ColumnRule):
    """Tells of gradients most of whose values are lost below a format at the present loss scale.

    Of the values other than zero, half or more must be lost: become zero in the format or, in
    float16, keep fewer than five bits there, as all values do that came out of it near its end.
    Every 32nd call looks at all tensors; what is bad at two looks in a row is told. Tensors with
    less than a thousandth of their layer's norm are left out.

    Source: Micikevicius et al. (2018), "Mixed Precision Training".

    Args:
        fmt: The format of the gradients in the backward pass: ``"float16"``, ``"float8_e4m3fn"`` or
            ``"float8_e5m2"``.
    """

    _COLUMNS = starts(EPISODES)
    _SCALARS = starts(told=0.0, calls=0.0)
    _EVERY = 32
    _PATIENCE = 2
    _LOST = 0.5
    _LEAST = 1e-3

    def __init__(self, fmt: str = "float16") -> None:
        super().__init__()
        if fmt not in _MARGIN:
            raise ValueError(f"fmt: expected one of {', '.join(_MARGIN)}, got {fmt!r}")
        self._fmt = fmt

    def update(self, gradients: TensorTable, loss_scale: float, step: int) -> Finding | None:
        """Judges the gradients of one step.

        Args:
            gradients: Records of level ``"full"``, freed of the loss scale.
            loss_scale: What the loss was multiplied by; 1 without a scale.
            step: The step.
        """
        if not (loss_scale > 0.0 and math.isfinite(loss_scale)):
            raise ValueError(f"loss_scale: expected a number above 0, got {loss_scale!r}")
        names = gradients.names
        if not names or gradients.level != "full":
            return None
        self._align(names)
        due = self._scalars["calls"] % self._EVERY == 0
        self._scalars["calls"] += 1.0
        if not due:
            return None
        norms, scale = gradients.l2, loss_scale / _MARGIN[self._fmt]
        whole = Layers.of(names, norms).norms
        counts = norms >= self._LEAST * whole[layers_of(names)[1]]
        share = np.array([record.underflow_fraction(self._fmt, scale) for record in gradients])
        share *= counts
        bad = share >= self._LOST
        if self._quiet(bad):
            return None
        found = self._episodes(bad, share < self._LOST / 2.0, self._PATIENCE)
        if found is None:
            return None
        worst = int(found[np.argmax(share[found])])
        return tensor_finding(
            "gradient-underflow",
            step,
            signal="grad",
            layer=names[worst],
            value=share[worst],
            expected=self._LOST,
            message=(
                f"{share[worst]:.0%} of the gradient of {names[worst]} is lost below "
                f"{self._fmt} at a loss scale of {loss_scale:g}"
            ),
            affected=[names[i] for i in found],
            loss_scale=loss_scale,
            format=self._fmt,
        )


@dataclass(slots=True)
class _Scale:
    looks: int = 0
    steady: int = 0
    settled: bool = False
    scale: float | None = None
    told: bool = False
    backoffs: list[float] = field(default_factory=list)


class LossScaleThrash(Rule[_Scale]):
    """Tells when a dynamic loss scale falls again and again, or below 1.

    A scaler begins far too high and falls to its level in its first steps; later it falls once each
    time that it has grown, every 2000 steps as a rule. So falls count from the time that the scale
    has first rested for 20 steps: 16 of them within 256 steps, each a step that was skipped. Below
    1 the gradients leave float16 even unscaled. The episode ends with 256 steps without a fall.
    """

    _REST = 20
    _FALLS = 16
    _WINDOW = 256

    def __init__(self) -> None:
        super().__init__(_Scale())

    def update(self, loss_scale: float, step: int) -> Finding | None:
        """Judges the loss scale of one step.

        Args:
            loss_scale: The scale. One that is not above 0 and finite is left out.
            step: The step.
        """
        if not (loss_scale > 0.0 and math.isfinite(loss_scale)):
            return None
        memory = self._memory
        memory.looks += 1
        last, memory.scale = memory.scale, float(loss_scale)
        memory.steady = memory.steady + 1 if last == loss_scale else 0
        memory.settled |= memory.steady >= self._REST
        fell = last is not None and loss_scale < last
        if not fell:
            quiet = not memory.backoffs or memory.looks - memory.backoffs[-1] >= self._WINDOW
            memory.told = memory.told and not (quiet and loss_scale >= 1.0)
            return None
        if memory.settled:
            memory.backoffs = [*memory.backoffs[1 - self._FALLS :], float(memory.looks)]
        falls = [at for at in memory.backoffs if memory.looks - at < self._WINDOW]
        if memory.told or not (len(falls) >= self._FALLS or loss_scale < 1.0):
            return None
        memory.told = True
        what = "has fallen below 1" if loss_scale < 1.0 else f"fell {len(falls)} times"
        return tensor_finding(
            "loss-scale-thrash",
            step,
            signal="loss_scale",
            layer=None,
            value=loss_scale,
            message=f"the loss scale {what} within {self._WINDOW} steps; it is {loss_scale:g}",
            falls=len(falls),
        )

    def _check(self, memory: _Scale) -> None:
        if len(memory.backoffs) > self._FALLS:
            raise ValueError("state: backoffs holds too many")
