"""Leakage beyond copies: everything that the columns of tables tell, in one pass."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gyrostat.findings import Finding
from gyrostat.leakage.coded import Coded, code_column, readable
from gyrostat.leakage.columns import Roles, check_columns
from gyrostat.leakage.entities import EntityReport
from gyrostat.leakage.preprocessing import check_preprocessing
from gyrostat.leakage.rows import Chance, copies_but_for
from gyrostat.leakage.splits import Column, Split

__all__ = ["Beyond", "chances", "check_beyond"]

_CHANCE_ROWS = 50_000
_CELLS = 20_000_000  # at 16 bytes each

Explained = Mapping[tuple[str, str, str], tuple[bool, float]]
"""By left split, right split and kind: whether chance explains the pairs, and how many it gives."""


@dataclass(frozen=True, slots=True)
class Beyond:
    """What was found beyond copies, and what new splits need to know.

    Attributes:
        findings: Of the columns.
        searched: Rows of each split that columns were searched in, if not all.
        chance: How many copies chance gives.
        entities: Records of one entity, if they were looked for.
        label: Labels of all rows.
        groups: Declared groups of all rows.
    """

    findings: Sequence[Finding] = ()
    searched: int | None = None
    chance: Explained = field(default_factory=dict)
    entities: EntityReport | None = None
    label: Coded | None = None
    groups: Coded | None = None


def check_beyond(
    splits: Sequence[Split],
    *,
    compared: Sequence[str],
    skipped: Collection[str],
    label: Sequence[Column] | None,
    label_name: str | None,
    time: str | None,
    groups: Collection[str],
) -> tuple[list[Finding], int | None]:
    """The findings of the columns of tables, and the rows searched of each split if not all.

    Args:
        splits: The data.
        compared: Columns that rows were compared by; empty for texts.
        skipped: Columns that nothing is said of, such as the text that was compared.
        label: Labels by split.
        label_name: Their column, if they are one.
        time: Declared column of times.
        groups: Declared columns of groups and entities.
    """
    shared = [name for name in splits[0].columns if all(name in s.columns for s in splits)]
    names = [name for name in shared if name not in skipped and name != label_name and name]
    most = max(1000, _CELLS // max(1, len(names) * len(splits)))
    rows = readable(splits, names, normalised=False, most=most)
    labels = None
    if label is not None:
        labels = code_column("label", label, normalised=False, most=most)
    found = check_columns(rows, Roles(labels, time, groups))
    found += check_preprocessing(rows, labels)
    if compared:
        normal = readable(splits, compared, normalised=True, most=most)
        if len(normal.columns) == len(compared):
            found += copies_but_for(normal, compared, labels)
    return found, most if any(split.rows > most for split in splits) else None


def chances(
    splits: Sequence[Split],
    compared: Sequence[str],
    near: float | None,
    counts: Sequence[Mapping[str, object]],
) -> Explained:
    """How many of the pairs that were counted chance explains."""
    if len(compared) < 2 or not counts:
        return {}
    most = min(_CHANCE_ROWS, max(1000, _CELLS // (len(compared) * len(splits))))
    rows = readable(splits, compared, normalised=True, most=most)
    if len(rows.columns) < len(compared):
        return {}
    chance = Chance(rows, compared, [split.rows for split in splits])
    d = len(compared)
    # Jaccard similarity of `near` means so many equal cells.
    cells = math.ceil(2 * d * near / (1 + near) - 1e-9) if near is not None else d
    out: dict[tuple[str, str, str], tuple[bool, float]] = {}
    same: dict[tuple[str, str], int] = {}
    for count in counts:
        left, right, kind = str(count["left"]), str(count["right"]), str(count["kind"])
        pairs = int(str(count["pairs"]))
        if kind != "near":
            # Normalised copies are those that are no exact ones.
            pairs = same[left, right] = same.get((left, right), 0) + pairs
        at = rows.names.index(left), rows.names.index(right)
        out[left, right, kind] = chance.explains(*at, cells if kind == "near" else d, pairs)
    return out
