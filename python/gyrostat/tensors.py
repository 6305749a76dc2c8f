"""Tensor statistics: the mergeable record of a tensor, made in one pass over it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat._core import TensorStats

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TensorStats", "TensorTable", "summarize", "summarize_all", "total_norm"]

_DTYPES = ("float64", "float32", "float16", "bfloat16")
_EXPECTED_DTYPE = f"dtype {', '.join(_DTYPES)} in the byte order of this machine"
_COLUMNS = (
    "count",
    "nan_count",
    "posinf_count",
    "neginf_count",
    "nonfinite_count",
    "zero_count",
    "subnormal_count",
    "min",
    "max",
    "absmax",
    "sum",
    "mean",
    "var",
    "std",
    "l1",
    "l2",
    "skewness",
    "kurtosis",
)

Tensors = Mapping[str, Any] | Iterable[Any]


def summarize(x: Any) -> TensorStats:
    """The record of one tensor: counts, extremes, norms, moments, histogram of exponents.

    One read of memory and no copy, whatever the strides; a strided tensor gives the bits that its
    contiguous copy would give. The result is the same on any number of threads. Within blocks
    moments are taken about the block's own mean; blocks are combined by the formulas of Chan,
    Golub and LeVeque (1982) and Pébay (SAND2008-6212).

    Args:
        x: Any shape; float64, float32, float16 or bfloat16. A NumPy array, a PyTorch tensor in host
            memory (also one that requires a gradient), or anything that speaks DLPack.

    Returns:
        The record. What a NaN or Inf does to it is said at :class:`TensorStats`.

    Raises:
        TypeError: If ``x`` is no such tensor.

    Example:
        >>> s = summarize(np.array([3.0, -4.0, 0.0, np.nan]))
        >>> s.l2, s.zero_count, s.nan_count
        (5.0, 1, 1)
    """
    return _core.summarize(*_readable(x))


def summarize_all(tensors: Tensors) -> TensorTable:
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

    Returns:
        The table of records, in the order of ``tensors``.

    Raises:
        TypeError: If one of them is no such tensor; the message has its name.
        ValueError: If a name comes twice.
    """
    names, missing, readable = _all_readable(tensors)
    return TensorTable(names, _core.summarize_all(readable), missing)


def total_norm(tensors: Tensors) -> float:
    """The L2 norm of all values of all tensors together.

    Relative error at most 1e-12, whatever the dtype; it neither overflows nor underflows unless
    the norm itself does. Unlike the finite norm :attr:`TensorStats.l2` it does not hide a NaN:
    NaN if there is one, else Inf if there is one, so that clipping by it is never silently wrong.

    Args:
        tensors: As :func:`summarize_all` takes them.

    Raises:
        TypeError: If one of them is no such tensor.
    """
    return _core.total_norm(_all_readable(tensors)[2])


