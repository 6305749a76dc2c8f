"""Rows of tables: copies but for a few columns, and how many copies chance explains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import CATALOGUE, Finding, Severity
from gyrostat.leakage.coded import Coded, Stack

__all__ = ["Chance", "copies_but_for"]

# A column of the tree counts for as much as this many pairs of its marginal distribution: pairs of
# real copies, which agree in everything, then explain nothing by agreeing.
_SHRINK = 5.0
_TREE_COLUMNS = 30
_TREE_ROWS = 10_000
_LIKELY = 1e-4
_ROWS = 2_000
_CELLS = 300_000_000
_EXAMPLES = 5


class Chance:
    """How many pairs of rows chance makes equal, or nearly so.

    Given one row, the cells of another, unrelated row depend on each other along a tree of columns
    (Chow and Liu, "Approximating discrete probability distributions with dependence trees", 1968),
    whose probabilities are those of the data, each pair of columns shrunk towards independence. The
    probability that at least so many cells are equal is then exact, by dynamic programming, row by
    row. Rows at frequent values, which copy each other by chance, so count for what they are.

    Args:
        rows: The data.
        columns: Names of the columns that are compared.
        sizes: Rows of each split; None if ``rows`` are all there are, and no sample.
    """

    def __init__(
        self, rows: Stack, columns: Sequence[str], sizes: Sequence[int] | None = None
    ) -> None:
        self._rows = rows
        self._sizes = np.diff(rows.starts) if sizes is None else sizes
        self._columns = [rows.columns[name] for name in columns]
        self._filled = [column.codes + 1 for column in self._columns]  # missing equals missing
        self._order, self._parent = self._tree()

    def _tree(self) -> tuple[list[int], list[int]]:
        """Columns so that each comes after its parent; -1 is the parent of roots."""
        d, n = len(self._columns), self._rows.rows
        parent = [-1] * d
        agree = [_agreement(np.bincount(codes), n) for codes in self._filled]
        likely = sorted((i for i in range(d) if agree[i] > _LIKELY), key=lambda i: -agree[i])
        likely = sorted(likely[:_TREE_COLUMNS])
        step = max(1, n // _TREE_ROWS)
        part = [self._filled[i][::step] for i in likely]
        if len(likely) < 2:
            return list(range(d)), parent
        # Prim's algorithm on the information that two columns have of each other.
        information = np.zeros((len(likely), len(likely)))
        for a in range(len(likely)):
            for b in range(a):
                information[a, b] = information[b, a] = _information(part[a], part[b])
        inside = [0]
        order = [likely[0]]
        while len(inside) < len(likely):
            outside = [i for i in range(len(likely)) if i not in inside]
            table = information[np.ix_(inside, outside)]
            i, j = np.unravel_index(int(table.argmax()), table.shape)
            if table[i, j] > 0:
                parent[likely[outside[j]]] = likely[inside[i]]
            inside.append(outside[j])
            order.append(likely[outside[j]])
        return order + [i for i in range(d) if i not in set(likely)], parent

    def pairs(self, left: int, right: int, least: int) -> float:
        """The expected number of pairs of two splits (or inside one) with ``least`` equal cells."""
        a, b = int(self._sizes[left]), int(self._sizes[right])
        possible = a * (a - 1) / 2 if left == right else float(a) * b
        if self._rows.rows < 2 or possible < 1:
            return 0.0
        part = np.arange(self._rows.rows)[self._rows.part(left)]
        part = part[:: max(1, len(part) // _ROWS)]
        return possible * float(self._tail(part, least).mean())

    def _tail(self, part: NDArray[np.int64], least: int) -> NDArray[np.float64]:
        """For each row of ``part``, the probability that another has so many equal cells."""
        n, d = self._rows.rows, len(self._columns)
        # By column: the number of equal cells in its subtree, given that its own is equal, or not.
        equal = [np.zeros((len(part), 2)) for _ in range(d)]
        other = [np.ones((len(part), 1)) for _ in range(d)]
        for polynomial in equal:
            polynomial[:, 1] = 1
        total = np.ones((len(part), 1))
        for i in reversed(self._order):
            count = np.bincount(self._filled[i])[self._filled[i][part]]
            alone = (count - 1) / (n - 1)
            above = self._parent[i]
            if above < 0:
                total = _convolve(total, _mix(alone, equal[i], other[i]))
                continue
            both = _joint_counts(self._filled[i], self._filled[above])[part]
            over = np.bincount(self._filled[above])[self._filled[above][part]]
            given = (both - 1 + _SHRINK * alone) / (over - 1 + _SHRINK)
            rest = (count - both + _SHRINK * alone) / (n - over + _SHRINK)
            equal[above] = _convolve(equal[above], _mix(given, equal[i], other[i]))
            other[above] = _convolve(other[above], _mix(rest, equal[i], other[i]))
        out: NDArray[np.float64] = total[:, least:].sum(axis=1)
        return out

    def shares(self, left: int, right: int, least: int) -> tuple[float, float, int]:
        """How many rows of ``right`` have a partner in ``left``, and how many of ``left`` itself.

        In a random split both are the same, whatever the data. The third number is that of the rows
        tried on each side.
        """
        codes = np.stack([c.astype(np.int32) for c in self._filled], axis=1)
        a, b = codes[self._rows.part(left)], codes[self._rows.part(right)]
        # As many rows of the left split as fit, the same ones for both sides.
        against = a[:: max(1, len(a) * a.shape[1] // (_CELLS // 400))]
        tries = min(200, len(against), len(b))
        if tries < 20:
            return 0.0, 0.0, 0
        own = np.linspace(0, len(against) - 1, tries).astype(int)
        others = np.linspace(0, len(b) - 1, tries).astype(int)

        def partner(row: NDArray[np.int32], at: int | None) -> bool:
            enough = (against == row).sum(axis=1) >= least
            if at is not None:
                enough[at] = False
            return bool(enough.any())

        there = sum(partner(b[i], None) for i in others)
        here = sum(partner(against[i], int(i)) for i in own)
        return there / tries, here / tries, tries

    def explains(self, left: int, right: int, least: int, pairs: int) -> tuple[bool, float]:
        """Whether chance gives so many ``pairs`` with ``least`` equal cells, and how many it gives.

        It does if there are at most three times as many as expected (the tree knows of no
        dependence between three columns), within the noise of counting, and if the rows of
        ``right`` have partners in ``left`` no more often than those of ``left`` themselves.
        """
        if len(self._columns) < 2:
            return False, 0.0
        expected = self.pairs(left, right, least)
        if expected < 0.05 or pairs > 3 * expected + 3 * math.sqrt(expected) + 1:
            return False, expected
        if left != right:
            there, here, tries = self.shares(left, right, least)
            usual = (there + here) / 2
            noise = math.sqrt(max(2 * usual * (1 - usual) / max(tries, 1), 1e-12))
            if tries and there - here > 4 * noise:
                return False, expected
        return True, expected


def _agreement(counts: NDArray[np.int64], n: int) -> float:
    """How often two rows have the same value."""
    return float((counts * (counts - 1.0)).sum() / max(n * (n - 1.0), 1))


def _joint_counts(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """By row, how many rows have the same values in both."""
    joint = a * (int(b.max()) + 1) + b
    _, inverse, counts = np.unique(joint, return_inverse=True, return_counts=True)
    out: NDArray[np.int64] = counts[inverse.reshape(-1)]
    return out


def _information(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Mutual information in nats, less its bias (Miller and Madow)."""
    n = len(a)
    joint = np.unique(a * (int(b.max()) + 1) + b, return_counts=True)[1]
    ka, kb = np.unique(a, return_counts=True)[1], np.unique(b, return_counts=True)[1]

    def entropy(counts: NDArray[np.int64]) -> float:
        p = counts / n
        return float(-(p * np.log(p)).sum()) + (len(counts) - 1) / (2 * n)

    return entropy(ka) + entropy(kb) - entropy(joint)


