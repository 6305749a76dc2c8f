"""Rules on gradients layer by layer: vanishing, exploding, zero, and the share of embeddings."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gyrostat.findings import Finding
from gyrostat.rules._columns import (
    EPISODES,
    SURGE,
    ColumnRule,
    Layers,
    LevelsAndTotal,
    Single,
    checked,
    log_of,
    remembered,
    starts,
    tensor_finding,
)
from gyrostat.rules._rule import Rule

__all__ = ["AllZeroTensor", "EmbeddingGradientShare", "ExplodingGradient", "VanishingGradient"]


class VanishingGradient(ColumnRule):
    """Tells of layers whose gradient is far smaller than that of the others.

    The norm of each layer is compared with the upper quartile of all layers at the same step, so
    that a gradient which becomes small everywhere, as of a run that has converged, is none. Told
    after 20 looks in a row at less than 1e-5 of it, or at a thousandth of the layer's own level and
    less than 1e-2. Each sigmoid layer makes a gradient some ten times smaller: AUTOTRAINER calls
    1e-3 from the first to the last layer vanishing, which layers of healthy models reach. Zero
    gradients are :class:`AllZeroTensor`'s.

    Sources: Hochreiter (1991); Bengio, Simard and Frasconi (1994).
    """

    _COLUMNS = starts(SURGE, EPISODES)
    _SCALARS = starts(told=0.0, warm=0.0)
    _PATIENCE = 20
    _SHARE = 1e-5
    _FALL = math.log(1e3)
    _SMALL = 1e-2

    def update(self, names: Sequence[str], norms: ArrayLike, step: int) -> Finding | None:
        """Judges the gradients of one step.

        Args:
            names: Names of the parameters, with layers before the last dot.
            norms: L2 norm of the gradient of each; none that is not finite.
            step: The step.
        """
        return self.judge(Layers.of(*checked(names, norms, "norms")), step)

    def judge(self, gradients: Layers, step: int) -> Finding | None:
        """As :meth:`update`, for norms by layer."""
        layers, values = gradients
        columns = self._align(layers)
        usual = _upper_quartile(values)
        if usual <= 0.0 or not math.isfinite(usual):
            return None
        share = values / usual
        below = self._surge(-log_of(share))
        bad = share < self._SMALL
        if self._quiet(bad):
            return None
        fallen = below > self._FALL
        bad &= (values > 0.0) & (fallen | (share < self._SHARE))
        over = (share > 10.0 * self._SHARE) & (below < self._FALL / 2.0)
        found = self._episodes(bad, over, self._PATIENCE)
        if found is None:
            return None
        worst = int(found[np.argmin(share[found])])
        return tensor_finding(
            "vanishing-gradient",
            step,
            signal="grad_norm",
            layer=layers[worst],
            value=values[worst],
            expected=usual,
            message=(
                f"the gradient norm of {len(found)} of {len(layers)} layers is far below that of "
                f"the others: {values[worst]:.3g} in {layers[worst]}, usual is {usual:.3g}"
            ),
            affected=[layers[i] for i in found],
            share=share[worst],
            own_share=math.exp(-columns["peak"][worst]),
        )


class ExplodingGradient(LevelsAndTotal):
    """Tells when the gradient stays far above its highest level so far.

    The norm of the whole gradient must stand 30 times above its highest level for ten looks in a
    row. The level is an exponential mean of the log norm (weight 0.05); its highest value may rise
    tenfold in 1000 looks, so that slow growth is followed and faster growth is not. One gradient
    alone is ``gradient-spike``. Blame goes to the layer that rose most above its own level.

    Source: Pascanu, Mikolov and Bengio (2013), "On the difficulty of training recurrent neural
    networks".
    """

    _PATIENCE = 10
    _RISE = math.log(30.0)

    def update(self, names: Sequence[str], norms: ArrayLike, step: int) -> Finding | None:
        """Judges the gradients of one step.

        Args:
            names: Names of the parameters, with layers before the last dot.
            norms: L2 norm of the gradient of each; none that is not finite.
            step: The step.
        """
        return self.judge(Layers.of(*checked(names, norms, "norms")), step)

    def judge(self, gradients: Layers, step: int) -> Finding | None:
        """As :meth:`update`, for norms by layer."""
        layers, values = gradients
        total = math.sqrt(float(values @ values))
        above = self._whole.surge(total)
        rise = self._above_level(layers, values)
        bad, over = above > self._RISE, above < self._RISE / 2.0
        if not self._whole.begins(bad=bad, over=over, patience=self._PATIENCE):
            return None
        worst = int(np.argmax(rise))
        times, expected = math.exp(above), math.exp(self._whole.peak)
        return tensor_finding(
            "exploding-gradient",
            step,
            signal="grad_norm",
            layer=layers[worst],
            value=total,
            expected=expected,
            score=above / self._RISE,
            message=f"the gradient norm stays at {total:.3g}, {times:.3g} times its highest level",
            ratio=times,
            layer_ratio=math.exp(rise[worst]),
        )


class AllZeroTensor(ColumnRule):
    """Tells of layers whose gradient, or tensors of weights whose values, are all zero.

    Of gradients: all of a layer zero for 20 looks in a row while others are not. Layers behind a
    branch that begins at zero (LoRA, ReZero) have such gradients for a step or two. Of weights: a
    tensor that has held something else before.

    Args:
        of: What the norms are of.
    """

    _COLUMNS = starts(EPISODES, seen=0.0)
    _SCALARS = starts(told=0.0)

    def __init__(self, of: Literal["gradients", "weights"] = "gradients") -> None:
        super().__init__()
        if of not in {"gradients", "weights"}:
            raise ValueError(f"of: expected 'gradients' or 'weights', got {of!r}")
        self._of_gradients = of == "gradients"

    def update(self, names: Sequence[str], norms: ArrayLike, step: int) -> Finding | None:
        """Judges the tensors of one step.

        Args:
            names: Names of the parameters, with layers before the last dot.
            norms: L2 norm of each.
            step: The step.
        """
        given = Layers(*checked(names, norms, "norms"))
        return self.judge(Layers.of(*given) if self._of_gradients else given, step)

    def judge(self, given: Layers, step: int) -> Finding | None:
        """As :meth:`update`, for norms of gradients by layer."""
        named, values = given
        columns = self._align(named)
        zero = values == 0.0
        if self._quiet(zero):
            columns["seen"][:] = 1.0
            return None
        if zero.all() and self._of_gradients:
            return None
        columns["seen"][~zero] = 1.0
        bad = zero if self._of_gradients else zero & (columns["seen"] > 0.0)
        found = self._episodes(bad, ~zero, 20 if self._of_gradients else 1)
        if found is None:
            return None
        first = named[int(found[0])]
        kind = "gradient" if self._of_gradients else "weight"
        things = "layers" if self._of_gradients else "tensors"
        return tensor_finding(
            "all-zero-tensor",
            step,
            signal=kind,
            layer=first,
            value=0.0,
            message=f"every {kind} of {len(found)} of {len(named)} {things} is zero: {first}",
            affected=[named[i] for i in found],
        )


class EmbeddingGradientShare(Rule[Single]):
    """Tells when embeddings take over the gradient.

    The gradient norm of the embeddings over that of everything else must stand ten times above its
    highest level so far for three looks in a row, and be nine tenths of the whole or more. In the
    runs of GLM-130B this went before a collapse of the loss by several steps.

    Source: Zeng et al. (2022), "GLM-130B: An Open Bilingual Pre-trained Model", section 3.2.

    Args:
        embeddings: Names of the parameters that are embeddings; without, those with a part such as
            ``embed``, ``emb``, ``wte`` or ``wpe`` in their name.
    """

    _PATIENCE = 3
    _RISE = math.log(10.0)
    _SHARE = 0.9

    def __init__(self, embeddings: Sequence[str] | None = None) -> None:
        super().__init__(Single())
        chosen = None if embeddings is None else frozenset(embeddings)
        self._places = remembered(lambda names: _embeddings(names, chosen))

    def update(self, names: Sequence[str], norms: ArrayLike, step: int) -> Finding | None:
        """Judges the gradients of one step.

        Args:
            names: Names of the parameters.
            norms: L2 norm of the gradient of each; none that is not finite.
            step: The step.
        """
        named, values = checked(names, norms, "norms")
        places = self._places(named)
        if not 0 < len(places) < len(named):
            return None
        embeddings = values[places]
        embedded, whole = float(embeddings @ embeddings), float(values @ values)
        if not 0.0 < embedded < whole:
            return None
        above = self._memory.surge(math.sqrt(embedded / (whole - embedded)))
        share = math.sqrt(embedded / whole)
        bad, over = above > self._RISE and share >= self._SHARE, above < self._RISE / 2.0
        if not self._memory.begins(bad=bad, over=over, patience=self._PATIENCE):
            return None
        return tensor_finding(
            "embedding-gradient-share",
            step,
            signal="grad_norm",
            layer=named[int(places[np.argmax(embeddings)])],
            value=share,
            score=above / self._RISE,
            message=(
                f"embeddings make {share:.1%} of the gradient norm; beside the rest they are "
                f"{math.exp(above):.3g} times their highest level"
            ),
            ratio=math.sqrt(embedded / (whole - embedded)),
        )


_EMBEDDING = re.compile(r"(^|[._])(\w*embed\w*|emb|wte|wpe)([._]|$)", re.IGNORECASE)


def _embeddings(names: tuple[str, ...], chosen: frozenset[str] | None) -> NDArray[np.intp]:
    found = [_EMBEDDING.search(n) is not None if chosen is None else n in chosen for n in names]
    return np.flatnonzero(found)


def _upper_quartile(values: NDArray[np.float64]) -> float:
    return float(np.sort(values)[(3 * len(values)) // 4]) if len(values) else 0.0
