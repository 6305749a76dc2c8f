"""Tensor statistics: the mergeable record of a tensor, made in one pass over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from gyrostat import _core
from gyrostat._core import TensorStats
from gyrostat._intake import Tensors, collect

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Level", "TensorStats", "TensorTable", "summarize", "summarize_all", "total_norm"]

Level = Literal["norm", "moments", "full"]
"""How much a record tells, and so what it costs: each level tells what those before it do.

``"norm"``
    ``count``, ``nan_count``, ``posinf_count``, ``neginf_count``, ``nonfinite_count``, ``l2``
``"moments"``
    ``min``, ``max``, ``absmax``, ``sum``, ``mean``, ``var``, ``std``, ``l1``, ``skewness``,
    ``kurtosis``
``"full"``
    ``zero_count``, ``subnormal_count``, the histogram of exponents, and what follows from it
"""


def summarize(x: Any, *, dtype: str | None = None, level: Level = "full") -> TensorStats:
    """The record of one tensor: counts, extremes, norms, moments, histogram of exponents.

    One read of memory and no copy, whatever the strides. Values are read in the order in which they
    lie in memory, so that a tensor, its transpose and the tensor backwards give the same bits. So
    do any number of threads, and any processor: the order of every rounded addition is fixed, and
    sums of several chunks of 65,536 values are exact.

    Args:
        x: Any shape; float64, float32, float16, bfloat16, float8_e4m3fn or float8_e5m2. A NumPy
            array, a PyTorch tensor in host memory (also one that requires a gradient; not one with
            the negative bit, which ``resolve_neg()`` removes), or anything that speaks DLPack.
        dtype: Name of the dtype whose bits ``x`` holds as uint8 or uint16, for NumPy without
            ``ml_dtypes``.
        level: How much the record is to tell, see :data:`Level`.

    Returns:
        The record. What a NaN or Inf does to it is said at :class:`TensorStats`.

    Raises:
        TypeError: If ``x`` is no such tensor.
        ValueError: If ``dtype`` or ``level`` is not known.

    Example:
        >>> import numpy as np
        >>> s = summarize(np.array([3.0, -4.0, 0.0, np.nan]))
        >>> s.l2, s.zero_count, s.nan_count
        (5.0, 1, 1)
    """
    return _core.summarize(x, dtype, level)


def summarize_all(
    tensors: Tensors,
    *,
    level: Level = "full",
    of: Literal["gradients", "parameters"] = "gradients",
) -> TensorTable:
    """The records of many tensors, in one call that is parallel over all their chunks.

    Example:
        >>> import numpy as np
        >>> table = summarize_all({"w": np.ones(4, "f4"), "b": np.zeros(2, "f4"), "frozen": None})
        >>> table.names, table.l2.tolist(), table.missing
        (('w', 'b'), [2.0, 0.0], ('frozen',))

    Args:
        tensors: A mapping by name, a sequence (named ``"0"``, ``"1"``, ...), or an iterable of
            pairs ``(name, tensor)`` such as ``model.named_parameters()``. Each as
            :func:`summarize` takes it; None, as in ``{n: p.grad for n, p in ...}``, is left out.
            Or a model, which is whatever has ``named_parameters``.
        level: How much the records are to tell, see :data:`Level`.
        of: Which tensors of a model are meant; without meaning for anything else.

    Returns:
        The table of records, in the order of ``tensors``.

    Raises:
        TypeError: If one of them is no such tensor; the message has its name.
        ValueError: If a name comes twice, or ``level`` is not known.
    """
    names, values, missing = collect(tensors, of)
    return TensorTable(tuple(names), _core.summarize_all(values, names, level), missing)


def total_norm(tensors: Tensors, *, of: Literal["gradients", "parameters"] = "gradients") -> float:
    """The L2 norm of all values of all tensors together.

    Relative error at most 1e-12, whatever the dtype; it neither overflows nor underflows unless
    the norm itself does. Unlike the finite norm :attr:`TensorStats.l2` it does not hide a NaN:
    NaN if there is one, else Inf if there is one, so that clipping by it is never silently wrong.

    Args:
        tensors: As :func:`summarize_all` takes them.
        of: As in :func:`summarize_all`.

    Raises:
        TypeError: If one of them is no such tensor; the message has its name.
        ValueError: If a name comes twice.
    """
    names, values, _ = collect(tensors, of)
    return _core.total_norm(values, names)


class TensorTable:
    """The records of many tensors, by name and by column.

    Every scalar statistic that its :data:`Level` tells is a column: ``table.l2`` is a float64 array
    of shape ``(n,)``, ``table.nan_count`` an int64 array.

    Attributes:
        names: Names of the tensors, in order.
        missing: Names of those that were None.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        records: _core.Records | list[TensorStats],
        missing: tuple[str, ...] = (),
    ) -> None:
        self.names = names
        self.missing = missing
        self._records = records if isinstance(records, _core.Records) else _core.Records(records)
        self._index: dict[str, int] | None = None

    @property
    def level(self) -> str:
        """The level that all records have."""
        return self._records.level

    @property
    def total(self) -> TensorStats:
        """The record of all values together."""
        return self._records.total()

    def __getitem__(self, name: str) -> TensorStats:
        if self._index is None:
            self._index = {known: i for i, known in enumerate(self.names)}
        return self._records[self._index[name]]

    def __iter__(self) -> Iterator[TensorStats]:
        return map(self._records.__getitem__, range(len(self)))

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getattr__(self, column: str) -> NDArray[Any]:
        if column.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {column!r}")
        return self._records.column(column)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_core.statistics(self.level)]

    def __repr__(self) -> str:
        return f"TensorTable({len(self)} tensors, total {self.total!r})"

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """``TensorStats.to_dict`` of each record, by name."""
        return {n: record.to_dict() for n, record in zip(self.names, self, strict=True)}

    def to_pandas(self) -> pd.DataFrame:
        """One row a tensor, one column a statistic.

        Raises:
            ImportError: If pandas is not installed (``pip install 'gyrostat[pandas]'``).
        """
        names = _core.statistics(self.level)
        return frame({name: self._records.column(name) for name in names}, self.names)


def frame(columns: Mapping[str, NDArray[Any]], names: Sequence[str]) -> pd.DataFrame:
    """Columns as a pandas frame with one row a name."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install 'gyrostat[pandas]'") from error
    return pd.DataFrame(dict(columns), index=list(names))
