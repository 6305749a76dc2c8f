"""Leakage through columns: what tells the label, who a row is of, or what comes later."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import CATALOGUE, Finding, Severity
from gyrostat.leakage.coded import Coded, Stack
from gyrostat.leakage.predictive import Power, bins, label_classes, power

__all__ = ["check_columns"]

_FEWEST_ROWS = 50
_MOST_ROWS = 20_000
_EXAMPLES = 5
_NATS = np.log(1e6)  # odds of a million to one

_ENTITY_NAME = re.compile(
    r"(^|[^a-z])(id|uid|uuid|guid|identifier|user|patient|subject|customer|client|person|speaker|"
    r"author|account|session|household|family|ticket|device|sensor|machine|site|hospital|store|"
    r"student|employee|player|member|visit|encounter|entity|phone|email|ssn|group)s?"
    r"([^a-z]?(id|no|nr|num|number|key|code|name))?$"
)
_TIME_NAME = re.compile(
    r"(^|[^a-z])(date|datetime|time|timestamp|year|day|month|week|epoch|created|updated|ts)"
    r"($|[^a-z])"
)


@dataclass(frozen=True, slots=True)
class Roles:
    """What the user said of columns.

    Attributes:
        label: Labels of all rows, or None.
        time: Column of times, or None.
        groups: Columns of groups and of entities.
    """

    label: Coded | None
    time: str | None
    groups: Collection[str]


def check_columns(rows: Stack, roles: Roles) -> list[Finding]:
    """All findings of the columns of ``rows``, none of which is the label.

    What looks odd in honest data as well is of severity info. Nothing is said of fewer than 50
    rows.
    """
    if rows.rows < _FEWEST_ROWS:
        return []
    columns = [column for column in rows.columns.values() if column.distinct > 1]
    found: list[Finding] = []
    identifiers = [c for c in columns if _identifies(c)]
    if identifiers:
        found.append(_identifiers(identifiers))
    if len(rows.names) > 1:
        free = [c for c in columns if c.name not in roles.groups and c.name != roles.time]
        for column in free:
            found += _groups(rows, column, columns, roles.label)
        found += _times(rows, free, roles.time)
    if roles.label is not None:
        found += _targets(columns, roles.label)
        found += _ahead(columns, roles)
    found += _later(columns, roles.time)
    return found


def _snake(name: str) -> str:
    """``PassengerId`` as ``passenger_id``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _finding(
    slug: str, message: str, value: float, evidence: Mapping[str, object], *, info: bool = False
) -> Finding:
    code = CATALOGUE[slug]
    severity = Severity.INFO if info else code.severity
    return Finding(slug, severity, value=float(value), message=message, evidence=evidence)


# Identifiers -------------------------------------------------------------------------------------


def _identifies(column: Coded) -> bool:
    filled = int((~column.missing).sum())
    if filled < _FEWEST_ROWS:
        return False
    if column.holds == "text":
        return column.distinct >= filled / 2 and column.words <= 5
    if column.holds == "numbers" and column.whole and column.distinct >= 0.99 * filled:
        span = float(np.nanmax(column.values) - np.nanmin(column.values)) + 1
        return bool(span <= 1.5 * filled) or bool(_ENTITY_NAME.search(_snake(column.name)))
    return False


def _identifiers(columns: Sequence[Coded]) -> Finding:
    names = ", ".join(f"'{column.name}'" for column in columns)
    filled = {column.name: int((~column.missing).sum()) for column in columns}
    evidence = {
        "columns": {c.name: {"values": c.distinct, "rows": filled[c.name]} for c in columns}
    }
    message = f"{names}: nearly every row has a value of its own, so a model can only memorise them"
    return _finding("leakage-identifier", message, len(columns), evidence, info=True)


# Groups ------------------------------------------------------------------------------------------


