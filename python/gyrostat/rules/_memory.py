"""What a rule remembers, as plain values and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from gyrostat.findings import plain

__all__ = ["load_memory", "plain_memory"]

_Memory = TypeVar("_Memory")


def plain_memory(memory: Any) -> dict[str, Any]:
    """The fields of a dataclass of numbers, flags and lists of numbers, for strict JSON."""
    # Lists hold finite numbers only: a copy is enough, and they can be long.
    held = {f.name: getattr(memory, f.name) for f in fields(memory)}
    return {k: list(v) if isinstance(v, list) else plain(v) for k, v in held.items()}


def load_memory(kind: type[_Memory], d: object, version: int) -> _Memory:
    """The inverse of :func:`plain_memory`.

    Raises:
        ValueError: If ``d`` is no mapping of that version, lacks a field or holds a wrong one.
    """
    if not isinstance(d, Mapping) or d.get("version") != version:
        raise ValueError(f"state: expected a mapping of version {version}")
    found: dict[str, Any] = {}
    for f in fields(kind):  # type: ignore[arg-type]  # a dataclass, which no type says
        if f.name not in d:
            raise ValueError(f"state: lacks {f.name}")
        found[f.name] = _checked(f.name, str(f.type), d[f.name])
    return kind(**found)


def _checked(name: str, kind: str, value: object) -> object:
    """``value`` as the annotation says it must be."""
    if value is None and kind.endswith("| None"):
        return None
    match kind.removesuffix(" | None"):
        case "bool" if isinstance(value, bool):
            return value
        case "int" if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        case "float":
            return _number(name, value)
        case "list[float]" if isinstance(value, list):
            return [_number(name, one) for one in value]
    raise ValueError(f"state: expected {name} to be {kind}, got {value!r}")


def _number(name: str, value: object) -> float:
    if isinstance(value, str) and value in {"nan", "inf", "-inf"}:
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError(f"state: expected {name} to be a number, got {value!r}")
