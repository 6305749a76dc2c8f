"""All rules on the tensors of a run, fed as one."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import Finding
from gyrostat.pairs import PairTable
from gyrostat.rules._columns import Layers, Rules
from gyrostat.rules.activations import ActivationRules, Activations
from gyrostat.rules.layers import (
    AllZeroTensor,
    EmbeddingGradientShare,
    ExplodingGradient,
    VanishingGradient,
)
from gyrostat.rules.precision import GradientUnderflow, LossScaleThrash
from gyrostat.rules.updates import (
    Moments,
    MomentumConflict,
    UnchangedTensor,
    UpdateRatio,
    UpdateRms,
)
from gyrostat.tensors import TensorTable

__all__ = ["TensorRules"]


class TensorRules(Rules):
    """All rules on gradients, weights, updates, moments, activations and the loss scale.

    Each update may give all of them or some: rules whose input is not there rest. Levels are those
    of the run itself, in looks and not in steps, so each input may come every n-th step. A finding
    is told once per episode, and again if twice as many tensors are affected.

    NaN and Inf are :class:`~gyrostat.rules.GradientRule`'s and
    :func:`~gyrostat.rules.check_weights`'s to tell: here a step whose gradients hold one is left
    out of what is known of gradients, as is an overflow that a loss scaler skips.

    Example:
        >>> import numpy as np
        >>> from gyrostat import summarize_all
        >>> rules = TensorRules()
        >>> dead = {"first.weight": np.zeros(64), "last.weight": np.ones(8)}
        >>> found = []
        >>> for step in range(100):
        ...     found += rules.update(step, gradients=summarize_all(dead))
        >>> [(f.code, f.step, f.culprit.layer) for f in found]
        [('all-zero-tensor', 19, 'first')]

    Args:
        embeddings: Names of the parameters that are embeddings, see
            :class:`~gyrostat.rules.EmbeddingGradientShare`.
        gradient_format: See :class:`~gyrostat.rules.GradientUnderflow`.
    """

    def __init__(
        self, *, embeddings: Sequence[str] | None = None, gradient_format: str = "float16"
    ) -> None:
        self._names: tuple[str, ...] = ()
        self._embeddings = None if embeddings is None else tuple(embeddings)
        self._format = gradient_format
        self._vanishing = VanishingGradient()
        self._exploding = ExplodingGradient()
        self._zero_gradients = AllZeroTensor("gradients")
        self._zero_weights = AllZeroTensor("weights")
        self._embedding = EmbeddingGradientShare(embeddings)
        self._underflow = GradientUnderflow(gradient_format)
        self._scale = LossScaleThrash()
        self._unchanged = UnchangedTensor()
        self._ratio = UpdateRatio()
        self._rms = UpdateRms()
        self._conflict = MomentumConflict()
        self._activations = ActivationRules()

    def update(
        self,
        step: int,
        *,
        gradients: TensorTable | None = None,
        weights: TensorTable | None = None,
        updates: PairTable | Mapping[str, float] | None = None,
        activations: Activations | None = None,
        moments: Moments | None = None,
        lr: float | None = None,
        loss_scale: float | None = None,
    ) -> tuple[Finding, ...]:
        """Judges one step.

        Args:
            step: The step.
            gradients: Their records, freed of the loss scale. Level ``"full"`` for
                ``gradient-underflow``, which also needs ``loss_scale``; any level for the rest.
            weights: Records of the parameters, of any level.
            updates: What the optimizer did: weights after beside weights before, as
                ``UpdateTracker.after_step`` gives it; or the L2 norm of each update by name, which
                needs ``weights``.
            activations: What the modules made of a batch, as ``ActivationProbe`` gives it.
            moments: Gradients beside the optimizer's moments, as ``adam_moments`` gives it.
            lr: The learning rate, the largest of several.
            loss_scale: What the loss was multiplied by for gradients of 16 bits or fewer.

        Returns:
            What is new; mostly nothing.

        Raises:
            ValueError: If ``updates`` are norms whose weights are not given, or ``loss_scale`` is
                not above 0 and finite.
        """
        found: list[Finding | None] = []
        if loss_scale is not None:
            found.append(self._scale.update(loss_scale, step))
        if gradients is not None and not np.count_nonzero(gradients.nonfinite_count):
            names, norms = self._known(gradients.names), gradients.l2
            layers = Layers.of(names, norms)
            found += [
                self._vanishing.judge(layers, step),
                self._exploding.judge(layers, step),
                self._zero_gradients.judge(layers, step),
                self._embedding.update(names, norms, step),
            ]
            if loss_scale is not None:
                found.append(self._underflow.update(gradients, loss_scale, step))
        if weights is not None:
            found += self._judge_weights(weights, gradients, step, lr)
        if updates is not None:
            names, moved, held = _sizes(updates, weights)
            found.append(self._ratio.update(self._known(names), moved, held, step, lr))
        if moments is not None:
            names = self._known(moments.names)
            found += [
                self._rms.update(names, moments.update_rms, step),
                self._conflict.update(names, moments.cosine, moments.total_cosine, step),
            ]
        told = tuple(f for f in found if f is not None)
        return told if activations is None else told + self._activations.update(activations, step)

    def _judge_weights(
        self, weights: TensorTable, gradients: TensorTable | None, step: int, lr: float | None
    ) -> list[Finding | None]:
        names, norms = self._known(weights.names), weights.l2
        found = [self._zero_weights.update(names, norms, step)]
        if gradients is not None:
            slopes = _picked(self._known(gradients.names), gradients.l2, names)
            found.append(self._unchanged.update(names, norms, slopes, step, lr))
        return found

    def _known(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The same names as the very tuple of the last time, which every rule knows at a glance."""
        if names != self._names:
            self._names = names
        return self._names

    def _anew(self) -> Self:
        return type(self)(embeddings=self._embeddings, gradient_format=self._format)


def _sizes(
    updates: PairTable | Mapping[str, float], weights: TensorTable | None
) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Names, norms of updates, norms of weights."""
    if isinstance(updates, PairTable):
        return updates.names, updates.l2_difference, updates.l2_right
    names = tuple(updates)
    if weights is None:
        raise ValueError("updates: norms need the weights beside them")
    held = _picked(weights.names, weights.l2, names)
    if np.isnan(held).any():
        lacking = names[int(np.argmax(np.isnan(held)))]
        raise ValueError(f"updates: expected names of weights, got {lacking!r}")
    return names, np.fromiter(updates.values(), np.float64, len(names)), held


def _picked(
    names: tuple[str, ...], values: NDArray[np.float64], wanted: tuple[str, ...]
) -> NDArray[np.float64]:
    """The values of the wanted names, NaN where there is none."""
    if names is wanted or names == wanted:
        return values
    return np.append(values, math.nan)[_places(names, wanted)]


@functools.lru_cache(maxsize=8)
def _places(names: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.intp]:
    index = {name: i for i, name in enumerate(names)}
    return np.array([index.get(name, -1) for name in wanted], dtype=np.intp)
