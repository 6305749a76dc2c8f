"""Tensors by pairs: direction, size and distance of two tensors, in one read of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat._intake import Tensors, collect
from gyrostat.findings import plain
from gyrostat.tensors import frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PairStats", "PairTable", "compare_all"]


def compare_all(
    left: Tensors,
    right: Tensors,
    *,
    of: Literal["gradients", "parameters"] = "gradients",
) -> PairTable:
    """Compares the tensors of two collections by name, in one call that reads each value once.

    The ratio of update to weight is ``compare_all(after, before).relative_difference``, the cosine
    between successive gradients ``compare_all(gradients, previous).cosine``.

    Nothing is copied, and dtypes may differ: bfloat16 weights beside float32 updates. Sums are made
    in float64, scaled where float64 data would leave its range, so norms have a relative error of
    at most 1e-12 and cosines an absolute one. Any number of threads and any processor give the same
    bits.

    NaN and Inf do not spread: all sums are over the places where both values are finite, and
    :attr:`PairStats.nonfinite_count` tells how many others there are. What IEEE arithmetic would
    have made of those places is ``numpy.where(table.nonfinite_count, numpy.nan, table.cosine)``.

    Args:
        left: As :func:`gyrostat.summarize_all` takes them.
        right: Likewise, with the same names in any order. Sequences are compared by place.
        of: Which tensors of a model are meant; without meaning for anything else.

    Returns:
        The table, in the order of ``left``. A tensor that is None on either side, such as the
        gradient of a parameter without one, is left out.

    Raises:
        TypeError: If one of them is no tensor that can be read; the message has its name.
        ValueError: If a name is lacking on one side or comes twice, or shapes differ.

    Example:
        >>> import numpy as np
        >>> table = compare_all({"w": np.array([3.0, 0.0])}, {"w": np.array([3.0, 4.0])})
        >>> table["w"].cosine, table["w"].l2_difference, table["w"].relative_difference
        (0.6, 4.0, 0.8)
    """
    names, tensors, missing = collect(left, of)
    right_names, right_tensors, right_missing = collect(right, of)
    others = dict(zip(right_names, right_tensors, strict=True)) | dict.fromkeys(right_missing)
    _check_names("left", {*names, *missing}, others)
    _check_names("right", others, {*names, *missing})
    kept, pairs = [], []
    for name, x in zip(names, tensors, strict=True):
        if others[name] is not None:
            _check_shape(name, x, others[name])
            kept.append(name)
            pairs.append((x, others[name]))
    columns, total = _core.compare_all([x for x, _ in pairs], [y for _, y in pairs], kept)
    missing = tuple(dict.fromkeys([*missing, *(n for n in names if others[n] is None)]))
    return PairTable(tuple(kept), total=PairStats(**total), missing=missing, **columns)


def _check_names(side: str, names: Any, needed: Any) -> None:
    lacking = [name for name in needed if name not in names]
    if lacking:
        shown = ", ".join(map(repr, lacking[:8])) + (", ..." if len(lacking) > 8 else "")
        raise ValueError(f"{side}: expected the names of the other side, lacks {shown}")


def _check_shape(name: str, x: Any, y: Any) -> None:
    shapes = [tuple(z.shape) for z in (x, y) if hasattr(z, "shape")]
    if len(set(shapes)) == 2:
        raise ValueError(f"left[{name!r}]: expected shape {shapes[1]} as in right, got {shapes[0]}")


@dataclass(frozen=True)
class PairStats:
    """What two tensors have to do with each other.

    All of it is about the places where both values are finite. Also that of several pairs, as if
    their values were one pair of tensors.

    Attributes:
        dot: Sum of left times right; Inf or 0 where that is beyond float64.
        cosine: ``dot / (l2_left * l2_right)``, within [-1, 1]; exactly 1 for a tensor and itself,
            NaN if one of the norms is 0.
        l2_left: L2 norm of left.
        l2_right: L2 norm of right.
        l2_difference: L2 norm of left - right.
        ratio: ``l2_left / l2_right``, also where these two overflow. Inf or NaN if right is 0.
        relative_difference: ``l2_difference / l2_right``, likewise.
        nonfinite_count: Places where one value or both are NaN or Inf.
    """

    dot: float
    cosine: float
    l2_left: float
    l2_right: float
    l2_difference: float
    ratio: float
    relative_difference: float
    nonfinite_count: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values that strict JSON can hold; NaN and Inf as strings."""
        return {name: plain(value) for name, value in asdict(self).items()}


_COLUMNS = tuple(field.name for field in fields(PairStats))


@dataclass(frozen=True, eq=False, repr=False)
class PairTable:
    """What :func:`compare_all` found, by name and by column.

    Each column has shape ``(n,)`` and is what :class:`PairStats` says; float64, but
    ``nonfinite_count``, which is int64.

    Attributes:
        names: Names of the tensors, in order.
        total: All pairs together: of gradients, the cosine of the whole gradient.
        missing: Names of those that were None on one side or both.
    """

    names: tuple[str, ...]
    dot: NDArray[np.float64]
    cosine: NDArray[np.float64]
    l2_left: NDArray[np.float64]
    l2_right: NDArray[np.float64]
    l2_difference: NDArray[np.float64]
    ratio: NDArray[np.float64]
    relative_difference: NDArray[np.float64]
    nonfinite_count: NDArray[np.int64]
    total: PairStats
    missing: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> PairStats:
        if name not in self.names:
            raise KeyError(name)
        return self._row(self.names.index(name))

    def _row(self, i: int) -> PairStats:
        return PairStats(**{column: getattr(self, column)[i].item() for column in _COLUMNS})

    def __iter__(self) -> Iterator[PairStats]:
        return map(self._row, range(len(self)))

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __repr__(self) -> str:
        return f"PairTable({len(self)} tensors, total {self.total!r})"

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """:meth:`PairStats.to_dict` of each pair, by name."""
        return {name: stats.to_dict() for name, stats in zip(self.names, self, strict=True)}

    def to_pandas(self) -> pd.DataFrame:
        """One row a pair, one column a number.

        Raises:
            ImportError: If pandas is not installed (``pip install 'gyrostat[pandas]'``).
        """
        return frame({name: getattr(self, name) for name in _COLUMNS}, self.names)
