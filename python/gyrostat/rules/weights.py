"""Rules on weights: not finite, or far outside what they were at the last healthy snapshot."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gyrostat.findings import Culprit, Finding, Severity

__all__ = ["WEIGHT_DAMAGE", "check_weights"]

WEIGHT_DAMAGE = frozenset({"weight-not-finite", "weight-jump"})
"""Codes that say that the weights themselves are damaged."""

# Adam moves a weight by at most about its learning rate a step, so in the few dozen steps between
# two snapshots no healthy tensor grows its largest weight this much; a flipped exponent bit does.
# Tensors that start at zero do grow so at first, but not beyond the largest weight of the model.
_JUMP = 16.0


def check_weights(
    now: Mapping[str, float], healthy: Mapping[str, float], step: int
) -> Finding | None:
    """Tells whether the weights are damaged, so that no batch can be good any more.

    Args:
        now: Largest absolute value by tensor; NaN or Inf if the tensor holds either.
        healthy: The same at the last healthy snapshot.
        step: The step.

    Returns:
        ``weight-not-finite`` or ``weight-jump`` with the tensor to blame, or None.
    """
    sick = [name for name, value in now.items() if not math.isfinite(value)]
    if sick:
        return Finding(
            "weight-not-finite",
            Severity.CRITICAL,
            step=step,
            signal="weight",
            value=math.nan,
            message=f"{len(sick)} of {len(now)} weight tensors hold NaN or Inf",
            culprit=Culprit(layer=sick[0]),
            evidence={"tensors": sick[:100], "of": len(now)},
        )
    largest = max(healthy.values(), default=0.0)
    jumps = {
        name: value / healthy[name]
        for name, value in now.items()
        if healthy.get(name, 0.0) > 0.0 and value > largest
    }
    if not jumps:
        return None
    layer = max(jumps, key=lambda name: jumps[name])
    if jumps[layer] < _JUMP:
        return None
    return Finding(
        "weight-jump",
        Severity.CRITICAL,
        step=step,
        signal="weight",
        value=now[layer],
        expected=healthy[layer],
        score=jumps[layer] / _JUMP,
        message=f"largest weight {now[layer]:.3g}, {jumps[layer]:.3g} times the last healthy one",
        culprit=Culprit(layer=layer),
        evidence={"ratio": jumps[layer]},
    )
