"""The policy: findings in, one action out, with budgets."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from gyrostat.findings import Finding, Severity, worst

__all__ = ["Action", "Decider", "Policy"]


class Action(enum.StrEnum):
    """What the guard does about a step, from mild to severe."""

    CONTINUE = "continue"
    SKIP = "skip"
    ROLLBACK = "rollback"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to do about findings, and how often at most.

    A step with a finding of severity warning or worse is bad. A bad step is skipped: its gradients
    never reach the weights. After ``patience`` bad steps in a row, or at once if the weights
    themselves are damaged, the run goes back to the last healthy snapshot. When a budget is spent,
    the run is stopped at its last healthy state rather than ruined.

    Attributes:
        name: Shown in reports and journals.
        act: False only proposes: the run is never touched.
        patience: Bad steps in a row that are skipped before the run is rolled back.
        skip_budget: Skipped steps in all, before the run is stopped.
        rollback_budget: Rollbacks in all, before the run is stopped.
        snapshot_every: Healthy steps between two snapshots.
        snapshots_kept: Snapshots held in memory. A second rollback that follows before a new
            snapshot was taken goes one snapshot further back.

    Raises:
        ValueError: If a number is out of range.
    """

    name: str = "recover"
    act: bool = True
    patience: int = 3
    skip_budget: int = 100
    rollback_budget: int = 5
    snapshot_every: int = 50
    snapshots_kept: int = 2

    def __post_init__(self) -> None:
        for name, least in (
            ("patience", 1),
            ("skip_budget", 0),
            ("rollback_budget", 0),
            ("snapshot_every", 1),
            ("snapshots_kept", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")

    @classmethod
    def preset(cls, policy: str | Policy) -> Policy:
        """The policy named ``policy``, or ``policy`` itself.

        Raises:
            ValueError: If there is no preset of that name.
        """
        if isinstance(policy, Policy):
            return policy
        match policy:
            case "observe":
                return cls(name="observe", act=False)
            case "recover":
                return cls()
        raise ValueError(f"policy: expected 'observe', 'recover' or a Policy, got {policy!r}")

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: If ``d`` holds an unknown field or a number out of range.
        """
        if unknown := set(d) - {f.name for f in fields(cls)}:
            raise ValueError(f"d: unknown fields {sorted(unknown)}")
        return cls(**d)


class Decider:
    """Applies a :class:`Policy` step by step and keeps count of what was spent."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.bad_in_a_row = 0
        self.skips = 0
        self.rollbacks = 0

    def decide(self, findings: Sequence[Finding], *, damaged: bool, can_roll_back: bool) -> Action:
        """The action for one step.

        Args:
            findings: What was found at this step.
            damaged: Whether the weights themselves are known to be damaged, so that no later batch
                can be better.
            can_roll_back: Whether there is a snapshot to go back to.
        """
        level = worst(findings)
        if level is None or level < Severity.WARNING:
            self.bad_in_a_row = 0
            return Action.CONTINUE
        self.bad_in_a_row += 1
        if damaged or self.bad_in_a_row >= self.policy.patience:
            if not can_roll_back or self.rollbacks >= self.policy.rollback_budget:
                return Action.STOP
            self.rollbacks += 1
            self.bad_in_a_row = 0
            return Action.ROLLBACK
        if self.skips >= self.policy.skip_budget:
            return Action.STOP
        self.skips += 1
        return Action.SKIP

    def state_dict(self) -> dict[str, int]:
        """What was spent, as plain values."""
        return {
            "bad_in_a_row": self.bad_in_a_row,
            "skips": self.skips,
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If a count is missing or no whole number.
        """
        counts = {}
        for name in ("bad_in_a_row", "skips", "rollbacks"):
            value = d.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"state: expected {name} to be a count, got {value!r}")
            counts[name] = value
        for name, value in counts.items():
            setattr(self, name, value)