class TensorTable:
    """The records of many tensors, by name and by column.

    Every scalar statistic of :class:`TensorStats` is a column: ``table.l2`` is a float64 array of
    shape ``(n,)``, ``table.nan_count`` an int64 array.

    Attributes:
        names: Names of the tensors, in order.
        missing: Names of those that were None.
    """

    def __init__(
        self, names: tuple[str, ...], records: list[TensorStats], missing: tuple[str, ...] = ()
    ) -> None:
        self.names = names
        self.missing = missing
        self._records = records
        self._index = {name: i for i, name in enumerate(names)}

    @property
    def total(self) -> TensorStats:
        """The record of all values together, merged in order."""
        return _core.merge_all(self._records)

    def __getitem__(self, name: str) -> TensorStats:
        return self._records[self._index[name]]

    def __iter__(self) -> Iterator[TensorStats]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __getattr__(self, column: str) -> NDArray[Any]:
        if column not in _COLUMNS:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {column!r}")
        dtype = np.int64 if column.endswith("count") else np.float64
        return np.array([getattr(record, column) for record in self._records], dtype=dtype)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_COLUMNS]

    def __repr__(self) -> str:
        return f"TensorTable({len(self)} tensors, total {self.total!r})"

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """``TensorStats.to_dict`` of each record, by name."""
        return {n: record.to_dict() for n, record in zip(self.names, self._records, strict=True)}

    def to_pandas(self) -> pd.DataFrame:
        """One row a tensor, one column a statistic.

        Raises:
            ImportError: If pandas is not installed (``pip install 'gyrostat[pandas]'``).
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'gyrostat[pandas]'") from error
        columns = {column: getattr(self, column) for column in _COLUMNS}
        return pd.DataFrame(columns, index=list(self.names))


def _all_readable(
    tensors: Tensors,
) -> tuple[tuple[str, ...], tuple[str, ...], list[tuple[NDArray[Any], str]]]:
    """Names, names of the missing, and the arrays with the dtypes of their values."""
    readable: dict[str, tuple[NDArray[Any], str]] = {}
    missing: list[str] = []
    for name, tensor in _pairs(tensors):
        if not isinstance(name, str):
            raise TypeError(f"tensors: expected names that are strings, got {name!r}")
        if name in readable or name in missing:
            raise ValueError(f"tensors: expected each name once, got {name!r} more often")
        if tensor is None:
            missing.append(name)
        else:
            readable[name] = _readable(tensor, name)
    return tuple(readable), tuple(missing), list(readable.values())


def _pairs(tensors: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(tensors, Mapping):
        return tensors.items()
    if isinstance(tensors, str | bytes) or _kind(tensors) is not None:
        raise TypeError(
            f"tensors: expected several by name or in a sequence, got one {type(tensors).__name__}"
        )
    try:
        items = enumerate(tensors)
    except TypeError as error:
        raise TypeError(
            f"tensors: expected a mapping or a sequence, got {type(tensors).__name__}"
        ) from error
    return (
        item
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
        else (str(i), item)
        for i, item in items
    )


def _readable(x: Any, name: str | None = None) -> tuple[NDArray[Any], str]:
    """An array that the core can read, 16-bit types as uint16, and the dtype of its values.

    ``name`` is that of the tensor in a collection, for messages.
    """
    kind = _kind(x)
    if kind == "torch":
        return _from_torch(x, name)
    if kind == "numpy":
        array = np.asarray(x)
    elif kind == "dlpack":
        try:
            array = np.from_dlpack(x)
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            got = f"{type(x).__name__}: {error}"
            raise _unreadable(name, "a tensor in host memory that DLPack can share", got) from error
    else:
        expected = "a NumPy array without a mask, a PyTorch tensor or a DLPack object"
        raise _unreadable(name, expected, type(x).__name__)
    dtype = _dtype_name(array.dtype)
    if dtype is None:
        raise _unreadable(name, _EXPECTED_DTYPE, repr(array.dtype))
    return (array.view(np.uint16) if array.itemsize == 2 else array), dtype


def _from_torch(x: Any, name: str | None) -> tuple[NDArray[Any], str]:
    dtype = _dtype_name(x.dtype)
    if dtype is None:
        raise _unreadable(name, _EXPECTED_DTYPE, str(x.dtype))
    try:
        if x.requires_grad:
            x = x.detach()
        if x.itemsize == 2:  # NumPy lacks bfloat16
            x = x.view(sys.modules["torch"].uint16)
        return x.numpy(), dtype
    except (RuntimeError, TypeError) as error:
        if x.device.type != "cpu":
            got = f"one on {x.device}; use .cpu()"
            raise _unreadable(name, "a tensor in host memory", got) from error
        got = f"layout {x.layout}: {error}"
        raise _unreadable(name, "a dense tensor that shares its memory", got) from error


def _unreadable(name: str | None, expected: str, got: str) -> TypeError:
    parameter = "x" if name is None else f"tensors[{name!r}]"
    return TypeError(f"{parameter}: expected {expected}, got {got}")


def _kind(x: object) -> str | None:
    """How the memory of a tensor is reached; None if ``x`` is none."""
    return _kind_of_class(type(x))  # type: ignore[arg-type]  # a class is hashable


@functools.lru_cache
def _kind_of_class(cls: type) -> str | None:
    if issubclass(cls, np.ma.MaskedArray):
        return None  # what the mask hides would be counted
    if issubclass(cls, np.ndarray | np.generic):
        return "numpy"
    if any(base.__module__ == "torch" and base.__name__ == "Tensor" for base in cls.__mro__):
        return "torch"
    return "dlpack" if hasattr(cls, "__dlpack__") and hasattr(cls, "__dlpack_device__") else None


@functools.lru_cache
def _dtype_name(dtype: object) -> str | None:
    """The name of a NumPy or torch dtype that the core reads; None for any other."""
    name = dtype.name if isinstance(dtype, np.dtype) else str(dtype).removeprefix("torch.")
    return name if name in _DTYPES and getattr(dtype, "isnative", True) else None
