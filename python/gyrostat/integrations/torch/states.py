"""State dicts held in host memory, of sharded tensors each rank's own part."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["local_part", "to_host", "to_load"]


@dataclass(frozen=True, slots=True)
class _Shard:
    """This rank's part of a DTensor, and what it takes to make one of it again."""

    part: torch.Tensor
    kind: Any
    mesh: Any
    placements: Any
    shape: torch.Size
    stride: tuple[int, ...]


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What is in the memory of this rank: of a DTensor its local part, of a tensor itself."""
    held: Any = tensor.detach()
    if not hasattr(held, "placements"):
        return tensor.detach()
    held = held.to_local()
    part: torch.Tensor = held.wait() if hasattr(held, "wait") else held
    return part


# torch.distributed.checkpoint.state_dict is no help here: for an optimizer that has no state yet it
# makes a step to get one, and it needs the ranks to talk to each other.
@torch.no_grad()
def to_host(value: Any) -> Any:
    """A deep copy of a state dict in host memory."""
    if isinstance(value, torch.Tensor):
        tensor: Any = value.detach()
        if hasattr(tensor, "placements"):
            part = local_part(tensor).to("cpu", copy=True)
            layout = (tensor.device_mesh, tensor.placements, tensor.shape, tensor.stride())
            return _Shard(part, type(tensor), *layout)
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {k: to_host(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_host(v) for v in value)
    return copy.deepcopy(value)


@torch.no_grad()
def to_load(value: Any) -> Any:
    """A deep copy of what :func:`to_host` gave, for ``load_state_dict``.

    Optimizers adopt the tensors that they are given; what is held must stay as it is.
    """
    if isinstance(value, _Shard):
        part = value.part.to(value.mesh.device_type, copy=True)
        return value.kind.from_local(
            part,
            value.mesh,
            value.placements,
            run_check=False,
            shape=value.shape,
            stride=value.stride,
        )
    if isinstance(value, Mapping):
        return {k: to_load(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_load(v) for v in value)
    return copy.deepcopy(value)
