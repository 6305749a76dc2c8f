"""What the ranks of a distributed run have measured, made one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from gyrostat.guard.subject import Measured, OptimizerState
from gyrostat.integrations.torch.distributed import locate

__all__ = ["Ranks", "group_of", "unwrapped"]

_FLAGS = 4
_ABSENT = -1.0  # a norm that there is none of
_CALLS = ("judges", "goes to", "looks at the weights at")

_Array = NDArray[np.float64]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without ``DistributedDataParallel``, so that names are those of the model."""
    inner: Any = model.module if _is_ddp(model) else model
    return inner  # type: ignore[no-any-return]


def group_of(model: nn.Module, group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """The ranks that decide together; None if this one is alone.

    Args:
        model: The model. If it is a ``DistributedDataParallel`` or holds DTensors, the default
            group is meant where ``group`` is None.
        group: The group, or None.

    Raises:
        ValueError: If this rank is not in the group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    if group is None:
        spread = _is_ddp(model) or any(hasattr(p, "placements") for p in model.parameters())
        group = dist.group.WORLD if spread else None
    if group is None:
        return None
    if dist.get_rank(group) < 0:
        raise ValueError(f"group: expected one with rank {dist.get_rank()} in it")
    return group if dist.get_world_size(group) > 1 else None


def _is_ddp(model: nn.Module) -> bool:
    return dist.is_available() and isinstance(model, nn.parallel.DistributedDataParallel)


class Ranks:
    """Has the ranks tell each other what they measured, by small collectives in host memory.

    Each rank sends the same few numbers per parameter and gets those of all others, so that what is
    made of them is the same everywhere, to the bit. Where a group has no backend for host memory,
    as one of NCCL, a gloo group of the same ranks is made beside it. Every rank calls the same
    methods in the same order; that they are at the same call of the same step is checked each time.

    Args:
        group: The ranks.
        parameters: The model's parameters by name.
        memory: The parameters that the optimizer may remember something of.
        settings: What else must be the same on every rank.

    Attributes:
        group: As given.
        shares: For each parameter 1 over the number of ranks that hold the same part of it.

    Raises:
        ValueError: On all ranks, if names, shapes, placements or settings are not the same.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        parameters: Mapping[str, torch.Tensor],
        memory: Sequence[str],
        settings: object = None,
    ) -> None:
        self.group = group
        self._ranks = dist.get_process_group_ranks(group)
        self._host = _host_group(group, self._ranks)
        self._names = tuple(parameters)
        self._memory = tuple(memory)
        self._place = {name: i for i, name in enumerate(self._memory)}
        located = {name: locate(name, tensor) for name, tensor in parameters.items()}
        self._cut = np.array([one.shards > 1 for one in located.values()], dtype=bool)
        layouts = [(name, one.layout) for name, one in located.items()]
        told: list[Any] = [None] * len(self._ranks)
        own = (layouts, self._memory, settings), [one.shard for one in located.values()]
        dist.all_gather_object(told, own, self._host)
        for rank, (what, _) in zip(self._ranks, told, strict=True):
            _check_same(self._ranks[0], told[0][0], rank, what)
        # Parts of the same number are replicas of each other; those with none go to the last slot.
        self._width = max((one.shards for one in located.values()), default=1)
        last = len(self._names) * self._width
        shard = np.array([[-1 if s is None else s for s in shards] for _, shards in told])
        first = np.arange(len(self._names)) * self._width
        self._slots = np.where(shard < 0, last, first + shard).reshape(len(told), -1)
        copies = np.bincount(self._slots.ravel(), minlength=last + 1)[self._slots]
        mine = copies[self._ranks.index(dist.get_rank())]
        self.shares = {name: 1.0 / n for name, n in zip(self._names, mine.tolist(), strict=True)}
        self._replicated = tuple(
            name for name, n in zip(self._names, copies.max(axis=0), strict=True) if n > 1
        )
        self._seen: dict[str, _Array] = {}
        self._step = 0
        self._form = self._packet(0)

    def agree(self, measured: Measured, step: int) -> Measured:
        """What all ranks have measured, as one.

        The loss is the mean, a learning rate the highest, and what one rank found is found. Of the
        norm of a gradient the parts are added up, and the largest of its replicas counts; NaN wins.
        """
        if len(measured.rates) != self._form["rates"].shape[0]:
            self._form = self._packet(len(measured.rates))
        own, memory = self._begin("judges", step), measured.memory
        own["loss"] = measured.loss
        own["flags"][:3] = measured.stale, measured.gradients.gated, memory is not None
        own["rates"] = measured.rates
        own["norms"] = _column(self._names, measured.gradients.norms)
        own["first"] = own["second"] = _ABSENT
        if memory is not None:
            place = [self._place[name] for name in memory.names]
            own["first"][place], own["second"][place] = memory.first, memory.second
        rows = self._exchange(own)
        stale, gated, remembers, _ = (bool(flag) for flag in rows["flags"].any(axis=0))
        there = (rows["norms"] != _ABSENT).any(axis=0)
        norms = np.where(rows["norms"] == _ABSENT, 0.0, rows["norms"])
        self._seen = {"loss": rows["loss"], "grad_norm": norms, "lr": rows["rates"]}
        pairs = zip(self._names, self._whole(norms).tolist(), there, strict=True)
        whole = {name: norm for name, norm, is_there in pairs if is_there}
        gradients = replace(measured.gradients, norms=whole, gated=gated)
        if self._cut.any():
            gradients = replace(gradients, table=None)  # the record of a part is not that of all
        return replace(
            measured,
            loss=float(rows["loss"].mean()),
            gradients=gradients,
            rates=tuple(rows["rates"].max(axis=0).tolist()),
            memory=self._remembered(rows) if remembers else None,
            stale=stale,
            replicas=self._replicas(norms, whole),
        )

    def all_of(self, flags: Sequence[bool], step: int) -> tuple[bool, ...]:
        """Of each flag, of four at most, whether it is set on every rank."""
        own = self._begin("goes to", step)
        own["flags"][: len(flags)] = flags
        return tuple(self._exchange(own)["flags"].all(axis=0)[: len(flags)].tolist())

    def ranks_with(self, flag: bool, step: int) -> tuple[int, ...]:
        """The ranks on which a flag is set."""
        own = self._begin("goes to", step)
        own["flags"][0] = flag
        rows = self._exchange(own)["flags"][:, 0]
        return tuple(rank for rank, there in zip(self._ranks, rows, strict=True) if there)

    def largest(self, extremes: Mapping[str, float]) -> dict[str, float]:
        """The largest of all ranks by parameter; NaN wins."""
        own = self._begin("looks at the weights at", None)
        own["norms"] = _column(self._names, extremes)
        self._seen["weight"] = rows = self._exchange(own)["norms"]
        return dict(zip(self._names, rows.max(axis=0).tolist(), strict=True))

    def by_rank(self, signal: str, layer: str | None) -> dict[int, float]:
        """What each rank had, as far as it can be compared, in what was exchanged last."""
        seen = self._seen.get(signal)
        if seen is None:
            return {}
        cut = self._cut.any()
        if layer in self._names and signal in {"grad_norm", "weight"}:
            place = self._names.index(layer)
            seen, cut = seen[:, place], self._cut[place]
        if signal == "grad_norm" and cut and np.isfinite(seen).all():
            return {}  # one part may well be larger than another
        largest = seen.reshape(len(seen), -1).max(axis=1, initial=0.0)
        return dict(zip(self._ranks, largest.tolist(), strict=True))

    def _whole(self, norms: _Array) -> _Array:
        """L2 norm of each tensor, from that of the part of each rank."""
        parts = np.zeros(len(self._names) * self._width + 1)
        np.maximum.at(parts, self._slots, norms)
        whole: _Array = np.hypot.reduce(parts[:-1].reshape(-1, self._width), axis=1)
        return whole

    def _remembered(self, rows: Any) -> OptimizerState:
        """What all ranks remember, one after the other."""
        ranks, places = np.nonzero(rows["first"] != _ABSENT)
        return OptimizerState(
            tuple(self._memory[i] for i in places),
            rows["first"][ranks, places],
            rows["second"][ranks, places],
            tuple(self._ranks[r] for r in ranks),
        )

    def _replicas(
        self, norms: _Array, whole: Mapping[str, float]
    ) -> dict[str, Sequence[Mapping[int, str]]]:
        """The gradients that several ranks hold, with what each has where they differ.

        Ranks that reduce a gradient get the same bits, so that any difference in the norm tells.
        """
        told: dict[str, Sequence[Mapping[int, str]]] = {
            name: () for name in self._replicated if name in whole
        }
        least = np.full(len(self._names) * self._width + 1, np.inf)
        np.minimum.at(least, self._slots, np.nan_to_num(norms, nan=np.inf))
        with np.errstate(invalid="ignore"):
            apart = np.nan_to_num(norms, nan=np.inf) != least[self._slots]
        for i in np.flatnonzero(apart.any(axis=0)):
            if self._names[i] in told:
                parts: dict[int, dict[int, str]] = {}
                for r, rank in enumerate(self._ranks):
                    parts.setdefault(int(self._slots[r, i]), {})[rank] = repr(float(norms[r, i]))
                parts.pop(len(least) - 1, None)
                told[self._names[i]] = list(parts.values())
        return told

    def _packet(self, rates: int) -> np.dtype[np.void]:
        number, names, memory = np.float64, len(self._names), len(self._memory)
        return np.dtype(
            [
                ("call", number),
                ("step", number),
                ("loss", number),
                ("flags", number, (_FLAGS,)),
                ("rates", number, (rates,)),
                ("norms", number, (names,)),
                ("first", number, (memory,)),
                ("second", number, (memory,)),
            ]
        )

    def _begin(self, call: str, step: int | None) -> Any:
        own = np.zeros((), dtype=self._form)
        own["call"] = _CALLS.index(call)
        own["step"] = self._step = self._step if step is None else step
        return own

    def _exchange(self, own: Any) -> Any:
        """The packets of all ranks: always of one size, so that no two calls can get mixed up."""
        sent = torch.from_numpy(own.reshape(1).view(np.float64))
        every = torch.empty(len(self._ranks) * len(sent), dtype=torch.float64)
        try:
            dist.all_gather_into_tensor(every, sent, self._host)
        except RuntimeError as error:
            raise RuntimeError(
                f"step {self._step}: rank {dist.get_rank()} waits in vain for the other ranks; "
                f"one of them is gone or stands still ({error})"
            ) from error
        rows = every.numpy().view(self._form)
        if (rows["call"] != rows["call"][0]).any() or (rows["step"] != rows["step"][0]).any():
            at = ", ".join(
                f"rank {rank} {_CALLS[int(row['call'])]} step {int(row['step'])}"
                for rank, row in zip(self._ranks, rows, strict=True)
            )
            raise RuntimeError(f"the ranks are not at the same place: {at}")
        return rows


