"""The guard of one run: measure, judge, act, record."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gyrostat.findings import Finding, Severity, worst
from gyrostat.guard.batches import Batch, BatchRegistry
from gyrostat.guard.examiner import Examiner
from gyrostat.guard.history import History
from gyrostat.guard.journal import Incident, Journal
from gyrostat.guard.ladder import ACTED_ON, Decision, Ladder, Situation
from gyrostat.guard.policy import Action, Policy
from gyrostat.guard.restarts import SnapshotFiles
from gyrostat.guard.snapshots import Pace, Snapshot, SnapshotRing
from gyrostat.guard.subject import Gradients, Subject
from gyrostat.guard.watch import Watch
from gyrostat.report import Chart, Report, Table
from gyrostat.rules import WEIGHT_DAMAGE, check_weights

__all__ = ["Guard", "Verdict"]

_LOG = logging.getLogger("gyrostat")
_VERSION = 2
_PARTS = ("batches", "ladder", "watch", "examiner")
_APPLIED = 4  # batches whose updates are left out when a rollback alone has not helped


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
        return self.action.updates


@dataclass(slots=True)
class _Probe:
    """An earlier batch that is being tried again, and what led to it."""

    findings: tuple[Finding, ...]
    batch: Batch
    random: Any = None
    under_way: bool = False


class Guard:
    """Watches one run and acts on what it finds.

    Args:
        subject: The model and optimizer, behind the :class:`~gyrostat.guard.Subject` interface.
        policy: ``"observe"``, ``"cautious"``, ``"recover"`` or a :class:`Policy`.
        run_dir: Folder for ``journal.jsonl``, ``left-out.jsonl`` and ``checkpoints``. What is found
            there is read: batches stay left out after a restart, and :meth:`resume` goes on from
            the last checkpoint. None keeps all in memory.

    Attributes:
        step: Number of steps judged so far; one that is repeated after a rollback counts again.
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
        self._ladder = Ladder(self.policy)
        self._watch = Watch(self.policy.lr_jump)
        self._snapshots = SnapshotRing(self.policy.snapshots_kept, self.policy.healthy_after)
        self._pace = Pace(self.policy.snapshot_share, self.policy.snapshot_every)
        folder = None if run_dir is None else Path(run_dir)
        self._registry = BatchRegistry(
            subject.leaves,
            path=None if folder is None else folder / "left-out.jsonl",
            random_state=subject.random,
        )
        self._examiner = Examiner(subject, self._registry)
        self._position = 0
        self._pending: list[Batch] = []
        self._suspects: list[str] = []
        self._applied: deque[str] = deque(maxlen=_APPLIED)
        self._probe: _Probe | None = None
        self._data: Any = None
        self._settled = True
        self._clears = False
        self._told: frozenset[str] = frozenset()
        self._history = History()
        self._findings: list[Finding] = []
        self._journal = Journal(None if folder is None else folder / "journal.jsonl")
        self._files: SnapshotFiles | None = None
        if folder is not None:
            proof = max(self.policy.healthy_after, _APPLIED)
            self._files = SnapshotFiles(folder / "checkpoints", self.policy, subject.codec, proof)
        subject.hold_buffers()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything found since this guard was made."""
        return tuple(self._findings)

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Everything in the journal, earlier runs in the same ``run_dir`` included."""
        return tuple(self._journal.incidents)

    @property
    def next_epoch(self) -> int:
        """Number of the epoch that the next call of :meth:`batches` begins, or goes on with."""
        return self._registry.next_epoch

    @property
    def batch(self) -> Batch | None:
        """The batch that was handed out last."""
        return self._registry.current

    @property
    def hypotheses(self) -> tuple[Finding, ...]:
        """What may be behind the findings, the likeliest first; see ``docs/guard.md``."""
        return self._examiner.diagnosis.hypotheses()

    @property
    def bad_batches(self) -> frozenset[str]:
        """Identities of the batches that :meth:`batches` leaves out."""
        return frozenset(self._registry.bad)

    @property
    def lr_factor(self) -> float:
        """The factor on the learning rate that is in force, 1.0 if the guard leaves it alone."""
        if not self.policy.act:
            return 1.0
        allowed = Action.LOWER_LR in self.policy.actions
        return self._ladder.lr_relief * (self._watch.rates.factor if allowed else 1.0)

    def accept_learning_rate(self) -> None:
        """Says that a learning rate taken for a mistake is meant: it is scaled no more."""
        self._watch.rates.accept()
        self._subject.scale_learning_rate(self.lr_factor)

    def resume(self) -> bool:
        """Goes on where a run in the same ``run_dir`` was killed, from its last checkpoint.

        Model, optimizer, schedule, random numbers, the position in the data and the guard itself
        are as they were then; steps made since are made again, with the same bits. What the guard
        wrote down in them is taken back, so that it is found and done once more.

        Call it once, after everything was built as at the first start::

            guard = Guard(model, optimizer, scheduler, run_dir="runs/mine")
            guard.resume()
            for epoch in range(guard.next_epoch, epochs):
                for batch in guard.batches(loader):
                    ...

        Returns:
            Whether there was a checkpoint. If not, the run begins anew.

        Raises:
            ValueError: If the guard has no ``run_dir``, or the checkpoint is of another version.
        """
        if self._files is None:
            raise ValueError("run_dir: expected a folder to resume from, got None")
        found = self._files.newest()
        if found is None and not self.policy.checkpoints_kept:
            return False
        if found is not None:
            self.load_state_dict(found["guard"])
            self._subject.restore(found["subject"])
            self._subject.hold_buffers()
            _LOG.info("the run goes on from step %d", self.step)
        sizes = {"journal": 0, "left_out": 0} if found is None else found["sizes"]
        self._registry.undo_since(sizes["left_out"], self.step)
        self._journal.resume(self.step, sizes["journal"])
        return found is not None

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Iterates over ``loader`` once, giving each batch an identity.

        Batches known to be bad are left out. After a rollback the good ones since the snapshot are
        handed out again. When several steps in a row are bad, an earlier batch is handed out once
        more, to tell bad data from damaged weights; its update is never approved. The iteration
        ends early if the policy stops the run.
        """
        for data in self._registry.iterate(self._subject.source(loader), self._between_batches):
            if self.stopped:
                return
            self._pending += [] if self._registry.current is None else [self._registry.current]
            self._data = data
            yield data
            if self._probe is not None:
                yield from self._try_again()

    def approve(self, loss: Any) -> Verdict:
        """Measures and judges one step, and acts on it.

        Call it once for each update, after the last ``backward`` of it and before the optimizer's
        step.

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
        if self._probe is not None and self._probe.under_way:
            return self._judge_probe(value)
        step = self.step
        self.step += 1
        self._pace.step()
        records = self.policy.records_every
        full = records and self._position % records == 0
        gradients = self._subject.gradients("full" if full else None)
        findings, told = self._judge(value, gradients, step)
        self._position += 1
        self._findings += [*findings, *told]
        self._history.append(step, value, math.hypot(*gradients.norms.values()))
        decision = self._ladder.decide(self._situation(step, findings))
        verdict = self._carry_out(decision, findings, told, step)
        self._pending.clear()
        self._settled = True
        return verdict

    def report(self) -> Report:
        """The run so far: findings, what was done, and the picture of it."""
        step, loss, grad_norm = self._history.columns()
        marks = [f for f in self._findings if f.severity >= Severity.WARNING]
        incidents = self._journal.incidents
        rows = [
            (i.step, i.action, i.proposed, "; ".join(f.code for f in i.findings), i.batch or "")
            for i in incidents
        ]
        sections: list[Chart | Table] = [
            Chart("loss", step, {"loss": loss}, marks, log_y=True),
            Chart("gradient norm", step, {"grad_norm": grad_norm}, marks, log_y=True),
        ]
        if causes := self.hypotheses:
            told = [(f.code, f"{f.score:.2f}", str(f.culprit), f.message) for f in causes]
            sections.append(Table("What may be behind it", ("cause", "score", "who", "why"), told))
        if rows:
            columns = ("step", "action", "proposed", "found", "batch")
            sections.append(Table("What was done", columns, rows))
        return Report(
            f"guarded run, policy {self.policy.name}",
            self._findings,
            summary={
                "steps": self.step,
                "skipped": sum(i.action is Action.SKIP for i in incidents),
                "rolled back": sum(i.action is Action.ROLLBACK for i in incidents),
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
            "position": self._position,
            "stopped": self.stopped,
            "applied": list(self._applied),
            "suspects": list(self._suspects),
            "told": sorted(self._told),
            "clears_gradients": self._clears,
            "batches": self._registry.state_dict(),
            "ladder": self._ladder.state_dict(),
            "watch": self._watch.state_dict(),
            "examiner": self._examiner.state_dict(),
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`. Snapshots start afresh.

        Raises:
            ValueError: If ``d`` is no such state.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a state of Guard, version {_VERSION}")
        step, position, stopped = d.get("step"), d.get("position"), d.get("stopped")
        if not isinstance(step, int) or not isinstance(position, int):
            raise ValueError("state: step and position must be integers")
        lists = {name: _texts(name, d.get(name)) for name in ("applied", "suspects", "told")}
        parts = {name: d.get(name) for name in _PARTS}
        if not all(isinstance(part, Mapping) for part in parts.values()):
            raise ValueError(f"state: lacks one of {', '.join(parts)}")
        watch, ladder = Watch(self.policy.lr_jump), Ladder(self.policy)
        examiner = Examiner(self._subject, self._registry)
        watch.load_state_dict(d["watch"])
        ladder.load_state_dict(d["ladder"])
        examiner.load_state_dict(d["examiner"])
        self._registry.load_state_dict(d["batches"])
        self._watch, self._ladder, self._examiner = watch, ladder, examiner
        self.step, self._position, self.stopped = step, position, bool(stopped)
        self._applied = deque(lists["applied"], maxlen=_APPLIED)
        self._suspects, self._told = lists["suspects"], frozenset(lists["told"])
        self._pending.clear()
        self._probe, self._settled = None, True
        if d.get("clears_gradients") and not self._clears:
            self._clear_gradients()
        self._snapshots = SnapshotRing(self.policy.snapshots_kept, self.policy.healthy_after)
        self._subject.scale_learning_rate(self.lr_factor)

    # Judging

    def _judge(
        self, loss: float, gradients: Gradients, step: int
    ) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
        """Findings to act on, and those that are only told."""
        found = self._watch.update(loss, gradients, self._subject, self._position)
        acting = [f for f in found if f.code in ACTED_ON or f.code == "hard-batch"]
        if worst(acting) not in (None, Severity.INFO):
            # Weights are looked at only when something is wrong: it costs a read of all of them.
            healthy = self._snapshots.healthy
            if healthy is not None:
                damage = check_weights(self._subject.weight_extremes(), healthy.weights, step)
                acting += [] if damage is None else [damage]
        told = [f for f in found if f not in acting]
        told += self._examiner.look_around(self._pending, self._data, self._position)
        for finding in told:
            self._examiner.told(finding, gradients.norms)
            if finding.severity >= Severity.WARNING:
                _LOG.warning("%s", finding)
        named = self._with_culprits([replace(f, step=step) for f in acting], gradients.norms)
        if named:
            rises = self._watch.gradients.rises(gradients.norms)
            healthy = self._snapshots.healthy
            state = None if healthy is None else healthy.state
            named = self._examiner.diagnose(
                named, rises, self._pending, self._data, state, self._position
            )
        return tuple(named), tuple(replace(f, step=step) for f in told)

    def _with_culprits(
        self, findings: Sequence[Finding], norms: Mapping[str, float]
    ) -> list[Finding]:
        """Names batch and layer where a finding does not name them itself."""
        if not findings:
            return []
        layer = next((f.culprit.layer for f in reversed(findings) if f.culprit.layer), None)
        if layer is None and (blamed := self._watch.gradients.blame(norms)) is not None:
            layer = blamed[0]
        batch = self._pending[-1].identity if self._pending else None
        return [
            replace(f, culprit=replace(f.culprit, layer=f.culprit.layer or layer, batch=batch))
            for f in findings
        ]

    def _situation(self, step: int, findings: Sequence[Finding]) -> Situation:
        if not findings:
            return Situation(step=step)
        held = self._snapshots.healthy
        return Situation(
            step=step,
            findings=findings,
            can_probe=self.policy.act and self._earlier_batch() is not None,
            can_repair=held is not None,
            can_roll_back=held is not None,
        )

    # Acting

    def _carry_out(
        self,
        decision: Decision,
        findings: tuple[Finding, ...],
        told: tuple[Finding, ...],
        step: int,
    ) -> Verdict:
        proposed = decision.action
        action = proposed if self.policy.act else Action.CONTINUE
        if proposed is Action.CONTINUE:
            self._go_on()
        else:
            self._snapshots.bad_step()
            if self._files is not None:
                self._files.bad_step()
            self._record(self._act(action, decision, findings, step))
        if action.updates:
            self._applied.extend(batch.identity for batch in self._pending)
            self._subject.scale_learning_rate(self.lr_factor)
        return Verdict(action, (*findings, *told))

    def _go_on(self) -> None:
        self._suspects.clear()
        self._told = frozenset()
        self._snapshots.clean_step()
        if self._files is not None:
            self._files.clean_step()
        self._subject.hold_buffers()
        if self._registry.current is None and self._snapshot_is_due():
            # The update of this step is still to come.
            self._take_snapshot(None, ahead=1)

    def _act(
        self,
        action: Action,
        decision: Decision,
        findings: tuple[Finding, ...],
        step: int,
    ) -> Incident:
        codes = {f.code for f in findings}
        damaged, stale = bool(codes & WEIGHT_DAMAGE), "stale-gradient" in codes
        left_out: tuple[str, ...] = ()
        forgiven: tuple[str, ...] = ()
        restored: int | None = None
        if not action.updates and not damaged and not stale:
            left_out = tuple(batch.identity for batch in self._pending)
            self._suspects += left_out
        match action:
            case Action.CLIP:
                self._clip(findings)
            case Action.SKIP:
                self._subject.restore_buffers()
                if stale:
                    self._clear_gradients()
                if decision.probe:
                    batch, _ = self._earlier_batch() or (None, None)
                    if batch is not None:
                        self._probe = _Probe(findings, batch)
            case Action.RESET_MOMENTUM:
                healthy = self._snapshots.healthy
                assert healthy is not None  # noqa: S101 - the ladder was told whether there is one
                self._subject.restore_optimizer(healthy.state)
                self._watch.optimizer.forget()
            case Action.ROLLBACK | Action.STOP:
                if damaged:
                    # The weights were at fault: the batches skipped on the way here are innocent.
                    forgiven = tuple(self._suspects)
                self._suspects.clear()
                if decision.attempt > 1:
                    left_out += tuple(self._applied)
                restored = self._go_back(decision)
                self.stopped = action is Action.STOP
        if forgiven:
            reason = "the weights were at fault"
            self._registry.forgive(*forgiven, reason=reason, step=step)
        if left_out:
            reason = ", ".join(f.code for f in findings)
            self._registry.leave_out(*left_out, reason=reason, step=step)
        return self._incident(
            step,
            findings,
            action,
            decision.action,
            left_out=left_out,
            forgiven=forgiven,
            restored_step=restored,
        )

    def _incident(
        self,
        step: int,
        findings: tuple[Finding, ...],
        action: Action,
        proposed: Action,
        **changes: Any,
    ) -> Incident:
        batch = self._pending[-1] if self._pending else None
        return Incident(
            step=step,
            findings=findings,
            action=action,
            proposed=proposed,
            batch=batch.identity if batch is not None else None,
            position=(batch.epoch, batch.index) if batch is not None else None,
            lr_factor=self.lr_factor,
            causes=tuple((f.code, f.score or 0.0) for f in self.hypotheses[:2]),
            time=time.time(),
            **changes,
        )

    def _clear_gradients(self) -> None:
        self._clears = True
        self._subject.clear_gradients_after_updates()

    def _clip(self, findings: Sequence[Finding]) -> None:
        """Brings the gradient down to what was expected of it."""
        spike = next(f for f in findings if f.code == "gradient-spike")
        if spike.expected and spike.value and math.isfinite(spike.value):
            name = spike.evidence.get("tensor")
            self._subject.clip(min(1.0, spike.expected / spike.value), name)

    def _record(self, incident: Incident) -> None:
        codes = frozenset(f.code for f in incident.findings)
        if incident.action is Action.CONTINUE and codes <= self._told:
            return  # a run that is only observed says the same thing once, not at every step
        self._told = codes
        self._journal.append(incident)
        _LOG.warning("%s", incident)

    # An earlier batch, tried again

    def _earlier_batch(self) -> tuple[Batch, Any] | None:
        """The newest batch in memory whose update was applied."""
        held = self._registry.recent(self.policy.patience + _APPLIED)
        applied = set(self._applied)
        return next(((b, d) for b, d in reversed(held) if b.identity in applied), None)

    def _try_again(self) -> Iterator[Any]:
        probe, earlier = self._probe, self._earlier_batch()
        if probe is None or earlier is None:
            self._probe = None
            return
        probe.batch, data = earlier
        random = self._subject.random
        probe.random = None if random is None else random.capture()
        probe.under_way = True
        yield data
        self._probe = None  # also if the loop did not ask for approval

    def _judge_probe(self, loss: float) -> Verdict:
        probe, self._probe = self._probe, None
        assert probe is not None  # noqa: S101 - asked by approve
        step = self.step
        self.step += 1
        norm = math.hypot(*self._subject.gradients(None).norms.values())
        healthy = math.isfinite(norm) and self._watch.is_usual(loss)
        self._subject.drop_gradients()
        self._subject.restore_buffers()
        if self._subject.random is not None:
            self._subject.random.restore(probe.random)
        situation = self._situation(step, probe.findings)
        decision = self._ladder.after_probe(healthy=healthy, situation=situation)
        self._examiner.probed(healthy=healthy)
        changes: dict[str, Any] = {"probe": probe.batch.identity, "probe_healthy": healthy}
        if not healthy:
            # The weights were at fault: the batches skipped on the way here are innocent.
            changes["forgiven"] = tuple(self._suspects)
            reason = "an earlier batch fails as well"
            self._registry.forgive(*self._suspects, reason=reason, step=step)
            self._suspects.clear()
            changes["restored_step"] = self._go_back(decision)
            self.stopped = decision.action is Action.STOP
        incident = self._incident(step, probe.findings, decision.action, decision.action, **changes)
        self._record(replace(incident, batch=None, position=None))
        return Verdict(decision.action, probe.findings)

    # Snapshots

    def _between_batches(self) -> None:
        """Takes the snapshots, at a point where the next batch can be handed out again."""
        # Not between the parts of one update.
        if self._settled and self._snapshot_is_due():
            self._take_snapshot(self._registry.mark())
        self._settled = False

    def _snapshot_is_due(self) -> bool:
        if self._ladder.in_trouble or self._probe is not None:
            return False
        return self._snapshots.newest is None or self._pace.due()

    def _take_snapshot(self, mark: int | None, ahead: int = 0) -> None:
        with self._pace.taking():
            weights = dict(self._subject.weight_extremes())
            healthy = self._snapshots.healthy
            if check_weights(weights, weights if healthy is None else healthy.weights, self.step):
                return  # damaged since the last step was judged: the next one will tell
            to_disk = self._files is not None and self._files.wanted
            # Replayed batches would be fetched anew after a restart, with other random numbers.
            to_disk = to_disk and not self._registry.is_replaying
            # A run that is only observed never goes back: its weights' extremes are enough.
            state = self._subject.capture() if self.policy.act or to_disk else None
            rules = self._watch.state_dict()
            if self._files is not None and to_disk:
                sizes = {"journal": self._journal.size, "left_out": self._registry.file_size}
                own = {"step": self.step - ahead, "position": self._position - ahead}
                held = {"subject": state, "guard": self.state_dict() | own, "sizes": sizes}
                self._files.offer(self.step - ahead, held)
            state = state if self.policy.act else None
            self._snapshots.add(
                Snapshot(self.step - ahead, state, weights, rules, self._position - ahead, mark)
            )
        oldest = self._snapshots.oldest
        if oldest is not None and oldest.mark is not None:
            self._registry.forget_before(oldest.mark)

    def _go_back(self, decision: Decision) -> int | None:
        if not len(self._snapshots):
            return None
        snapshot = self._snapshots.take_back(older=decision.attempt > 2)
        self._subject.restore(snapshot.state)
        self._subject.hold_buffers()
        self._watch.load_state_dict(snapshot.rules)
        self._position = snapshot.position
        if snapshot.mark is not None:
            self._registry.rewind(snapshot.mark)
        self._subject.scale_learning_rate(self.lr_factor)
        return snapshot.step


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"state: expected {name} to be a list of text, got {value!r}")
    return list(value)
