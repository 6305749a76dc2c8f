"""The report of leakage: pairs, findings, and the rows to keep."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gyrostat import _core
from gyrostat.findings import CATALOGUE, Finding, Severity
from gyrostat.leakage.baseline import Identity, write_baseline
from gyrostat.leakage.beyond import Beyond, Explained
from gyrostat.leakage.clusters import Clusters
from gyrostat.leakage.fixer import Resplit, assign
from gyrostat.leakage.impact import Impact, Metric, measure
from gyrostat.leakage.predictive import named_classes
from gyrostat.leakage.progress import Bars
from gyrostat.report import Report, SideBySide, Table

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
        similarity: Exact Jaccard similarity, for images their likeness; 1.0 unless the kind is
            near.
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
        columns: Number of columns compared, or None if it was no table.
        near: Least similarity of near duplicates, or None.
        within: Whether pairs inside a split count.
        what: What was compared, in words.
    """

    rows: Mapping[str, int]
    columns: int | None
    near: float | None
    within: bool
    what: str = "texts"


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
        entities: Records that are probably of one entity, if ``entity`` was given, else None.
    """

    def __init__(
        self,
        leaks: _core.Leaks,
        subject: Subject,
        overlaps: Overlaps,
        accepted: Sequence[Identity] = (),
        beyond: Beyond | None = None,
    ) -> None:
        self._accepted = accepted
        names = list(subject.rows)
        counts = leaks.counts()
        beyond = beyond or Beyond()
        findings = [_duplicates(leaks, count, subject, beyond.chance) for count in counts]
        findings += _conflicts(leaks, counts, beyond.chance)
        findings += [_groups(names, *shared) for shared in overlaps.groups]
        findings += [_times(names, subject, *disorder) for disorder in overlaps.times]
        findings += beyond.findings
        self.entities = beyond.entities
        if self.entities is not None:
            findings += self.entities.findings
        super().__init__(
            "Leakage between " + ", ".join(names) if len(names) > 1 else f"Copies in {names[0]}",
            sorted(findings, key=lambda finding: -finding.severity.rank),
            summary={**_summary(leaks, subject), **_searched(beyond)},
            sections=[_counts_table(counts), _side_by_side(leaks, counts)] if counts else [],
        )
        self.pairs = Pairs(leaks)
        self._leaks = leaks
        self._names = names
        self._subject = subject
        self._beyond = beyond

    @cached_property
    def clusters(self) -> Clusters:
        """The rows that hang together by pairs, each with its least verified similarity."""
        return Clusters(self._leaks)

    def save_baseline(self, path: str | os.PathLike[str]) -> None:
        """Accepts all pairs of this report: writes them to a file for ``check_leakage(baseline=)``.

        The file holds hashes of the rows and no content. A pair is known again wherever its rows
        stand, unless one of them changes, or its labels come to differ.
        """
        pairs = (self._leaks.identity(index) for index in range(len(self._leaks)))
        write_baseline(path, [*self._accepted, *pairs])

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

    def impact(
        self,
        metric: Metric,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        split: str = "test",
        *,
        confidence: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> Impact:
        """How much the leaked rows of ``split`` change a score.

        A row is leaked if it has a pair, or an entity, with a row of another split. The intervals
        come from drawing rows with replacement, copies of each other together.

        Args:
            metric: Takes labels and predictions (as NumPy arrays) and returns a number, as
                scikit-learn's do.
            y_true: Labels of the rows of ``split``, shape ``(rows, ...)``.
            y_pred: Predictions, shape ``(rows, ...)``.
            split: Name of the split.
            confidence: Coverage of the intervals, in (0, 1).
            resamples: Number of draws; each calls ``metric`` three times. A draw for which it
                raises ValueError, such as one of one class alone, is counted and left out.
            seed: Of the draws.

        Raises:
            TypeError: If ``metric`` cannot be called.
            ValueError: If there is no such split, lengths differ or a number is out of range.
        """
        if split not in self._names:
            raise ValueError(f"split: expected one of {self._names}, got {split!r}")
        at, (left, right, across) = self._names.index(split), self._links()
        starts = self._starts()
        part = slice(int(starts[at]), int(starts[at + 1]))
        leaked = np.zeros(int(starts[-1]), dtype=bool)
        leaked[left[across]] = leaked[right[across]] = True
        with Bars() as bars:
            return measure(
                metric,
                y_true,
                y_pred,
                split=split,
                leaked=leaked[part],
                clusters=_core.connected(len(leaked), left, right)[part].astype(np.int64),
                confidence=confidence,
                resamples=resamples,
                seed=seed,
                progress=bars,
            )

    def resplit(
        self, sizes: Mapping[str, float] | None = None, *, seed: int = 0, keep: bool = True
    ) -> Resplit:
        """New splits in which no copy, declared group or entity is in two of them.

        The label, if one was given, has about the same shares in all of them: rows alone fill up
        each class to its quota; clusters of rows go, the largest first, where they fit best.

        Args:
            sizes: Share (or number) of rows by name of the new split. None keeps names and sizes.
            seed: Of the random choices; equal seeds give equal splits.
            keep: Whether rows stay in the split of the same name as far as that allows. Otherwise
                every row is placed anew.

        Returns:
            The new split of each row, and the difference to the old ones.

        Raises:
            ValueError: If copies inside a split are not known, because the check was not made with
                ``within=True``; if ``sizes`` are none, or there is no row.
        """
        if not self._subject.within:
            raise ValueError(
                "within: expected a report of check_leakage(..., within=True), since rows that "
                "move must not leave a copy behind; or use gyrostat.leakage.resplit"
            )
        left, right, _ = self._links()
        starts = self._starts()
        n = int(starts[-1])
        groups = self._beyond.groups
        if groups is not None:
            known = np.flatnonzero(~groups.missing)
            first = np.full(groups.distinct, n, dtype=np.int64)
            np.minimum.at(first, groups.codes[known], known)
            left = np.concatenate([left, first[groups.codes[known]].astype(np.uint32)])
            right = np.concatenate([right, known.astype(np.uint32)])
        return assign(
            np.repeat(np.arange(len(self._names)), np.diff(starts)),
            self._names,
            _core.connected(n, left, right).astype(np.int64),
            named_classes(self._beyond.label),
            sizes,
            seed=seed,
            keep=keep,
        )

    def _starts(self) -> NDArray[np.int64]:
        """First row of each split over all splits, and one past the last row."""
        return np.concatenate([[0], np.cumsum(list(self._subject.rows.values()))]).astype(np.int64)

    def _links(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.bool_]]:
        """Linked rows, counted over all splits, and whether they are in different ones."""
        starts = self._starts()
        left_split, left_row, right_split, right_row = self._leaks.rows()
        left = (starts[left_split] + left_row).astype(np.uint32)
        right = (starts[right_split] + right_row).astype(np.uint32)
        if self.entities is not None:
            more = self.entities.links()
            left, right = np.concatenate([left, more[0]]), np.concatenate([right, more[1]])
        split = np.repeat(np.arange(len(self._names)), np.diff(starts))
        return left, right, split[left] != split[right]


def _duplicates(leaks: _core.Leaks, count: Any, subject: Subject, chance: Explained) -> Finding:
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
    explained, expected = chance.get((left, right, kind), (False, None))
    if explained:
        severity = Severity.INFO
        message += f"; no more than chance gives, which is about {expected:,.0f}"
    elif expected is not None:
        message += f"; chance gives about {expected:,.0f}"
    evidence["expected_pairs"] = expected
    return Finding(
        code,
        severity,
        value=float(count["pairs"]),
        expected=expected,
        message=message,
        evidence=evidence,
    )


def _conflicts(leaks: _core.Leaks, counts: Sequence[Any], chance: Explained) -> Iterator[Finding]:
    """One finding for each pair of splits, whatever the kinds.

    Rows that are alike by chance are of different things, whose labels may differ: an info.
    """
    conflicts: dict[tuple[str, str], list[Any]] = {}
    for count in counts:
        if count["conflicts"]:
            conflicts.setdefault((count["left"], count["right"]), []).append(count)
    code = CATALOGUE["leakage-label-conflict"]
    for (left, right), parts in conflicts.items():
        by_chance = [p for p in parts if chance.get((left, right, p["kind"]), (False,))[0]]
        told = [part for part in parts if part not in by_chance] or parts
        pairs = sum(part["conflicts"] for part in told)
        where = f"inside {left}" if left == right else f"between {left} and {right}"
        message = f"the labels of {_number(pairs, 'pair')} {where} differ"
        alike = sum(part["conflicts"] for part in by_chance)
        if told == by_chance:
            message += ", which are alike by chance"
        elif by_chance:
            message += f", and of {alike:,} that are alike by chance"
        examples = [_example(leaks, index) for part in told for index in part["first_conflicts"]]
        evidence = {
            "left": left,
            "right": right,
            "pairs": sum(part["conflicts"] for part in parts),
            "by_chance": alike,
            "examples": examples,
        }
        yield Finding(
            code.slug,
            Severity.INFO if told == by_chance else code.severity,
            value=float(pairs),
            message=message,
            evidence=evidence,
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


def _searched(beyond: Beyond) -> dict[str, object]:
    if beyond.searched is None:
        return {}
    return {"columns searched in": f"at most {beyond.searched:,} rows of each split"}


def _summary(leaks: _core.Leaks, subject: Subject) -> dict[str, object]:
    statistics = leaks.statistics()
    rows = ", ".join(f"{name} {rows:,}" for name, rows in subject.rows.items())
    scope = "across and inside splits" if subject.within else "across splits"
    summary: dict[str, object] = {"rows": rows, "compared": f"{subject.what}, {scope}"}
    if empty := [name for name, rows in subject.rows.items() if rows == 0]:
        summary["empty splits"] = ", ".join(empty)
    if subject.columns is None:
        summary[f"missing {subject.what}"] = statistics["missing"]
    summary["pairs"] = len(leaks)
    if subject.near is not None and subject.what == "images":
        summary["near"] = f"likeness of at least {subject.near:g}"
        summary["likeness that images here reach by chance"] = statistics["chance"]
    elif subject.near is not None:
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
    if statistics["accepted"]:
        summary["pairs accepted before"] = statistics["accepted"]
    if statistics["cut_groups"]:
        summary["groups of copies not listed pair by pair"] = statistics["cut_groups"]
    if statistics["cut_buckets"]:
        summary["sets of look-alikes too large to compare all"] = statistics["cut_buckets"]
    return summary


def _counts_table(counts: Sequence[Any]) -> Table:
    columns = ("left", "right", "kind", "pairs", "left_rows", "right_rows", "conflicts")
    head = ("left", "right", "kind", "pairs", "rows left", "rows right", "label conflicts")
    return Table("Pairs", head, [[count[column] for column in columns] for count in counts])


def _side_by_side(leaks: _core.Leaks, counts: Sequence[Any]) -> SideBySide:
    pairs = []
    for count in counts:
        for index in count["first"]:
            pair, (left, right) = Pair._make(leaks.pair(index)), leaks.shown(index)
            heading = f"{pair.kind}, {pair.similarity:.3f}"
            if pair.label_conflict:
                heading += ", labels differ"
            names = f"{pair.left_split} {pair.left_row}", f"{pair.right_split} {pair.right_row}"
            pairs.append((heading, names[0], left, names[1], right))
    return SideBySide("Examples", pairs)


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
