"""Averages of weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from gyrostat.integrations.torch.steadying import _check

__all__ = ["ema_multi_avg_fn"]

_Update = Callable[[list[torch.Tensor], list[torch.Tensor], torch.Tensor | int], None]


def ema_multi_avg_fn(decay: float = 0.999, *, warmup: bool = True) -> _Update:
    """An exponential average for :class:`torch.optim.swa_utils.AveragedModel`.

    Example::

        ema = AveragedModel(model, multi_avg_fn=ema_multi_avg_fn(0.999)).float()
        for batch in loader:
            ...
            optimizer.step()
            ema.update_parameters(model)

    Differs from :func:`torch.optim.swa_utils.get_ema_multi_avg_fn` in three ways. Weights that hold
    NaN or Inf leave the average as it is (all of the same dtype and device), where torch's stays
    NaN for good; the very first update copies the weights whatever they are. The average may be of
    float32 while the model is of bfloat16 or float16 (``.float()`` above): in bfloat16 an update of
    a thousandth is rounded away. With ``warmup`` the decay of update n is at most (1 + n) /
    (10 + n), so that an early average does not hang on the first weights. Nothing waits for the
    device. The state is that of AveragedModel, and goes on to the bit.

    Args:
        decay: Share of the average that stays, of [0, 1).
        warmup: Whether the decay grows to that from 0.18 at the first average.
    """
    decay = _check.fraction("decay", decay)

    @torch.no_grad()
    def update(
        averaged: list[torch.Tensor], current: list[torch.Tensor], n: torch.Tensor | int
    ) -> None:
        if not averaged[0].is_floating_point():
            for a, c in zip(averaged, current, strict=True):
                a.copy_(c)
            return
        # The largest magnitude neither overflows nor, unlike max, loses a NaN.
        filled = [c for c in current if c.numel()]
        if not filled:
            return
        largest = torch._foreach_norm(filled, math.inf)  # noqa: SLF001  # in one launch
        good = torch.stack(largest).isfinite().all()
        passed = torch.as_tensor(n, device=good.device).double()
        kept = ((1 + passed) / (10 + passed)).clamp_(max=decay) if warmup else decay
        weight = torch.as_tensor(1 - kept, device=good.device)
        for a, c in zip(averaged, current, strict=True):
            a.lerp_(torch.where(good, c.to(a.dtype), a), weight.to(a.dtype))

    return update
