"""Who competes: nobody, a fixed clip, and the peers, each at its defaults and used as it says.

A contestant is made for one run. ``batches`` may leave batches out; ``update`` is called after
``backward`` and applies the update, changed or not, or does not.
"""

import copy
import importlib.metadata
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gym.training import Outcome
from spikes.contestants import olmo_optimizer


class Nobody:
    """Applies every update."""

    def __init__(self, model, optimizer, scheduler):
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.told = Outcome()
        self.step = -1

    def batches(self, loader):
        return loader

    def update(self, loss):
        self.step += 1
        if self.approve(loss):
            self.optimizer.step()

    def approve(self, _loss):
        """Whether the update is to be applied."""
        return True

    def acts(self, action, finding):
        self.told.actions[action] += 1
        self.told.first = self.told.first or (self.step, finding)

    def outcome(self):
        return self.told


class Clip(Nobody):
    """``clip_grad_norm_`` at 1."""

    def approve(self, _loss):
        if not torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0) <= 1.0:
            self.acts("clip", "above 1")
        return True


class ZClip(Nobody):
    def __init__(self, *parts):
        super().__init__(*parts)
        from zclip import ZClip as Peer

        self._peer = Peer()

    def approve(self, _loss):
        before = self._peer.step(self.model)
        after = torch.nn.utils.get_total_norm(
            p.grad for p in self.model.parameters() if p.grad is not None
        )
        if not after >= before * (1 - 1e-3):
            self.acts("clip", "above the limit")
        return True


class OlmoCore(Nobody):
    """Its rule, with the loss and the gradient norm."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self._rule = olmo_optimizer()([torch.nn.Parameter(torch.zeros(1))], {})

    def approve(self, loss):
        self._rule.latest_loss = loss.detach()
        self._rule.latest_grad_norm = torch.nn.utils.get_total_norm(
            p.grad for p in self.model.parameters() if p.grad is not None
        )
        if self._rule.get_step_factor().item() == 0:
            self.acts("skip", "6 sigma")
            return False
        return True


class StabilityGuard(Nobody):
    action = "skip"

    def __init__(self, *parts):
        super().__init__(*parts)
        from stabilityguard import GuardedOptimizer

        with tempfile.TemporaryDirectory() as folder:
            self._peer = GuardedOptimizer(
                self.optimizer, self.model, nan_action=self.action, verbose=False, log_dir=folder
            )
        # Its reports would be written and printed at each spike.
        logger = self._peer._spike_logger  # noqa: SLF001 - it says nowhere else what it did
        logger.enable_file = logger.enable_stdout = False

    def update(self, loss):
        self.step += 1
        before = self._peer.total_spikes
        self._peer.step(loss=loss.item())
        if self._peer.total_spikes > before:
            self.acts(self.action, "spike")


class StabilityGuardRollback(StabilityGuard):
    action = "rollback"


class Arc(Nobody):
    def __init__(self, *parts):
        super().__init__(*parts)
        from arc import Controller

        self._peer = Controller(self.model, self.optimizer, self.scheduler, verbose=False)

    def approve(self, loss):
        action = self._peer.step(loss)
        if action.rolled_back:
            self.acts("rollback", str(action.failure_type))
        elif action.should_skip:
            self.acts("skip", str(action.failure_type))
        if action.lr_reduced:
            self.acts("lower-lr", str(action.failure_type))
        return not action.should_skip

    def outcome(self):
        self._peer.close()
        return self.told


class LeavesOut(Nobody):
    """No contestant, but what recovery costs: a clean run without some of its updates."""

    start, count = 150, 1

    def approve(self, _loss):
        return not self.start <= self.step < self.start + self.count


class LeavesOut15(LeavesOut):
    count = 15


class GoesBack(Nobody):
    """The same: a clean run that once loses its last steps, but for the data."""

    start, count = 150, 20

    def approve(self, _loss):
        parts = self.model, self.optimizer, self.scheduler
        if self.step == self.start:
            self._kept = copy.deepcopy([part.state_dict() for part in parts])
        if self.step == self.start + self.count:
            for part, state in zip(parts, self._kept, strict=True):
                part.load_state_dict(state)
            return False
        return True


class GoesBack50(GoesBack):
    count = 50


@dataclass(frozen=True)
class Entry:
    """A contestant: how it is made, and of which package."""

    make: Callable[..., Any]
    package: str | None = None

    @property
    def version(self):
        """The version of the package, None if there is none."""
        return importlib.metadata.version(self.package) if self.package else None

    def missing(self):
        """Why it cannot run, or None."""
        try:
            model = torch.nn.Linear(1, 1)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            self.make(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))
        except Exception as error:  # noqa: BLE001 - a peer may fail in any way; its row says how
            return f"{type(error).__name__}: {error}".partition("\n")[0]
        return None


PEERS = {
    "none": Entry(Nobody, "torch"),
    "clip": Entry(Clip, "torch"),
    "zclip": Entry(ZClip, "zclip"),
    "olmo": Entry(OlmoCore, "ai2-olmo-core"),
    "stabilityguard-skip": Entry(StabilityGuard, "stabilityguard"),
    "stabilityguard-rollback": Entry(StabilityGuardRollback, "stabilityguard"),
    "arc": Entry(Arc, "arc-training"),
}
COSTS = {
    "1 batch left out": Entry(LeavesOut, "torch"),
    "15 batches left out": Entry(LeavesOut15, "torch"),
    "20 steps back": Entry(GoesBack, "torch"),
    "50 steps back": Entry(GoesBack50, "torch"),
}
