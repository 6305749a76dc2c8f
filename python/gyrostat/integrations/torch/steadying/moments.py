"""Resets of what an optimizer remembers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gyrostat.integrations.torch.steadying import _check
from gyrostat.integrations.torch.steadying.schedule import Rewarmup

__all__ = ["MomentumReset", "reset_moments_"]

_VERSION = 1

# What each has before the first step, in the optimizers of torch and those that use their names.
_MOMENTS = {
    "step": 0.0,
    "exp_avg": 0.0,
    "exp_avg_sq": 0.0,
    "max_exp_avg_sq": 0.0,
    "exp_inf": 0.0,
    "momentum_buffer": 0.0,
    "square_avg": 0.0,
    "grad_avg": 0.0,
    "acc_delta": 0.0,
    "mu_product": 1.0,
}


@torch.no_grad()
def reset_moments_(optimizer: torch.optim.Optimizer) -> None:
    """Sets momentum, second moments and the count of steps to what they are before the first step.

    In place, so that fused and captured optimizers keep their memory; NaN and Inf in them are gone.
    Other state (compensation of rounding, masks) stays. With the count the bias correction of Adam
    starts anew: the next update is of the size of the learning rate. Were it left, as in SPAM, the
    next would be (1 - b1) / sqrt(1 - b2) as large, 3.2 times for the usual betas. Raise the rate
    slowly all the same (:class:`Rewarmup`): the first updates follow single batches.

    Args:
        optimizer: Any that keeps what it remembers under the names that Adam, SGD, RMSprop,
            Adadelta, Adamax, NAdam or RAdam of torch give it; or one that has not stepped yet.

    Raises:
        ValueError: If a parameter has state and none of it has such a name.
    """
    _check.optimizer_of(optimizer)
    for state in optimizer.state.values():
        if not isinstance(state, dict) or not state:
            continue
        known = [name for name in state if name in _MOMENTS]
        if not set(known) - {"step"} and any(isinstance(x, torch.Tensor) for x in state.values()):
            raise ValueError(f"optimizer: knows no moments among {sorted(map(str, state))}")
        for name in known:
            if isinstance(state[name], torch.Tensor):
                state[name].fill_(_MOMENTS[name])
            elif state[name] is not None:
                state[name] = type(state[name])(_MOMENTS[name])
    for group in optimizer.param_groups:
        # Some keep the count by group, one and the same tensor for every parameter.
        step = group.get("step")
        if isinstance(step, torch.Tensor):
            step.zero_()
        elif step is not None:
            group["step"] = 0


class MomentumReset:
    """Resets the moments every so many steps, and lets the learning rate rise again.

    Huang et al. 2025, "SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training", arXiv
    2501.06842: what a spike leaves in the moments goes on for many steps; reset, it cannot. After
    each reset the learning rate rises along half a cosine. Together with :class:`SpikeAwareClip`
    that is SPAM, with the optimizer of your choice.

    Counts the steps that the optimizer makes, by hooks; a step that a ``GradScaler`` skips is none.
    Does nothing about NaN in gradients; what NaN has left in the moments ends with the next reset.

    Args:
        optimizer: See :func:`reset_moments_`.
        every: Steps from reset to reset, the paper's 500.
        warmup_steps: Steps of the rise, the paper's 150; 0 leaves it out.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, every: int = 500, warmup_steps: int = 150
    ) -> None:
        self.optimizer = _check.optimizer_of(optimizer)
        self.every = _check.count("every", every)
        _check.count("warmup_steps", warmup_steps, 0)
        self._rewarmup = Rewarmup(optimizer, warmup_steps, shape="cosine")
        self._done = 0
        self._open = False
        self._hooks = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def _before(self, *_: Any) -> None:
        self._open = True

    def _after(self, *_: Any) -> None:
        if not self._open:  # the second time, for an optimizer that calls its base class
            return
        self._open = False
        self._done += 1
        if self._done % self.every == 0:
            self.reset()

    def reset(self) -> None:
        """Resets at once, as after a rollback."""
        reset_moments_(self.optimizer)
        self._rewarmup.restart()

    def remove(self) -> None:
        """Takes the hooks off the optimizer."""
        for hook in self._hooks:
            hook.remove()
        self._rewarmup.remove()

    def state_dict(self) -> dict[str, Any]:
        """The steps done and the state of the rise, as plain values for JSON."""
        return {
            "version": _VERSION,
            "done": self._done,
            "rewarmup": self._rewarmup.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; the moments themselves are in that of the optimizer.

        Raises:
            ValueError: If it is no such state.
        """
        done = _check.count_in(state, "done", _VERSION)
        self._rewarmup.load_state_dict(state.get("rewarmup", {}))
        self._done = done
