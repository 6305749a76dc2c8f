"""The watch: every detector and rule that a guarded run goes through, fed as one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from gyrostat.findings import Finding, Severity
from gyrostat.guard.subject import Measured
from gyrostat.rules import (
    GradientRule,
    LearningRateJump,
    LossCurve,
    OptimizerStateRule,
    ReplicaRule,
    TensorRules,
)
from gyrostat.spikes import SpikeDetector

__all__ = ["Watch"]

_VERSION = 1


class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, d: Mapping[str, Any]) -> None: ...


class Watch:
    """Turns what was measured at a step into findings.

    Args:
        lr_jump: As in :class:`~gyrostat.guard.Policy`.

    Attributes:
        loss: Spikes of the loss.
        gradients: Norms of the gradients, by parameter.
        rates: Learning rates.
        optimizer: The optimizer's memory.
        curve: Where the loss goes.
        replicas: Gradients that should be the same on several ranks.
        tensors: Records of gradients, and what the modules have made of a batch.
    """

    def __init__(self, lr_jump: float) -> None:
        self.loss = SpikeDetector()
        self.gradients = GradientRule()
        self.rates = LearningRateJump(lr_jump)
        self.optimizer = OptimizerStateRule()
        self.curve = LossCurve()
        self.replicas = ReplicaRule()
        self.tensors = TensorRules()

    def update(
        self, measured: Measured, step: int, *, expects_overflow: bool = False
    ) -> list[Finding]:
        """Everything that is found at one step, in the order of the rules.

        Args:
            measured: What was measured; of several ranks, what they agreed on.
            step: The step.
            expects_overflow: Whether a loss scaler skips gradients that are not finite.
        """
        loss, norms, rates = measured.loss, measured.gradients.norms, measured.rates
        found: list[Finding | None] = []
        if measured.stale:
            found.append(_stale(step))
        total = math.hypot(*norms.values())
        found.append(self.rates.update(rates, step))
        if (memory := measured.memory) is not None:
            found.append(
                self.optimizer.update(
                    memory.names, memory.first, memory.second, norms, step, ranks=memory.ranks
                )
            )
        found += self.replicas.update(measured.replicas, step)
        spike = self.loss.update(loss, total, step=step)
        scaler_skips = not math.isfinite(total) and expects_overflow
        wild = None if scaler_skips else self.gradients.update(norms, step)
        # The rule names the layer; what the detector saw of the same gradient adds nothing.
        if spike is not None and (wild is None or spike.code != wild.code):
            found.append(spike)
        found.append(wild)
        rate = max(rates, default=None)
        found += self.curve.update(loss, step, lr=rate)
        # Records carry the loss scale: as it changes they cannot be compared with those before.
        gradients, activations = measured.gradients, measured.activations
        records = gradients.table if gradients.loss_scale == 1.0 else None
        if records is not None and records.level == "norm":
            records = None
        if records is not None or activations is not None:
            found += self.tensors.update(step, gradients=records, activations=activations, lr=rate)
        return [f for f in found if f is not None]

    def is_usual(self, loss: float) -> bool:
        """Whether a loss is as the run has it, without learning from it."""
        judge = SpikeDetector()
        judge.load_state_dict(self.loss.state_dict())
        finding = judge.update(loss)
        return finding is None or finding.severity is Severity.INFO

    def state_dict(self) -> dict[str, Any]:
        """The state of every rule as plain values."""
        return {"version": _VERSION, **{n: rule.state_dict() for n, rule in self._rules().items()}}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state. Rules may then have been loaded in part.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a state of Watch, version {_VERSION}")
        for name, rule in self._rules().items():
            rule.load_state_dict(d.get(name, {}))

    def _rules(self) -> dict[str, _Stateful]:
        return vars(self)


def _stale(step: int) -> Finding:
    return Finding(
        "stale-gradient",
        Severity.CRITICAL,
        step=step,
        signal="grad_norm",
        message="the gradients of the step before were not cleared: they are part of these",
    )