def _groups(
    rows: Stack, column: Coded, columns: Sequence[Coded], label: Coded | None
) -> Iterator[Finding]:
    """A column of things that have several rows each, in more than one split."""
    text = column.holds == "text" and column.words <= 5
    if not (text or (column.holds == "numbers" and column.whole)):
        return
    filled = int((~column.missing).sum())
    shared = column.counts[column.counts > 1]
    if len(shared) < 20 or filled < 1.1 * column.distinct or column.counts.max() > 0.1 * filled:
        return
    if column.distinct < 0.02 * filled and not _ENTITY_NAME.search(_snake(column.name)):
        return
    straddling, expected, examples = _straddling(rows, column)
    if straddling == 0:
        return
    named = bool(_ENTITY_NAME.search(_snake(column.name)))
    order = _paired(column)
    alike = [
        (other.name, kappa)
        for other in columns
        if other is not column and 1 < other.distinct <= 0.5 * filled
        for kappa in [_kappa(order, other.codes, column)[0]]
    ]
    close = [name for name, kappa in alike if kappa >= 0.5]
    told, score = 0.0, 0.0
    if label is not None:
        told, score = _kappa(order, label_classes(label, np.arange(rows.rows)), column)
    of_one = len(alike) >= 2 and len(close) >= len(alike) / 2
    tells = told >= 0.2 and score >= 6
    if not (named or (text and of_one and tells)):
        return
    reasons = [f"its rows agree in {', '.join(close[:3])}"] if close else []
    if tells:
        reasons.append(f"they agree in the label {told:.0%} of the way from chance to always")
    message = (
        f"'{column.name}' looks like an entity with several rows: {straddling:,} of its "
        f"{len(shared):,} values with more than one row are in two splits "
        f"(a random split gives {expected:,.0f})"
    )
    if reasons:
        message += "; " + "; ".join(reasons)
    evidence = {
        "column": column.name,
        "values": column.distinct,
        "straddling": straddling,
        "expected": expected,
        "label_agreement": told,
        "alike": dict(alike[:20]),
        "examples": examples,
    }
    # Of stores with hundreds of rows each, the next rows are wanted, not the next store.
    info = not (tells or (named and of_one)) or filled > 100 * column.distinct
    yield _finding("leakage-group-column", message, straddling, evidence, info=info)


def _straddling(rows: Stack, column: Coded) -> tuple[int, float, list[str]]:
    """Values in two splits, how many a random split would give, and a few of them."""
    known = ~column.missing
    table = np.zeros((column.distinct, len(rows.names)), dtype=np.int64)
    np.add.at(table, (column.codes[known], rows.split[known]), 1)
    at = np.flatnonzero((table > 0).sum(axis=1) > 1)
    share = table.sum(axis=0) / known.sum()
    size = column.counts[:, None].astype(np.float64)
    expected = float((1 - (share[None, :] ** size).sum(axis=1))[column.counts > 0].sum())
    return len(at), expected, [column.text(int(code)) for code in at[:_EXAMPLES]]


def _paired(column: Coded) -> NDArray[np.int64]:
    """Rows with a value, equal values next to each other, numbers in their order."""
    known = np.flatnonzero(~column.missing)
    key = column.values[known] if len(column.values) else column.codes[known]
    return known[np.argsort(key, kind="stable")]


def _kappa(
    order: NDArray[np.int64], other: NDArray[np.int64], column: Coded
) -> tuple[float, float]:
    """How much more often than otherwise rows of the same value agree in the codes ``other``.

    As a share of what is possible, and in standard deviations. Otherwise means by chance or, for
    numbers, with the next value: an honest number that predicts well has alike neighbours, an
    identifier has not.
    """
    a, b = order[:-1], order[1:]
    known = (other[a] >= 0) & (other[b] >= 0)
    a, b = a[known], b[known]
    same = column.codes[a] == column.codes[b]
    agree = other[a] == other[b]
    if same.sum() < 20:
        return 0.0, 0.0
    p = np.bincount(other[other >= 0]) / (other >= 0).sum()
    base = float((p**2).sum())
    if len(column.values) and (~same).sum() >= 20:
        base = max(base, float(agree[~same].mean()))
    if base >= 1:
        return 0.0, 0.0
    rate = float(agree[same].mean())
    return (rate - base) / (1 - base), (rate - base) / np.sqrt(base * (1 - base) / same.sum())


