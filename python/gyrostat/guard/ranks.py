"""Which ranks of a distributed run stand out."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["standing_out"]

_FACTOR = 3.0


def standing_out(values: Mapping[int, float]) -> tuple[int, ...]:
    """The ranks to blame, judged by what each of them measured of one thing.

    Args:
        values: What was measured by rank.

    Returns:
        The ranks that are not finite, if some are; else those with more than three times the
        (lower) median, in absolute value; nothing if all or none stand out.
    """
    sick = [rank for rank, value in values.items() if not math.isfinite(value)]
    if not sick:
        sizes = sorted(map(abs, values.values()))
        median = sizes[(len(sizes) - 1) // 2] if sizes else 0.0
        sick = [rank for rank, value in values.items() if abs(value) > _FACTOR * median]
    return tuple(sorted(sick)) if len(sick) < len(values) else ()