def _host_group(group: dist.ProcessGroup, ranks: Sequence[int]) -> dist.ProcessGroup:
    if "cpu:" in dist.get_backend_config(group):
        return group
    made: Any = dist.new_group(list(ranks), backend="gloo", use_local_synchronization=True)
    return made  # type: ignore[no-any-return]  # this rank is in it


def _check_same(first: int, expected: Sequence[Any], rank: int, got: Sequence[Any]) -> None:
    what = ("model", "optimizer", "policy")
    for name, one, other in zip(what, expected, got, strict=True):
        if one == other:
            continue
        pairs = (one, other), (other, one)
        if isinstance(one, Mapping):
            apart: Any = [{k: v for k, v in a.items() if b.get(k) != v} for a, b in pairs]
        else:
            apart = [[x for x in a if x not in b][:3] for a, b in pairs]
        raise ValueError(
            f"{name}: expected the same on every rank, "
            f"got {apart[0]} on rank {first} and {apart[1]} on rank {rank}"
        )


def _column(names: Sequence[str], values: Mapping[str, float]) -> list[float]:
    if not values.keys() <= set(names):
        new = sorted(values.keys() - set(names))
        raise RuntimeError(f"model: {new[:3]} came after the guard was made; make a new one")
    return [values.get(name, _ABSENT) for name in names]
