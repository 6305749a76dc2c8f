"""Gyrostat in a PyTorch training loop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from gyrostat.guard import Guard as AnyGuard
from gyrostat.guard import Policy
from gyrostat.integrations.torch.ranks import group_of
from gyrostat.integrations.torch.subject import TorchSubject

__all__ = ["Guard"]


class Guard(AnyGuard):
    """Watches a PyTorch run and acts on what it finds.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> guard = Guard(model, optimizer)
        >>> loader = [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> for x, y in guard.batches(loader):
        ...     loss = torch.nn.functional.mse_loss(model(x), y)
        ...     loss.backward()
        ...     if guard.approve(loss):
        ...         optimizer.step()
        ...     optimizer.zero_grad()
        >>> guard.incidents
        ()

    Args:
        model: The model.
        optimizer: Its optimizer.
        scheduler: Learning-rate scheduler, rolled back with the rest.
        scaler: ``torch.amp.GradScaler``. :meth:`approve` may come before ``scaler.unscale_`` or
            after it. Overflows, which the scaler itself skips, are left to it.
        policy: ``"observe"``, ``"cautious"``, ``"recover"`` or a :class:`gyrostat.guard.Policy`.
        run_dir: Folder for the journal, the registry of what is left out, and checkpoints for
            :meth:`resume`; None keeps all in memory. Of several ranks the first writes there, each
            other in a folder of its own in it, ``rank-1`` and so on.
        lag: 1 to judge each step at the next, so that the host never waits for the device; see
            ``docs/distributed.md``.
        group: The ranks that decide together. None is the default process group where the model is
            a ``DistributedDataParallel`` or holds DTensors, as after ``fully_shard``; otherwise
            each process is on its own. All ranks make the guard at the same point.

    Raises:
        TypeError: If ``model`` or ``optimizer`` is something else.
        ValueError: If a number is out of range, if ``lag`` is 1 with a loss scaler at work, which
            makes the host wait itself, or if model or policy are not the same on every rank.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        scaler: torch.amp.GradScaler | None = None,
        policy: str | Policy = "recover",
        run_dir: str | os.PathLike[str] | None = None,
        lag: int = 0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}"
            )
        if lag and scaler is not None and scaler.is_enabled():
            raise ValueError("lag: expected 0 with a loss scaler, which makes the host wait itself")
        policy = Policy.preset(policy)
        together = group_of(model, group)
        if run_dir is not None and together is not None and (rank := dist.get_rank(together)):
            run_dir = Path(run_dir) / f"rank-{rank}"
        settings = policy.to_dict() | {"lag": lag}
        subject = TorchSubject(
            model, optimizer, scheduler, scaler, group, settings, may_wait=not lag
        )
        super().__init__(subject, policy, run_dir, lag)