# Times -------------------------------------------------------------------------------------------


def _is_time(column: Coded) -> bool:
    if column.holds == "instants":
        return column.distinct >= 10
    if column.holds != "numbers" or not column.whole or column.distinct < 5:
        return False
    if not _TIME_NAME.search(_snake(column.name)):
        return False
    low, high = float(np.nanmin(column.values)), float(np.nanmax(column.values))
    years, seconds = (low >= 1800 and high <= 2200), (low >= 3e8 and high <= 5e9)
    return years or seconds or (low >= 3e11 and high <= 5e12)


def _times(rows: Stack, columns: Sequence[Coded], declared: str | None) -> Iterator[Finding]:
    """Splits that are not in the order of a column of times that nobody declared."""
    if declared is not None:
        return
    for column in columns:
        if not _is_time(column):
            continue
        for i in range(len(rows.names) - 1):
            early = column.values[rows.part(i)]
            late = column.values[rows.part(i + 1)]
            early, late = np.sort(early[~np.isnan(early)]), np.sort(late[~np.isnan(late)])
            if len(early) < 20 or len(late) < 20 or late[0] >= early[-1]:
                continue
            yield _disorder(rows, column, i, early, late)


def _disorder(
    rows: Stack,
    column: Coded,
    i: int,
    early: NDArray[np.float64],
    late: NDArray[np.float64],
) -> Finding:
    below = np.searchsorted(early, late, side="left") + np.searchsorted(early, late, side="right")
    after = float(below.sum() / (2.0 * len(early) * len(late)))
    older = int((late < early[-1]).sum())
    left, right = rows.names[i], rows.names[i + 1]
    count = f"{older:,} of {len(late):,} rows of {right} are older than the newest row of {left}"
    if after >= 0.95:
        message = f"{right} mostly comes after {left} by '{column.name}', but {count}"
    elif after <= 0.05:
        message = f"{right} comes before {left} by '{column.name}': {count}"
    else:
        message = (
            f"the splits are mixed in time by '{column.name}': {count}; split by time if the model "
            "is to predict the future"
        )
    evidence = {
        "column": column.name,
        "earlier": left,
        "later": right,
        "rows": older,
        "share_of_pairs_in_order": after,
    }
    info = 0.05 < after < 0.95
    return _finding("leakage-time-column", message, older, evidence, info=info)


def _ahead(columns: Sequence[Coded], roles: Roles) -> Iterator[Finding]:
    """Columns that hold the label of the next row in time."""
    times = [c for c in columns if c.name == roles.time] or [c for c in columns if _is_time(c)]
    label = roles.label
    if not times or label is None or not len(times[0].values) or not len(label.values):
        return
    time = times[0].values
    order = np.argsort(time, kind="stable")
    order = order[~np.isnan(time[order])]
    y = label.values[order]
    if len(order) < _FEWEST_ROWS or _same(y[1:], y[:-1]) > 0.9:
        return
    for column in columns:
        if column in times or not len(column.values):
            continue
        x = column.values[order]
        ahead, now, behind = _same(x[:-1], y[1:]), _same(x, y), _same(x[1:], y[:-1])
        if ahead >= 0.99 and max(now, behind) < 0.95:
            message = (
                f"'{column.name}' holds the label of the next row by '{times[0].name}' in "
                f"{ahead:.1%} of the rows"
            )
            evidence = {"column": column.name, "time": times[0].name, "share": ahead}
            yield _finding("leakage-look-ahead", message, ahead, evidence)


