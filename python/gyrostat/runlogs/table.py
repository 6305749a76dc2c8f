"""Rows of a log, of whatever kinds, gathered into one column a signal."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gyrostat.runlogs.names import VALIDATION_WORDS, is_tag, rank
from gyrostat.runlogs.steps import Steps, carried

__all__ = ["LogTable", "RunLog"]

Floats = NDArray[np.float64]

_NUMERIC = frozenset({str, int, float})  # bool, an int to isinstance, is no number here


@dataclass(frozen=True, slots=True)
class RunLog:
    """What the log of one finished run holds.

    Attributes:
        path: The file read.
        format: ``"csv"``, ``"jsonl"`` or ``"trainer_state"``.
        columns: Training rows in the order of the file: ``"step"`` and ``"loss"``, and
            ``"grad_norm"``, ``"learning_rate"`` and ``"epoch"`` where the log has them; float64
            arrays of one shape ``(rows,)``. NaN in ``"loss"`` is a loss that was NaN; elsewhere it
            may also be a value that the row lacks.
        validation: ``"step"`` and ``"val_loss"``, each of shape ``(evaluations,)``, or None.
        logged: For each of ``columns`` but the step, shape ``(rows,)``: True where the row of the
            file has the value itself.
        notes: What a reader should know about how the file was read.
    """

    path: Path
    format: str
    columns: Mapping[str, Floats]
    validation: Mapping[str, Floats] | None
    logged: Mapping[str, NDArray[np.bool_]]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.columns["loss"])


@dataclass(slots=True)
class _Column:
    """The cells of one column that hold a number."""

    name: str
    rows: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.rows)

    def row_numbers(self) -> NDArray[np.int64]:
        return np.array(self.rows, dtype=np.int64)

    def dense(self, n_rows: int) -> Floats:
        out = np.full(n_rows, np.nan)
        out[self.row_numbers()] = np.array(self.values)
        return out


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is the same in all rows that fill the same cells."""

    number: int
    filled: frozenset[str]
    tags: tuple[str, ...]
    training: tuple[tuple[str, _Column], ...]
    validation: tuple[tuple[str, _Column], ...]


