"""Rule on replicas: copies of one tensor must hold the same bits on every rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gyrostat.findings import Culprit, Finding, Severity

__all__ = ["check_replicas"]

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