def _mix(
    p: NDArray[np.float64], yes: NDArray[np.float64], no: NDArray[np.float64]
) -> NDArray[np.float64]:
    out = np.zeros((len(p), max(yes.shape[1], no.shape[1])))
    out[:, : yes.shape[1]] += p[:, None] * yes
    out[:, : no.shape[1]] += (1 - p[:, None]) * no
    return out


def _convolve(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    out = np.zeros((len(a), a.shape[1] + b.shape[1] - 1))
    for i in range(b.shape[1]):
        out[:, i : i + a.shape[1]] += b[:, i : i + 1] * a
    return out


@dataclass(frozen=True, slots=True)
class _Copies:
    """Rows that are equal but for some columns.

    Attributes:
        keys: By row, equal for copies.
        surplus: Rows beyond the first of each kind, more than there are without leaving anything
            out.
    """

    but_for: tuple[str, ...]
    keys: NDArray[np.uint64]
    surplus: int


def copies_but_for(rows: Stack, columns: Sequence[str], label: Coded | None) -> Iterator[Finding]:
    """Looks for columns (such as a row number) without which many rows are copies.

    Tried are each column alone, the two and the three columns of the most values; what need not
    be left out then is put back. At least 10 rows and 1 % have to be copies that are none with all
    columns, and three times as many as without any other single column. The work is one sort of
    all rows for each column.

    Args:
        rows: The data.
        columns: Those that are compared.
        label: Labels, which are not among ``columns``.
    """
    if len(columns) < 4 or rows.rows < 20:
        return
    parts = {name: _hashes(i, rows.columns[name].codes) for i, name in enumerate(columns)}

    def total(names: Sequence[str]) -> NDArray[np.uint64]:
        out = np.zeros(rows.rows, dtype=np.uint64)
        for name in names:
            out += parts[name]
        return out

    every = total(columns)
    before = rows.rows - len(np.unique(every))

    def without(names: Sequence[str]) -> _Copies:
        keys = every - total(names)
        return _Copies(tuple(names), keys, rows.rows - len(np.unique(keys)) - before)

    alone = sorted((without([name]) for name in columns), key=lambda c: -c.surplus)
    many = sorted(columns, key=lambda name: -rows.columns[name].distinct)
    enough = max(10, rows.rows // 100)
    best = alone[0]
    if best.surplus < enough or best.surplus < 3 * alone[1].surplus:
        several = [without(many[:size]) for size in (2, 3) if len(columns) - size >= 3]
        several = [c for c in several if c.surplus >= max(enough, 3 * alone[0].surplus)]
        if not several:
            return
        best = several[0]
        for name in best.but_for:
            fewer = without([other for other in best.but_for if other != name])
            if fewer.surplus >= 0.9 * best.surplus:
                best = fewer
    yield _describe(rows, best, [c for c in columns if c not in best.but_for], label)


def _describe(rows: Stack, copies: _Copies, rest: Sequence[str], label: Coded | None) -> Finding:
    _, kind, sizes = np.unique(copies.keys, return_inverse=True, return_counts=True)
    kind = kind.reshape(-1)
    pairs = int((sizes * (sizes - 1) // 2).sum())
    surplus = int((sizes - 1).sum())
    split = rows.split
    last = np.zeros((len(sizes), len(rows.names)), dtype=bool)
    last[kind, split] = True
    shared = np.flatnonzero(last.sum(axis=1) > 1)
    across = {
        name: int(np.isin(kind[rows.part(i)], shared).sum()) for i, name in enumerate(rows.names)
    }
    conflicts = None
    if label is not None:
        known = ~label.missing
        both = np.unique(np.stack([kind[known], label.codes[known]]), axis=1)[0]
        conflicts = int((np.bincount(both, minlength=len(sizes)) > 1).sum())
    whole = Stack(("all",), np.array([0, rows.rows]), rows.columns)
    explained, expected = Chance(whole, rest).explains(0, 0, len(rest), pairs)
    names = " and ".join(f"'{name}'" for name in copies.but_for)
    where = ", ".join(f"{count:,} of {name}" for name, count in across.items() if count)
    code = CATALOGUE["leakage-duplicate-but-for"]
    message = f"{surplus:,} rows are copies of others but for {names}"
    if len(rows.names) > 1:
        message += f"; with copies in another split: {where or 'none'}"
    if conflicts:
        message += f"; the labels of {conflicts:,} groups of copies differ"
    message += f"; chance alone makes about {expected:,.0f} of the {pairs:,} pairs equal"
    order = np.argsort(kind, kind="stable")
    groups = np.split(order, np.cumsum(sizes)[:-1])
    first = [g for g in groups if len(g) > 1][:_EXAMPLES]
    evidence = {
        "but_for": list(copies.but_for),
        "surplus": surplus,
        "groups": int((sizes > 1).sum()),
        "pairs": pairs,
        "expected_pairs": expected,
        "rows_across": across,
        "label_conflicts": conflicts,
        "examples": [
            [[rows.names[split[i]], int(i - rows.starts[split[i]])] for i in g[:_EXAMPLES]]
            for g in first
        ],
    }
    return Finding(
        code.slug,
        Severity.INFO if explained else code.severity,
        value=float(surplus),
        expected=expected,
        message=message,
        evidence=evidence,
    )


def _hashes(column: int, codes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash of each cell; the sum over the columns tells rows apart (splitmix64, Steele 2014)."""
    h = codes.astype(np.uint64) + np.uint64((column + 1) << 40)
    h = h + np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))
