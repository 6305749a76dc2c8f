"""The report of leakage: pairs, findings, and the rows to keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.findings import CATALOGUE, Finding, Severity
from gyrostat.leakage.clusters import Clusters
from gyrostat.report import Report, Table

__all__ = ["LeakageReport", "Overlaps", "Pair", "Pairs", "Subject"]

_CODES = {
    "exact": "leakage-exact-duplicate",
    "normalised": "leakage-normalised-duplicate",
    "near": "leakage-near-duplicate",
}


class Pair(NamedTuple):
    """Two rows that are the same or nearly so; the left one comes first in the data.

    Attributes:
        left_split: Name of the split of the left row.
        left_row: Its number there, from 0.
        right_split: Name of the split of the right row.
        right_row: Its number there, from 0.
        kind: ``"exact"``, ``"normalised"`` or ``"near"``.
        similarity: Exact Jaccard similarity; 1.0 unless the kind is near.
        label_conflict: Whether the labels differ; None if one of them is not known.
    """

    left_split: str
    left_row: int
    right_split: str
    right_row: int
    kind: str
    similarity: float
    label_conflict: bool | None


class Pairs(Sequence[Pair]):
    """All pairs by left and then right row.

    Speaks the Arrow PyCapsule protocol: ``pyarrow.table(pairs)``, ``polars.DataFrame(pairs)``.
    """

    def __init__(self, leaks: _core.Leaks) -> None:
        self._leaks = leaks

    def __len__(self) -> int:
        return len(self._leaks)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return Pair._make(self._leaks.pair(range(len(self))[index]))

    def __iter__(self) -> Iterator[Pair]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self):,} pairs>"

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The pairs as a stream of Arrow record batches."""
        return self._leaks.__arrow_c_stream__(requested_schema)


@dataclass(frozen=True, slots=True)
class Subject:
    """What was compared.

    Attributes:
        rows: Number of rows by split.
        columns: Number of columns compared, or None for texts.
        near: Least similarity of near duplicates, or None.
        within: Whether pairs inside a split count.
    """

    rows: Mapping[str, int]
    columns: int | None
    near: float | None
    within: bool


@dataclass(frozen=True, slots=True)
class Overlaps:
    """What the core found in groups and times, splits by index.

    Attributes:
        groups: Left split, right split, groups, their rows left and right, first few groups.
        times: Earlier split, later split, rows too old, newest time earlier, oldest time later.
    """

    groups: Sequence[tuple[int, int, int, int, int, list[str]]]
    times: Sequence[tuple[int, int, int, str, str]]


