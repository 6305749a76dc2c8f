"""Records of tensors that live on several ranks, merged by their placement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from gyrostat import _core
from gyrostat._intake import Tensors, collect
from gyrostat.findings import Finding
from gyrostat.rules import check_replicas
from gyrostat.tensors import TensorStats, TensorTable, summarize_all

__all__ = ["DistributedTable", "summarize_distributed"]


class DistributedTable(TensorTable):
    """The records of whole tensors, however they are spread over ranks; the same on every rank.

    Attributes:
        findings: ``replica-mismatch`` where replicas differ in their bits.
        nonfinite_ranks: By name of each tensor that holds NaN or Inf, the ranks that hold them.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        records: list[TensorStats],
        missing: tuple[str, ...],
        findings: tuple[Finding, ...],
        nonfinite_ranks: Mapping[str, tuple[int, ...]],
    ) -> None:
        super().__init__(names, records, missing)
        self.findings = findings
        self.nonfinite_ranks = nonfinite_ranks


def summarize_distributed(
    tensors: Tensors, group: dist.ProcessGroup | None = None, step: int | None = None
) -> DistributedTable:
    """The records of whole tensors of which each rank holds a part, identical on every rank.

    A collective: every rank of ``group`` calls it with the same names. Each rank reads its own part
    once, then small records travel, never values. Where a part lies is read off its placement:

    - A plain tensor, as under ``DistributedDataParallel``, is a replica: it counts once.
    - Of a ``DTensor`` (``fully_shard``, tensor parallel, both, hybrid) the ``Shard`` dimensions of
      the mesh are merged, whatever the sizes of the shards; along ``Replicate`` it counts once.
      ``Partial`` is refused: the values exist only after a reduction.
    - Parts of the same name on separate meshes are replicas of each other.

    Replicas are compared by a 128-bit hash of their bytes, so that a flipped bit shows even where
    no statistic moves. That is a second read, of replicated tensors only, and for a strided one a
    copy. The record of a tensor whose replicas differ is that of its lowest ranks.

    Args:
        tensors: As :func:`gyrostat.summarize_all` takes them, each a ``torch.Tensor`` or None.
        group: The ranks that take part; the default group if None. Without a process group the
            tensors are those of a run of one rank.
        step: The step, for the findings.

    Returns:
        The table, in the order of ``tensors``.

    Raises:
        TypeError: If a tensor is none, or of a dtype that is not read. This and every error that
            follows is raised on all ranks alike; an error of one rank has its number.
        ValueError: If a placement is ``Partial``, if names, shapes or placements are not the same
            on every rank, or if ``group`` lacks ranks that hold shards.
    """
    ranks = _ranks(group)
    own: _Pieces | _Failure
    cause = None
    try:
        own = _measure(tensors, len(ranks))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks wait for an answer
        own, cause = _Failure.of(error), error
    by_rank: dict[int, _Pieces] = {}
    for rank, told in zip(ranks, _gather(own, len(ranks), group), strict=True):
        if isinstance(told, _Failure):
            raise told.kind(f"rank {rank}: {told.message}") from cause
        by_rank[rank] = told
    return _merge(by_rank, step)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one rank holds of one tensor.

    Attributes:
        layout: What must be the same on every rank: dtype, shape, placements, number of shards.
        shards: Into how many shards the tensor is cut.
        shard: Which of them this is; None if this rank has no part in the tensor.
        record: The record of the shard.
        fingerprint: That of its bytes, if there may be replicas.
    """

    layout: str
    shards: int
    shard: int | None
    record: TensorStats
    fingerprint: str | None


# What one rank tells the others: its piece of each tensor, None for each that is None.
_Pieces = dict[str, _Piece | None]


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a rank has nothing to tell."""

    kind: type[Exception]
    message: str

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        for kind in (TypeError, ValueError):
            if isinstance(error, kind):
                return cls(kind, str(error))
        return cls(RuntimeError, f"{type(error).__name__}: {error}")


def _ranks(group: dist.ProcessGroup | None) -> list[int]:
    if not (dist.is_available() and dist.is_initialized()):
        return [0]
    if dist.get_rank(group) < 0:
        raise ValueError(f"group: expected one with rank {dist.get_rank()} in it")
    return dist.get_process_group_ranks(group)


def _gather(
    own: _Pieces | _Failure, size: int, group: dist.ProcessGroup | None
) -> Sequence[_Pieces | _Failure]:
    """What every rank tells, in the order of the ranks."""
    if size == 1:
        return [own]
    told: list[Any] = [None] * size
    dist.all_gather_object(told, own, group)
    return told


def _measure(tensors: Tensors, size: int) -> _Pieces:
    """The pieces of this rank. ``size`` is the number of ranks."""
    names, values, missing = collect(tensors)
    local = {n: locate(n, tensor) for n, tensor in zip(names, values, strict=True)}
    table = summarize_all({name: one.values for name, one in local.items()})
    pieces: _Pieces = dict.fromkeys(missing)
    for name, one in local.items():
        # As many shards as ranks: none has a replica.
        fingerprint = _fingerprint(one.values) if one.shards < size else None
        pieces[name] = _Piece(one.layout, one.shards, one.shard, table[name], fingerprint)
    return pieces


