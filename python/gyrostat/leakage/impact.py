"""How much leakage matters: the user's own metric with and without the leaked rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gyrostat.findings import plain

__all__ = ["Impact", "Interval", "measure"]

Metric = Callable[[NDArray[Any], NDArray[Any]], float]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its bootstrap interval; NaN where there is nothing to compute it from.

    Attributes:
        value: The metric, on the rows as they are.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "not known"
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True, slots=True)
class Impact:
    """What leaked rows do to a score.

    Attributes:
        metric: Name of the metric.
        split: The split it is measured on.
        rows: Rows there.
        leaked_rows: Rows with a copy (or group or entity) in another split.
        clusters: Clusters of rows that were drawn together.
        overall: The metric on all rows: the score as it is reported.
        leaked: On the leaked rows alone.
        clean: On the others.
        inflation: ``overall`` less ``clean``, from the same draws.
        confidence: Coverage of the intervals.
        resamples: Number of draws.
        failed: Draws for which the metric could not be computed, which the intervals leave out.
    """

    metric: str
    split: str
    rows: int
    leaked_rows: int
    clusters: int
    overall: Interval
    leaked: Interval
    clean: Interval
    inflation: Interval
    confidence: float
    resamples: int
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values that strict JSON can hold."""
        out: dict[str, Any] = plain(asdict(self))
        return out

    def __str__(self) -> str:
        return (
            f"{self.metric} on {self.split}: {self.overall} on all {self.rows:,} rows, "
            f"{self.leaked} on the {self.leaked_rows:,} leaked ones, {self.clean} on the others; "
            f"inflated by {self.inflation} at {self.confidence:.0%} confidence"
        )


def measure(
    metric: Metric,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    split: str,
    leaked: NDArray[np.bool_],
    clusters: NDArray[np.int64],
    confidence: float,
    resamples: int,
    seed: int,
    progress: Callable[[str, int, int], object],
) -> Impact:
    """Measures ``metric`` on all, leaked and clean rows.

    The intervals are those of the percentile bootstrap (Efron, 1979) over clusters (Field and
    Welsh, "Bootstrapping clustered data", 2007).

    Args:
        metric: Takes labels and predictions of some rows and returns a number.
        y_true: Labels, shape ``(rows, ...)``.
        y_pred: Predictions, shape ``(rows, ...)``.
        split: Name of the split, for the report.
        leaked: Whether each row is leaked.
        clusters: Rows with equal numbers are copies of each other.
        confidence: Coverage of the intervals, in (0, 1).
        resamples: Number of draws.
        seed: Of the draws.
        progress: Told how many draws are done.

    Raises:
        TypeError: If ``metric`` cannot be called.
        ValueError: If lengths differ, or a number is out of range; what ``metric`` raises for the
            rows as they are.
    """
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    _check(metric, {"y_true": true, "y_pred": predicted}, len(leaked), confidence, resamples)

    def score(rows: NDArray[np.int64]) -> float:
        return float(metric(true[rows], predicted[rows])) if len(rows) else math.nan

    overall, hit, clean = _parts(score, np.arange(len(leaked)), leaked)
    count, draws = _draw(clusters, resamples, seed)
    samples = np.full((resamples, 3), math.nan)
    failed = 0
    for i, rows in enumerate(draws):
        try:
            samples[i] = _parts(score, rows, leaked)
        except (ValueError, ZeroDivisionError):
            failed += 1  # such as one class alone
        progress("bootstrap", i + 1, resamples)

    def interval(value: float, drawn: NDArray[np.float64]) -> Interval:
        known = drawn[np.isfinite(drawn)]
        if not math.isfinite(value) or len(known) < resamples / 2:
            return Interval(value, math.nan, math.nan)
        tail = (1 - confidence) / 2
        low, high = np.quantile(known, [tail, 1 - tail])
        return Interval(value, float(low), float(high))

    return Impact(
        metric=getattr(metric, "__name__", type(metric).__name__),
        split=split,
        rows=len(leaked),
        leaked_rows=int(leaked.sum()),
        clusters=count,
        overall=interval(overall, samples[:, 0]),
        leaked=interval(hit, samples[:, 1]),
        clean=interval(clean, samples[:, 2]),
        inflation=interval(overall - clean, samples[:, 0] - samples[:, 2]),
        confidence=confidence,
        resamples=resamples,
        failed=failed,
    )


def _check(
    metric: object,
    values: Mapping[str, NDArray[Any]],
    rows: int,
    confidence: float,
    resamples: int,
) -> None:
    if not callable(metric):
        raise TypeError(f"metric: expected a function of y_true and y_pred, got {metric!r}")
    for name, array in values.items():
        if array.ndim < 1 or len(array) != rows:
            raise ValueError(f"{name}: expected {rows:,} rows, got shape {array.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
    if resamples < 20:
        raise ValueError(f"resamples: expected at least 20, got {resamples}")


def _draw(
    clusters: NDArray[np.int64], resamples: int, seed: int
) -> tuple[int, Iterator[NDArray[np.int64]]]:
    """The number of clusters, and the rows of as many drawn with replacement, again and again."""
    _, cluster, size = np.unique(clusters, return_inverse=True, return_counts=True)
    order = np.argsort(cluster.reshape(-1), kind="stable")
    starts = np.cumsum(size) - size
    rng = np.random.default_rng(seed)

    def draws() -> Iterator[NDArray[np.int64]]:
        for _ in range(resamples):
            drawn = rng.integers(0, len(size), len(size)) if len(size) else np.zeros(0, np.int64)
            count = size[drawn]
            inside = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            yield order[np.repeat(starts[drawn], count) + inside]

    return len(size), draws()


def _parts(
    score: Callable[[NDArray[np.int64]], float],
    rows: NDArray[np.int64],
    leaked: NDArray[np.bool_],
) -> tuple[float, float, float]:
    """The score of all, of the leaked and of the clean ones of ``rows``."""
    hit = leaked[rows]
    return score(rows), score(rows[hit]), score(rows[~hit])
