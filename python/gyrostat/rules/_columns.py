"""What the rules on tensors have in common: memory by tensor, episodes, levels of their own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import CATALOGUE, Culprit, Finding, plain
from gyrostat.rules._memory import load_memory, plain_memory

__all__ = [
    "EPISODES",
    "SURGE",
    "WARM_UP",
    "ColumnRule",
    "Layers",
    "LevelsAndTotal",
    "Rules",
    "Single",
    "checked",
    "layers_of",
    "log_of",
    "remembered",
    "starts",
    "tensor_finding",
]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_Told = TypeVar("_Told")

WARM_UP = 20
"""Looks from which a tensor's own level is known well enough to judge by it."""

_VERSION = 1
_SMOOTHING = 0.05
_GROWTH = math.log(10.0) / 1000.0
_LISTED = 100


def starts(*more: Mapping[str, float], **values: float) -> Mapping[str, float]:
    """Names of what a rule remembers, and what each begins with."""
    return MappingProxyType({k: v for each in (*more, values) for k, v in each.items()})


class ColumnRule:
    """A rule that remembers a few numbers for each tensor, and some for all of them.

    The names are those of the first update. Where others come later, tensors that are known keep
    what is remembered of them, and new ones begin anew.
    """

    _COLUMNS: ClassVar[Mapping[str, float]] = starts()
    """What is remembered of each tensor, and what a new one begins with."""
    _SCALARS: ClassVar[Mapping[str, float]] = starts()
    """Likewise, of all of them together."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._columns = {column: np.empty(0) for column in self._COLUMNS}
        self._calm = False
        self._scalars = dict(self._SCALARS)

    def _align(self, names: tuple[str, ...]) -> dict[str, Floats]:
        """The columns, with one value for each of ``names``."""
        if names is self._names or names == self._names:
            return self._columns
        known = {name: i for i, name in enumerate(self._names)}
        if len(set(names)) < len(names):
            raise ValueError("names: expected each name once")
        places = np.array([known.get(name, -1) for name in names], dtype=np.intp)
        for column, start in self._COLUMNS.items():
            # The value at the end is what -1 finds: that of a new tensor.
            self._columns[column] = np.append(self._columns[column], start)[places]
        self._names = names
        if "warm" in self._scalars:
            self._scalars["warm"] = 0.0
        return self._columns

    def _surge(self, log: Floats) -> Floats:
        """How far the logarithm of each value stands above its highest level so far.

        The level is an exponential mean (weight 0.05, that of a plain mean at first); its highest
        value may rise by a factor of ten in 1000 looks, so that slow growth is followed and fast
        growth is not. 0 in the first 20 looks, and for what is not finite.
        """
        columns = self._columns
        looks, level, peak = columns["looks"], columns["level"], columns["peak"]
        valid = np.isfinite(log)
        all_valid = np.count_nonzero(valid) == len(valid)  # a third of the time of all()
        above = log - peak
        if all_valid and self._scalars["warm"]:
            level += _SMOOTHING * (log - level)
            np.maximum(peak, np.minimum(level, peak + _GROWTH), out=peak)
            return above
        looks += valid
        given = log if all_valid else np.where(valid, log, level)
        level += np.maximum(1.0 / np.maximum(looks, 1.0), _SMOOTHING) * (given - level)
        np.maximum(peak, np.minimum(level, peak + _GROWTH), out=peak)
        new = looks <= WARM_UP
        peak[new] = level[new]
        above[new | ~valid] = 0.0
        self._scalars["warm"] = float(not new.any())
        return above

    def _surged(
        self, values: Floats, least: float, rise: float, patience: int
    ) -> tuple[NDArray[np.intp], Floats] | None:
        """The tensors to tell of as above ``least`` and risen, and how far each is above its level.

        The episode ends at half of the ``rise``, which is in log units.
        """
        above = self._surge(log_of(values))
        bad = values > least
        if self._quiet(bad):
            return None
        bad &= above > rise
        found = self._episodes(bad, above < rise / 2.0, patience)
        return None if found is None else (found, above)

    def _quiet(self, bad: Flags) -> bool:
        """Whether nothing is bad and nothing was told: the usual case, which is to cost little."""
        if self._scalars["told"] or np.count_nonzero(bad):
            self._calm = False
            return False
        if not self._calm:
            self._columns["count"][:] = 0.0
            self._columns["on"][:] = 0.0
            self._calm = True
        return True

    def _episodes(self, bad: Flags, over: Flags, patience: int) -> NDArray[np.intp] | None:
        """The tensors to tell of, if there is something new to tell.

        A tensor is affected from ``patience`` bad looks in a row on until a look finds it ``over``.
        What was told is told again when twice as many are affected, or after none was.
        """
        count, affected = self._columns["count"], self._columns["on"]
        count += 1.0
        count *= bad
        affected[count >= patience] = 1.0
        affected[over & ~bad] = 0.0
        number = float(affected.sum())
        told = self._scalars["told"]
        if number == 0.0:
            self._scalars["told"] = 0.0
        elif number >= 2.0 * told:
            self._scalars["told"] = number
            return np.flatnonzero(affected)
        return None

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return {
            "version": _VERSION,
            "names": list(self._names),
            "columns": {name: plain(column.tolist()) for name, column in self._columns.items()},
            "scalars": plain(self._scalars),
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a mapping of version {_VERSION}")
        names, columns, scalars = d.get("names"), d.get("columns"), d.get("scalars")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("state: expected names to be a list of strings")
        if len(set(names)) < len(names):
            raise ValueError("state: expected each name once")
        if not isinstance(columns, Mapping) or set(columns) != set(self._COLUMNS):
            raise ValueError(f"state: expected columns {sorted(self._COLUMNS)}")
        if not isinstance(scalars, Mapping) or set(scalars) != set(self._SCALARS):
            raise ValueError(f"state: expected scalars {sorted(self._SCALARS)}")
        loaded = {name: _floats(name, columns[name], len(names)) for name in self._COLUMNS}
        single = {name: float(_floats(name, [scalars[name]], 1)[0]) for name in self._SCALARS}
        self._names, self._columns, self._scalars = tuple(names), loaded, single
        self._calm = False


SURGE: Mapping[str, float] = {"looks": 0.0, "level": 0.0, "peak": 0.0}
"""The columns that :meth:`ColumnRule._surge` needs, beside the scalar ``warm``."""
EPISODES: Mapping[str, float] = {"count": 0.0, "on": 0.0}
"""The columns that :meth:`ColumnRule._episodes` needs, beside the scalar ``told``."""


@dataclass(slots=True)
class Single:
    """The same of one number: its level, and whether an episode is on."""

    looks: int = 0
    level: float = 0.0
    peak: float = 0.0
    count: int = 0
    told: bool = False

    def surge(self, value: float) -> float:
        """As :meth:`ColumnRule._surge`, of the logarithm of ``value``."""
        if not 0.0 < value < math.inf:
            return 0.0
        log = math.log(value)
        self.looks += 1
        above = log - self.peak
        self.level += max(1.0 / self.looks, _SMOOTHING) * (log - self.level)
        if self.looks <= WARM_UP:
            self.peak = self.level
            return 0.0
        self.peak = max(self.peak, min(self.level, self.peak + _GROWTH))
        return above

    def begins(self, *, bad: bool, over: bool, patience: int) -> bool:
        """Whether an episode begins: with ``patience`` bad looks in a row, after one was over."""
        self.count = min(self.count + 1, patience) if bad else 0
        if self.told:
            self.told = not over
            return False
        self.told = self.count >= patience
        return self.told


class LevelsAndTotal(ColumnRule):
    """A rule that judges the whole, and blames the layer that stands most above its own level."""

    _COLUMNS = starts(level=math.nan)

    def __init__(self) -> None:
        super().__init__()
        self._whole = Single()

    def _above_level(self, layers: tuple[str, ...], values: Floats) -> Floats:
        """How far the logarithm of each value stands above its own level, -Inf if unknown."""
        level = self._align(layers)["level"]
        log = log_of(values)
        above = log - level
        usable = np.isfinite(above)
        if np.count_nonzero(usable) == len(usable):
            level += _SMOOTHING * above
            return above
        np.copyto(level, log, where=np.isnan(level) & np.isfinite(log))
        level[usable] += _SMOOTHING * above[usable]
        return np.where(usable, above, -math.inf)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return super().state_dict() | {"whole": {"version": _VERSION, **plain_memory(self._whole)}}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        whole = load_memory(Single, d.get("whole") if isinstance(d, Mapping) else None, _VERSION)
        super().load_state_dict(d)
        self._whole = whole


class Rules:
    """Several rules kept together: one state for all attributes that have one."""

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        parts = {name.lstrip("_"): part.state_dict() for name, part in _parts(self).items()}
        return {"version": _VERSION, **parts}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rules that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rules are then left as they were.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a mapping of version {_VERSION}")
        loaded = _parts(self._anew())
        for name, part in loaded.items():
            part.load_state_dict(d.get(name.lstrip("_"), {}))
        vars(self).update(loaded)

    def _anew(self) -> Self:
        """Rules with the same settings and no memory."""
        return type(self)()


def _parts(rules: Rules) -> dict[str, Any]:
    return {name: part for name, part in vars(rules).items() if hasattr(part, "state_dict")}


def _floats(name: str, values: object, length: int) -> Floats:
    if isinstance(values, list) and len(values) == length:
        try:
            return np.array([float(value) for value in values])
        except (TypeError, ValueError, OverflowError):
            pass
    raise ValueError(f"state: expected {name} to be {length} numbers")


class Layers(NamedTuple):
    """Layers and the norm of each, from the norms of their tensors.

    A layer is what stands before the last dot of a name. The gradient of some biases is zero but
    for rounding, such as before a normalisation or of the keys of attention; no layer's is.
    """

    names: tuple[str, ...]
    norms: Floats

    @classmethod
    def of(cls, names: tuple[str, ...], norms: Floats) -> Self:
        """From the names and norms of tensors."""
        layers, index = layers_of(names)
        return cls(layers, np.sqrt(np.bincount(index, norms * norms, len(layers))))


def remembered(function: Callable[[tuple[str, ...]], _Told]) -> Callable[[tuple[str, ...]], _Told]:
    """Caches by names; the tuple of the last call is not even hashed, which takes its time."""
    cached = functools.lru_cache(maxsize=32)(function)
    last: list[tuple[tuple[str, ...], _Told]] = [((), cached(()))]

    def call(names: tuple[str, ...]) -> _Told:
        known, told = last[0]
        if known is not names:
            told = cached(names)
            last[0] = (names, told)
        return told

    return call


@remembered
def layers_of(names: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """The layers that tensors belong to, and the index of the layer of each."""
    layers: dict[str, int] = {}
    index = [layers.setdefault(name.rpartition(".")[0] or name, len(layers)) for name in names]
    return tuple(layers), np.array(index, dtype=np.intp)


def checked(names: Sequence[str], values: Any, what: str) -> tuple[tuple[str, ...], Floats]:
    """Names and one number for each of them.

    Raises:
        ValueError: If their numbers differ.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(names),):
        raise ValueError(f"{what}: expected shape ({len(names)},), got {array.shape}")
    return tuple(names), array


def log_of(values: Floats) -> Floats:
    """The natural logarithm, not finite for what is not positive and finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs: Floats = np.log(values)
    return logs


def tensor_finding(
    code: str,
    step: int | None,
    *,
    signal: str,
    layer: str | None,
    value: float,
    message: str,
    expected: float | None = None,
    score: float | None = None,
    affected: Sequence[str] = (),
    **evidence: Any,
) -> Finding:
    """A finding of the usual severity; ``affected`` are the tensors or layers it is about."""
    if affected:
        evidence = {"tensors": list(affected[:_LISTED]), "affected": len(affected)} | evidence
    return Finding(
        code,
        CATALOGUE[code].severity,
        step=step,
        signal=signal,
        value=float(value),
        expected=None if expected is None else float(expected),
        score=None if score is None else float(score),
        message=message,
        culprit=Culprit(layer=layer),
        evidence=plain(evidence),
    )