class _Local(NamedTuple):
    """The part of a tensor that is in the memory of this rank; the rest is as in ``_Piece``."""

    values: torch.Tensor
    layout: str
    shards: int
    shard: int | None


def locate(name: str, tensor: Any) -> _Local:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"tensors[{name!r}]: expected a torch.Tensor, got {type(tensor).__name__}")
    # To import torch.distributed.tensor only to ask for its class would take seconds.
    if hasattr(tensor, "placements"):
        return _locate_shard(name, tensor)
    return _Local(_ready(tensor), _dtype_and_shape(tensor), shards=1, shard=0)


def _locate_shard(name: str, tensor: Any) -> _Local:
    """The part of a DTensor that is here."""
    placements, mesh = tensor.placements, tensor.device_mesh
    if any(placement.is_partial() for placement in placements):
        expected = "no Partial placement (redistribute the tensor first)"
        raise ValueError(f"tensors[{name!r}]: expected {expected}, got {placements}")
    # Not is_shard(): the strided shards of tensor parallel under fully_shard deny it.
    cut = [i for i, placement in enumerate(placements) if not placement.is_replicate()]
    sizes = [mesh.shape[i] for i in cut]
    here = mesh.get_coordinate()
    shard = None
    if here is not None:
        shard = 0
        for i, size in zip(cut, sizes, strict=True):
            shard = shard * size + here[i]
    shards = math.prod(sizes)
    with torch.no_grad():
        values = _ready(tensor.to_local())
    layout = f"{_dtype_and_shape(tensor)}, {placements} in {shards} shards"
    return _Local(values, layout, shards, shard)


def _dtype_and_shape(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def _ready(values: Any) -> torch.Tensor:
    """The values themselves, where they are yet to come from a collective under way."""
    ready: torch.Tensor = values.wait() if hasattr(values, "wait") else values
    return ready.detach()


def _fingerprint(values: torch.Tensor) -> str:
    flat = values.contiguous().reshape(-1)
    return _core.fingerprint([flat.view(torch.uint8).numpy()])


def _merge(by_rank: Mapping[int, _Pieces], step: int | None) -> DistributedTable:
    """The table of all ranks, from the same pieces on each of them."""
    _check_agreement(by_rank)
    records: dict[str, TensorStats] = {}
    missing: list[str] = []
    replicas: dict[str, list[dict[int, str]]] = {}
    nonfinite: dict[str, tuple[int, ...]] = {}
    for name in next(iter(by_rank.values())):
        pieces = {rank: p for rank, told in by_rank.items() if (p := told[name]) is not None}
        if not pieces:
            missing.append(name)
            continue
        shards = _shards(name, pieces)
        one_each = [next(iter(s.values())).record for s in shards]
        records[name] = _core.Records(one_each).total()
        replicas[name] = [
            {rank: piece.fingerprint for rank, piece in s.items() if piece.fingerprint is not None}
            for s in shards
        ]
        if sick := [rank for rank, piece in pieces.items() if piece.record.nonfinite_count]:
            nonfinite[name] = tuple(sorted(sick))
    findings = check_replicas(replicas, step)
    return DistributedTable(
        tuple(records), list(records.values()), tuple(missing), findings, nonfinite
    )


def _check_agreement(by_rank: Mapping[int, _Pieces]) -> None:
    """Raises ValueError unless all ranks speak of the same tensors."""
    (first, expected), *others = by_rank.items()
    for rank, pieces in others:
        for one, other, lacking in ((expected, pieces, rank), (pieces, expected, first)):
            if absent := [name for name in one if name not in other]:
                raise ValueError(
                    f"tensors: expected the same names on every rank, rank {lacking} lacks {absent}"
                )
        for name, other_name in zip(expected, pieces, strict=True):
            if name != other_name:
                raise ValueError(
                    "tensors: expected the same order on every rank, got "
                    f"{name!r} on rank {first} where rank {rank} has {other_name!r}"
                )
        for name, piece in pieces.items():
            layouts = [_layout(expected[name]), _layout(piece)]
            if layouts[0] != layouts[1]:
                raise ValueError(
                    f"tensors[{name!r}]: expected the same dtype, shape and placements on every "
                    f"rank, got {layouts[0]} on rank {first} and {layouts[1]} on rank {rank}"
                )


def _layout(piece: _Piece | None) -> str:
    return "None" if piece is None else piece.layout


def _shards(name: str, pieces: Mapping[int, _Piece]) -> list[dict[int, _Piece]]:
    """The replicas of each shard by rank, in the order of the shards."""
    count = next(iter(pieces.values())).shards
    shards: list[dict[int, _Piece]] = [{} for _ in range(count)]
    for rank, piece in pieces.items():
        if piece.shard is not None:
            shards[piece.shard][rank] = piece
    if absent := [i for i, replicas in enumerate(shards) if not replicas]:
        raise ValueError(
            f"group: expected the ranks that hold all {count} shards of {name!r}, "
            f"lacks those of shards {absent}"
        )
    return shards
