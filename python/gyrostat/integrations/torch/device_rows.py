"""The records that follow from what the device kernel adds up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat._core import TensorStats

__all__ = ["DTYPES", "records"]

DTYPES = {"float32": -126, "bfloat16": -126, "float16": -14}
"""The types that the kernel reads, and the exponents of their smallest normal numbers."""

_FIRST_EXPONENT = -149


def records(
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
    owner: NDArray[np.int64],
    dtypes: Sequence[str],
) -> list[TensorStats]:
    """The record of each tensor.

    Args:
        sums: ``(chunks, 9)``, the ``COLUMNS`` of the kernel.
        counts: ``(tensors, classes)``, the ``CLASSES`` of the kernel.
        owner: ``(chunks,)``, the tensor that each chunk is of.
        dtypes: The types of the values of each tensor.
    """

    def total(of_chunks: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(owner, of_chunks, minlength=len(dtypes)).astype(np.float64)

    n, low, high, centre, s1, s2, s3, s4, l1 = sums.T
    smallest, largest = np.full((2, len(dtypes)), [[np.inf], [-np.inf]])
    np.minimum.at(smallest, owner, low)
    np.maximum.at(largest, owner, high)
    added = total(n * centre + s1)
    mean = added / np.maximum(total(n), 1)
    # No cancellation: a centre is no further from the mean than the values of its chunk are.
    d = centre - mean[owner]
    m2 = total(s2 + d * (2 * s1 + d * n))
    m3 = total(s3 + d * (3 * s2 + d * (3 * s1 + d * n)))
    m4 = total(s4 + d * (4 * s3 + d * (6 * s2 + d * (4 * s1 + d * n))))
    spread = smallest < largest
    magnitudes = total(l1)
    columns = {
        "sum": np.clip(added, -magnitudes, magnitudes),
        "l1": magnitudes,
        "m2": np.where(spread, np.maximum(m2, 0), 0),
        "m3": np.where(spread, m3, 0),
        "m4": np.where(spread, np.maximum(m4, 0), 0),
    }
    return [
        TensorStats.from_dict(
            _counts(counts[i], dtype)
            | {"min": _extreme(smallest[i]), "max": _extreme(largest[i]), "scale": 0}
            | {name: float(column[i]) for name, column in columns.items()}
        )
        for i, dtype in enumerate(dtypes)
    ]


def _counts(row: NDArray[np.int64], dtype: str) -> dict[str, Any]:
    zero, nan, posinf, neginf = row[:4].tolist()
    exponents = row[4:]
    return {
        "version": 1,
        "dtype": dtype,
        "count": int(row.sum()),
        "nan_count": nan,
        "posinf_count": posinf,
        "neginf_count": neginf,
        "zero_count": zero,
        "subnormal_count": int(exponents[: DTYPES[dtype] - _FIRST_EXPONENT].sum()),
        "first_exponent": _FIRST_EXPONENT,
        "exponent_counts": exponents.tolist(),
    }


def _extreme(x: float) -> float | str:
    return float(x) if np.isfinite(x) else "nan"