class LogTable:
    """Takes rows of any kinds, and makes a :class:`RunLog` of them.

    Rows that fill the same cells are handled alike, so the work on names is done once for each
    such shape and not for each row.
    """

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self._shape_of_row = array("q")
        self._columns: dict[tuple[str, str], _Column] = {}
        self._unreadable = 0

    def add(self, row: Mapping[str, object]) -> None:
        """Adds one row: name to number or text, blank cells left out."""
        key = tuple(row)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = self._shape(key)
        number = len(self._shape_of_row)
        self._shape_of_row.append(shape.number)
        cells = shape.training
        if shape.tags and any(str(row[tag]).lower() in VALIDATION_WORDS for tag in shape.tags):
            cells = shape.validation
        for name, column in cells:
            value = row[name]
            if type(value) in _NUMERIC:
                try:
                    # Mypy does not narrow by membership of the type.
                    column.values.append(float(value))  # type: ignore[arg-type]
                except (ValueError, OverflowError):
                    self._unreadable += 1
                else:
                    column.rows.append(number)

    def run_log(self, path: Path, fmt: str, notes: list[str]) -> RunLog:
        """The run that the rows tell of.

        Args:
            path: Where they come from.
            fmt: Name of the format.
            notes: What the reader of the format has to say.

        Raises:
            ValueError: If no row holds a training loss.
        """
        notes = list(notes)
        n_rows = len(self._shape_of_row)
        loss = self._best("loss")
        if loss is None:
            raise ValueError(
                f"path: no training loss in {path}; expected a column such as loss or train_loss, "
                f"found {self._names()}"
            )
        beside = [c.name for c in self._held("loss") if c is not loss and _share_rows(c, loss)]
        if beside:
            notes.append(f"loss is {loss.name!r}; not read: {', '.join(map(repr, beside))}")
        grad_norm = self._best("grad_norm")
        blank = self._blank_losses(loss, grad_norm, notes)
        rows = np.sort(np.concatenate([loss.row_numbers(), blank]))
        if self._unreadable:
            notes.append(f"{self._unreadable:,} cells hold text where a number was expected")

        rate, epochs = self._best("learning_rate"), self._best("epoch")
        columns: dict[str, Floats] = {}
        logged: dict[str, NDArray[np.bool_]] = {}
        for name, column in (
            ("loss", loss),
            ("grad_norm", grad_norm),
            ("learning_rate", rate),
            ("epoch", epochs),
        ):
            if column is not None:
                columns[name] = column.dense(n_rows)[rows]
                logged[name] = np.isin(rows, column.row_numbers())
        if rate is not None and not logged["learning_rate"].any():
            # Lightning's monitor logs it in rows of its own; it holds until the next.
            columns["learning_rate"] = carried(rate.dense(n_rows))[rows]

        step = self._best("step")
        steps = Steps(
            rows,
            step.dense(n_rows) if step else None,
            epochs.dense(n_rows) if epochs else None,
        )
        notes += steps.notes
        columns = {"step": steps.at_training, **columns}
        validation = None
        if val_loss := self._best("val_loss"):
            at = steps.at(val_loss.row_numbers())
            validation = {"step": at, "val_loss": np.array(val_loss.values)}
        return RunLog(path, fmt, columns, validation, logged, tuple(notes))

    def _shape(self, key: tuple[str, ...]) -> _Shape:
        training, validation = [], []
        for name in key:
            if (ranked := rank(name)) is None:
                continue
            signal = ranked[0]
            training.append((name, self._column(signal, name)))
            if signal == "loss":
                validation.append((name, self._column("val_loss", name)))
            elif signal in {"step", "epoch", "val_loss"}:
                validation.append(training[-1])
        return _Shape(
            len(self._shapes),
            frozenset(key),
            tuple(filter(is_tag, key)),
            tuple(training),
            tuple(validation),
        )

    def _column(self, signal: str, name: str) -> _Column:
        return self._columns.setdefault((signal, name), _Column(name))

    def _held(self, signal: str) -> list[_Column]:
        """The columns of a signal that hold a value, the best name first."""
        held = [c for (s, _), c in self._columns.items() if s == signal and len(c)]
        return sorted(held, key=lambda c: (rank(c.name) or ("", 0))[1])

    def _best(self, signal: str) -> _Column | None:
        held = self._held(signal)
        return held[0] if held else None

    def _names(self) -> str:
        names = list(dict.fromkeys(name for key in self._shapes for name in key))
        shown = ", ".join(repr(name[:60]) for name in names[:20])
        return (shown or "nothing") + (", ..." if len(names) > 20 else "")

    def _blank_losses(
        self, loss: _Column, grad_norm: _Column | None, notes: list[str]
    ) -> NDArray[np.int64]:
        """Rows whose loss was NaN and was written as a blank, as pandas writes it.

        Such a row fills all cells of a training row but the loss (and the gradient norm). A log
        that gives the loss every so many rows has rows of that kind too, but all along: only where
        every row of the kind had a loss up to some row, and none has from there on, is it NaN.
        """
        signals = {loss.name, *({grad_norm.name} if grad_norm else ())}
        loss_rows = loss.row_numbers()
        shape_of_row = np.array(self._shape_of_row, dtype=np.int64)
        shapes = list(self._shapes.values())
        training = {shapes[i].filled | signals for i in np.unique(shape_of_row[loss_rows])}
        alike = [
            s.number for s in shapes if loss.name not in s.filled and s.filled | signals in training
        ]
        blank = np.flatnonzero(np.isin(shape_of_row, alike))
        if blank.size == 0:
            return blank
        if blank[0] < loss_rows[-1]:
            notes.append(f"{blank.size:,} rows without a loss are taken as not logged")
            return blank[:0]
        notes.append(
            f"the loss of the last {blank.size:,} training rows is blank and is read as NaN"
        )
        return blank


def _share_rows(a: _Column, b: _Column) -> bool:
    return bool(np.intersect1d(a.row_numbers(), b.row_numbers()).size)
