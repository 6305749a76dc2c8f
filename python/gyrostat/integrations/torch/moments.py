"""Gradients beside the moments that PyTorch's optimizers of Adam's kind keep of them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from gyrostat.pairs import compare_all
from gyrostat.rules import Moments

__all__ = ["adam_moments"]


def adam_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Moments | None:
    """Compares gradients with the optimizer's moments, after ``backward`` and before its step.

    The second moment is that which the step will have: with this gradient in it, and free of bias,
    as in StableAdamW (Wortsman et al., 2023). It takes some passes over the gradients, so call it
    every n-th step of large models. What is on another device is read there, the first moments and
    gradients are copied to the host.

    Args:
        model: The model; gradients are freed of any loss scale.
        optimizer: Adam, AdamW, NAdam, RAdam or another with ``exp_avg`` and ``exp_avg_sq``.

    Returns:
        The comparison; None before the first step, and if the optimizer has no such moments.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    gradients: dict[str, Tensor] = {}
    firsts: dict[str, Tensor] = {}
    rms: list[Tensor] = []
    with torch.no_grad():
        for name, p in model.named_parameters():
            state = optimizer.state.get(p, {})
            if p.grad is None or p.grad.is_sparse or "exp_avg_sq" not in state:
                continue
            gradients[name], firsts[name] = p.grad.detach(), state["exp_avg"]
            rms.append(_rms(p.grad.float(), state, groups[id(p)]))
    if not gradients:
        return None
    table = compare_all(
        {name: g.cpu() for name, g in gradients.items()},
        {name: m.cpu() for name, m in firsts.items()},
    )
    known = torch.stack([value.to(rms[0].device) for value in rms]).double().cpu().numpy()
    broken = table.nonfinite_count > 0
    return Moments(
        table.names,
        np.where(broken, math.nan, known),
        np.where(broken, math.nan, table.cosine),
        math.nan if broken.any() else table.total.cosine,
    )


def _rms(gradient: Tensor, state: dict[str, Tensor], group: dict[str, object]) -> Tensor:
    beta = float(group["betas"][1])  # type: ignore[index]  # a pair, whatever the optimizer
    squares = gradient.square()
    second = state["exp_avg_sq"].float() * beta + (1.0 - beta) * squares
    second /= 1.0 - beta ** (float(state["step"]) + 1.0)
    eps = float(group["eps"])  # type: ignore[arg-type]  # a number, whatever the optimizer
    return (squares / second.clamp_min(max(eps * eps, 1e-38))).mean().sqrt()
