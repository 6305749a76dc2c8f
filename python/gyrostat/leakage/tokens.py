"""Sequences of token ids, as the core reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.leakage.arrays import as_numpy

__all__ = ["Ragged", "open_tokens"]

_ACCEPTED = "lists of ints, a two-dimensional array of integers, or an Arrow column of lists"


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequences that lie one after the other.

    Attributes:
        ids: All ids.
        starts: Where each sequence starts among them, and where the last one ends.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1


def open_tokens(name: str, data: Any) -> _core.ArrowColumn | Ragged:
    """Takes the sequences of one split.

    Args:
        name: Name of the split.
        data: Lists of ints, one array of integers of shape (N, length), or an Arrow column of
            lists of integers.

    Raises:
        TypeError: If ``data`` is nothing of that.
    """
    if isinstance(data, _core.ArrowColumn):
        return data
    array = as_numpy(data)
    if array is None and (
        hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")
    ):
        columns = _core.read_arrow(data)
        if len(columns) == 1:
            return columns[0][1]
        raise TypeError(f"tokens: expected one column in {name!r}, got {len(columns)}")
    if array is not None and array.dtype == object:
        data, array = array.tolist(), None
    if array is not None:
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise TypeError(
                f"tokens: expected {_ACCEPTED} in {name!r}, got shape {array.shape} of "
                f"{array.dtype}"
            )
        starts = np.arange(len(array) + 1, dtype=np.int64) * array.shape[1]
        return Ragged(np.ascontiguousarray(array).reshape(-1).astype(np.int64, copy=False), starts)
    if not isinstance(data, Sequence) or isinstance(data, str | bytes):
        raise TypeError(f"tokens: expected {_ACCEPTED} in {name!r}, got {type(data).__name__}")
    return _flatten(name, data)


def _flatten(name: str, rows: Sequence[Any]) -> Ragged:
    parts = []
    for row, ids in enumerate(rows):
        part = as_numpy(ids)
        if part is None:
            listed = isinstance(ids, Sequence) and not isinstance(ids, str | bytes)
            part = np.asarray(ids) if listed else np.empty((0, 0))
        if part.size == 0 and part.ndim == 1:
            part = part.astype(np.int64)
        if part.ndim != 1 or part.dtype.kind not in "iu":
            raise TypeError(
                f"tokens: expected a list of ints in {name!r}, row {row}, got {type(ids).__name__}"
            )
        parts.append(part.astype(np.int64, copy=False))
    starts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=starts[1:])
    return Ragged(np.concatenate(parts) if parts else np.zeros(0, np.int64), starts)
