"""Tensors of PyTorch as bytes, and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gyrostat._intake import is_plain_torch
from gyrostat.guard._tree import ArrayCodec, Packed

__all__ = ["CODEC", "TorchCodec"]


class TorchCodec(ArrayCodec):
    """Tensors of PyTorch beside arrays of NumPy."""

    def is_tensor(self, value: object) -> bool:
        """Whether ``value`` is a tensor, an array or a NumPy scalar."""
        return isinstance(value, torch.Tensor) or super().is_tensor(value)

    def pack(self, tensors: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Packed]]:
        """Each storage once, whatever shares it."""
        arrays = {n: t for n, t in tensors.items() if not isinstance(t, torch.Tensor)}
        described, packed = super().pack(arrays)
        groups: dict[Any, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            if isinstance(value, torch.Tensor):
                tensor = _dense(name, value)
                storage = tensor.untyped_storage()
                groups[storage.data_ptr() if storage.nbytes() else name][name] = tensor
        for group in groups.values():
            name, first = next(iter(group.items()))
            if all(_layout(t) == _layout(first) for t in group.values()):
                packed[name] = Packed(_bytes(first), _name(first.dtype), tuple(first.shape))
                places: dict[str, dict[str, Any]] = {twin: {} for twin in group}
            else:
                span, places = _span(group)
                packed[name] = Packed(_bytes(span), "uint8", tuple(span.shape))
            for twin, tensor in group.items():
                kind = {"of": name, "torch": _name(tensor.dtype), "shape": list(tensor.shape)}
                described[twin] = kind | places[twin]
        return described, packed

    def unpack(self, description: dict[str, Any], data: NDArray[np.uint8]) -> Any:
        """The tensor, in host memory."""
        if "torch" not in description:
            return super().unpack(description, data)
        dtype, shape = getattr(torch, description["torch"]), description["shape"]
        if not data.size:
            return torch.empty(shape, dtype=dtype)
        values = torch.from_numpy(data).view(dtype)
        if "strides" in description:
            return values.as_strided(shape, description["strides"], description["at"])
        return values.reshape(shape)

    def values(self, tensor: Any) -> Any:
        """The tensor if it is of floating-point numbers; complex ones as pairs."""
        if not isinstance(tensor, torch.Tensor):
            return super().values(tensor)
        dense = _dense("a tensor", tensor)
        if dense.is_complex():
            return torch.view_as_real(dense)
        if not dense.is_floating_point():
            return None
        known = {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"}
        return dense if _name(dense.dtype) in known else dense.float()


CODEC = TorchCodec()
"""It has no state: one is enough."""


def _dense(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in host memory, with its values in its memory."""
    plain_one = is_plain_torch(type(tensor)) and tensor.device.type != "meta"
    if not plain_one or tensor.layout is not torch.strided or tensor.is_quantized:
        kind = f"{type(tensor).__name__} of layout {tensor.layout} on {tensor.device}"
        raise TypeError(f"state: {name} is a {kind}; write_sharded writes sharded tensors")
    return tensor.detach().cpu().resolve_conj().resolve_neg()


def _layout(t: torch.Tensor) -> tuple[Any, ...]:
    return t.dtype, t.storage_offset(), tuple(t.shape), t.stride()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    # A tensor of one value counts as contiguous whatever its stride is.
    flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
    array: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return array


def _span(group: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, dict[str, Any]]]:
    """The bytes that differing views of one storage cover, and where each lies in them."""
    ends = []
    for t in group.values():
        last = (
            sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else -1
        )
        size = t.element_size()
        ends.append((t.storage_offset() * size, (t.storage_offset() + last + 1) * size))
    # Whole elements of any dtype, from the start and up to the end.
    first = min(a for a, _ in ends) // 16 * 16
    storage = next(iter(group.values())).untyped_storage()
    last_byte = min(-(-max(b for _, b in ends) // 16) * 16, storage.nbytes())
    span = torch.empty(0, dtype=torch.uint8).set_(storage, first, (last_byte - first,), (1,))
    places = {
        name: {"strides": list(t.stride()), "at": t.storage_offset() - first // t.element_size()}
        for name, t in group.items()
    }
    return span, places
