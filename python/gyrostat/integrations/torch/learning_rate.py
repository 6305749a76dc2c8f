"""A factor on an optimizer's learning rate that no schedule ever sees."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["LearningRateScale"]


class LearningRateScale:
    """Multiplies the learning rates of an optimizer for the length of each of its steps.

    Before and after a step the rates are what the user or the schedule has set, so schedules that
    compute a rate from the one before are not disturbed, nor are logs and checkpoints.

    Args:
        optimizer: The optimizer, whose hooks are used.

    Attributes:
        factor: The factor, 1.0 to begin with. A float rate stays a float, a tensor a tensor.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.factor = 1.0
        self._held: list[tuple[dict[str, Any], Any]] = []
        self._hooks = (
            optimizer.register_step_pre_hook(self._scale),
            optimizer.register_step_post_hook(self._give_back),
        )

    def remove(self) -> None:
        """Lets go of the optimizer."""
        self._give_back()
        for hook in self._hooks:
            hook.remove()

    def _scale(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._give_back()  # what a step that failed has left behind
        if self.factor == 1.0:
            return
        for group in optimizer.param_groups:
            self._held.append((group, group["lr"]))
            group["lr"] = group["lr"] * self.factor

    def _give_back(self, *_: object) -> None:
        for group, rate in self._held:
            group["lr"] = rate
        self._held.clear()
