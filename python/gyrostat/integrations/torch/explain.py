"""Why a step went wrong: the guard's samples scored, its last incident replayed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gyrostat.findings import Finding, Severity
from gyrostat.guard.loaders import rebuilt
from gyrostat.guard.snapshots import Snapshot
from gyrostat.integrations.torch.ranks import unwrapped
from gyrostat.integrations.torch.replay import Outcome, replay
from gyrostat.integrations.torch.scoring import ComputeLoss, SampleScores, score_samples

__all__ = ["Explainer"]

_SCORE_EVERY = 100  # steps between two batches that are scored
_MOST_STEPS = 64  # that are replayed; their batches are held
_HIGH = frozenset({"loss-spike", "loss-divergence", "loss-not-finite"})
_FAILURES = _HIGH | {"gradient-not-finite"}


@dataclass(frozen=True, slots=True)
class _Step:
    data: Any
    rates: tuple[float, ...]
    updated: bool


@dataclass(frozen=True, slots=True)
class _Case:
    """All that it takes to replay an incident."""

    step: int
    state: Any
    steps: tuple[_Step, ...]
    loss: float
    bound: float


class Explainer:
    """Holds what led to the last incident, and tries what it came from.

    Args:
        model: The model.
        optimizer: Its optimizer.
        compute_loss: Mean loss of a model for a batch.

    Attributes:
        step: The step of the last incident that can be replayed, or None.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, compute_loss: ComputeLoss
    ) -> None:
        self.step: int | None = None
        self._model = unwrapped(model)
        self._optimizer = optimizer
        self._compute_loss = compute_loss
        self._scored: int | None = None
        self._steps: dict[int, _Step] = {}
        self._case: _Case | None = None

    def scores(
        self, findings: Sequence[Finding], data: Any, earlier: Any, step: int
    ) -> SampleScores | None:
        """Scores a batch whose loss is too high for its content; at most one in 100 steps."""
        codes = {f.code for f in findings if f.severity >= Severity.WARNING}
        recent = self._scored is not None and step - self._scored < _SCORE_EVERY
        if not codes & _HIGH or "outlier-batch" in codes or recent:
            return None
        self._scored = step
        try:
            return score_samples(self._model, self._compute_loss, data, earlier=earlier)
        except ValueError:  # a batch without samples
            return None

    def record(self, position: int, data: Any, rates: tuple[float, ...], *, updated: bool) -> None:
        """Remembers a step; one of the same position before a rollback is forgotten."""
        self._steps[position] = _Step(rebuilt(data), rates, updated)
        self._steps.pop(position - _MOST_STEPS, None)

    def incident(
        self, findings: Sequence[Finding], loss: float, step: int, position: int, healthy: Snapshot
    ) -> None:
        """Keeps what a replay of a bad step needs, where it can be replayed."""
        bad = [f for f in findings if f.code in _FAILURES and f.severity >= Severity.WARNING]
        places = range(healthy.position, position + 1)
        if not bad or healthy.state is None or any(p not in self._steps for p in places):
            return
        steps = [self._steps[p] for p in places]
        kept = tuple(s for s in steps[:-1] if s.updated)
        self.step = step
        self._case = _Case(step, healthy.state, (*kept, steps[-1]), loss, _bound(bad))

    def outcomes(self) -> list[Outcome]:
        """Replays the last incident, once; none are left after that.

        Raises:
            RuntimeError: If there is none that can be replayed.
        """
        if self.step is None:
            raise RuntimeError(
                "explain: there is no incident to replay: none of a loss too high, or of values "
                f"that are not finite, within {_MOST_STEPS} steps of a snapshot"
            )
        case, self._case = self._case, None
        if case is None:
            return []
        return replay(
            self._model,
            self._optimizer,
            self._compute_loss,
            case.state,
            [s.data for s in case.steps],
            bound=case.bound,
            observed=case.loss,
            rates=[s.rates for s in case.steps],
        )


def _bound(findings: Sequence[Finding]) -> float:
    """Between what the loss was expected to be and what it was."""
    for finding in findings:
        value, expected = finding.value, finding.expected
        if finding.code not in _HIGH or value is None or expected is None:
            continue
        if math.isfinite(value) and math.isfinite(expected):
            between = math.sqrt(value * expected) if min(value, expected) > 0 else None
            return (value + expected) / 2 if between is None else between
    return math.inf
