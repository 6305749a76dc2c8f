"""Checkpoints of PyTorch state: one file, or one folder for a model sharded over ranks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from gyrostat.findings import plain
from gyrostat.guard import checkpoints
from gyrostat.guard._disk import sync_file, sync_folder
from gyrostat.integrations.torch.codec import CODEC

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
    checkpoints.write_checkpoint(path, state, meta, codec=CODEC)


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """The state, in host memory, and the ``meta`` of :func:`write_checkpoint`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, not complete, or damaged; the message says where.
    """
    return checkpoints.read_checkpoint(path, codec=CODEC)


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
    checkpoints.check_finite(state, codec=CODEC)


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
