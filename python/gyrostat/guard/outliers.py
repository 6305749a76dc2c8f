"""Outliers: batches, or samples of a batch, that are out of the range of others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import Culprit, Finding, Severity

__all__ = ["RANGE", "BatchFacts", "compare_batch", "compare_range", "outlier_batch"]

RANGE = 8.0
"""How many times the largest value of other batches is out of their range."""


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """How the content of a batch differs from that of the batches before.

    Attributes:
        not_finite: Whether it holds NaN or Inf where the others do not.
        ratio: Its largest value over the largest of the others.
        samples: Places of the samples that are out of range, if it is at most half of them.
    """

    not_finite: bool = False
    ratio: float = 1.0
    samples: tuple[int, ...] = ()

    @property
    def odd(self) -> bool:
        """Whether the batch stands out."""
        return self.not_finite or self.ratio >= RANGE

    def __str__(self) -> str:
        what = "samples of the batch" if self.samples else "values of the batch"
        count = f"{len(self.samples)} " if self.samples else ""
        if self.not_finite:
            return f"{count}{what} hold NaN or Inf, those before do not"
        return f"{count}{what} are up to {self.ratio:.3g} times the largest of those before"


def compare_batch(
    batch: Sequence[NDArray[Any]], others: Sequence[Sequence[NDArray[Any]]]
) -> BatchFacts:
    """Compares the floating-point arrays of a batch with those of other batches.

    Args:
        batch: Its arrays. Rows of the first axis are samples.
        others: The same of batches before it; arrays at the same place are compared.
    """
    seen = BatchFacts()
    for place, array in enumerate(batch):
        if array.dtype.kind != "f" or not array.size:
            continue
        beside = [o[place] for o in others if place < len(o)]
        beside = [o for o in beside if o.dtype.kind == "f" and o.size]
        usual = max((float(np.max(_largest(o), initial=0.0)) for o in beside), default=0.0)
        facts = compare_range(array, usual)
        if (facts.not_finite, facts.ratio) > (seen.not_finite, seen.ratio):
            seen = facts
    return seen


def compare_range(array: NDArray[Any], usual: float) -> BatchFacts:
    """Compares one array with the largest absolute value of others.

    Args:
        array: Rows of the first axis are samples.
        usual: That value; if it is 0 or not finite nothing can be said.
    """
    if not 0.0 < usual < math.inf:
        return BatchFacts()
    rows = _largest(array)
    finite = rows[np.isfinite(rows)]
    odd = np.flatnonzero(~(rows < RANGE * usual)).tolist()
    return BatchFacts(
        not_finite=len(finite) < len(rows),
        ratio=float(finite.max(initial=0.0)) / usual,
        samples=tuple(odd) if len(odd) <= len(rows) / 2 else (),
    )


def outlier_batch(
    facts: BatchFacts, step: int | None, culprit: Culprit, severity: Severity
) -> Finding:
    """The finding of a batch that stands out."""
    return Finding(
        "outlier-batch",
        severity,
        step=step,
        signal="batch",
        value=facts.ratio,
        expected=1.0,
        message=str(facts),
        culprit=culprit,
        evidence={"samples": list(facts.samples), "not_finite": facts.not_finite},
    )


def _largest(array: NDArray[Any]) -> NDArray[np.float64]:
    """Largest absolute value of each row; NaN or Inf if it holds either."""
    rows = np.abs(array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1))
    largest: NDArray[np.float64] = rows.max(axis=1).astype(np.float64)
    return largest
