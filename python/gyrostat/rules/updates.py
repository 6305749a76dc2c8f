"""Rules on what an optimizer step does: updates beside weights, and gradients beside moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gyrostat.findings import Finding
from gyrostat.rules._columns import (
    EPISODES,
    SURGE,
    WARM_UP,
    ColumnRule,
    Layers,
    LevelsAndTotal,
    checked,
    layers_of,
    starts,
    tensor_finding,
)

__all__ = ["Moments", "MomentumConflict", "UnchangedTensor", "UpdateRatio", "UpdateRms"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Gradients beside the moments that an optimizer of Adam's kind keeps of them.

    Attributes:
        names: Names of the parameters.
        update_rms: Shape ``(n,)``: root mean square of g / sqrt(v), with the second moment v of
            this step, free of bias; NaN where it is not known.
        cosine: Shape ``(n,)``: cosine of the gradient and the first moment before this step, NaN
            if one of them is 0.
        total_cosine: The same of all parameters together.
    """

    names: tuple[str, ...]
    update_rms: NDArray[np.float64]
    cosine: NDArray[np.float64]
    total_cosine: float


_TINY = 1e-300


class UpdateRatio(LevelsAndTotal):
    """Tells of updates that are out of proportion to the weights.

    The norm of the update over that of the weights, some 1e-3 as a rule. Of the whole model,
    divided by the learning rate if that is given: told if it stands ten times above its highest
    level so far for five looks in a row (see :class:`~gyrostat.rules.ExplodingGradient`). Of a
    layer, from the 20th look on: told if the update is larger than the weights for 20 looks in a
    row, or so small that float32 weights round it away (6e-8) while the middle layer moves by 1e-5.
    Layers of less than a hundredth of the middle layer's norm are left out: what hovers about zero
    moves by its own size.

    SageMaker Debugger's WeightUpdateRatio tells above 10 and below 1e-8.
    """

    _COLUMNS = starts(EPISODES, level=math.nan)
    _SCALARS = starts(told=0.0, looks=0.0)
    _RISE = math.log(10.0)
    _PATIENCE = 5
    _ROUNDED = 2.0**-24

    def update(
        self,
        names: Sequence[str],
        updates: ArrayLike,
        weights: ArrayLike,
        step: int,
        lr: float | None = None,
    ) -> Finding | None:
        """Judges the update of one step.

        Args:
            names: Names of the parameters, with layers before the last dot.
            updates: L2 norm of the update of each; a step with one that is not finite is left out.
            weights: L2 norm of each parameter; likewise.
            step: The step.
            lr: The learning rate; a step at 0 is left out.
        """
        named, moved = checked(names, updates, "updates")
        _, held = checked(names, weights, "weights")
        size = math.sqrt(float(held @ held))
        change = math.sqrt(float(moved @ moved))
        if not (0.0 < size < math.inf and 0.0 < change < math.inf) or lr == 0.0:
            return None
        layers, moved = Layers.of(named, moved)
        held = Layers.of(named, held).norms
        ratio = moved / np.maximum(held, _TINY)
        rise = self._above_level(layers, ratio)
        above = self._whole.surge(change / size / (lr or 1.0))
        bad, over = above > self._RISE, above < self._RISE / 2.0
        self._scalars["looks"] += 1.0
        if self._whole.begins(bad=bad, over=over, patience=self._PATIENCE):
            worst = int(np.argmax(rise))
            return tensor_finding(
                "update-ratio",
                step,
                signal="update_ratio",
                layer=layers[worst],
                value=change / size,
                expected=change / size * math.exp(-above),
                score=above / self._RISE,
                message=(
                    f"updates are {change / size:.3g} of the weights, {math.exp(above):.3g} times "
                    "their highest level"
                ),
                layer_ratio=ratio[worst],
            )
        return self._out_of_proportion(layers, ratio, held, step)

    def _out_of_proportion(
        self,
        layers: tuple[str, ...],
        ratio: NDArray[np.float64],
        held: NDArray[np.float64],
        step: int,
    ) -> Finding | None:
        bad = (ratio > 1.0) | (ratio < self._ROUNDED)
        if self._scalars["looks"] <= WARM_UP or self._quiet(bad):
            return None
        middle = len(layers) // 2
        bad &= held >= 0.01 * np.sort(held)[middle]
        moving = np.sort(ratio)[middle] > 1e-5
        bad &= (ratio > 1.0) | (moving & (ratio > 0.0))  # at 0 it is UnchangedTensor's
        over = (ratio < 0.5) & (ratio > 2.0 * self._ROUNDED)
        found = self._episodes(bad, over, WARM_UP)
        if found is None:
            return None
        worst = int(found[np.argmax(np.abs(np.log(np.maximum(ratio[found], 1e-300))))])
        return tensor_finding(
            "update-ratio",
            step,
            signal="update_ratio",
            layer=layers[worst],
            value=ratio[worst],
            message=f"the updates of {layers[worst]} are {ratio[worst]:.3g} of its weights",
            affected=[layers[i] for i in found],
        )


