"""How well one column alone predicts the label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gyrostat.leakage.coded import Coded

__all__ = ["Power", "bins", "label_classes", "named_classes", "power"]

_FOLDS = 5
_BINS = 20
_CLASSES = 20


@dataclass(frozen=True, slots=True)
class Power:
    """What a predictor explains of rows that it was not fitted on.

    Attributes:
        skill: Share of the errors of always guessing the most frequent class that are avoided:
            1 is perfect, 0 is none.
        information: Share of the entropy of the label that is known (the uncertainty coefficient of
            Theil, cross-validated).
    """

    skill: float
    information: float


def label_classes(label: Coded, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Classes of the label in ``rows``: its values, or fifths of numbers with more than 20 values.

    A missing label is -1.
    """
    codes = label.codes[rows]
    if label.distinct <= _CLASSES or not len(label.values):
        return codes
    return _quantiles(label.values[rows], 5) - 1


def named_classes(label: Coded | None) -> tuple[NDArray[np.int64], list[str]] | None:
    """The class of each row, missing ones the last, and what people call them."""
    if label is None:
        return None
    classes = label_classes(label, np.arange(len(label.codes)))
    missing = classes < 0
    count = int(classes.max(initial=-1)) + 1
    if label.distinct <= _CLASSES or not len(label.values):
        names = [label.text(code) for code in range(count)]
    else:
        names = [f"fifth {i + 1}" for i in range(count)]
    if missing.any():
        names.append("(missing)")
    return np.where(missing, count, classes), names


def bins(column: Coded, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The column as at most some tens of groups of rows; 0 is missing.

    Numbers of more than 20 values are cut into 20 ranges of about as many rows each. Other values
    are left as they are: those that a fold does not know predict nothing.
    """
    if len(column.values) and column.distinct > _BINS:
        return _quantiles(column.values[rows], _BINS)
    return column.codes[rows] + 1


def power(groups: NDArray[np.int64], classes: NDArray[np.int64], fold: NDArray[np.int64]) -> Power:
    """Predicts ``classes`` from ``groups``, each fold from the others.

    Args:
        groups: int64, shape ``(rows,)``, from 0.
        classes: int64, shape ``(rows,)``, from 0.
        fold: The fold of each row, 0 to 4.
    """
    k = int(classes.max()) + 1
    _, groups = np.unique(groups, return_inverse=True)
    groups = groups.reshape(-1)
    table = np.zeros((_FOLDS, int(groups.max()) + 1, k))
    np.add.at(table, (fold, groups, classes), 1)
    total = table.sum(axis=0)
    wrong = chance = loss = entropy = 0.0
    for i in range(_FOLDS):
        held, known = table[i], total - table[i]
        prior = (known.sum(axis=0) + 0.5) / (known.sum() + 0.5 * k)
        # One imagined row that is spread as the classes are.
        odds = (known + prior) / (known.sum(axis=1, keepdims=True) + 1)
        wrong += held.sum() - held[np.arange(len(held)), odds.argmax(axis=1)].sum()
        chance += held.sum() - held[:, prior.argmax()].sum()
        loss -= (held * np.log(odds)).sum()
        entropy -= (held * np.log(prior)).sum()
    if chance <= 0 or entropy <= 0:
        return Power(0.0, 0.0)
    return Power(float(1 - wrong / chance), float(1 - loss / entropy))


def _quantiles(values: NDArray[np.float64], parts: int) -> NDArray[np.int64]:
    """1 to ``parts`` by rank, equal values together; 0 for NaN."""
    known = ~np.isnan(values)
    cuts = np.quantile(values[known], np.arange(1, parts) / parts, method="lower")
    out = np.zeros(len(values), dtype=np.int64)
    out[known] = np.searchsorted(np.unique(cuts), values[known], side="left") + 1
    return out
