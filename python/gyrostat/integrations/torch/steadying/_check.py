"""Checks of arguments that several techniques share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["count", "count_in", "fraction", "optimizer_of", "positive"]


def positive(name: str, value: float) -> float:
    """A finite number above 0."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")
    return float(value)


def fraction(name: str, value: float) -> float:
    """A number from 0 (with it) to 1 (without it)."""
    if not (isinstance(value, int | float) and 0 <= value < 1):
        raise ValueError(f"{name}: expected a number of [0, 1), got {value!r}")
    return float(value)


def count(name: str, value: int, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return value


def optimizer_of(value: Any) -> torch.optim.Optimizer:
    """An optimizer."""
    if not isinstance(value, torch.optim.Optimizer):
        raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {type(value).__name__}")
    return value


def count_in(state: object, key: str, version: int) -> int:
    """A whole number of a saved state of that version."""
    if not isinstance(state, Mapping) or state.get("version") != version:
        raise ValueError(f"state: expected a mapping of version {version}")
    value = state.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"state: expected {key} to be a whole number, got {value!r}")
    return value
