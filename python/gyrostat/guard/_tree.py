"""Nested state as plain values for JSON and a flat list of arrays, and back."""

from __future__ import annotations

import base64
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayCodec", "Codec", "Packed", "flatten", "tensors_of", "unflatten"]

# Containers that come back as what they were; any other subclass is refused, not flattened.
_MAPPINGS = {"dict": dict, "ordered": OrderedDict, "counter": Counter}
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


@dataclass(frozen=True, slots=True)
class Packed:
    """The bytes of an array, and the dtype and shape that a file is to show them as."""

    data: NDArray[np.uint8]
    dtype: str
    shape: tuple[int, ...]


class Codec(Protocol):
    """What a framework's tensors are. :class:`ArrayCodec` knows those of NumPy."""

    def is_tensor(self, value: object) -> bool:
        """Whether ``value`` is such a tensor."""

    def pack(self, tensors: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Packed]]:
        """For each name a plain description, whose ``of`` names the bytes; and those bytes."""

    def unpack(self, description: dict[str, Any], data: NDArray[np.uint8]) -> Any:
        """The tensor of a description; ``data`` is the same object for those that share memory."""

    def values(self, tensor: Any) -> Any:
        """The floating-point values as :func:`gyrostat.summarize` reads them, or None."""


class ArrayCodec:
    """NumPy arrays, without objects or fields."""

    def is_tensor(self, value: object) -> bool:
        """Whether ``value`` is an array or a NumPy scalar."""
        return isinstance(value, np.ndarray | np.generic)

    def pack(self, tensors: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Packed]]:
        """Each array by itself."""
        described: dict[str, dict[str, Any]] = {}
        packed: dict[str, Packed] = {}
        for name, value in tensors.items():
            array = np.asarray(value)
            if array.dtype.kind in "OV":
                raise TypeError(f"state: {name} has dtype {array.dtype}, which no file can hold")
            described[name] = {"of": name, "numpy": array.dtype.str, "shape": list(array.shape)}
            if isinstance(value, np.generic):
                described[name]["scalar"] = True
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            shown = array.dtype.name if array.dtype.isnative else "bytes"
            packed[name] = Packed(data, shown, array.shape)
        return described, packed

    def unpack(self, description: dict[str, Any], data: NDArray[np.uint8]) -> Any:
        """The array, in memory of its own."""
        array = data.view(description["numpy"]).reshape(description["shape"])
        return array[()] if description.get("scalar") else array

    def values(self, tensor: Any) -> Any:
        """The array if it is of floating-point numbers; complex ones as pairs."""
        array = np.asarray(tensor)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.dtype.kind == "c":
            array = np.ascontiguousarray(array).reshape(-1).view(f"f{array.itemsize // 2}")
        return array if array.dtype.kind == "f" and array.itemsize <= 8 else None


def flatten(state: Any, codec: Codec) -> tuple[Any, dict[str, Packed]]:
    """Plain values for JSON that describe ``state``, and the bytes of its arrays by name.

    Raises:
        TypeError: If there is something in it that is neither; the message says where.
    """
    tensors: dict[str, Any] = {}
    skeleton = _plain(state, "", codec, tensors)
    described, packed = codec.pack(tensors)
    return {"values": skeleton, "tensors": described}, packed


def tensors_of(state: Any, codec: Codec) -> dict[str, Any]:
    """All tensors by the name that :func:`flatten` gives them."""
    tensors: dict[str, Any] = {}
    _plain(state, "", codec, tensors)
    return tensors


def unflatten(skeleton: Any, bytes_of: Callable[[str], NDArray[np.uint8]], codec: Codec) -> Any:
    """The inverse of :func:`flatten`."""
    described = skeleton["tensors"]
    held = {name: bytes_of(name) for name in {d["of"] for d in described.values()}}
    tensors = {name: codec.unpack(d, held[d["of"]]) for name, d in described.items()}
    return _rebuild(skeleton["values"], tensors)


# C901, PLR0911: one case for each kind of value.
def _plain(  # noqa: C901, PLR0911 - a case for each kind of value
    value: Any, path: str, codec: Codec, tensors: dict[str, Any]
) -> Any:
    """JSON keeps None, flags, integers, text and finite floats; the rest is put in tagged lists."""
    if codec.is_tensor(value):
        name = path or "state"
        while name in tensors:
            name += "'"
        tensors[name] = value
        return ["tensor", name]
    if type(value) in (bool, int, str) or value is None:
        return value
    if type(value) is float:
        return value if np.isfinite(value) else ["float", repr(value)]
    if type(value) is complex:
        return ["complex", _plain(value.real, "", codec, {}), _plain(value.imag, "", codec, {})]
    if type(value) is bytes:
        return ["bytes", base64.b64encode(value).decode("ascii")]
    kind = type(value)
    for tag, known in _MAPPINGS.items():
        if kind is known:
            pairs = []
            for key, item in value.items():
                inner = f"{path}.{key}" if path else str(key)
                pairs.append(
                    [_plain(key, inner, codec, tensors), _plain(item, inner, codec, tensors)]
                )
            return [tag, *pairs]
    for tag, known in _SEQUENCES.items():
        if kind is known:
            return [tag, *(_plain(v, p, codec, tensors) for p, v in _places(path, value))]
    raise TypeError(f"state: {path or 'it'} is a {kind.__name__}, which no file can hold")


def _places(path: str, values: Any) -> Iterator[tuple[str, Any]]:
    for i, value in enumerate(values):
        yield (f"{path}.{i}" if path else str(i)), value


def _rebuild(plain: Any, tensors: dict[str, Any]) -> Any:  # noqa: PLR0911 - as above
    if not isinstance(plain, list):
        return plain
    tag, *rest = plain
    if tag == "tensor":
        return tensors[rest[0]]
    if tag == "float":
        return float(rest[0])
    if tag == "complex":
        return complex(*(_rebuild(part, tensors) for part in rest))
    if tag == "bytes":
        return base64.b64decode(rest[0])
    if tag in _MAPPINGS:
        return _MAPPINGS[tag]({_rebuild(k, tensors): _rebuild(v, tensors) for k, v in rest})
    return _SEQUENCES[tag](_rebuild(value, tensors) for value in rest)
