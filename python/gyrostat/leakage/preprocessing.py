"""Signs that the data was prepared with its test rows in view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import CATALOGUE, Finding, Severity
from gyrostat.leakage.coded import Coded, Stack

__all__ = ["check_preprocessing"]

# float32 keeps sums of standardised columns to about this.
_EXACT = 1e-5
_CLEAR = 30.0


def check_preprocessing(rows: Stack, label: Coded | None) -> Iterator[Finding]:
    """Statistics that hold exactly for all splits together, and not for the first one alone.

    Args:
        rows: At least two splits, the first of them trained on.
        label: Labels, for target encodings.
    """
    train = rows.part(0)
    n = train.stop - train.start
    if len(rows.names) < 2 or n < 20 or rows.rows - n < 5:
        return
    numbers = [c for c in rows.columns.values() if c.holds == "numbers" and c.distinct > 10]
    fractions = [c for c in numbers if not c.whole]
    yield from _standardised(fractions, train)
    yield from _ranged(fractions, train)
    yield from _imputed(numbers, train)
    if label is not None:
        yield from _encoded(fractions, train, label)


def _finding(
    message: str, kind: str, columns: Sequence[str], evidence: dict[str, object], *, info: bool
) -> Finding:
    code = CATALOGUE["leakage-preprocessing"]
    return Finding(
        code.slug,
        Severity.INFO if info else code.severity,
        value=float(len(columns)),
        message=message,
        evidence={"kind": kind, "columns": list(columns)[:50], **evidence},
    )


def _list(columns: Sequence[Coded]) -> str:
    names = ", ".join(f"'{column.name}'" for column in columns[:5])
    return names + (f" and {len(columns) - 5} more" if len(columns) > 5 else "")


def _known(column: Coded, part: slice | None = None) -> NDArray[np.float64]:
    values = column.values if part is None else column.values[part]
    return values[np.isfinite(values)]


def _standardised(columns: Sequence[Coded], train: slice) -> Iterator[Finding]:
    """Mean 0 and deviation 1 together, but not in train."""

    def unit(values: NDArray[np.float64]) -> tuple[float, float]:
        mean, n = float(values.mean()), len(values)
        spread = float(values.std())
        return abs(mean), min(abs(spread - 1), abs(spread * np.sqrt(n / max(n - 1, 1)) - 1))

    found = []
    for column in columns:
        every, own = _known(column), _known(column, train)
        if len(own) < 20:
            continue
        joint, alone = unit(every), unit(own)
        if max(joint) < _EXACT and max(alone) > _CLEAR * max(*joint, 1e-9):
            found.append(column)
    if found:
        message = (
            f"{_list(found)}: mean 0 and deviation 1 over all splits together, not in the first "
            "one: scaled with the test rows in view"
        )
        yield _finding(message, "standardised", [c.name for c in found], {}, info=False)


def _ranged(columns: Sequence[Coded], train: slice) -> Iterator[Finding]:
    """From 0 to 1 exactly together, but not in train. Data comes so published, too."""
    exact = [c for c in columns if len(v := _known(c)) and v.min() == 0 and v.max() == 1]
    own = [_known(column, train) for column in exact]
    found = [c for c, v in zip(exact, own, strict=True) if len(v) and (v.min() > 0 or v.max() < 1)]
    if len(exact) >= 3 and len(exact) >= 0.8 * len(columns) and found:
        message = (
            f"{_list(found)}: from 0 to 1 over all splits together, not in the first one: scaled "
            "with the test rows in view"
        )
        yield _finding(message, "ranged", [c.name for c in found], {}, info=True)


def _imputed(columns: Sequence[Coded], train: slice) -> Iterator[Finding]:
    """A repeated value that is the mean of all other rows, those of test among them.

    Of splits at random both means are the same but for noise, and published data comes so: that is
    an info.
    """
    found, values, apart = [], {}, False
    for column in columns:
        code = int(column.counts.argmax())
        if column.counts[code] < 5 or not np.isfinite(column.values).any():
            continue
        at = column.codes == code
        constant = float(column.values[at][0])
        rest = np.isfinite(column.values) & ~at
        own = np.zeros_like(rest)
        own[train] = rest[train]
        if own.sum() < 20 or (rest & ~own).sum() < 5 or constant == round(constant):
            continue
        spread = float(column.values[rest].std())
        joint = abs(float(column.values[rest].mean()) - constant)
        alone = abs(float(column.values[own].mean()) - constant)
        if joint <= 1e-6 * spread and alone > max(_CLEAR * joint, 1e-5 * spread):
            found.append(column)
            values[column.name] = {"value": constant, "rows": int(at.sum())}
            apart |= alone > 4 * spread / np.sqrt(own.sum())
    if found:
        message = (
            f"{_list(found)}: a repeated value is the mean of all other rows of all splits, not of "
            "the first one: filled in with the test rows in view"
        )
        names = [c.name for c in found]
        yield _finding(message, "imputed", names, {"values": values}, info=not apart)


def _encoded(columns: Sequence[Coded], train: slice, label: Coded) -> Iterator[Finding]:
    """Numbers that are the mean label of the rows that share them."""
    for value, y in _targets(label):
        for column in columns:
            known = ~(column.missing | np.isnan(y))
            own = np.zeros_like(known)
            own[train] = known[train]
            joint, alone = _calibrated(column, y, known), _calibrated(column, y, own)
            if max(joint, alone) < 0.99:
                continue
            together = joint >= alone
            where = "all splits together, test labels among them" if together else "the first split"
            message = (
                f"'{column.name}' is the mean of label {value} of the rows that share it, over "
                f"{where}: a target encoding" + ("" if together else " of a row by itself")
            )
            evidence: dict[str, object] = {"share_of_rows": {"all": joint, "first": alone}}
            yield _finding(message, "encoded", [column.name], evidence, info=not together)


def _targets(label: Coded) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Numeric labels as they are; of two classes, the second."""
    if label.distinct == 2:
        y = np.where(label.missing, np.nan, label.codes.astype(np.float64))
        if label.holds == "numbers" and set(np.unique(label.values[~label.missing])) == {0.0, 1.0}:
            y = label.values
        yield label.text(1), y
        if y is not label.values:
            yield label.text(0), 1 - y
    elif label.holds == "numbers" and label.distinct > 2:
        yield "", label.values


def _calibrated(column: Coded, y: NDArray[np.float64], at: NDArray[np.bool_]) -> float:
    """Share of the rows whose value is the mean label of its rows, of values with two or more."""
    codes = column.codes[at]
    counts = np.bincount(codes, minlength=column.distinct)
    total = np.bincount(codes, y[at], minlength=column.distinct)
    several = counts >= 2
    # A value of a row by itself shows nothing: most rows have to share theirs.
    if several.sum() < 3 or counts[several].sum() < 0.5 * max(counts.sum(), 1):
        return 0.0
    value = np.zeros(column.distinct)
    value[codes] = column.values[at]
    mean = total[several] / counts[several]
    scale = float(np.nanstd(y)) or 1.0
    right = np.abs(mean - value[several]) <= 1e-6 * scale
    if np.unique(mean[right]).size < 3:
        return 0.0
    return float(counts[several][right].sum() / counts[several].sum())
