"""The training step of every row, out of what the log says of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Steps", "carried"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_LARGEST = 2.0**53  # beyond it a float64 does not hold every integer


class Steps:
    """Steps of the training rows, and of rows between them.

    Args:
        rows: Shape ``(n,)``, numbers of the training rows in the file, ascending.
        step: Step of every row in the file, NaN where it has none; None without such a column.
        epoch: The same for the epoch.

    Attributes:
        at_training: Shape ``(n,)``, the step of each training row.
        notes: What is unusual about them.
    """

    def __init__(self, rows: Rows, step: Floats | None, epoch: Floats | None) -> None:
        self.notes: list[str] = []
        self._rows = rows
        self._of_row: Floats | None = None
        if step is not None and (filled := self._fill(step, rows)) is not None:
            self._of_row = filled
            self.at_training = filled[rows]
            self._count_through_epochs(epoch)
        elif epoch is not None and _whole(epoch[rows]) and (np.diff(epoch[rows]) > 0).all():
            self._of_row = carried(epoch)
            self.at_training = epoch[rows]
            self.notes.append("steps are epochs: the log has no finer count")
        else:
            self.at_training = np.arange(len(rows), dtype=np.float64)
            self.notes.append("steps are row numbers: the log has no whole steps")
        self._note_order()

    def at(self, rows: Rows) -> Floats:
        """The steps at which ``rows`` stand; those between training rows take the one before."""
        if self._of_row is not None:
            return self._of_row[rows]
        before = np.searchsorted(self._rows, rows, side="right") - 1
        return self.at_training[np.maximum(before, 0)]

    def _fill(self, step: Floats, rows: Rows) -> Floats | None:
        known = np.isfinite(step)
        if not known[rows].any() or not _whole(step[known]):
            return None
        if missing := int((~known[rows]).sum()):
            self.notes.append(f"{missing:,} rows without a step take that of the row before")
        return carried(step)

    def _count_through_epochs(self, epoch: Floats | None) -> None:
        """Counts on where the log begins to count anew with each epoch."""
        if epoch is None:
            return
        falls = np.diff(self.at_training, prepend=self.at_training[0]) < 0
        rises = np.diff(epoch[self._rows], prepend=np.nan) > 0
        if not falls.any() or (falls & ~rises).any():
            return
        ends = np.where(np.append(falls[1:], False), self.at_training, 0.0)
        offset = np.concatenate([[0.0], np.cumsum(ends)[:-1]])
        first = self.at_training[0] == 0  # counted from 0, the last step of an epoch is n - 1
        self.at_training = self.at_training + offset + (np.cumsum(falls) if first else 0)
        self._of_row = None
        self.notes.append("steps begin anew with each epoch and are counted through")

    def _note_order(self) -> None:
        change = np.diff(self.at_training)
        if repeated := int((change == 0).sum()):
            self.notes.append(f"{repeated:,} rows repeat the step of the row before")
        back = np.flatnonzero(change < 0)
        if back.size:
            old, new = self.at_training[back[0]], self.at_training[back[0] + 1]
            times = f"{back.size:,} times, first" if back.size > 1 else "once,"
            self.notes.append(f"steps go back {times} from {old:.0f} to {new:.0f}")


def _whole(values: Floats) -> bool:
    return bool((np.isfinite(values) & (values == np.floor(values))).all()) and bool(
        (np.abs(values) <= _LARGEST).all()
    )


def carried(values: Floats) -> Floats:
    """``values`` with each gap filled by the value before it, the first gap by the first value."""
    known = np.flatnonzero(np.isfinite(values))
    last = np.searchsorted(known, np.arange(len(values)), side="right") - 1
    return values[known[np.maximum(last, 0)]]
