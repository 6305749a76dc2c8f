"""Gradient noise scale: the batch size beyond which larger batches stop paying."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gyrostat.findings import plain

__all__ = ["GradientNoiseScale", "gradient_noise_scale"]


class GradientNoiseScale:
    """Estimates the simple noise scale ``tr(Sigma) / |G|^2``, online.

    ``G`` is the true gradient and ``Sigma`` the covariance of the gradient of one sample. Batches
    far below the noise scale waste no samples, batches far above it gain no speed. From the squared
    norms of a gradient at two batch sizes follow estimates of ``|G|^2`` and ``tr(Sigma)`` that are
    unbiased (McCandlish, Kaplan, Amodei et al. 2018, arXiv:1812.06162, appendix A.1). Each is
    averaged over steps and then divided: an average of ratios would be biased.

    Args:
        halflife: Steps after which a step counts half; None counts all steps alike.

    Raises:
        ValueError: If ``halflife`` is not finite and above 0.

    Example:
        >>> noise = GradientNoiseScale()
        >>> noise.update(small=5.0, big=2.0, small_batch=8, big_batch=32)
        >>> noise.squared_gradient, noise.trace, noise.value
        (1.0, 32.0, 32.0)
    """

    def __init__(self, halflife: float | None = None) -> None:
        self._halflife = _checked_halflife("halflife", halflife)
        self._squared_gradient = 0.0
        self._trace = 0.0
        self._weight = 0.0
        self._steps = 0
        self._skipped = 0

    def update(self, small: float, big: float, small_batch: float, big_batch: float) -> None:
        """Takes in one step.

        Args:
            small: Squared L2 norm of the mean gradient of ``small_batch`` samples. The mean of
                several such squares, one for each rank, makes the estimate less noisy.
            big: That of ``big_batch`` samples; they may include the others. If ``small`` or
                ``big`` is NaN or Inf the step is skipped.
            small_batch: Samples behind ``small``.
            big_batch: Samples behind ``big``. Both may change from step to step.

        Raises:
            ValueError: If a squared norm is negative, or not ``0 < small_batch < big_batch``.
        """
        small, big = float(small), float(big)  # a NumPy float32 would stay one in all that follows
        for name, square in (("small", small), ("big", big)):
            if square < 0:
                raise ValueError(f"{name}: expected a squared norm, got {square}")
        if not (0 < small_batch < big_batch < math.inf):
            raise ValueError(
                "small_batch: expected above 0 and below big_batch, "
                f"got {small_batch} and {big_batch}"
            )
        squared_gradient, trace = _estimates(small, big, small_batch, big_batch)
        if not (math.isfinite(squared_gradient) and math.isfinite(trace)):
            self._skipped += 1
            return
        keep = 1.0 if self._halflife is None else 0.5 ** (1.0 / self._halflife)
        self._squared_gradient = keep * self._squared_gradient + squared_gradient
        self._trace = keep * self._trace + trace
        self._weight = keep * self._weight + 1.0
        self._steps += 1

    @property
    def squared_gradient(self) -> float:
        """Mean estimate of ``|G|^2``. Unbiased, so it may be negative; NaN before the first step.

        With a half-life it is the weighted mean, without the pull towards a start at zero.
        """
        return self._squared_gradient / self._weight if self._weight else math.nan

    @property
    def trace(self) -> float:
        """Mean estimate of ``tr(Sigma)``, likewise."""
        return self._trace / self._weight if self._weight else math.nan

    @property
    def value(self) -> float:
        """The noise scale, in samples; NaN before the first step.

        Inf while the mean estimate of ``|G|^2`` is not above 0: the noise hides the gradient, and
        the noise scale is large. 0 if that of ``tr(Sigma)`` is not.
        """
        return _ratio(self.squared_gradient, self.trace)

    @property
    def steps(self) -> int:
        """Steps taken in."""
        return self._steps

    @property
    def skipped(self) -> int:
        """Steps left out because a norm was not finite."""
        return self._skipped

    def __repr__(self) -> str:
        return f"GradientNoiseScale({self.value:.4g} samples, {self.steps} steps)"

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        state = {
            "version": 1,
            "halflife": self._halflife,
            "squared_gradient": self._squared_gradient,
            "trace": self._trace,
            "weight": self._weight,
            "steps": self._steps,
            "skipped": self._skipped,
        }
        return {key: plain(value) for key, value in state.items()}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the estimator that gave ``d`` stood, its half-life included.

        Raises:
            ValueError: If ``d`` is no such state; the estimator is then left as it was.
        """
        if not isinstance(d, Mapping) or d.get("version") != 1:
            raise ValueError("state: expected a state of GradientNoiseScale, version 1")
        halflife = _checked_halflife("state", d.get("halflife"))
        try:
            sums = [float(d[key]) for key in ("squared_gradient", "trace", "weight")]
            counts = [d[key] for key in ("steps", "skipped")]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state: expected numbers for all keys, got {dict(d)}") from error
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts):
            raise ValueError(f"state: expected steps and skipped to be counts, got {counts}")
        if sums[2] < 0 or math.isnan(sums[2]):
            raise ValueError(f"state: expected a weight of at least 0, got {sums[2]}")
        self._halflife = halflife
        self._squared_gradient, self._trace, self._weight = sums
        self._steps, self._skipped = counts


def gradient_noise_scale(
    small: ArrayLike, big: ArrayLike, small_batch: float, big_batch: float
) -> float:
    """The value of :class:`GradientNoiseScale` over all steps alike, in one call.

    Args:
        small: Shape ``(n,)``, squared norms at the small batch size, one a step. Steps with NaN
            or Inf are skipped.
        big: Shape ``(n,)``, at the big one.
        small_batch: Samples behind each value of ``small``.
        big_batch: Samples behind each value of ``big``.

    Returns:
        The noise scale in samples; NaN if there is no step.

    Raises:
        ValueError: If the shapes differ, or as :meth:`GradientNoiseScale.update`.
    """
    smalls = np.asarray(small, dtype=np.float64)
    bigs = np.asarray(big, dtype=np.float64)
    if smalls.ndim != 1 or smalls.shape != bigs.shape:
        raise ValueError(
            f"small: expected one dimension and the shape of big, got {smalls.shape}, {bigs.shape}"
        )
    noise = GradientNoiseScale()
    for one, other in zip(smalls.tolist(), bigs.tolist(), strict=True):
        noise.update(one, other, small_batch, big_batch)
    return noise.value


def _estimates(
    small: float, big: float, small_batch: float, big_batch: float
) -> tuple[float, float]:
    """Unbiased ``|G|^2`` and ``tr(Sigma)``, since E|G_B|^2 = |G|^2 + tr(Sigma) / B."""
    squared_gradient = (big_batch * big - small_batch * small) / (big_batch - small_batch)
    trace = (small - big) / (1.0 / small_batch - 1.0 / big_batch)
    return squared_gradient, trace


def _ratio(squared_gradient: float, trace: float) -> float:
    if math.isnan(squared_gradient):
        return math.nan
    if trace <= 0.0:
        return 0.0
    return trace / squared_gradient if squared_gradient > 0.0 else math.inf


def _checked_halflife(name: str, halflife: Any) -> float | None:
    if halflife is None:
        return None
    if (
        isinstance(halflife, bool)
        or not isinstance(halflife, int | float)
        or not (0 < halflife < math.inf)
    ):
        raise ValueError(f"{name}: expected a finite half-life above 0, got {halflife!r}")
    return float(halflife)