class LeakageReport(Report):
    """What leaks between splits.

    Attributes:
        pairs: All pairs of rows that are the same or nearly so.
    """

    def __init__(self, leaks: _core.Leaks, subject: Subject, overlaps: Overlaps) -> None:
        names = list(subject.rows)
        counts = leaks.counts()
        findings = [_duplicates(leaks, count, subject) for count in counts]
        findings += _conflicts(leaks, counts)
        findings += [_groups(names, *shared) for shared in overlaps.groups]
        findings += [_times(names, subject, *disorder) for disorder in overlaps.times]
        super().__init__(
            "Leakage between " + ", ".join(names) if len(names) > 1 else f"Copies in {names[0]}",
            sorted(findings, key=lambda finding: -finding.severity.rank),
            summary=_summary(leaks, subject),
            sections=[_counts_table(counts), _examples_table(leaks, counts)] if counts else [],
        )
        self.pairs = Pairs(leaks)
        self._leaks = leaks
        self._names = names

    @cached_property
    def clusters(self) -> Clusters:
        """The rows that hang together by pairs, each with its least verified similarity."""
        return Clusters(self._leaks)

    def clean_rows(self, split: str) -> NDArray[np.int64]:
        """The rows of ``split`` to keep, so that no leaked pair is left.

        A row is dropped for a copy that is kept in a later split (or, where pairs inside a split
        count, earlier in its own). So the last split is kept whole but for copies inside it, train
        loses what is also in test, and no row is dropped without a copy of it staying. No pair is
        left once all splits are reduced to these rows.

        Returns:
            Row numbers, int64, ascending.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in self._names:
            raise ValueError(f"split: expected one of {self._names}, got {split!r}")
        return self._leaks.kept(self._names.index(split))


def _duplicates(leaks: _core.Leaks, count: Any, subject: Subject) -> Finding:
    kind, left, right = count["kind"], count["left"], count["right"]
    code = _CODES[kind]
    what = f"{kind} {'copies' if kind != 'near' else 'duplicates'}"
    if left == right:
        # Nothing leaks inside one split, but weights and scores are biased.
        severity = min(CATALOGUE[code].severity, Severity.WARNING)
        message = (
            f"{count['left_rows']:,} of {subject.rows[left]:,} rows of {left} are {what} of each "
            f"other ({_number(count['pairs'], 'pair')})"
        )
    else:
        severity = CATALOGUE[code].severity
        message = (
            f"{count['right_rows']:,} of {subject.rows[right]:,} rows of {right} are {what} of "
            f"{_number(count['left_rows'], 'row')} of {left} ({_number(count['pairs'], 'pair')})"
        )
    evidence = {key: count[key] for key in ("left", "right", "kind", "pairs")}
    evidence["left_rows"], evidence["right_rows"] = count["left_rows"], count["right_rows"]
    evidence["examples"] = [_example(leaks, index) for index in count["first"]]
    return Finding(code, severity, value=float(count["pairs"]), message=message, evidence=evidence)


def _conflicts(leaks: _core.Leaks, counts: Sequence[Any]) -> Iterator[Finding]:
    """One finding for each pair of splits, whatever the kinds."""
    conflicts: dict[tuple[str, str], list[Any]] = {}
    for count in counts:
        if count["conflicts"]:
            conflicts.setdefault((count["left"], count["right"]), []).append(count)
    code = CATALOGUE["leakage-label-conflict"]
    for (left, right), parts in conflicts.items():
        pairs = sum(part["conflicts"] for part in parts)
        where = f"inside {left}" if left == right else f"between {left} and {right}"
        examples = [_example(leaks, index) for part in parts for index in part["first_conflicts"]]
        evidence = {"left": left, "right": right, "pairs": pairs, "examples": examples}
        message = f"the labels of {_number(pairs, 'pair')} {where} differ"
        yield Finding(
            code.slug, code.severity, value=float(pairs), message=message, evidence=evidence
        )


def _groups(
    names: Sequence[str],
    left: int,
    right: int,
    groups: int,
    left_rows: int,
    right_rows: int,
    examples: list[str],
) -> Finding:
    code = CATALOGUE["leakage-group"]
    message = (
        f"{_number(groups, 'group')} of {names[right]} ({_number(right_rows, 'row')}) also in "
        f"{names[left]} ({_number(left_rows, 'row')}), such as {', '.join(examples[:3])}"
    )
    evidence = {
        "left": names[left],
        "right": names[right],
        "groups": groups,
        "left_rows": left_rows,
        "right_rows": right_rows,
        "examples": examples,
    }
    return Finding(
        code.slug, code.severity, value=float(groups), message=message, evidence=evidence
    )


def _times(
    names: Sequence[str],
    subject: Subject,
    earlier: int,
    later: int,
    rows: int,
    newest: str,
    oldest: str,
) -> Finding:
    code = CATALOGUE["leakage-time"]
    message = (
        f"{rows:,} of {subject.rows[names[later]]:,} rows of {names[later]} are older than the "
        f"newest row of {names[earlier]} ({newest}); the oldest is {oldest}"
    )
    evidence = {
        "earlier": names[earlier],
        "later": names[later],
        "rows": rows,
        "newest": newest,
        "oldest": oldest,
    }
    return Finding(code.slug, code.severity, value=float(rows), message=message, evidence=evidence)


def _summary(leaks: _core.Leaks, subject: Subject) -> dict[str, object]:
    statistics = leaks.statistics()
    rows = ", ".join(f"{name} {rows:,}" for name, rows in subject.rows.items())
    compared = "texts" if subject.columns is None else f"rows of {subject.columns:,} columns"
    scope = "across and inside splits" if subject.within else "across splits"
    summary: dict[str, object] = {"rows": rows, "compared": f"{compared}, {scope}"}
    if empty := [name for name, rows in subject.rows.items() if rows == 0]:
        summary["empty splits"] = ", ".join(empty)
    if subject.columns is None:
        summary["missing texts"] = statistics["missing"]
    summary["pairs"] = len(leaks)
    if subject.near is not None:
        summary["near"] = f"Jaccard of at least {subject.near:g}"
        summary["recall at the threshold"] = statistics["recall"]
    if statistics["sampled"]:
        pairs, found = statistics["sampled_pairs"], statistics["sampled_found"]
        measured = (
            f"{found / pairs:.4f}, {found:,} of the {_number(pairs, 'pair')}"
            if pairs
            else "no pair"
        )
        summary["recall measured"] = (
            f"{measured} of {statistics['sampled']:,} texts drawn at random"
        )
    if statistics["cut_groups"]:
        summary["groups of copies not listed pair by pair"] = statistics["cut_groups"]
    if statistics["cut_buckets"]:
        summary["sets of look-alikes too large to compare all"] = statistics["cut_buckets"]
    return summary


def _counts_table(counts: Sequence[Any]) -> Table:
    columns = ("left", "right", "kind", "pairs", "left_rows", "right_rows", "conflicts")
    head = ("left", "right", "kind", "pairs", "rows left", "rows right", "label conflicts")
    return Table("Pairs", head, [[count[column] for column in columns] for count in counts])


def _examples_table(leaks: _core.Leaks, counts: Sequence[Any]) -> Table:
    head = ("kind", "similarity", "left", "", "right", "")
    rows = []
    for count in counts:
        for index in count["first"]:
            pair, (left, right) = Pair._make(leaks.pair(index)), leaks.shown(index)
            where = f"{pair.left_split} {pair.left_row}", f"{pair.right_split} {pair.right_row}"
            rows.append((pair.kind, f"{pair.similarity:.3f}", where[0], left, where[1], right))
    return Table("Examples", head, rows)


def _example(leaks: _core.Leaks, index: int) -> dict[str, object]:
    pair, (left, right) = Pair._make(leaks.pair(index)), leaks.shown(index)
    return {
        "left_row": pair.left_row,
        "right_row": pair.right_row,
        "similarity": pair.similarity,
        "left": left,
        "right": right,
    }


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
