"""The guard of one run: measure, judge, act, record."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from gyrostat.findings import Finding, Severity, worst
from gyrostat.guard.batches import BatchRegistry
from gyrostat.guard.history import History
from gyrostat.guard.journal import Incident, Journal
from gyrostat.guard.policy import Action, Decider, Policy
from gyrostat.guard.snapshots import Snapshot, SnapshotRing
from gyrostat.report import Chart, Report, Table
from gyrostat.rules import WEIGHT_DAMAGE, GradientRule, LossCurve, check_weights
from gyrostat.spikes import SpikeDetector

__all__ = ["Guard", "Subject", "Verdict"]

_LOG = logging.getLogger("gyrostat")
_VERSION = 1


class Subject(Protocol):
    """What the guard needs of a model and its optimizer."""

    def gradient_norms(self) -> Mapping[str, float]:
        """L2 norm of each gradient by parameter name; NaN or Inf if it holds either."""

    def weight_extremes(self) -> Mapping[str, float]:
        """Largest absolute value of each parameter by name; NaN or Inf if it holds either."""

    def expects_overflow(self) -> bool:
        """Whether a loss scaler is at work, which skips updates of non-finite gradients itself."""

    def capture(self) -> object:
        """A deep copy of all state that an update changes: weights, optimizer, schedule, RNG."""

    def restore(self, state: object) -> None:
        """Goes back to a captured state, which stays usable."""

    def leaves(self, batch: object) -> Iterable[NDArray[Any]]:
        """The arrays of a batch, for its identity."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The guard's answer for one step. True if the update is to be applied.

    Attributes:
        action: What the guard did.
        findings: What it found.
    """

    action: Action
    findings: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return self.action is Action.CONTINUE


class Guard:
    """Watches one run and acts on what it finds.

    Args:
        subject: The model and optimizer, behind the :class:`Subject` interface.
        policy: ``"observe"``, ``"recover"`` or a :class:`Policy`.
        run_dir: Folder for ``journal.jsonl``. A journal found there is read: its batches stay left
            out after a restart. None keeps the journal in memory.

    Attributes:
        step: Number of calls of :meth:`approve` so far.
        stopped: Whether the policy has ended the run.
    """

    def __init__(
        self,
        subject: Subject,
        policy: str | Policy = "recover",
        run_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.policy = Policy.preset(policy)
        self.step = 0
        self.stopped = False
        self._subject = subject
        self._decider = Decider(self.policy)
        self._detector = SpikeDetector()
        self._gradients = GradientRule()
        self._curve = LossCurve()
        self._snapshots = SnapshotRing(self.policy.snapshots_kept)
        self._registry = BatchRegistry(subject.leaves)
        self._suspects: list[str] = []
        self._told: frozenset[str] = frozenset()
        self._history = History()
        self._findings: list[Finding] = []
        self._journal = Journal(None if run_dir is None else Path(run_dir) / "journal.jsonl")
        for incident in self._journal.incidents:
            self._registry.bad.difference_update(incident.forgiven)
            self._registry.bad.update(incident.left_out)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything found since this guard was made."""
        return tuple(self._findings)

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Everything in the journal, earlier runs in the same ``run_dir`` included."""
        return tuple(self._journal.incidents)

    @property
    def bad_batches(self) -> frozenset[str]:
        """Identities of the batches that :meth:`batches` leaves out."""
        return frozenset(self._registry.bad)

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Iterates over ``loader`` once, giving each batch an identity.

        Batches known to be bad are left out. The iteration ends early if the policy stops the run.
        """
        for batch in self._registry.iterate(loader):
            if self.stopped:
                return
            yield batch

    def approve(self, loss: Any) -> Verdict:
        """Measures and judges one step, and acts on it.

        Call it after ``backward`` and before the optimizer's step.

        Args:
            loss: The loss of this step: a number or anything ``float`` takes.

        Returns:
            A :class:`Verdict`: true if the update is to be applied.

        Raises:
            TypeError: If ``loss`` is not a single real number.
            RuntimeError: If the policy has stopped the run before.
        """
        try:
            value = float(loss.detach() if hasattr(loss, "detach") else loss)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"loss: expected one real number, got {type(loss).__name__}") from error
        if self.stopped:
            raise RuntimeError("the guard stopped this run; see guard.report()")
        step = self.step
        self.step += 1
        norms = self._subject.gradient_norms()
        findings = self._judge(value, norms, step)
        # Where the loss goes is told, never acted on: no batch is to blame for a curve.
        told = self._curve.update(value, step)
        for finding in told:
            if finding.severity >= Severity.WARNING:
                _LOG.warning("%s", finding)
        self._findings += [*findings, *told]
        self._history.append(step, value, math.hypot(*norms.values()))
        damaged = any(f.code in WEIGHT_DAMAGE for f in findings)
        proposed = self._decider.decide(
            findings, damaged=damaged, can_roll_back=self._snapshots.newest is not None
        )
        if proposed is Action.CONTINUE:
            self._suspects.clear()
            self._told = frozenset()
            self._take_snapshot(step)
            return Verdict(Action.CONTINUE, (*findings, *told))
        action = proposed if self.policy.act else Action.CONTINUE
        self._record(self._act(action, proposed, findings, step, damaged=damaged))
        return Verdict(action, (*findings, *told))

    def report(self) -> Report:
        """The run so far: findings, what was done, and the picture of it."""
        step, loss, grad_norm = self._history.columns()
        marks = [f for f in self._findings if f.severity >= Severity.WARNING]
        rows = [
            (i.step, i.action, i.proposed, "; ".join(f.code for f in i.findings), i.batch or "")
            for i in self._journal.incidents
        ]
        sections: list[Chart | Table] = [
            Chart("loss", step, {"loss": loss}, marks, log_y=True),
            Chart("gradient norm", step, {"grad_norm": grad_norm}, marks, log_y=True),
        ]
        if rows:
            columns = ("step", "action", "proposed", "found", "batch")
            sections.append(Table("What was done", columns, rows))
        return Report(
            f"guarded run, policy {self.policy.name}",
            self._findings,
            summary={
                "steps": self.step,
                "skipped": sum(i.action is Action.SKIP for i in self._journal.incidents),
                "rolled back": sum(i.action is Action.ROLLBACK for i in self._journal.incidents),
                "batches left out": len(self._registry.bad),
                "stopped": self.stopped,
            },
            sections=sections,
        )

    def state_dict(self) -> dict[str, Any]:
        """The guard's own state as plain values, to be saved with the checkpoint."""
        return {
            "version": _VERSION,
            "step": self.step,
            "epoch": self._registry.epoch,
            "stopped": self.stopped,
            "bad_batches": sorted(self._registry.bad),
            "budgets": self._decider.state_dict(),
            "rules": self._rules_state(),
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`. Snapshots start afresh.

        Raises:
            ValueError: If ``d`` is no such state.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a state of Guard, version {_VERSION}")
        step, epoch, bad = d.get("step"), d.get("epoch"), d.get("bad_batches")
        if not isinstance(step, int) or not isinstance(epoch, int) or not isinstance(bad, list):
            raise ValueError("state: step and epoch must be integers, bad_batches a list")
        rules, budgets = d.get("rules"), d.get("budgets")
        if not isinstance(rules, Mapping) or not isinstance(budgets, Mapping):
            raise ValueError("state: lacks rules or budgets")
        self._load_rules(rules)
        self._decider.load_state_dict(budgets)
        self.step, self._registry.epoch = step, epoch
        self.stopped = bool(d.get("stopped"))
        self._registry.bad = set(map(str, bad))
        self._snapshots = SnapshotRing(self.policy.snapshots_kept)

    def _judge(self, loss: float, norms: Mapping[str, float], step: int) -> list[Finding]:
        total = math.hypot(*norms.values())
        findings = []
        if (finding := self._detector.update(loss, total, step=step)) is not None:
            findings.append(finding)
        scaler_skips = not math.isfinite(total) and self._subject.expects_overflow()
        if not scaler_skips and (finding := self._gradients.update(norms, step)) is not None:
            # The rule names the layer; what the detector saw of the same gradient adds nothing.
            findings = [f for f in findings if f.code != finding.code]
            findings.append(finding)
        if worst(findings) in (None, Severity.INFO):
            return self._with_culprits(findings, norms)
        # Weights are looked at only when something is wrong: it costs a read of all of them.
        if (healthy := self._snapshots.newest) is not None:
            damage = check_weights(self._subject.weight_extremes(), healthy.weights, step)
            if damage is not None:
                findings.append(damage)
        return self._with_culprits(findings, norms)

    def _with_culprits(self, findings: list[Finding], norms: Mapping[str, float]) -> list[Finding]:
        """Names batch and layer where a finding does not name them itself."""
        layer = next((f.culprit.layer for f in reversed(findings) if f.culprit.layer), None)
        if layer is None and findings and (blamed := self._gradients.blame(norms)) is not None:
            layer = blamed[0]
        batch = self._registry.current
        identity = batch.identity if batch is not None else None
        return [
            replace(f, culprit=replace(f.culprit, layer=f.culprit.layer or layer, batch=identity))
            for f in findings
        ]

    def _act(
        self,
        action: Action,
        proposed: Action,
        findings: list[Finding],
        step: int,
        *,
        damaged: bool,
    ) -> Incident:
        batch = self._registry.current
        left_out: tuple[str, ...] = ()
        forgiven: tuple[str, ...] = ()
        restored: int | None = None
        if action is not Action.CONTINUE and batch is not None and not damaged:
            left_out = (batch.identity,)
            self._suspects.append(batch.identity)
        if action in (Action.ROLLBACK, Action.STOP):
            if damaged:
                # The weights were at fault: the batches skipped on the way here are innocent.
                forgiven = tuple(self._suspects)
            self._suspects.clear()
            restored = self._go_back()
            self.stopped = action is Action.STOP
        self._registry.bad.difference_update(forgiven)
        self._registry.bad.update(left_out)
        return Incident(
            step=step,
            findings=tuple(findings),
            action=action,
            proposed=proposed,
            batch=batch.identity if batch is not None else None,
            position=(batch.epoch, batch.index) if batch is not None else None,
            left_out=left_out,
            forgiven=forgiven,
            restored_step=restored,
            time=time.time(),
        )

    def _record(self, incident: Incident) -> None:
        codes = frozenset(f.code for f in incident.findings)
        if incident.action is Action.CONTINUE and codes <= self._told:
            return  # a run that is only observed says the same thing once, not at every step
        self._told = codes
        self._journal.append(incident)
        _LOG.warning("%s", incident)

    def _take_snapshot(self, step: int) -> None:
        newest = self._snapshots.newest
        due = newest is None or step - newest.step >= self.policy.snapshot_every
        if due:
            # A run that is only observed never goes back: its weights' extremes are enough.
            self._snapshots.add(
                Snapshot(
                    step,
                    self._subject.capture() if self.policy.act else None,
                    dict(self._subject.weight_extremes()),
                    self._rules_state(),
                )
            )

    def _go_back(self) -> int | None:
        if self._snapshots.newest is None:
            return None
        snapshot = self._snapshots.take_back()
        self._subject.restore(snapshot.state)
        self._load_rules(snapshot.rules)
        return snapshot.step

    def _rules_state(self) -> dict[str, Any]:
        return {
            "loss": self._detector.state_dict(),
            "gradients": self._gradients.state_dict(),
            "curve": self._curve.state_dict(),
        }

    def _load_rules(self, state: Mapping[str, Any]) -> None:
        self._detector.load_state_dict(state.get("loss", {}))
        self._gradients.load_state_dict(state.get("gradients", {}))
        # A checkpoint of before these rules has no state of theirs.
        curve = LossCurve()
        if "curve" in state:
            curve.load_state_dict(state["curve"])
        self._curve = curve