def _same(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float((a == b).mean()) if len(a) else 0.0


def _later(columns: Sequence[Coded], declared: str | None) -> Iterator[Finding]:
    """Instants that lie after the time of their own row."""
    times = [c for c in columns if c.holds == "instants" and c.distinct >= 10]
    first = next((c for c in times if c.name == declared), None)
    for column in times:
        for base in [first] if first is not None else times:
            if base is column:
                continue
            known = ~(np.isnan(column.values) | np.isnan(base.values))
            later = column.values[known] - base.values[known]
            if known.sum() < _FEWEST_ROWS or (later < 0).mean() > 0.01 or (later > 0).mean() < 0.5:
                continue
            message = (
                f"'{column.name}' lies after '{base.name}' in {(later > 0).mean():.0%} of the "
                "rows: it may not be known yet when a prediction is made"
            )
            evidence = {"column": column.name, "time": base.name, "share": (later > 0).mean()}
            yield _finding(
                "leakage-look-ahead", message, float((later > 0).mean()), evidence, info=True
            )
            break


# Labels ------------------------------------------------------------------------------------------


def _targets(columns: Sequence[Coded], label: Coded) -> Iterator[Finding]:
    """Columns that tell the label: copies of it, whether they are filled, or suspiciously well."""
    known = np.flatnonzero(~label.missing)
    part = known[:: max(1, len(known) // _MOST_ROWS)]
    classes = _frequent(label_classes(label, part))
    if len(part) < 100 or classes.max(initial=0) < 1:
        return
    fold = np.random.default_rng(0).permutation(len(part)) % 5
    powers: dict[str, Power] = {}
    for column in columns:
        if _copy(column, label):
            message = f"'{column.name}' is the label under another name: one value for each"
            evidence = {"column": column.name, "kind": "copy"}
            yield Finding(
                "leakage-target", Severity.CRITICAL, value=1.0, message=message, evidence=evidence
            )
            continue
        told = _filled(column, part, classes, fold)
        yield from told
        if not told:
            powers[column.name] = power(bins(column, part), classes, fold)
    yield from _strong(columns, powers, part, classes, fold)


def _frequent(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The 20 most frequent classes by number from 0, the others as one more."""
    _, at, count = np.unique(classes, return_inverse=True, return_counts=True)
    rank = np.empty(len(count), dtype=np.int64)
    rank[np.argsort(-count, kind="stable")] = np.arange(len(count))
    return np.minimum(rank, 20)[at.reshape(-1)]


def _copy(column: Coded, label: Coded) -> bool:
    """Whether each value of the column stands for one label and the other way round."""
    both = ~(column.missing | label.missing)
    if both.sum() < 0.99 * (~label.missing).sum() or label.distinct < 2:
        return False
    x, y = column.values, label.values
    if len(x) and len(y) and label.distinct > 20:
        a, b = x[both] - x[both].mean(), y[both] - y[both].mean()
        scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
        return scale > 0 and abs(float((a * b).sum())) / scale > 1 - 1e-9
    if column.distinct != label.distinct or label.distinct > 0.5 * both.sum():
        return False
    pairs = column.codes[both] * label.distinct + label.codes[both]
    return len(np.unique(pairs)) == label.distinct


def _filled(
    column: Coded, part: NDArray[np.int64], classes: NDArray[np.int64], fold: NDArray[np.int64]
) -> list[Finding]:
    """Whether it is filled, or a number is other than its usual value, tells the label."""
    empty = column.missing[part]
    states = {"filled": ~empty, "missing": empty}
    if not empty.any() and len(column.values) and column.distinct > 20:
        # Such as 0 where nothing has happened yet: at the end of the range, with a fifth of all.
        usual = int(np.bincount(column.codes[part]).argmax())
        at, text = column.codes[part] == usual, column.text(usual)
        value = column.values[part][at][0]
        ends = (column.values[part].min(), column.values[part].max())
        if value not in ends or at.mean() < 0.2:
            return []
        states = {f"not {text}": ~at, text: at}
    (first, here), _ = states.items()
    if min(here.sum(), (~here).sum()) < 20:
        return []
    told = power(here.astype(np.int64), classes, fold)
    base = np.bincount(classes) / len(classes)
    for state, rows in states.items():
        inside = np.bincount(classes[rows], minlength=len(base))
        top = int(inside.argmax())
        share = float(inside[top] / rows.sum())
        # One class alone, or most errors avoided; at odds of a million to one against chance.
        surprise = rows.sum() * _divergence(share, float(base[top]))
        pure = share >= 0.99 and (state == first or told.skill >= 0.5)
        if not (pure or told.skill >= 0.8) or share <= base[top] or surprise < _NATS:
            continue
        baseline = _permuted(here.astype(np.int64), classes, fold)
        if told.information <= baseline:
            continue
        message = (
            f"whether '{column.name}' is {first} tells the label: where it is {state}, "
            f"{share:.1%} of {int(rows.sum()):,} rows have one label, which {base[top]:.1%} of all "
            "rows have; it may be filled after the fact"
        )
        evidence = {
            "column": column.name,
            "kind": "filled",
            "state": state,
            "rows": int(rows.sum()),
            "share": share,
            "base": float(base[top]),
            "skill": told.skill,
            "information": told.information,
            "permuted": baseline,
        }
        return [_finding("leakage-target", message, told.skill, evidence)]
    return []


def _divergence(p: float, q: float) -> float:
    """Nats by which a rate of ``p`` speaks against a true rate of ``q``, for each observation."""
    if q >= 1:
        return 0.0
    out = p * np.log(p / q) if p > 0 else 0.0
    return float(out + ((1 - p) * np.log((1 - p) / (1 - q)) if p < 1 else 0.0))


def _strong(
    columns: Sequence[Coded],
    powers: dict[str, Power],
    part: NDArray[np.int64],
    classes: NDArray[np.int64],
    fold: NDArray[np.int64],
) -> Iterator[Finding]:
    """Columns that predict far better than all others, or nearly perfectly."""
    if not powers:
        return
    by_name = {column.name: column for column in columns}
    ranked = sorted(powers, key=lambda name: -powers[name].information)
    known = [max(powers[name].information, 0.01) for name in ranked] + [0.01]
    # Those before the widest gap, which may be one, or a few of many.
    most = max(1, len(ranked) // 6)
    first = max(range(1, most + 1), key=lambda i: known[i - 1] / known[i])
    for i, name in enumerate(ranked[:first]):
        own = powers[name]
        rest = powers[ranked[first]] if len(ranked) > first else Power(0.0, 0.0)
        alone = own.information >= 0.15 and known[i] >= 1.5 * known[first]
        if own.skill < 0.9 and not (alone and len(ranked) > 2):
            continue
        baseline = _permuted(bins(by_name[name], part), classes, fold)
        if own.information <= baseline:
            continue
        # As many values as labels: a flag that follows the label but for a few rows.
        flag = by_name[name].distinct == len(np.unique(classes))
        sure = own.skill >= (0.9 if flag else 0.99) and rest.skill <= 0.8 and len(ranked) > 2
        message = (
            f"'{name}' alone knows {own.information:.0%} of the label's information, the next "
            f"column {max(rest.information, 0):.0%}, and avoids {max(own.skill, 0):.0%} of the "
            "errors of guessing; make sure that it is known before the outcome"
        )
        evidence = {
            "column": name,
            "kind": "strong",
            "rank": i + 1,
            "skill": own.skill,
            "information": own.information,
            "next_skill": rest.skill,
            "next_information": rest.information,
            "permuted": baseline,
        }
        yield _finding("leakage-target", message, own.skill, evidence, info=not sure)


def _permuted(
    groups: NDArray[np.int64], classes: NDArray[np.int64], fold: NDArray[np.int64]
) -> float:
    """The most information that the column has of labels in random order, of 20 tries."""
    rng = np.random.default_rng(0)
    tries = (power(groups, rng.permutation(classes), fold).information for _ in range(20))
    return max(tries)
