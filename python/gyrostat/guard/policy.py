"""The policy: what the guard may do, how often, and when it climbs to the next rung."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from gyrostat.findings import Severity

__all__ = ["Action", "Policy"]


class Action(enum.StrEnum):
    """What the guard does about a step, from mild to severe."""

    CONTINUE = "continue"
    CLIP = "clip"
    SKIP = "skip"
    RESET_MOMENTUM = "reset-momentum"
    LOWER_LR = "lower-lr"
    ROLLBACK = "rollback"
    STOP = "stop"

    @property
    def rank(self) -> int:
        """0 for CONTINUE, up to 6 for STOP."""
        return _RANK[self]

    @property
    def updates(self) -> bool:
        """Whether the update of the step is to be applied."""
        return self not in (Action.SKIP, Action.ROLLBACK, Action.STOP)


_RANK = {action: rank for rank, action in enumerate(Action)}
_LADDER = tuple(action for action in Action if action is not Action.CONTINUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to do about findings, and how often at most.

    ``docs/guard.md`` tells which finding leads to which action. An action that is not allowed, or
    whose budget is spent, gives way to the next severer one that is; when STOP is reached the run
    ends at its last healthy state rather than ruined.

    Attributes:
        name: Shown in reports and journals.
        act: False only proposes: the run is never touched.
        actions: The actions that may be taken.
        least: Findings below this severity are told and never acted on.
        patience: Bad steps in a row before the run is taken for damaged. An earlier batch is then
            tried again where ``guard.batches`` has one; if its loss is as usual, the data is at
            fault and skipping goes on.
        cooldown: Clean steps after a rollback until a failure counts as a new one. One that comes
            before is met by a lower learning rate, and from the third on by an older snapshot.
        budget_window: Steps in which the budgets below hold.
        clip_budget: Clipped steps at most.
        skip_budget: Skipped steps at most.
        reset_budget: Repairs of the optimizer's state at most.
        lower_lr_budget: Cuts of the learning rate at most.
        rollback_budget: Rollbacks at most.
        lr_cut: Factor on the learning rate at each cut.
        lr_recovery: Clean steps until a cut is given back.
        lr_jump: How many times the learning rate of the step before is taken for a mistake.
        healthy_after: Clean steps that make a snapshot a healthy one.
        snapshot_share: Share of the run's time that snapshots may cost.
        snapshot_every: Steps between two snapshots, in place of ``snapshot_share``.
        snapshots_kept: Snapshots held in memory.
        checkpoint_share: Share of the run's time that checkpoints on disk may cost, where the guard
            has a ``run_dir``.
        checkpoint_every: Steps between two checkpoints, in place of ``checkpoint_share``.
        checkpoints_kept: Checkpoints kept on disk; with 0 none is written.
        records_every: Steps between two full records of every gradient, for the rules on tensors;
            0 for none.

    Raises:
        ValueError: If a number is out of range or an action unknown.
    """

    name: str = "recover"
    act: bool = True
    actions: tuple[Action, ...] = _LADDER
    least: Severity = Severity.WARNING
    patience: int = 3
    cooldown: int = 50
    budget_window: int = 10_000
    clip_budget: int = 1000
    skip_budget: int = 100
    reset_budget: int = 5
    lower_lr_budget: int = 10
    rollback_budget: int = 5
    lr_cut: float = 0.5
    lr_recovery: int = 100
    lr_jump: float = 4.0
    healthy_after: int = 10
    snapshot_share: float = 0.01
    snapshot_every: int | None = None
    snapshots_kept: int = 3
    checkpoint_share: float = 0.02
    checkpoint_every: int | None = None
    checkpoints_kept: int = 2
    records_every: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", _actions(self.actions))
        try:
            object.__setattr__(self, "least", Severity(self.least))
        except ValueError as error:
            raise ValueError(f"least: expected a severity, got {self.least!r}") from error
        for name, lowest in _COUNTS.items():
            value = getattr(self, name)
            if name in _OR_NONE and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"{name}: expected an integer of at least {lowest}, got {value!r}")
        for name, (above, most) in _FRACTIONS.items():
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not above < value <= most:
                raise ValueError(
                    f"{name}: expected a number above {above} and at most {most}, got {value!r}"
                )

    @classmethod
    def preset(cls, policy: str | Policy) -> Policy:
        """The policy named ``policy``, or ``policy`` itself.

        ``"observe"`` only proposes. ``"cautious"`` acts on what is certain to ruin the run, which
        is values that are not finite, damaged weights or a damaged state of the optimizer, and
        changes neither gradients nor learning rate. ``"recover"`` has the whole ladder.

        Raises:
            ValueError: If there is no preset of that name.
        """
        if isinstance(policy, Policy):
            return policy
        match policy:
            case "observe":
                return cls(name="observe", act=False)
            case "cautious":
                mild = (Action.CLIP, Action.LOWER_LR)
                return cls(
                    name="cautious",
                    actions=tuple(a for a in _LADDER if a not in mild),
                    least=Severity.CRITICAL,
                )
            case "recover":
                return cls()
        raise ValueError(
            f"policy: expected 'observe', 'cautious', 'recover' or a Policy, got {policy!r}"
        )

    def budget(self, action: Action) -> float:
        """How often ``action`` may be taken within the window; without limit for STOP."""
        match action:
            case Action.CLIP:
                return self.clip_budget
            case Action.SKIP:
                return self.skip_budget
            case Action.RESET_MOMENTUM:
                return self.reset_budget
            case Action.LOWER_LR:
                return self.lower_lr_budget
            case Action.ROLLBACK:
                return self.rollback_budget
        return math.inf

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain values."""
        return {
            **asdict(self),
            "actions": [str(action) for action in self.actions],
            "least": str(self.least),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: If ``d`` holds an unknown field or a number out of range.
        """
        if unknown := set(d) - {f.name for f in fields(cls)}:
            raise ValueError(f"d: unknown fields {sorted(unknown)}")
        return cls(**d)


_COUNTS = {
    "patience": 1,
    "cooldown": 0,
    "budget_window": 1,
    "clip_budget": 0,
    "skip_budget": 0,
    "reset_budget": 0,
    "lower_lr_budget": 0,
    "rollback_budget": 0,
    "lr_recovery": 1,
    "healthy_after": 0,
    "snapshot_every": 1,
    "snapshots_kept": 1,
    "checkpoint_every": 1,
    "checkpoints_kept": 0,
    "records_every": 0,
}
_OR_NONE = ("snapshot_every", "checkpoint_every")
_FRACTIONS = {
    "lr_cut": (0.0, 1.0),
    "lr_jump": (1.0, math.inf),
    "snapshot_share": (0.0, 1.0),
    "checkpoint_share": (0.0, 1.0),
}


def _actions(given: Iterable[Action | str]) -> tuple[Action, ...]:
    try:
        known = {Action(action) for action in given}
    except (TypeError, ValueError) as error:
        raise ValueError(f"actions: expected actions, got {given!r}") from error
    return tuple(action for action in _LADDER if action in known)
