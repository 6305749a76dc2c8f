"""Fuzzy entities: records of one person, place or thing, in spite of typing errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.findings import CATALOGUE, Finding, Severity
from gyrostat.leakage.coded import Coded, Stack, code_column, stack
from gyrostat.leakage.splits import Column, Split, open_split
from gyrostat.report import Report, Table

__all__ = ["EntityPair", "EntityPairs", "EntityReport", "find_entities", "link"]

_LEVELS = ("different", "similar", "close", "same")
# How true matches agree before anything is known: mostly the same, typing errors, other values.
_PRIOR = np.array([0.05, 0.05, 0.1, 0.8])
_PRIOR_MATCHES = 10.0
_RANDOM_PAIRS = 300_000
_ROUNDS = 100
_SHOWN = 5


class EntityPair(NamedTuple):
    """Two records that are probably of one entity; the left one comes first in the data.

    Attributes:
        left_split: Name of the split of the left row.
        left_row: Its number there, from 0.
        right_split: Name of the split of the right row.
        right_row: Its number there, from 0.
        probability: That both are of one entity.
        label_conflict: Whether the labels differ; None if one of them is not known.
    """

    left_split: str
    left_row: int
    right_split: str
    right_row: int
    probability: float
    label_conflict: bool | None


class EntityPairs(Sequence[EntityPair]):
    """The pairs by left and then right row."""

    def __init__(self, names: Sequence[str], columns: Mapping[str, NDArray[Any]]) -> None:
        self._names = names
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns["left_row"])

    @overload
    def __getitem__(self, index: int) -> EntityPair: ...
    @overload
    def __getitem__(self, index: slice) -> list[EntityPair]: ...
    def __getitem__(self, index: int | slice) -> EntityPair | list[EntityPair]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        c, i = self._columns, range(len(self))[index]
        conflict = int(c["label_conflict"][i])
        return EntityPair(
            self._names[int(c["left_split"][i])],
            int(c["left_row"][i]),
            self._names[int(c["right_split"][i])],
            int(c["right_row"][i]),
            float(c["probability"][i]),
            None if conflict < 0 else bool(conflict),
        )

    def __iter__(self) -> Iterator[EntityPair]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self):,} pairs of records>"

    def columns(self) -> dict[str, NDArray[Any]]:
        """The pairs as arrays of one length, as data frames are made from."""
        names = np.array(self._names, dtype=object)
        conflicts = self._columns["label_conflict"]
        return {
            "left_split": names[self._columns["left_split"]],
            "left_row": self._columns["left_row"],
            "right_split": names[self._columns["right_split"]],
            "right_row": self._columns["right_row"],
            "probability": self._columns["probability"],
            "label_conflict": np.array(
                [None if c < 0 else bool(c) for c in conflicts.tolist()], dtype=object
            ),
        }


class EntityReport(Report):
    """Records that are probably of one entity.

    Attributes:
        pairs: The pairs of records that were asked for.
    """

    def __init__(self, rows: Stack, linked: _Linked, label: Coded | None, *, within: bool) -> None:
        left, right = linked.left, linked.right
        split = rows.split
        wanted = np.full(len(left), True) if within else split[left] != split[right]
        left, right = left[wanted], right[wanted]
        conflict = np.full(len(left), -1, dtype=np.int8)
        if label is not None:
            known = ~(label.missing[left] | label.missing[right])
            conflict[known] = (label.codes[left] != label.codes[right])[known]
        self.pairs = EntityPairs(
            rows.names,
            {
                "left_split": split[left],
                "left_row": left - rows.starts[split[left]],
                "right_split": split[right],
                "right_row": right - rows.starts[split[right]],
                "probability": linked.probability[wanted],
                "label_conflict": conflict,
            },
        )
        self._rows = rows
        self._links = (linked.left, linked.right)
        self._clusters = _core.connected(rows.rows, linked.left, linked.right).astype(np.int64)
        names = ", ".join(rows.names)
        sizes = np.bincount(self._clusters)
        super().__init__(
            f"Entities in {names}",
            list(self._findings(linked)),
            summary={
                "rows": rows.rows,
                "fields": ", ".join(linked.fields),
                "pairs compared": linked.compared,
                "pairs": len(self.pairs),
                "entities with more than one row": int((sizes > 1).sum()),
                "rows of the largest": int(sizes.max(initial=0)),
            },
            sections=[linked.table()],
        )

    def clusters(self, split: str) -> NDArray[np.int64]:
        """The entity of each row of ``split``: equal numbers, in whatever split, are one entity.

        Clusters are what the pairs of all splits link, so that two rows of one cluster need not be
        alike themselves.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in self._rows.names:
            raise ValueError(f"split: expected one of {list(self._rows.names)}, got {split!r}")
        return self._clusters[self._rows.part(self._rows.names.index(split))]

    def links(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """All pairs, also those inside a split, as rows counted over all splits."""
        return self._links

    def _findings(self, linked: _Linked) -> Iterator[Finding]:
        c = self.pairs._columns  # noqa: SLF001 - its own part
        code = CATALOGUE["leakage-entity"]
        names = self._rows.names
        for a in range(len(names)):
            for b in range(a, len(names)):
                at = np.flatnonzero((c["left_split"] == a) & (c["right_split"] == b))
                if not len(at):
                    continue
                rows = np.diff(self._rows.starts)
                lefts, rights = np.unique(c["left_row"][at]), np.unique(c["right_row"][at])
                conflicts = int((c["label_conflict"][at] == 1).sum())
                if a == b:
                    count = len(np.union1d(lefts, rights))
                    message = f"{count:,} of {rows[a]:,} rows of {names[a]} share an entity"
                else:
                    message = (
                        f"{len(rights):,} of {rows[b]:,} rows of {names[b]} are probably of the "
                        f"same entities as {len(lefts):,} rows of {names[a]}"
                    )
                message += f" ({len(at):,} pairs by {', '.join(linked.fields)})"
                if conflicts:
                    message += f"; the labels of {conflicts:,} pairs differ"
                evidence = {
                    "left": names[a],
                    "right": names[b],
                    "pairs": len(at),
                    "left_rows": len(lefts),
                    "right_rows": len(rights),
                    "label_conflicts": conflicts,
                    "examples": [self._example(linked, self.pairs[int(i)]) for i in at[:_SHOWN]],
                }
                severity = Severity.INFO if a == b else code.severity
                yield Finding(
                    code.slug, severity, value=float(len(at)), message=message, evidence=evidence
                )

    def _example(self, linked: _Linked, pair: EntityPair) -> dict[str, object]:
        def shown(split: str, row: int) -> str:
            at = int(self._rows.starts[self._rows.names.index(split)]) + row
            cells = (self._rows.columns[field] for field in linked.fields)
            return ", ".join(
                c.text(int(c.codes[at])) if c.codes[at] >= 0 else "(missing)" for c in cells
            )

        return {
            "left_row": pair.left_row,
            "right_row": pair.right_row,
            "probability": pair.probability,
            "left": shown(pair.left_split, pair.left_row),
            "right": shown(pair.right_split, pair.right_row),
        }


def find_entities(
    splits: Mapping[str, Any],
    columns: Sequence[str] | None = None,
    *,
    label: str | None = None,
    within: bool = False,
    least: float = 0.5,
) -> EntityReport:
    """Finds records that are probably of one entity though their fields differ.

    Names, addresses, dates and numbers are compared in normal form (case, white space): as the
    same, close, similar or different, by the Jaro-Winkler similarity of text (0.92 and 0.8, words
    in any order) and by the edits between numbers, dates and codes (one, two). Two fields that hold
    each other's values are close. A missing field says nothing.

    The score is that of Fellegi and Sunter, "A theory for record linkage" (1969): how much likelier
    this agreement is among records of one entity than among others, field by field. What is usual
    among others is measured on random pairs and, for equal values, by how frequent the value is
    (Winkler's adjustment); what is usual within an entity is estimated by expectation maximisation
    from the data alone, with the weight of 10 imagined matches to begin with. No truth is needed,
    and nothing is random: equal data, equal pairs.

    Pairs are candidates if they share a value or a word, or hold values one edit apart in the same
    field. Values that too many rows share (2,500 pairs, fewer in large data) are passed over
    unless two of them are shared, so the work stays linear in the rows.

    Args:
        splits: As for :func:`gyrostat.check_leakage`, tables.
        columns: Fields that tell who or what it is, such as name, address, date of birth. None
            takes all but ``label``.
        label: Column of labels; pairs then tell whether theirs differ.
        within: Whether pairs inside one split are listed. With one split alone they always are.
            Clusters always hold them.
        least: Least probability of a pair, in (0, 1].

    Returns:
        The report: ``report.pairs``, and ``report.clusters(split)`` for a group-aware split.

    Raises:
        TypeError: If ``splits`` are no tables.
        ValueError: If a column is missing, there is no field, or ``least`` is out of range.
    """
    if not isinstance(splits, Mapping):
        raise TypeError(f"splits: expected a mapping by name, got {type(splits).__name__}")
    if not splits:
        raise ValueError("splits: expected at least one, got none")
    if not 0 < least <= 1:
        raise ValueError(f"least: expected a number above 0 and at most 1, got {least}")
    opened = [open_split(str(name), data) for name, data in splits.items()]
    if columns is None:
        columns = [name for name in opened[0].columns if name != label]
    if isinstance(columns, str) or not columns:
        raise ValueError(f"columns: expected names of columns, got {columns!r}")
    for split in opened:
        for name in columns:
            split.column("columns", name)
        if label is not None:
            split.column("label", label)
    labels = [split.columns[label] for split in opened] if label is not None else None
    return link(opened, columns, labels, within=within or len(opened) == 1, least=least)


def link(
    splits: Sequence[Split],
    columns: Sequence[str],
    labels: Sequence[Column] | None,
    *,
    within: bool,
    least: float = 0.5,
) -> EntityReport:
    """:func:`find_entities` for splits that are taken apart already."""
    rows = stack(splits, columns, normalised=True)
    label = code_column("label", labels, normalised=False) if labels is not None else None
    return EntityReport(rows, _link(rows, columns, least), label, within=within)


@dataclass(frozen=True, slots=True)
class _Linked:
    """Pairs of rows over all splits, and how the fields weigh.

    Attributes:
        fields: Names of those that hold anything.
        left: uint32, shape ``(pairs,)``.
        right: uint32, shape ``(pairs,)``, above ``left``.
        probability: float64, shape ``(pairs,)``.
        compared: Number of candidates.
        matches: Shape ``(fields, 4)``: how often each level is seen within an entity.
        others: The same among random pairs.
    """

    fields: list[str]
    left: NDArray[np.uint32]
    right: NDArray[np.uint32]
    probability: NDArray[np.float64]
    compared: int
    matches: NDArray[np.float64]
    others: NDArray[np.float64]

    def table(self) -> Table:
        """The estimates, one row a field."""
        head = ("field", *(f"{level} in one" for level in _LEVELS), *_LEVELS)
        rows = [
            (name, *(f"{p:.3f}" for p in match), *(f"{p:.2g}" for p in other))
            for name, match, other in zip(self.fields, self.matches, self.others, strict=True)
        ]
        return Table("How often fields agree, in one entity and at random", head, rows)


def _link(rows: Stack, columns: Sequence[str], least: float) -> _Linked:
    fields = [rows.columns[name] for name in columns if rows.columns[name].distinct]
    core = [field.core for field in fields]
    n, k = rows.rows, len(fields)
    if n < 2 or not k:
        nothing = np.zeros(0, dtype=np.uint32)
        table = np.zeros((k, 4))
        names = [field.name for field in fields]
        return _Linked(names, nothing, nothing, np.zeros(0), 0, table, table)
    pairs, _, _ = _core.entity_candidates(core)
    left, right = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    levels = _core.entity_levels(core, left, right)
    drawn = _core.random_pairs(n, _RANDOM_PAIRS)
    chance = _core.entity_levels(
        core, np.ascontiguousarray(drawn[:, 0]), np.ascontiguousarray(drawn[:, 1])
    )
    others = np.empty((k, 4))
    usual = np.zeros(len(left))  # log likelihood among records of different entities
    for i, field in enumerate(fields):
        counts = np.bincount(chance[:, i], minlength=5)[1:] + 0.5
        others[i] = counts / counts.sum()
        log = np.concatenate([[0.0], np.log(others[i])])
        same = levels[:, i] == 4
        usual += np.where(same, 0.0, log[levels[:, i]])
        # A rare value says more than a frequent one.
        usual[same] += np.log(field.counts[field.codes[left[same]]] / n)
    probability, matches = _expectation_maximisation(levels, usual, n * (n - 1) / 2)
    kept = probability >= least
    return _Linked(
        [field.name for field in fields],
        left[kept],
        right[kept],
        probability[kept],
        len(left),
        matches,
        others,
    )


def _expectation_maximisation(
    levels: NDArray[np.uint8], usual: NDArray[np.float64], possible: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The probability that each candidate is a match, and how often matches show each level.

    What random pairs show is known and stays fixed; pairs that are no candidates are taken for
    non-matches.
    """
    k = levels.shape[1]
    matches = np.tile(_PRIOR, (k, 1))
    share = min(0.5, 2 / possible)  # one match
    probability = np.zeros(len(usual))
    for _ in range(_ROUNDS):
        score = np.log(share / (1 - share)) - usual
        for i in range(k):
            score += np.concatenate([[0.0], np.log(matches[i])])[levels[:, i]]
        probability = 1 / (1 + np.exp(-np.clip(score, -500, 500)))
        found = np.empty((k, 4))
        for i in range(k):
            found[i] = np.bincount(levels[:, i], probability, minlength=5)[1:]
        found += _PRIOR_MATCHES * _PRIOR
        new = found / found.sum(axis=1, keepdims=True)
        # With fewer than one match among all pairs there is nothing to learn the share from.
        share = max(float(probability.sum()), 1.0) / possible
        share = min(share, 0.5)
        done = np.abs(new - matches).max() < 1e-4
        matches = new
        if done:
            break
    return probability, matches
