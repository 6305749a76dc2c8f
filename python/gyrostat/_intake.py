"""What the tensor functions take: names and tensors of a collection, and tensors of every kind.

The core reads plain NumPy arrays and plain PyTorch tensors by itself. It calls :func:`readable` for
whatever else it is given.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tensors", "collect", "dtype_name", "is_plain_torch", "readable"]

_DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_BITS = {"uint16": ("float16", "bfloat16"), "uint8": ("float8_e4m3fn", "float8_e5m2")}

Tensors = Mapping[str, Any] | Iterable[Any]


def collect(
    tensors: Any, of: str = "gradients"
) -> tuple[Sequence[str], list[Any], tuple[str, ...]]:
    """Names, tensors, and the names of those that are None."""
    if of not in {"gradients", "parameters"}:
        raise ValueError(f"of: expected 'gradients' or 'parameters', got {of!r}")
    names: Sequence[str]
    if isinstance(tensors, list | tuple):
        names, values = _places(len(tensors)), list(tensors)
        classes = set(map(type, values))
        if not any(issubclass(cls, tuple | NoneType) for cls in classes):
            return names, values, ()
        if any(issubclass(cls, tuple) for cls in classes):
            names, values = _pairs(values)
    elif hasattr(tensors, "named_parameters") and not isinstance(tensors, type):
        pairs = list(tensors.named_parameters())
        names = [name for name, _ in pairs]
        values = [p.grad if of == "gradients" else p for _, p in pairs]
    elif isinstance(tensors, Mapping):
        names, values = list(tensors), list(tensors.values())
        if set(map(type, names)) != {str}:
            _check_names(names)
    else:
        names, values = _pairs(_items(tensors))
    if NoneType not in set(map(type, values)):
        return names, values, ()
    kept = [(n, x) for n, x in zip(names, values, strict=True) if x is not None]
    missing = tuple(n for n, x in zip(names, values, strict=True) if x is None)
    return [n for n, _ in kept], [x for _, x in kept], missing


@functools.lru_cache(maxsize=8)
def _places(n: int) -> tuple[str, ...]:
    return tuple(map(str, range(n)))


def _items(tensors: Any) -> Iterable[Any]:
    if isinstance(tensors, str | bytes) or _kind(tensors) is not None:
        raise TypeError(
            f"tensors: expected several by name or in a sequence, got one {type(tensors).__name__}"
        )
    try:
        items: Iterable[Any] = iter(tensors)
    except TypeError as error:
        raise TypeError(
            f"tensors: expected a mapping, a sequence or a model, got {type(tensors).__name__}"
        ) from error
    return items


def _pairs(items: Iterable[Any]) -> tuple[list[str], list[Any]]:
    """Items are pairs of name and tensor, or tensors whose name is their place."""
    pairs = [
        item
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
        else (str(i), item)
        for i, item in enumerate(items)
    ]
    names = [name for name, _ in pairs]
    _check_names(names)
    return names, [x for _, x in pairs]


def _check_names(names: list[str]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"tensors: expected names that are strings, got {name!r}")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"tensors: expected each name once, got {twice!r} more often")


def readable(x: Any, name: str | None = None, dtype: str | None = None) -> tuple[NDArray[Any], str]:
    """An array that shares the memory of a tensor, and the dtype of its values.

    Types that NumPy lacks come as unsigned integers.

    Args:
        x: The tensor.
        name: Its name in a collection, for messages.
        dtype: What unsigned integers are the bits of.

    Raises:
        TypeError: If there is no such array.
    """
    kind = _kind(x)
    if kind == "torch":
        return _from_torch(x, name, dtype)
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
    stored = _values_dtype(array.dtype, name, dtype)
    narrow = array.itemsize <= 2  # the names of these dtypes may be known to ml_dtypes alone
    return (array.view(f"u{array.itemsize}") if narrow else array), stored


def _from_torch(x: Any, name: str | None, dtype: str | None) -> tuple[NDArray[Any], str]:
    stored = _values_dtype(x.dtype, name, dtype)
    torch = sys.modules["torch"]
    try:
        if x.requires_grad:
            x = x.detach()
        if x.itemsize <= 2:  # NumPy lacks bfloat16 and float8
            x = x.view(torch.uint16 if x.itemsize == 2 else torch.uint8)
        array = x.numpy()
        # NumPy would have put memory of its own there.
        is_empty_shell = array.size > 0 and x.data_ptr() == 0
    except (RuntimeError, TypeError, ValueError) as error:
        if x.device.type != "cpu":
            got = f"one on {x.device}; use .cpu()"
            raise _unreadable(name, "a tensor in host memory", got) from error
        got = f"layout {x.layout}: {error}"
        raise _unreadable(name, "a dense tensor that shares its memory", got) from error
    if is_empty_shell:
        raise _unreadable(name, "a tensor that holds memory", "one whose storage is empty")
    return array, stored


def _values_dtype(dtype: Any, name: str | None, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in _DTYPES:
            expected = ", ".join(map(repr, _DTYPES))
            raise ValueError(f"dtype: expected one of {expected}, got {wanted!r}")
        if wanted in _BITS.get(_plain_name(dtype), ()):
            return wanted
    found = dtype_name(dtype)
    if found is None or wanted not in {None, found}:
        known = ", ".join(_DTYPES) if wanted is None else f"{wanted} or its bits as integers"
        got = repr(dtype) if isinstance(dtype, np.dtype) else str(dtype)
        raise _unreadable(name, f"dtype {known} in the byte order of this machine", got)
    return found


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
def is_plain_torch(cls: Any) -> bool:
    """Whether instances are PyTorch tensors whose values are those of their own memory.

    A subclass that overrides how operations work (DTensor, FakeTensor) may have no memory, or hold
    something else in it.
    """
    if _kind_of_class(cls) != "torch":
        return False
    torch = sys.modules["torch"]
    usual = (torch.Tensor.__torch_function__.__func__, torch.nn.Parameter.__torch_function__)
    function = getattr(cls.__torch_function__, "__func__", cls.__torch_function__)
    return function in usual and cls.__torch_dispatch__ is torch.Tensor.__torch_dispatch__


@functools.lru_cache
def dtype_name(dtype: object) -> str | None:
    """The name of a NumPy or torch dtype that the core reads; None for any other."""
    name = _plain_name(dtype)
    return name if name in _DTYPES and getattr(dtype, "isnative", True) else None


def _plain_name(dtype: object) -> str:
    return dtype.name if isinstance(dtype, np.dtype) else str(dtype).removeprefix("torch.")
