"""Gradient noise scale of a data-parallel run, from what its ranks compute anyway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from gyrostat.noise import GradientNoiseScale
from gyrostat.tensors import total_norm

__all__ = ["DDPNoiseScale"]


class DDPNoiseScale:
    """Estimates the gradient noise scale of a model under ``DistributedDataParallel``.

    The gradient of one rank before the all-reduce is that of a small batch, the gradient after it
    that of the batch of all ranks. A hook on each parameter reads its gradient before DDP does;
    neither the gradients nor the communication change, and any communication hook may be in use.

    Example, with ``batch_size`` samples on each rank::

        noise = DDPNoiseScale(model)
        for x, y in loader:
            loss_function(model(x), y).backward()
            noise.update(batch_size)
            optimizer.step()
            optimizer.zero_grad()
        print(noise.estimate.value)

    The loss must be a mean over samples. Under ``no_sync`` gradients add up; what is measured is
    what the synchronised backward pass leaves, so ``zero_grad`` comes between two updates.

    Args:
        model: The wrapped model, on two ranks at least.
        halflife: As in :class:`gyrostat.noise.GradientNoiseScale`.

    Attributes:
        estimate: The :class:`gyrostat.noise.GradientNoiseScale`, the same on every rank.

    Raises:
        TypeError: If ``model`` is not wrapped.
        ValueError: If it is on one rank only, where there is no second batch size.
    """

    def __init__(self, model: DistributedDataParallel, halflife: float | None = None) -> None:
        if not isinstance(model, DistributedDataParallel):
            raise TypeError(f"model: expected DistributedDataParallel, got {type(model).__name__}")
        self._group = model.process_group
        self._ranks = dist.get_world_size(self._group)
        if self._ranks < 2:
            raise ValueError(f"model: expected one on two ranks at least, got {self._ranks}")
        self.estimate = GradientNoiseScale(halflife)
        self._parameters = [
            parameter
            for name, parameter in model.module.named_parameters()
            if parameter.requires_grad and name not in model.parameters_to_ignore
        ]
        self._local: dict[int, float | torch.Tensor] = {}
        self._hooks: list[RemovableHandle] = [
            parameter.register_post_accumulate_grad_hook(self._measure)
            for parameter in self._parameters
        ]

    def update(self, batch_size: int) -> None:
        """Takes in the step whose backward pass has just ended.

        A collective of two numbers. It comes before the gradients are clipped or unscaled. A step
        with NaN or Inf is skipped.

        Args:
            batch_size: Samples behind the gradient of each rank, those of accumulated
                micro-batches together.

        Raises:
            ValueError: If the ranks give different batch sizes, one not above 0, or if on one of
                them no backward pass came since the last update; raised on every rank.
        """
        local = _squared_sum(self._local.values()) if self._local else -1.0
        self._local.clear()
        told = self._gather(local, float(batch_size))
        locals_, batch_sizes = zip(*told, strict=True)
        if any(local < 0 for local in locals_):
            raise ValueError("update: expected a backward pass on every rank since the last one")
        if len(set(batch_sizes)) > 1 or not batch_sizes[0] > 0:
            sizes = [int(size) for size in batch_sizes]
            raise ValueError(f"batch_size: expected the same above 0 on every rank, got {sizes}")
        reduced = _squared_sum(
            _norm(parameter.grad) for parameter in self._parameters if parameter.grad is not None
        )
        small = sum(locals_) / self._ranks
        self.estimate.update(small, reduced, batch_sizes[0], self._ranks * batch_sizes[0])

    def close(self) -> None:
        """Takes the hooks off the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._local.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of the estimate, as plain values."""
        return self.estimate.state_dict()

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state.
        """
        self.estimate.load_state_dict(d)

    def _measure(self, parameter: torch.Tensor) -> None:
        # Of several backward passes that add up, the last one counts: the one that DDP reduces.
        if parameter.grad is not None:
            self._local[id(parameter)] = _norm(parameter.grad)

    def _gather(self, local: float, batch_size: float) -> list[list[float]]:
        device = self._parameters[0].device
        own = torch.tensor([local, batch_size], dtype=torch.float64, device=device)
        told = [torch.empty_like(own) for _ in range(self._ranks)]
        dist.all_gather(told, own, self._group)
        return [pair.tolist() for pair in told]


def _norm(grad: torch.Tensor) -> float | torch.Tensor:
    """The L2 norm, left on the device of ``grad`` if that is not the host."""
    values = grad.coalesce().values() if grad.is_sparse else grad.detach()
    if values.device.type == "cpu":
        return total_norm([values])
    norm: torch.Tensor = torch.linalg.vector_norm(values, dtype=torch.float32)
    return norm


def _squared_sum(norms: Iterable[float | torch.Tensor]) -> float:
    """The sum of squares, after one wait for the device if there is one."""
    told = list(norms)
    waiting = [norm.double() for norm in told if isinstance(norm, torch.Tensor)]
    if waiting:
        first = waiting[0].device
        told = torch.stack([norm.to(first) for norm in waiting]).tolist()
    return sum(float(norm) * float(norm) for norm in told)
