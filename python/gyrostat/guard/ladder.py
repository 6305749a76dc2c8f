"""The ladder: which action a step deserves, given the policy and what was tried before."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gyrostat.findings import Finding
from gyrostat.guard.policy import Action, Policy
from gyrostat.rules import WEIGHT_DAMAGE

__all__ = ["ACTED_ON", "Decision", "Ladder", "Situation"]

_CLIPPED = frozenset({"gradient-spike"})
_LOWERED = frozenset({"lr-jump"})
_REPAIRED = frozenset({"optimizer-state-damage"})
_SKIPPED = frozenset({"loss-spike", "loss-divergence", "loss-not-finite", "gradient-not-finite"})
_EXPLAINED = frozenset({"outlier-batch", "replica-mismatch", "stale-gradient"})
"""Of these it is known that the weights are fine, so that skipping is all that is needed."""
ACTED_ON = _CLIPPED | _LOWERED | _REPAIRED | _SKIPPED | _EXPLAINED | WEIGHT_DAMAGE
"""Codes that lead to an action; the rest is told only, since no single update is to blame."""

_FITTING = frozenset({Action.RESET_MOMENTUM, Action.LOWER_LR})
"""Remedies of one fault each: no stage on the way to a severer action."""

_CALM = 3
_STATE_LOST = 3  # cuts of the learning rate while an optimizer learns its state anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a decision is made from.

    Attributes:
        step: The guard's count of steps.
        findings: What was found at this step.
        can_probe: Whether an earlier batch is at hand to be tried again.
        can_repair: Whether a snapshot holds a healthy state of the optimizer.
        can_roll_back: Whether there is a snapshot to go back to.
    """

    step: int
    findings: Sequence[Finding] = ()
    can_probe: bool = False
    can_repair: bool = False
    can_roll_back: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do.

    Attributes:
        action: The action.
        probe: Whether an earlier batch is to be tried before anything else.
        attempt: For a rollback, how many times this failure was rolled back, this time included.
    """

    action: Action
    probe: bool = False
    attempt: int = 0


class Ladder:
    """Applies a :class:`~gyrostat.guard.Policy` step by step and keeps count of what was spent.

    Attributes:
        lr_relief: Factor on the learning rate that cuts have left, 1.0 if none is in force.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.lr_relief = 1.0
        self._bad_in_a_row = 0
        self._clean = 0
        self._attempts = 0
        self._data_at_fault = False
        self._spent: dict[Action, deque[int]] = {action: deque() for action in policy.actions}

    @property
    def in_trouble(self) -> bool:
        """Whether the last step was bad, or too few clean ones have followed."""
        return self._bad_in_a_row > 0

    def decide(self, situation: Situation) -> Decision:
        """The action for one step."""
        codes = {
            f.code
            for f in situation.findings
            if f.code in ACTED_ON and f.severity >= self.policy.least
        }
        if not codes:
            self._calm_down()
            return Decision(Action.CONTINUE)
        self._clean = 0
        wanted, probe = self._wanted(codes, situation)
        action = self._affordable(wanted, situation)
        if probe and action is Action.SKIP:
            return Decision(action, probe=True)
        if action is Action.ROLLBACK:
            return self._roll_back()
        return Decision(action)

    def after_probe(self, *, healthy: bool, situation: Situation) -> Decision:
        """What follows when an earlier batch was tried again.

        Args:
            healthy: Whether its loss was as usual, so that the weights are fine.
            situation: As for :meth:`decide`.
        """
        self._data_at_fault = healthy
        if healthy:
            return Decision(Action.SKIP)
        if self._affordable(Action.ROLLBACK, situation) is Action.ROLLBACK:
            return self._roll_back()
        return Decision(Action.STOP)

    def _wanted(self, codes: set[str], situation: Situation) -> tuple[Action, bool]:
        """The action that fits best, and whether an earlier batch is to be tried with it."""
        if codes & WEIGHT_DAMAGE:
            return Action.ROLLBACK, False
        if codes & _REPAIRED:
            return self._repair(situation), False
        if codes & _EXPLAINED:
            return Action.SKIP, False
        if codes & _SKIPPED:
            return self._skip(situation)
        return (Action.CLIP if codes & _CLIPPED else Action.LOWER_LR), False

    def _repair(self, situation: Situation) -> Action:
        if situation.can_repair:
            return Action.RESET_MOMENTUM
        self.lr_relief = self.policy.lr_cut**_STATE_LOST
        return Action.LOWER_LR

    def _skip(self, situation: Situation) -> tuple[Action, bool]:
        self._bad_in_a_row += 1
        if self._bad_in_a_row < self.policy.patience or self._data_at_fault:
            return Action.SKIP, False
        return (Action.SKIP, True) if situation.can_probe else (Action.ROLLBACK, False)

    def _affordable(self, wanted: Action, situation: Situation) -> Action:
        """``wanted``, or the next severer action that is allowed and within its budget."""
        for action in self.policy.actions:
            if action.rank < wanted.rank or (action in _FITTING and action is not wanted):
                continue
            if action is Action.ROLLBACK and not situation.can_roll_back:
                continue
            spent = self._spent[action]
            while spent and spent[0] <= situation.step - self.policy.budget_window:
                spent.popleft()
            if len(spent) < self.policy.budget(action):
                if action is not Action.STOP:
                    spent.append(situation.step)
                return action
        return Action.CONTINUE

    def _roll_back(self) -> Decision:
        self._attempts += 1
        self._bad_in_a_row = 0
        if self._attempts > 1:
            # The same steps failed again: whatever it was, it was no accident of one step.
            self.lr_relief *= self.policy.lr_cut
        return Decision(Action.ROLLBACK, attempt=self._attempts)

    def _calm_down(self) -> None:
        self._clean += 1
        if self._clean >= _CALM:
            self._bad_in_a_row = 0
        self._data_at_fault = False
        if self._clean >= self.policy.cooldown:
            self._attempts = 0
        if self.lr_relief < 1.0 and self._clean % self.policy.lr_recovery == 0:
            self.lr_relief = min(1.0, self.lr_relief / self.policy.lr_cut)

    def state_dict(self) -> dict[str, Any]:
        """What was spent and where the ladder stands, as plain values."""
        return {
            "lr_relief": self.lr_relief,
            "bad_in_a_row": self._bad_in_a_row,
            "clean": self._clean,
            "attempts": self._attempts,
            "data_at_fault": self._data_at_fault,
            "spent": {str(action): list(steps) for action, steps in self._spent.items()},
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If something is missing or no number; the ladder is then left as it was.
        """
        counts = {name: _count(name, d.get(name)) for name in _COUNTS}
        relief, spent, fault = d.get("lr_relief"), d.get("spent"), d.get("data_at_fault")
        if not isinstance(relief, float) or not 0.0 < relief <= 1.0:
            raise ValueError(f"state: expected lr_relief to be a fraction, got {relief!r}")
        if not isinstance(spent, Mapping) or not isinstance(fault, bool):
            raise ValueError("state: lacks spent or data_at_fault")
        steps = {str(a): [_count(a, step) for step in s] for a, s in spent.items()}
        for name, value in counts.items():
            setattr(self, f"_{name}", value)
        self.lr_relief, self._data_at_fault = relief, fault
        # A policy may have changed since: what it does not allow any more was not spent.
        self._spent = {a: deque(steps.get(str(a), ())) for a in self.policy.actions}


_COUNTS = ("bad_in_a_row", "clean", "attempts")


def _count(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"state: expected {name} to be a count, got {value!r}")
    return value
