"""The guard of one run: measure, judge, act, record."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gyrostat.findings import Finding, Severity, worst
from gyrostat.guard.batches import Batch, BatchRegistry
from gyrostat.guard.blame import Blame
from gyrostat.guard.examiner import Examiner
from gyrostat.guard.history import History
from gyrostat.guard.journal import Incident, Journal
from gyrostat.guard.keeper import Keeper
from gyrostat.guard.ladder import ACTED_ON, Decision, Ladder, Situation
from gyrostat.guard.policy import Action, Policy
from gyrostat.guard.subject import Gradients, Measured, OptimizerState, Subject
from gyrostat.guard.summary import run_report
from gyrostat.guard.watch import Watch
from gyrostat.report import Report
from gyrostat.rules import WEIGHT_DAMAGE, check_weights

__all__ = ["Guard", "Verdict"]

_LOG = logging.getLogger("gyrostat")
_VERSION = 2
_BEFORE_UPDATE = frozenset({Action.CLIP, Action.SKIP, Action.RESET_MOMENTUM})
_OF_ORDER = frozenset({"loss-spike", "loss-divergence", "gradient-spike"})
_PARTS = ("batches", "ladder", "watch", "examiner")
_APPLIED = 4  # batches whose updates are left out when a rollback alone has not helped


@dataclass(frozen=True, slots=True)
class Verdict:
    """The guard's answer for one step. True if the update is to be applied.

    Attributes:
        action: What the guard did. With ``lag=1`` what becomes of the update that is to come.
        findings: What it found; with ``lag=1``, in the step before.
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
    data: Any
    random: Any = None
    under_way: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A step that is yet to be judged, with ``lag=1``."""

    step: int
    read: Callable[[], tuple[float, Gradients]]
    memory: OptimizerState | None
    stale: bool
    batches: tuple[Batch, ...]
    data: Any


class Guard:
    """Watches one run and acts on what it finds.

    Args:
        subject: The model and optimizer, behind the :class:`~gyrostat.guard.Subject` interface.
        policy: ``"observe"``, ``"cautious"``, ``"recover"`` or a :class:`Policy`.
        run_dir: Folder for ``journal.jsonl``, ``left-out.jsonl`` and ``checkpoints``. What is found
            there is read: batches stay left out after a restart, and :meth:`resume` goes on from
            the last checkpoint. None keeps all in memory.
        lag: 0 to judge each step before its update. 1 to judge it at the next, so that the host
            never waits for the device to catch up; an update that should not have been is then
            undone by going back to a snapshot.

    Raises:
        ValueError: If ``lag`` is neither, or is 1 and the policy keeps less than two snapshots.

    Attributes:
        step: Number of steps judged so far; one that is repeated after a rollback counts again.
        stopped: Whether the policy has ended the run.
    """

    def __init__(
        self,
        subject: Subject,
        policy: str | Policy = "recover",
        run_dir: str | os.PathLike[str] | None = None,
        lag: int = 0,
    ) -> None:
        self.policy = Policy.preset(policy)
        if lag not in (0, 1):
            raise ValueError(f"lag: expected 0 or 1, got {lag!r}")
        if lag and self.policy.snapshots_kept < 2:
            raise ValueError("policy: lag=1 needs one that keeps two snapshots or more")
        self._lag = lag
        self.step = 0
        self.stopped = False
        self._subject = subject
        self._ladder = Ladder(self.policy)
        self._watch = Watch(self.policy.lr_jump)
        folder = None if run_dir is None else Path(run_dir)
        self._registry = BatchRegistry(
            subject.leaves,
            path=None if folder is None else folder / "left-out.jsonl",
            random_state=subject.random,
        )
        self._keeper = Keeper(
            subject,
            self._registry,
            self.policy,
            None if folder is None else folder / "checkpoints",
            max(self.policy.healthy_after, _APPLIED),
        )
        self._examiner = Examiner(subject, self._registry)
        self._blame = Blame(subject)
        self._position = 0
        self._pending: list[Batch] = []
        self._suspects: list[str] = []
        self._applied: deque[str] = deque(maxlen=_APPLIED)
        self._probe: _Probe | None = None
        self._earlier: tuple[Batch, Any] | None = None
        self._waiting: _Waiting | None = None
        self._ended = False
        self._data: Any = None
        self._settled = True
        self._clears = False
        self._told: frozenset[str] = frozenset()
        self._history = History()
        self._findings: list[Finding] = []
        self._journal = Journal(None if folder is None else folder / "journal.jsonl")
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
    def batch(self) -> Batch | None:
        """The batch that was handed out last."""
        return self._registry.current

    @property
    def next_epoch(self) -> int:
        """Number of the epoch that the next call of :meth:`batches` begins, or goes on with."""
        return self._registry.next_epoch

    @property
    def hypotheses(self) -> tuple[Finding, ...]:
        """What may be behind the findings, the likeliest first; see ``docs/guard.md``."""
        return self._examiner.hypotheses()

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

        Call it once, after everything was built as at the first start, on all ranks::

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
        files = self._keeper.files
        if files is None:
            raise ValueError("run_dir: expected a folder to resume from, got None")
        found = files.newest()
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
        ends early if the policy stops the run, and on all ranks as soon as one has no batch left.
        """
        self._ended = False
        for data in self._registry.iterate(self._subject.source(loader), self._between_batches):
            if self.stopped or self._ended:
                return
            self._pending += [] if self._registry.current is None else [self._registry.current]
            self._data = data
            yield data
            if self._probe is not None:
                yield from self._try_again()
        if not (self.stopped or self._ended):
            self._subject.all_of(False, False, step=self.step)  # the others are not to wait

    def approve(self, loss: Any) -> Verdict:
        """Measures and judges one step, and acts on it.

        Call it once for each update, after the last ``backward`` of it and before the optimizer's
        step.

        Args:
            loss: The loss of this step: a number or anything ``float`` takes. Of several ranks,
                each gives its own.

        Returns:
            A :class:`Verdict`: true if the update is to be applied.

        Raises:
            TypeError: If ``loss`` is not a single real number.
            RuntimeError: If the policy has stopped the run before, or if another rank is gone.
        """
        if self.stopped:
            raise RuntimeError("the guard stopped this run; see guard.report()")
        if self._lag:
            return self._approve_late(loss)
        try:
            value = float(loss.detach() if hasattr(loss, "detach") else loss)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"loss: expected one real number, got {type(loss).__name__}") from error
        subject = self._subject
        probed = self._probe is not None and self._probe.under_way
        every = self.policy.records_every
        full = every and self._position % every == 0 and not probed
        measured = Measured(
            value,
            subject.gradients("full" if full else None),
            subject.learning_rates(),
            subject.optimizer_state(),
            subject.stale_gradients(),
            subject.activations(),
        )
        if probed:
            return self._judge_probe(measured)
        step = self.step
        self.step += 1
        self._keeper.step()
        verdict = self._decide(measured, step)
        self._pending.clear()
        self._settled = True
        return verdict

    def settle(self) -> Verdict:
        """With ``lag=1``, judges the step that is still to be judged; the host waits for it.

        To be called after the last step, and before a checkpoint is saved: the update was applied,
        and if it should not have been, the run is taken back. Of several ranks, all call it.

        Returns:
            What was found and done; CONTINUE if nothing was waiting.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return Verdict(Action.CONTINUE)
        loss, gradients = waiting.read()
        # Rates are known at once: a wrong one is found before the update that it would ruin.
        rates = self._subject.learning_rates()
        measured = Measured(loss, gradients, rates, waiting.memory, waiting.stale)
        later = self._pending, self._data
        self._pending, self._data = list(waiting.batches), waiting.data
        verdict = self._decide(measured, waiting.step)
        self._pending, self._data = later
        return verdict

    def report(self) -> Report:
        """The run so far: findings, what was done, and the picture of it."""
        return run_report(self, self._history)

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
        self._probe, self._waiting, self._settled = None, None, True
        if d.get("clears_gradients") and not self._clears:
            self._clear_gradients()
        self._keeper.forget()
        self._subject.scale_learning_rate(self.lr_factor)

    # Judging

    def _approve_late(self, loss: Any) -> Verdict:
        """Judges the step before, and begins to measure the present one."""
        subject = self._subject
        # Without the right to skip an update the gradients are left as they are.
        gate = self.policy.act and Action.SKIP in self.policy.actions
        read = subject.measure_later(loss, gate=gate)
        present = _Waiting(
            self.step,
            read,
            subject.optimizer_state(),
            subject.stale_gradients(),
            tuple(self._pending),
            self._data,
        )
        self.step += 1
        self._keeper.step()
        self._settled = True
        self._pending.clear()
        verdict = self._judge_rates() if self._waiting is None else self.settle()
        if verdict:  # if not, the present step is undone with the one before
            self._waiting = present
            self._between_steps()
        return verdict

    def _judge_rates(self) -> Verdict:
        """Judges what is known at once, where no step is waiting: the learning rates."""
        step = self.step - 1
        measured = Measured(0.0, Gradients({}), self._subject.learning_rates())
        measured = self._subject.agree(measured, step)
        found = self._watch.rates.update(measured.rates, self._position)
        if found is None:
            return Verdict(Action.CONTINUE)
        named = self._blame.name(
            [replace(found, step=step)], {}, self._watch.gradients, self._pending
        )
        findings = tuple(named)
        self._findings += findings
        decision = self._ladder.decide(self._situation(step, findings))
        return self._carry_out(decision, findings, (), step)

    def _decide(self, measured: Measured, step: int) -> Verdict:
        measured = self._subject.agree(measured, step)
        findings, told = self._judge(measured, step)
        self._position += 1
        self._findings += [*findings, *told]
        norms = measured.gradients.norms
        self._history.append(step, measured.loss, math.hypot(*norms.values()))
        decision = self._ladder.decide(self._situation(step, findings))
        return self._carry_out(decision, findings, told, step, gated=measured.gradients.gated)

    def _judge(
        self, measured: Measured, step: int
    ) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
        """Findings to act on, and those that are only told."""
        found = self._watch.update(
            measured, self._position, expects_overflow=self._subject.expects_overflow()
        )
        excused = self._excused(found, step)
        acting = [f for f in found if f.code in ACTED_ON - excused or f.code == "hard-batch"]
        told = [f for f in found if f not in acting]
        if (damage := self._damage(acting, measured, step)) is not None:
            acting.append(damage)
        norms = measured.gradients.norms
        rule = self._watch.gradients
        named = self._blame.name(
            [replace(f, step=step) for f in acting], norms, rule, self._pending
        )
        told += self._examiner.look_around(self._pending, self._data, self._position, measured.loss)
        if named:
            healthy = self._keeper.healthy
            state = None if healthy is None else healthy.state
            named = self._examiner.diagnose(
                named, rule.rises(norms), self._pending, self._data, state, self._position
            )
            named = self._blame.share(named, step)
        # What is acted on is not told a second time.
        codes = {f.code for f in named}
        told = [replace(f, step=step) for f in told if f.code not in codes]
        for finding in told:
            self._examiner.told(finding, norms)
            if finding.severity >= Severity.WARNING:
                _LOG.warning("%s", finding)
        return tuple(named), tuple(told)

    def _excused(self, found: Sequence[Finding], step: int) -> frozenset[str]:
        """Codes of what comes of data in order, where the next class begins, on any rank."""
        if not any(f.code in _OF_ORDER for f in found):
            return frozenset()
        ordered = self._subject.ranks_with(self._examiner.data_is_sorted, step=step)
        return _OF_ORDER if ordered or self._examiner.data_is_sorted else frozenset()

    def _damage(self, acting: Sequence[Finding], measured: Measured, step: int) -> Finding | None:
        """What is wrong with the weights, which are read only when there is reason to."""
        # With a lag the update of the step has changed the weights, unless it was gated: they say
        # nothing of what they were before it.
        telling = not self._lag or measured.gradients.gated
        bad = telling and worst(acting) not in (None, Severity.INFO)
        healthy = self._keeper.healthy
        if healthy is None or not (bad or self._keeper.doubted):
            return None
        self._keeper.doubted = False
        return check_weights(self._subject.weight_extremes(), healthy.weights, step)

    def _situation(self, step: int, findings: Sequence[Finding]) -> Situation:
        if not findings:
            return Situation(step=step)
        held = self._keeper.healthy
        can_probe = False
        if self.policy.act and not self._lag:
            # Kept until it is handed out: one rank must not change its mind.
            self._earlier = self._earlier_batch()
            (can_probe,) = self._subject.all_of(self._earlier is not None, step=step)
        return Situation(
            step=step,
            findings=findings,
            can_probe=can_probe,
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
        *,
        gated: bool = False,
    ) -> Verdict:
        proposed = decision.action
        action = proposed if self.policy.act else Action.CONTINUE
        undone = action in _BEFORE_UPDATE and not (gated and action is Action.SKIP)
        if self._lag and undone:
            # The update was applied. It is undone at the cost of the budget of what was proposed.
            action = Action.ROLLBACK if len(self._keeper) else Action.CONTINUE
        if proposed is Action.CONTINUE:
            self._go_on()
        else:
            self._keeper.bad_step()
            self._record(self._act(action, decision, findings, step))
        if action.updates:
            self._applied.extend(batch.identity for batch in self._pending)
            self._subject.scale_learning_rate(self.lr_factor)
        if self._lag and action is Action.SKIP:
            action = Action.CONTINUE  # for the update that is to come
        return Verdict(action, (*findings, *told))

    def _go_on(self) -> None:
        self._suspects.clear()
        self._told = frozenset()
        self._keeper.clean_step()
        self._subject.hold_buffers()
        if not self._lag:
            self._between_steps()

    def _between_steps(self) -> None:
        """Takes the snapshots where the guard hands out no batches."""
        if self._registry.current is not None:
            return
        (due,) = self._subject.all_of(self._snapshot_is_due(), step=self.step)
        if due:
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
        if stale and not action.updates:
            self._clear_gradients()
        elif not action.updates and not damaged:
            left_out = tuple(batch.identity for batch in self._pending)
            self._suspects += left_out
        match action:
            case Action.CLIP:
                self._clip(findings)
            case Action.SKIP:
                self._skip(decision, findings)
            case Action.RESET_MOMENTUM:
                self._repair()
            case Action.ROLLBACK | Action.STOP:
                # Where weights were at fault, the batches skipped on the way here are innocent.
                forgiven = tuple(self._suspects) if damaged else ()
                left_out += tuple(self._applied) if decision.attempt > 1 else ()
                restored = self._undo(action, decision)
        if forgiven:
            reason = "the weights were at fault"
            self._registry.forgive(*forgiven, reason=reason, step=step)
        if left_out:
            reason = ", ".join(f.code for f in findings)
            self._registry.leave_out(*left_out, reason=reason, step=step)
        changes = {"left_out": left_out, "forgiven": forgiven, "restored_step": restored}
        return self._incident(step, findings, action, decision.action, **changes)

    def _skip(self, decision: Decision, findings: tuple[Finding, ...]) -> None:
        self._subject.restore_buffers()
        if decision.probe and self._earlier is not None:
            self._probe = _Probe(findings, *self._earlier)

    def _repair(self) -> None:
        """Gives the optimizer the memory that it had at the last healthy snapshot."""
        healthy = self._keeper.healthy
        assert healthy is not None  # noqa: S101 - the ladder was told whether there is one
        self._subject.restore_optimizer(healthy.state)
        self._watch.optimizer.forget()

    def _undo(self, action: Action, decision: Decision) -> int | None:
        self._suspects.clear()
        self.stopped = action is Action.STOP
        return self._go_back(decision)

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
        probe = self._probe
        assert probe is not None  # noqa: S101 - asked by batches
        random = self._subject.random
        probe.random = None if random is None else random.capture()
        probe.under_way = True
        yield probe.data
        self._probe = None  # also if the loop did not ask for approval

    def _judge_probe(self, measured: Measured) -> Verdict:
        probe, self._probe = self._probe, None
        assert probe is not None  # noqa: S101 - asked by approve
        step = self.step
        self.step += 1
        measured = self._subject.agree(measured, step)
        norm = math.hypot(*measured.gradients.norms.values())
        healthy = math.isfinite(norm) and self._watch.is_usual(measured.loss)
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
            changes["restored_step"] = self._undo(decision.action, decision)
        incident = self._incident(step, probe.findings, decision.action, decision.action, **changes)
        self._record(replace(incident, batch=None, position=None))
        return Verdict(decision.action, probe.findings)

    # Snapshots

    def _between_batches(self) -> None:
        """Takes the snapshots, at a point where the next batch can be handed out again."""
        if self.stopped:
            return
        more, due = self._subject.all_of(True, self._snapshot_is_due(), step=self.step)
        self._ended = not more
        # Not between the parts of one update, and not after a bad step: one that had to be settled
        # first may have been that.
        if more and due and self._settled and self.settle() and not self._ladder.in_trouble:
            self._take_snapshot(self._registry.mark())
        self._settled = False

    def _snapshot_is_due(self) -> bool:
        if self._ladder.in_trouble or self._probe is not None:
            return False
        return self._keeper.is_due

    def _take_snapshot(self, mark: int | None, ahead: int = 0) -> None:
        step, position = self.step - ahead, self._position - (0 if self._lag else ahead)

        def rest() -> dict[str, Any]:
            sizes = {"journal": self._journal.size, "left_out": self._registry.file_size}
            own = self.state_dict() | {"step": step, "position": position}
            return {"guard": own, "sizes": sizes}

        self._keeper.take(step, position, self._watch.state_dict, mark, rest)

    def _go_back(self, decision: Decision) -> int | None:
        if not len(self._keeper):
            return None
        snapshot = self._keeper.take_back(older=decision.attempt > 2)
        self._waiting = None
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