class UnchangedTensor(ColumnRule):
    """Tells of weights that do not change though they have a gradient.

    Their norm keeps every bit for ten looks in a row at which other weights changed, at a learning
    rate that is not 0. So frozen weights, which have no gradient, and steps that a loss scaler
    skips are none. It happens to parameters that the optimizer was not given, and to bfloat16
    weights whose updates are rounded away. A bias before a normalisation has a gradient of rounding
    errors and may rest: gradients of less than a thousandth of their layer's do not count.
    """

    _LEAST = 1e-3
    _COLUMNS = starts(EPISODES, norm=math.nan)
    _SCALARS = starts(told=0.0)
    _PATIENCE = 10

    def update(
        self,
        names: Sequence[str],
        norms: ArrayLike,
        gradients: ArrayLike,
        step: int,
        lr: float | None = None,
    ) -> Finding | None:
        """Judges the weights of one step.

        Args:
            names: Names of the parameters.
            norms: L2 norm of each.
            gradients: L2 norm of the gradient of each; 0 or NaN for one without.
            step: The step.
            lr: The learning rate; a step at 0 is left out.
        """
        named, values = checked(names, norms, "norms")
        if lr == 0.0:
            return None
        last = self._align(named)["norm"]
        same = values == last
        np.copyto(last, values)
        if np.count_nonzero(same) == len(same) or self._quiet(same):
            return None
        slopes = np.nan_to_num(checked(names, gradients, "gradients")[1])
        whole = Layers.of(named, slopes).norms[layers_of(named)[1]]
        bad = same & (slopes > 0.0) & (slopes >= self._LEAST * whole)
        found = self._episodes(bad, ~same, self._PATIENCE)
        if found is None:
            return None
        first = named[int(found[0])]
        return tensor_finding(
            "unchanged-tensor",
            step,
            signal="weight",
            layer=first,
            value=values[found[0]],
            message=(
                f"{len(found)} of {len(named)} weights do not change though they have a gradient: "
                f"{first}"
            ),
            affected=[named[i] for i in found],
        )


class UpdateRms(ColumnRule):
    """Tells when the second moment lags behind the gradient, as before many loss spikes.

    The root mean square of g / sqrt(v) is near 1 while v fits the gradient. StableAdamW takes 2.3
    for too much, and measured such steps 1 to 8 steps before a loss spike. Here it must also stand
    five times above the highest level of its own tensor for three looks in a row: one hard batch
    lasts one step, while a second moment that is out of date stays so for many. Healthy gradients
    that grow in the first steps of a run reach four times that level.

    Source: Wortsman et al. (2023), "Stable and low-precision training for large-scale
    vision-language models", section 3.
    """

    _COLUMNS = starts(SURGE, EPISODES)
    _SCALARS = starts(told=0.0, warm=0.0)
    _PATIENCE = 3
    _LEAST = 2.3
    _RISE = math.log(5.0)

    def update(self, names: Sequence[str], update_rms: ArrayLike, step: int) -> Finding | None:
        """Judges the gradients of one step against their second moments.

        Args:
            names: Names of the parameters.
            update_rms: As in :class:`Moments`.
            step: The step.
        """
        named, values = checked(names, update_rms, "update_rms")
        self._align(named)
        surged = self._surged(values, self._LEAST, self._RISE, self._PATIENCE)
        if surged is None:
            return None
        found, above = surged
        worst = int(found[np.argmax(values[found])])
        return tensor_finding(
            "update-rms",
            step,
            signal="update_rms",
            layer=named[worst],
            value=values[worst],
            expected=math.exp(float(self._columns["peak"][worst])),
            score=above[worst] / self._RISE,
            message=(
                f"the gradient of {named[worst]} is {values[worst]:.3g} times what its second "
                "moment expects, and stays there"
            ),
            affected=[named[i] for i in found],
        )


class MomentumConflict(LevelsAndTotal):
    """Tells when gradients keep pointing against their first moment.

    The exponential mean (weight 0.05) of the cosine between the whole gradient and the first moment
    of the steps before, from the 20th look on, falls below -0.5: each step overshoots and the next
    one goes back. Noise alone gives 0, a descent something above. It ends above -0.25.
    """

    _COLUMNS = starts(cosine=0.0)
    _SCALARS = starts(looks=0.0, total=0.0)
    _LEAST = 0.5

    def update(
        self, names: Sequence[str], cosine: ArrayLike, total_cosine: float, step: int
    ) -> Finding | None:
        """Judges the gradients of one step against their first moments.

        Args:
            names: Names of the parameters.
            cosine: As in :class:`Moments`.
            total_cosine: Likewise; a step where it is NaN is left out.
            step: The step.
        """
        named, values = checked(names, cosine, "cosine")
        mean = self._align(named)["cosine"]
        if not math.isfinite(total_cosine):
            return None
        memory = self._scalars
        memory["looks"] += 1.0
        weight = max(1.0 / memory["looks"], 0.05)
        mean += weight * (np.where(np.isfinite(values), values, 0.0) - mean)
        memory["total"] += weight * (total_cosine - memory["total"])
        total = memory["total"]
        bad, over = total < -self._LEAST, total > -self._LEAST / 2.0
        bad &= memory["looks"] > WARM_UP
        if not self._whole.begins(bad=bad, over=over, patience=1):
            return None
        worst = int(np.argmin(mean))
        return tensor_finding(
            "momentum-conflict",
            step,
            signal="momentum_cosine",
            layer=named[worst],
            value=total,
            expected=0.0,
            score=total / -self._LEAST,
            message=f"gradients point against their momentum: the mean cosine is {total:.2f}",
            layer_cosine=mean[worst],
        )
