"""Learning rates that rise again after a rollback or a reset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch

from gyrostat.integrations.torch.learning_rate import LearningRateScale
from gyrostat.integrations.torch.steadying import _check

__all__ = ["Rewarmup", "rewarmup_factor"]

_VERSION = 1

_Shape = Literal["linear", "cosine"]


def rewarmup_factor(step: int, steps: int, start: float = 0.01, shape: _Shape = "linear") -> float:
    """The factor to the learning rate, ``step`` steps after a rollback.

    It rises from ``start`` at step 0 to 1 at step ``steps`` and stays there: along a line (Goyal et
    al. 2017, arXiv 1706.02677) or half a cosine (SPAM, arXiv 2501.06842, from 0.01 in 150 steps).

    Args:
        step: Steps since the rollback, 0 for the first one.
        steps: How many steps it takes.
        start: The factor of the first step, of [0, 1).
        shape: ``"linear"`` or ``"cosine"``.

    Returns:
        A number from ``start`` to 1.
    """
    _check.count("step", step, 0)
    _check.count("steps", steps, 0)
    _check.fraction("start", start)
    if shape not in get_args(_Shape):
        raise ValueError(f"shape: expected one of {get_args(_Shape)}, got {shape!r}")
    if step >= steps:
        return 1.0
    done = step / steps
    if shape == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return start + (1 - start) * done


class Rewarmup:
    """Lets the learning rate of an optimizer rise anew; no scheduler sees it.

    Example::

        rewarmup = Rewarmup(optimizer, steps=100)
        ...
        restore(model, optimizer, scheduler)  # a rollback
        rewarmup.restart()

    Hooks of the optimizer scale the ``lr`` of each group, a number or a tensor, for the time of
    ``optimizer.step()`` and put back the very object: schedulers and checkpoints see the rate
    as it was. A step that a ``GradScaler`` skips is not counted, unless the optimizer is fused and
    does the skipping itself. Until the first :meth:`restart` nothing is scaled.

    Args:
        optimizer: The optimizer.
        steps: See :func:`rewarmup_factor`.
        start: See :func:`rewarmup_factor`.
        shape: See :func:`rewarmup_factor`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        steps: int = 100,
        start: float = 0.01,
        shape: _Shape = "linear",
    ) -> None:
        _check.optimizer_of(optimizer)
        rewarmup_factor(0, steps, start, shape)  # for its checks
        self.steps, self.start, self.shape = steps, start, shape
        self._done = steps
        self._open = False
        # Hooks run in the order in which they are registered: the factor is set, then used.
        before = optimizer.register_step_pre_hook(self._before)
        self._scale = LearningRateScale(optimizer)
        self._hooks = [before, optimizer.register_step_post_hook(self._after)]

    @property
    def factor(self) -> float:
        """The factor of the next step."""
        return rewarmup_factor(self._done, self.steps, self.start, self.shape)

    def restart(self) -> None:
        """Begins at the next step."""
        self._done = 0

    def remove(self) -> None:
        """Takes the hooks off the optimizer."""
        self._scale.remove()
        for hook in self._hooks:
            hook.remove()

    def _before(self, *_: Any) -> None:
        self._open = True
        self._scale.factor = self.factor

    def _after(self, *_: Any) -> None:
        # The hooks of an optimizer that calls the step of its base class run twice a step.
        if self._open:
            self._done = min(self._done + 1, self.steps)
        self._open = False

    def state_dict(self) -> dict[str, Any]:
        """Steps since the last restart, as plain values for JSON."""
        return {"version": _VERSION, "done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If it is no such state.
        """
        self._done = min(_check.count_in(state, "done", _VERSION), self.steps)
