"""Rule on replicas: copies of one tensor must hold the same bits on every rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gyrostat.findings import Culprit, Finding, Severity

__all__ = ["ReplicaRule", "check_replicas"]

_LISTED = 100


def check_replicas(
    fingerprints: Mapping[str, Iterable[Mapping[int, str]]], step: int | None = None
) -> tuple[Finding, ...]:
    """Tells which ranks hold other bits than their replicas.

    What more than half of the replicas hold is taken for right. Where there is no such majority, as
    always between two, every rank that holds a replica is named.

    Args:
        fingerprints: By tensor, for each of its shards, the fingerprint of the content by rank. A
            tensor that is not sharded has one shard.
        step: The step.

    Returns:
        One ``replica-mismatch`` for each set of ranks to blame, in the order of the tensors.
    """
    alike_by_tensor: dict[_Verdict, dict[str, list[list[int]]]] = {}
    for name, shards in fingerprints.items():
        for replicas in shards:
            alike = _alike(replicas)
            if len(alike) > 1:
                alike_by_tensor.setdefault(_vote(alike), {}).setdefault(name, alike)
    return tuple(
        Finding(
            "replica-mismatch",
            Severity.CRITICAL,
            step=step,
            message=f"{len(alike)} of {len(fingerprints)} tensors: {verdict}",
            culprit=Culprit(layer=next(iter(alike)), ranks=verdict.blamed),
            evidence={
                "tensors": list(alike)[:_LISTED],
                "of": len(fingerprints),
                "majority": verdict.by_majority,
                "alike": next(iter(alike.values())),
            },
        )
        for verdict, alike in alike_by_tensor.items()
    )


class ReplicaRule:
    """Watches tensors, such as reduced gradients, of which replicas have always been alike.

    A tensor that was the same on all its ranks at a step and is not at the next was damaged on one
    of them. One that never was the same, as where nothing reduces it, is no matter of this rule.
    """

    def __init__(self) -> None:
        self._alike: set[str] = set()

    def update(
        self, fingerprints: Mapping[str, Sequence[Mapping[int, str]]], step: int
    ) -> tuple[Finding, ...]:
        """Judges the replicas of one step.

        Args:
            fingerprints: As for :func:`check_replicas`.
            step: The step.

        Returns:
            One ``replica-mismatch`` for each set of ranks to blame.
        """
        apart = {
            name: shards
            for name, shards in fingerprints.items()
            if any(len(set(replicas.values())) > 1 for replicas in shards)
        }
        known = {name: shards for name, shards in fingerprints.items() if name in self._alike}
        self._alike.update(name for name in fingerprints if name not in apart)
        return check_replicas(known, step) if not apart.keys().isdisjoint(known) else ()

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return {"version": 1, "alike": sorted(self._alike)}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        alike = d.get("alike") if isinstance(d, Mapping) and d.get("version") == 1 else None
        if not isinstance(alike, list):
            raise ValueError("state: expected a state of ReplicaRule, version 1")
        self._alike = set(map(str, alike))


class _Verdict(NamedTuple):
    blamed: tuple[int, ...]
    by_majority: bool

    def __str__(self) -> str:
        ranks = ", ".join(map(str, self.blamed))
        if not self.by_majority:
            return f"the copies on ranks {ranks} differ, and no majority tells which is right"
        if len(self.blamed) == 1:
            return f"the copy on rank {ranks} differs from most others"
        return f"the copies on ranks {ranks} differ from most others"


def _alike(replicas: Mapping[int, str]) -> list[list[int]]:
    """Ranks grouped by equal content, the largest group first."""
    groups: dict[str, list[int]] = {}
    for rank in sorted(replicas):
        groups.setdefault(replicas[rank], []).append(rank)
    return sorted(groups.values(), key=len, reverse=True)


def _vote(alike: list[list[int]]) -> _Verdict:
    by_majority = len(alike[0]) > sum(map(len, alike[1:]))
    blamed = alike[1:] if by_majority else alike
    return _Verdict(tuple(sorted(rank for ranks in blamed for rank in ranks)), by_majority)
