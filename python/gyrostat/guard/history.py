"""History: the signals of a run in bounded memory, for its picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["History"]

_CAPACITY = 8192


class History:
    """Step, loss and gradient norm of the run.

    Of a long run one row in two, then one in four, ... is kept: the one with the highest loss of
    each group, so that every peak stays visible.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[float, float, float]] = []
        self._group: list[tuple[float, float, float]] = []
        self._stride = 1

    def append(self, step: int, loss: float, grad_norm: float) -> None:
        """Adds the signals of one step."""
        self._group.append((float(step), loss, grad_norm))
        if len(self._group) < self._stride:
            return
        self._rows.append(max(self._group, key=_height))
        self._group.clear()
        if len(self._rows) >= _CAPACITY:
            pairs = zip(self._rows[::2], self._rows[1::2], strict=True)
            self._rows = [max(pair, key=_height) for pair in pairs]
            self._stride *= 2

    def columns(self) -> NDArray[np.float64]:
        """Shape ``(3, n)``: step, loss, gradient norm."""
        rows = [*self._rows, *self._group]
        return np.array(rows, dtype=np.float64).reshape(-1, 3).T


def _height(row: tuple[float, float, float]) -> float:
    return math.inf if math.isnan(row[1]) else row[1]
