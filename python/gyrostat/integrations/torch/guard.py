"""Gyrostat in a PyTorch training loop."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from gyrostat.guard import Guard as AnyGuard
from gyrostat.guard import Policy
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
            :meth:`resume`; None keeps all in memory.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        scaler: torch.amp.GradScaler | None = None,
        policy: str | Policy = "recover",
        run_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}"
            )
        super().__init__(TorchSubject(model, optimizer, scheduler, scaler), policy, run_dir)
