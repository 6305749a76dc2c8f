"""What the rules on curves have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

from gyrostat import _core
from gyrostat.findings import CATALOGUE, Finding, Severity
from gyrostat.rules._memory import load_memory, plain_memory

__all__ = ["BLOCKS", "CONFIDENCE", "VERSION", "Rule", "loss_finding", "middle", "pace_changes"]

VERSION = 1
BLOCKS = 64
"""Blocks that hold a whole run: the longest test sees 64 values, whatever the length of the run."""
CONFIDENCE = 2.0
"""Half width of a slope's interval, in standard deviations: about 95 %."""

_GAP_RATIO = 4

_Memory = TypeVar("_Memory")


class Rule(Generic[_Memory]):
    """A rule that remembers numbers in a dataclass, and points in containers of the core."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        held = {name.lstrip("_"): kept.state_dict() for name, kept in self._containers().items()}
        return {"version": VERSION, **plain_memory(self._memory), **held}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        loaded: dict[str, Any] = {"_memory": load_memory(type(self._memory), d, VERSION)}
        self._check(loaded["_memory"])
        for name, kept in self._containers().items():
            inner = d.get(name.lstrip("_"))
            if not isinstance(inner, Mapping):
                raise ValueError(f"state: expected {name.lstrip('_')} to be a mapping")
            loaded[name] = type(kept)(BLOCKS)
            loaded[name].load_state_dict(dict(inner))
        vars(self).update(loaded)

    def _check(self, memory: _Memory) -> None:
        """Raises a ValueError for what no rule of this kind remembers."""

    def _containers(self) -> dict[str, _core.Blocks | _core.Window]:
        both = (_core.Blocks, _core.Window)
        return {name: kept for name, kept in vars(self).items() if isinstance(kept, both)}


class _Paced(Protocol):
    last_step: int | None
    gap: int


def pace_changes(memory: _Paced, step: int) -> bool:
    """Whether a point stands for far more or fewer steps than the one before it."""
    last, usual = memory.last_step, memory.gap
    memory.last_step = step
    if last is None or step <= last:
        return False
    gap = memory.gap = step - last
    return usual > 0 and (gap >= _GAP_RATIO * usual or usual >= _GAP_RATIO * gap)


def middle(values: list[float]) -> float:
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2.0


def loss_finding(
    code: str,
    step: int,
    *,
    value: float,
    message: str,
    evidence: Mapping[str, Any],
    severity: Severity | None = None,
    expected: float | None = None,
    score: float | None = None,
) -> Finding:
    return Finding(
        code,
        CATALOGUE[code].severity if severity is None else severity,
        step=step,
        signal="loss",
        value=value,
        expected=expected,
        score=score,
        message=message,
        evidence=evidence,
    )
