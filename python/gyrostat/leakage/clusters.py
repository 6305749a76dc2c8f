"""Clusters: rows that hang together by pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, overload

from gyrostat import _core

__all__ = ["Cluster", "Clusters"]


class Cluster(NamedTuple):
    """Rows that hang together by pairs.

    Being alike is not transitive: two rows of a cluster that are no pair may have less in common
    than any pair, or nothing. ``n * (n - 1) / 2`` pairs of n rows mean that all are alike.

    Attributes:
        rows: Name of the split and number of each row, in the order of the data; at least two.
        pairs: Number of pairs of these rows that are listed.
        similarity: The least verified similarity among these pairs.
    """

    rows: list[tuple[str, int]]
    pairs: int
    similarity: float


class Clusters:
    """All clusters by their first row, as a sequence.

    Speaks the Arrow PyCapsule protocol, with a row for each member: number of the cluster, split,
    row, and the cluster's size, pairs and least similarity.
    """

    def __init__(self, leaks: _core.Leaks) -> None:
        self._clusters = leaks.clusters()

    def __len__(self) -> int:
        return len(self._clusters)

    @overload
    def __getitem__(self, index: int) -> Cluster: ...
    @overload
    def __getitem__(self, index: slice) -> list[Cluster]: ...
    def __getitem__(self, index: int | slice) -> Cluster | list[Cluster]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return Cluster._make(self._clusters.cluster(range(len(self))[index]))

    def __iter__(self) -> Iterator[Cluster]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self):,} clusters>"

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The members as a stream of Arrow record batches."""
        return self._clusters.__arrow_c_stream__(requested_schema)
