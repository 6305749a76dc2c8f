"""Splits: whatever holds the rows, taken apart into columns that the core can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.leakage.arrays import as_numpy

__all__ = ["Column", "Split", "open_split"]

Column = _core.ArrowColumn | list[Any] | NDArray[Any]
"""One column: Arrow data, Python objects, or a one-dimensional array of numbers or times."""

_ACCEPTED = (
    "a sequence of str, a NumPy array, a table of pandas, polars, pyarrow or Hugging Face datasets"
)
_NUMBERS = frozenset("?bhilqBHILQfd")


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of one split by columns.

    Attributes:
        name: Its name.
        columns: Columns of one length by name. What is not a table is one column named ``""``.
    """

    name: str
    columns: Mapping[str, Column]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return max(map(len, self.columns.values()), default=0)

    @property
    def is_text(self) -> bool:
        """Whether this is texts alone, not a table."""
        only = self.columns.get("")
        return isinstance(only, list) or (isinstance(only, _core.ArrowColumn) and only.is_text)

    def column(self, parameter: str, name: str) -> Column:
        """The column ``name``, for which ``parameter`` asked.

        Raises:
            ValueError: If there is none of that name.
        """
        if name in self.columns:
            return self.columns[name]
        known = ", ".join(map(repr, self.columns)) if "" not in self.columns else "no named column"
        raise ValueError(
            f"{parameter}: expected a column of split {self.name!r} ({known}), got {name!r}"
        )


def open_split(name: str, data: Any) -> Split:
    """Takes ``data`` apart. Text is not copied.

    Args:
        name: Name of the split.
        data: Whatever :func:`gyrostat.check_leakage` takes.

    Raises:
        TypeError: If ``data`` is nothing of that.
        ValueError: If column names repeat, or an array has more than two dimensions.
    """
    package = type(data).__module__.partition(".")[0]
    if package == "datasets" and hasattr(data, "with_format"):
        # This format applies the row indices that select and shuffle leave behind.
        data = data.with_format("arrow")[:]
    if package == "pandas":
        pairs = _from_pandas(name, data)
    elif hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        pairs = list(_core.read_arrow(data))
    elif (array := as_numpy(data)) is not None:
        pairs = _from_numpy(name, array)
    elif isinstance(data, Sequence) and not isinstance(data, str | bytes | bytearray):
        pairs = [("", data if isinstance(data, list) else list(data))]
    else:
        raise TypeError(f"splits: expected {_ACCEPTED}, got {type(data).__name__} as {name!r}")
    columns = dict(pairs)
    if len(columns) < len(pairs):
        names = [column for column, _ in pairs]
        twice = sorted({column for column in names if names.count(column) > 1})
        raise ValueError(f"splits: expected distinct columns, got {twice} twice in {name!r}")
    return Split(name, columns)


def _from_pandas(name: str, data: Any) -> list[tuple[str, Column]]:
    if data.ndim == 1:
        return _series(name, "", data)
    # By position, since labels may repeat. The index is no column.
    parts = (_series(name, str(label), data.iloc[:, i]) for i, label in enumerate(data.columns))
    return [pair for part in parts for pair in part]


def _series(name: str, label: str, series: Any) -> list[tuple[str, Column]]:
    if isinstance(series.dtype, np.dtype):
        return _columns(name, label, series.to_numpy())
    try:
        import pyarrow as pa
    except ImportError:
        pass
    else:
        columns = _core.read_arrow(pa.array(series, from_pandas=True))
        if len(columns) == 1:
            return [(label, columns[0][1])]
    return [(label, series.astype(object).where(series.notna(), None).tolist())]


def _from_numpy(name: str, data: NDArray[Any]) -> list[tuple[str, Column]]:
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(f"splits: expected plain arrays, got a masked one as {name!r}; fill it")
    if data.ndim == 1 and data.dtype.names is not None:
        parts = (_columns(name, field, data[field]) for field in data.dtype.names)
    elif data.ndim == 1:
        parts = (_columns(name, "", part) for part in (data,))
    elif data.ndim == 2:
        parts = (_columns(name, str(i), data[:, i]) for i in range(data.shape[1]))
    else:
        raise ValueError(f"splits: expected 1 or 2 dimensions, got {data.ndim} in {name!r}")
    return [pair for part in parts for pair in part]


def _columns(name: str, label: str, values: NDArray[Any]) -> list[tuple[str, Column]]:
    """One column, or two for complex numbers."""
    if values.dtype.kind == "c":
        parts = {"real": values.real, "imag": values.imag}
        return [(f"{label}.{part}", _column(name, half)) for part, half in parts.items()]
    return [(label, _column(name, values))]


def _column(name: str, values: NDArray[Any]) -> Column:
    """A one-dimensional array as the core reads it: in place, where it is of a plain type."""
    dtype = values.dtype
    if dtype.kind in "OUST":
        objects: list[Any] = values.tolist()
        return objects
    if dtype == np.float16:
        return values.astype(np.float32)
    if dtype.kind in "mM":
        unit, count = np.datetime_data(dtype)
        if count != 1 or unit not in ("s", "ms", "us", "ns"):
            target = "ns" if unit in ("ps", "fs", "as") else "s"
            return values.astype(f"{dtype.kind}8[{target}]")
    elif dtype.char not in _NUMBERS:
        raise TypeError(f"splits: expected numbers, text or times, got dtype {dtype} in {name!r}")
    if not (dtype.isnative and values.flags.aligned):
        return values.astype(dtype.newbyteorder("="))
    return values
