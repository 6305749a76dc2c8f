"""Gyrostat in a PyTorch training loop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from gyrostat.findings import Finding
from gyrostat.guard import Guard as AnyGuard
from gyrostat.guard import Policy
from gyrostat.guard.ladder import Decision
from gyrostat.guard.monitor import Verdict
from gyrostat.guard.subject import Measured
from gyrostat.integrations.torch.explain import Explainer
from gyrostat.integrations.torch.ranks import group_of
from gyrostat.integrations.torch.scoring import ComputeLoss
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
        compute_loss: Mean loss of a model for a batch, a scalar tensor; see ``docs/replay.md``.
            With it the samples of a batch of high loss are scored, of one batch in 100 steps at
            most: two passes over a batch without gradients, 16 under batch norms. The batches of
            the last 64 steps are held for :meth:`explain`.

    Raises:
        TypeError: If ``model`` or ``optimizer`` is something else.
        ValueError: If a number is out of range, if ``lag`` is 1 with a loss scaler at work, which
            makes the host wait itself, or if model or policy are not the same on every rank, or if
            there is a ``compute_loss`` with ``lag=1`` or several ranks.
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
        compute_loss: ComputeLoss | None = None,
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
        if compute_loss is not None and (lag or together is not None):
            raise ValueError("compute_loss: expected None with lag=1, and in a run of many ranks")
        if run_dir is not None and together is not None and (rank := dist.get_rank(together)):
            run_dir = Path(run_dir) / f"rank-{rank}"
        settings = policy.to_dict() | {"lag": lag}
        subject = TorchSubject(
            model, optimizer, scheduler, scaler, group, settings, may_wait=not lag
        )
        super().__init__(subject, policy, run_dir, lag)
        self._explainer = (
            None if compute_loss is None else Explainer(model, optimizer, compute_loss)
        )
        self._measured: Measured | None = None

    def explain(self) -> tuple[Finding, ...]:
        """Replays the steps up to the last incident, each time with one thing changed.

        It takes as much memory as another model and optimizer, and the time of at most six times
        the steps since the snapshot, of which there are at most 64. The run is not touched.

        Returns:
            :attr:`hypotheses`, with what came of it.

        Raises:
            RuntimeError: If the guard has no ``compute_loss``, or if there is no incident of a loss
                too high or of values not finite that can be replayed: it takes a snapshot, which
                ``policy="observe"`` does not take, and batches from :meth:`batches`.
        """
        if self._explainer is None:
            raise RuntimeError("explain: the guard was made without compute_loss")
        for outcome in self._explainer.outcomes():
            if outcome.cause is not None:
                step = self._explainer.step or 0
                self._examiner.counterfactual(outcome.cause, outcome.weight, step, outcome.text)
        return self.hypotheses

    def _judge(
        self, measured: Measured, step: int
    ) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
        named, told = super()._judge(measured, step)
        self._measured = measured
        if self._explainer is None or len(self._pending) != 1 or not named:
            return named, told
        earlier = self._earlier_batch()
        data = None if earlier is None else earlier[1]
        scores = self._explainer.scores(named, self._data, data, step)
        if scores is None or not scores.places:
            return named, told
        return self._examiner.scored(named, scores.places, self._pending[-1]), told

    def _carry_out(
        self,
        decision: Decision,
        findings: tuple[Finding, ...],
        told: tuple[Finding, ...],
        step: int,
        *,
        gated: bool = False,
    ) -> Verdict:
        explainer, measured = self._explainer, self._measured
        if explainer is None or measured is None or len(self._pending) != 1:
            return super()._carry_out(decision, findings, told, step, gated=gated)
        position, data = self._position - 1, self._data
        rates = tuple(rate * self.lr_factor for rate in measured.rates)
        updated = decision.action.updates or not self.policy.act
        explainer.record(position, data, rates, updated=updated)
        healthy = self._keeper.healthy
        if healthy is not None:
            explainer.incident(findings, measured.loss, step, position, healthy)
        return super()._carry_out(decision, findings, told, step, gated=gated)
