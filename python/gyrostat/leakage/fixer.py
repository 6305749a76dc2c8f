"""The split fixer: new splits that keep copies, groups and entities together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat.report import Table

__all__ = ["Resplit", "assign"]


@dataclass(frozen=True, eq=False)
class Resplit:
    """New splits of the same rows.

    Attributes:
        names: Names of the new splits.
        old_names: Names of the old ones.
        assignment: By old split: int64, shape ``(rows,)``, the index of the new split of each row.
        sizes: Rows of each new split.
        classes: What the label distinguishes: its values (fifths of numbers with many), as text.
        shares: float64, shape ``(new splits, classes)``: share of each class; empty without labels.
        old_shares: The same of the old splits.
        clusters: Groups of two rows or more that had to stay together.
        largest: Rows of the largest of them.
    """

    names: tuple[str, ...]
    old_names: tuple[str, ...]
    assignment: Mapping[str, NDArray[np.int64]]
    sizes: Mapping[str, int]
    classes: tuple[str, ...]
    shares: NDArray[np.float64]
    old_shares: NDArray[np.float64]
    clusters: int
    largest: int

    def rows(self, name: str) -> dict[str, NDArray[np.int64]]:
        """The rows of a new split, by the old split that they come from, ascending.

        Raises:
            ValueError: If there is no such split.
        """
        if name not in self.names:
            raise ValueError(f"name: expected one of {list(self.names)}, got {name!r}")
        index = self.names.index(name)
        return {old: np.flatnonzero(new == index) for old, new in self.assignment.items()}

    @property
    def diff(self) -> dict[str, dict[str, int]]:
        """How many rows of each old split are now in each new one."""
        return {
            old: {name: int((new == i).sum()) for i, name in enumerate(self.names)}
            for old, new in self.assignment.items()
        }

    @property
    def moved(self) -> int:
        """Rows that are no longer in the split of the same name."""
        return sum(
            count for old, row in self.diff.items() for new, count in row.items() if new != old
        )

    def table(self) -> Table:
        """The diff as a table, one row for each old split."""
        head = ("old split", *(f"now in {name}" for name in self.names))
        rows = [(old, *row.values()) for old, row in self.diff.items()]
        return Table("Rows by old and new split", head, rows)

    def to_dict(self) -> dict[str, Any]:
        """Sizes, diff and shares as plain values; without the rows."""
        return {
            "sizes": dict(self.sizes),
            "diff": self.diff,
            "moved": self.moved,
            "classes": list(self.classes),
            "shares": self.shares.tolist(),
            "old_shares": self.old_shares.tolist(),
            "clusters": self.clusters,
            "largest": self.largest,
        }

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size:,}" for name, size in self.sizes.items())
        together = (
            f"{self.clusters:,} groups of rows kept together (the largest of {self.largest:,})"
        )
        lines = [f"New splits: {sizes}; {self.moved:,} rows moved, {together}"]
        for old, row in self.diff.items():
            lines.append(f"  {old}: " + ", ".join(f"{n:,} to {new}" for new, n in row.items()))
        for i, label in enumerate(self.classes):
            before = ", ".join(f"{share:.1%}" for share in self.old_shares[:, i])
            after = ", ".join(f"{share:.1%}" for share in self.shares[:, i])
            lines.append(f"  label {label}: {before} before, {after} after")
        return "\n".join(lines)


def assign(
    old: NDArray[np.int64],
    old_names: Sequence[str],
    clusters: NDArray[np.int64],
    label: tuple[NDArray[np.int64], Sequence[str]] | None,
    sizes: Mapping[str, float] | None,
    *,
    seed: int,
    keep: bool,
) -> Resplit:
    """Gives every row a new split.

    Clusters of two rows or more are placed first, the largest first, each where its labels
    overflow least, then in the split where most of its rows were. Single rows fill up each class to
    its quota and, with ``keep``, stay where they are as far as that allows.

    Args:
        old: The old split of each row, by index.
        old_names: Names of the old splits.
        clusters: The cluster of each row.
        label: The class of each row and the names of the classes, or None.
        sizes: Share (or number) of rows by name of the new split; None keeps the old ones.
        seed: Of the random choices.
        keep: Whether rows stay in the split of the same name where they can.

    Raises:
        ValueError: If ``sizes`` is empty or not of finite numbers above 0, or there is no row.
    """
    n = len(old)
    if not n:
        raise ValueError("splits: expected rows, got none")
    if sizes is None:
        sizes = {
            name: float(count)
            for name, count in zip(
                old_names, np.bincount(old, minlength=len(old_names)), strict=True
            )
            if count
        }
    share = np.array([float(size) for size in sizes.values()])
    if not len(share) or not (np.isfinite(share) & (share > 0)).all():
        raise ValueError(f"sizes: expected finite numbers above 0 by name, got {dict(sizes)}")
    names = tuple(sizes)
    share = share / share.sum()
    classes = np.zeros(n, dtype=np.int64) if label is None else label[0]
    home = np.array([names.index(name) if keep and name in names else -1 for name in old_names])
    rng = np.random.default_rng(seed)
    new = _place(classes, clusters, home[old], share, rng)

    starts = np.concatenate([[0], np.cumsum(np.bincount(old, minlength=len(old_names)))])
    parts = {name: new[starts[i] : starts[i + 1]] for i, name in enumerate(old_names)}
    texts = tuple(label[1]) if label is not None else ()
    of_cluster = np.unique(clusters, return_counts=True)[1]
    return Resplit(
        names=names,
        old_names=tuple(old_names),
        assignment=parts,
        sizes={name: int((new == i).sum()) for i, name in enumerate(names)},
        classes=texts,
        shares=_shares(new, classes, len(names), len(texts)),
        old_shares=_shares(old, classes, len(old_names), len(texts)),
        clusters=int((of_cluster > 1).sum()),
        largest=int(of_cluster.max()) if (of_cluster > 1).any() else 0,
    )


def _shares(
    split: NDArray[np.int64], classes: NDArray[np.int64], splits: int, count: int
) -> NDArray[np.float64]:
    table = np.zeros((splits, count))
    if count:
        np.add.at(table, (split, classes), 1)
    table /= np.maximum(table.sum(axis=1, keepdims=True), 1)
    return table


def _place(
    classes: NDArray[np.int64],
    clusters: NDArray[np.int64],
    home: NDArray[np.int64],
    share: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The new split of each row; ``home`` is where it would like to stay, or -1."""
    k = len(share)
    count = np.bincount(classes)
    quota = _quotas(count, share)
    _, cluster, size = np.unique(clusters, return_inverse=True, return_counts=True)
    cluster = cluster.reshape(-1)
    order = np.argsort(cluster, kind="stable")
    ends = np.cumsum(size)
    new = np.full(len(classes), -1)
    room = quota.astype(np.float64)

    several = rng.permutation(np.flatnonzero(size > 1))
    for c in several[np.argsort(-size[several], kind="stable")]:
        rows = order[ends[c] - size[c] : ends[c]]
        has = np.bincount(classes[rows], minlength=len(count))[:, None]
        overflow = np.maximum(has - np.maximum(room, 0), 0).sum(axis=0)
        wish = home[rows][home[rows] >= 0]
        wishes = np.bincount(wish, minlength=k)
        # Room that is left breaks ties, as a share of the split.
        left = room.sum(axis=0) / np.maximum(quota.sum(axis=0), 1)
        best = int(np.lexsort((-left, -wishes, overflow))[0])
        new[rows] = best
        room[:, best] -= has[:, 0]

    for label in range(len(count)):
        single = rng.permutation(np.flatnonzero((classes == label) & (new < 0)))
        # Clusters may have taken more than a quota: the others share what is left.
        free = np.maximum(room[label], 0)
        if not len(single):
            continue
        free = _quotas(np.array([len(single)]), (free if free.sum() else share) + 1e-12)[0]
        for i in range(k):
            stay = single[home[single] == i][: free[i]]
            new[stay] = i
            free[i] -= len(stay)
        rest = single[new[single] < 0]
        new[rest] = np.repeat(np.arange(k), free)
    return new


def _quotas(counts: NDArray[np.int64], share: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers near ``counts`` times ``share``: rows add up exactly, columns nearly."""
    share = share / share.sum()
    exact = counts[:, None] * share
    out = np.floor(exact).astype(np.int64)
    taken = np.zeros(len(share))  # what rounding has given each split so far, over all classes
    for i, count in enumerate(counts):
        rest = exact[i] - out[i]
        for _ in range(int(count - out[i].sum())):
            best = int(np.argmax(rest + taken))
            out[i, best] += 1
            rest[best] -= 1
        taken += exact[i] - out[i]
    return out
