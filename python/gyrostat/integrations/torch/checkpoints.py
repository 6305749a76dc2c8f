"""Checkpoints of PyTorch state: one file, or one folder for a model sharded over ranks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from gyrostat._intake import is_plain_torch
from gyrostat.findings import plain
from gyrostat.guard import checkpoints
from gyrostat.guard._disk import sync_file, sync_folder
from gyrostat.guard._tree import ArrayCodec, Packed

__all__ = [
    "check_finite",
    "read_checkpoint",
    "read_sharded",
    "write_checkpoint",
    "write_sharded",
]


def write_checkpoint(path: str | os.PathLike[str], state: Any, meta: Mapping[str, Any]) -> None:
    """Writes tensors of any dtype and what is around them to one safetensors file.

    See :func:`gyrostat.guard.checkpoints.write_checkpoint`. Tensors that share memory share it when
    they are read back. Tensors on a GPU are copied to the host.

    Raises:
        TypeError: If something cannot be written: an object, a tensor that is sparse, quantized or
            sharded (:func:`write_sharded`).
    """
    checkpoints.write_checkpoint(path, state, meta, codec=_CODEC)


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """The state, in host memory, and the ``meta`` of :func:`write_checkpoint`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, not complete, or damaged; the message says where.
    """
    return checkpoints.read_checkpoint(path, codec=_CODEC)


def check_finite(state: Any) -> None:
    """Raises if a tensor of ``state`` holds NaN or Inf. Call it before a checkpoint is written.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> check_finite(model.state_dict())
        >>> _ = model.weight.data.fill_(float("nan"))
        >>> check_finite(model.state_dict())
        Traceback (most recent call last):
        ValueError: state: NaN or Inf in weight (2)

    Raises:
        ValueError: With the names of the tensors and how many such values each holds.
    """
    checkpoints.check_finite(state, codec=_CODEC)


def write_sharded(
    path: str | os.PathLike[str], state: dict[str, Any], meta: Mapping[str, Any]
) -> None:
    """Writes a folder with ``torch.distributed.checkpoint``; every rank calls it.

    The folder gets its name when all ranks are done: one that is there is complete.

    Args:
        path: The folder; it must not exist. All ranks see the same file system.
        state: What ``torch.distributed.checkpoint.state_dict.get_state_dict`` gives, or the like.
        meta: Plain values for JSON; that of rank 0 counts.

    Raises:
        FileExistsError: If there is such a folder.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"path: {path} is there already")
    half = checkpoints.temporary(path)
    leads = not dist.is_initialized() or dist.get_rank() == 0
    if leads:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
    _wait_for_all()
    with _alone_without_warning():
        save(state, checkpoint_id=half, no_dist=not dist.is_initialized())
    if leads:
        notes = half / checkpoints.META_FILE
        notes.write_text(json.dumps({"meta": plain(dict(meta))}, allow_nan=False), "utf-8")
        sync_file(notes)
        sync_folder(half)
        half.rename(path)
        sync_folder(path.parent)
    _wait_for_all()


def read_sharded(path: str | os.PathLike[str], state: dict[str, Any]) -> dict[str, Any]:
    """Loads a folder of :func:`write_sharded` into the tensors of ``state``; every rank calls it.

    The number of ranks may be another one than when it was written.

    Returns:
        The ``meta``.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
    """
    notes = json.loads((Path(path) / checkpoints.META_FILE).read_text("utf-8"))
    with _alone_without_warning():
        load(state, checkpoint_id=Path(path), no_dist=not dist.is_initialized())
    meta: dict[str, Any] = notes["meta"]
    return meta


@contextlib.contextmanager
def _alone_without_warning() -> Iterator[None]:
    """Without the warning that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


class _TorchCodec(ArrayCodec):
    """Tensors of PyTorch beside arrays of NumPy."""

    def is_tensor(self, value: object) -> bool:
        return isinstance(value, torch.Tensor) or super().is_tensor(value)

    def pack(self, tensors: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Packed]]:
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
        if not isinstance(tensor, torch.Tensor):
            return super().values(tensor)
        dense = _dense("a tensor", tensor)
        if dense.is_complex():
            return torch.view_as_real(dense)
        if not dense.is_floating_point():
            return None
        known = {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"}
        return dense if _name(dense.dtype) in known else dense.float()


_CODEC = _TorchCodec()


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
