"""Tensor statistics: the mergeable record of a tensor, made in one pass over it."""

from __future__ import annotations

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
    """
    array, dtype = _readable(x, "x")
    return _core.summarize(array, dtype)


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
    """
    names, missing, readable = _all_readable(tensors)
    return TensorTable(names, _core.summarize_all(readable), missing)


def total_norm(tensors: Tensors) -> float:
    """The L2 norm of all values of all tensors together.

    Relative error at most 1e-12 for float64 and float32; neither overflows nor underflows unless
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
    names, missing, readable = [], [], []
    for name, tensor in _pairs(tensors):
        if tensor is None:
            missing.append(name)
            continue
        readable.append(_readable(tensor, f"tensors[{name!r}]"))
        names.append(name)
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"tensors: expected each name once, got {twice} more often")
    return tuple(names), tuple(missing), readable


def _pairs(tensors: Tensors) -> Iterator[tuple[str, Any]]:
    if isinstance(tensors, Mapping):
        yield from ((str(name), tensor) for name, tensor in tensors.items())
        return
    if isinstance(tensors, np.ndarray | str | bytes) or _is_torch(tensors):
        raise TypeError(
            f"tensors: expected several by name or in a sequence, got one {type(tensors).__name__}"
        )
    try:
        items = iter(tensors)
    except TypeError as error:
        raise TypeError(
            f"tensors: expected a mapping or a sequence, got {type(tensors).__name__}"
        ) from error
    for i, item in enumerate(items):
        named = isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
        yield (item[0], item[1]) if named else (str(i), item)


def _readable(x: Any, parameter: str) -> tuple[NDArray[Any], str]:
    """An array that the core can read, and the dtype of its values.

    16-bit types come as uint16, what is not aligned as its bytes in one more axis.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{parameter}: expected no mask, got a masked array; fill or drop first")
    if isinstance(x, np.ndarray | np.generic):
        array, dtype = np.asarray(x), x.dtype.name
    elif _is_torch(x):
        array, dtype = _from_torch(x, parameter)
    elif hasattr(x, "__dlpack__"):
        try:
            array = np.from_dlpack(x)
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            raise TypeError(f"{parameter}: cannot be read through DLPack: {error}") from error
        dtype = array.dtype.name
    else:
        raise TypeError(
            f"{parameter}: expected a NumPy array, a PyTorch tensor or a DLPack object, "
            f"got {type(x).__name__}"
        )
    if dtype not in _DTYPES:
        raise TypeError(f"{parameter}: expected one of {', '.join(_DTYPES)}, got {dtype}")
    if not array.dtype.isnative:
        raise TypeError(f"{parameter}: expected the byte order of this machine, got the other")
    if not array.flags.aligned:
        return array[..., np.newaxis].view(np.uint8), dtype
    return (array.view(np.uint16) if array.itemsize == 2 else array), dtype


def _is_torch(x: Any) -> bool:
    """Whether ``x`` is a tensor of PyTorch, without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _from_torch(x: Any, parameter: str) -> tuple[NDArray[Any], str]:
    dtype = str(x.dtype).removeprefix("torch.")
    if str(x.layout) != "torch.strided":
        raise TypeError(f"{parameter}: expected a dense tensor, got layout {x.layout}")
    if x.device.type != "cpu":
        raise TypeError(
            f"{parameter}: expected a tensor in host memory, got one on {x.device}; use .cpu()"
        )
    if dtype not in _DTYPES:
        raise TypeError(f"{parameter}: expected one of {', '.join(_DTYPES)}, got {dtype}")
    detached = x.detach()
    try:
        if dtype == "bfloat16":  # which NumPy lacks
            return detached.view(sys.modules["torch"].int16).numpy(), dtype
        return detached.numpy(), dtype
    except (RuntimeError, TypeError) as error:
        raise TypeError(f"{parameter}: its memory cannot be read: {error}") from error
