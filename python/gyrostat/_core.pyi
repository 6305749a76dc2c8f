from collections.abc import Callable, Sequence
from typing import Any, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ArrowColumn",
    "Leaks",
    "SpikeDetector",
    "TensorStats",
    "build_info",
    "clip",
    "find_leaks",
    "find_spikes",
    "fingerprint",
    "merge_all",
    "read_arrow",
    "shared_groups",
    "summarize",
    "summarize_all",
    "time_disorder",
    "total_norm",
]

@type_check_only
class _BuildInfo(TypedDict):
    version: str
    profile: str
    target: str
    threads: int

def build_info() -> _BuildInfo: ...

@final
class SpikeDetector:
    def __new__(cls, false_alarms_per_10k: float) -> SpikeDetector: ...
    def update(
        self, loss: float, grad_norm: float | None = None, step: float | None = None
    ) -> tuple[str, float, float, float, int] | None:
        """Code, expected loss, threshold, score and duration of an alarm."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, d: dict[str, Any]) -> None: ...

def find_spikes(
    loss: NDArray[np.float64],
    grad_norm: NDArray[np.float64] | None,
    step: NDArray[np.float64] | None,
    false_alarms_per_10k: float,
) -> NDArray[np.int64]:
    """Indices of the alarms; all arrays one-dimensional and contiguous."""

@final
class TensorStats:
    """The record of one tensor, or of several merged.

    Norms, moments, extremes and the histogram are of the finite values; NaN and infinities are
    counted apart. Variance, skewness and kurtosis are those of the population (divisor n). What
    cannot be told is NaN: mean, variance and extremes of no value, skewness and kurtosis of equal
    values. Counts, extremes and the histogram are exact. Relative error for float64 and float32:
    L1 and L2 at most 1e-12; sum and mean at most 1e-12 times L1; variance and kurtosis about 1e-12.

    Records are equal if every bit of them is. They can be pickled.
    """

    @property
    def dtype(self) -> str | None:
        """Type of the values, ``"mixed"`` after a merge of several, None for no tensor."""

    @property
    def count(self) -> int:
        """Number of values, finite or not."""

    @property
    def nan_count(self) -> int: ...
    @property
    def posinf_count(self) -> int: ...
    @property
    def neginf_count(self) -> int: ...
    @property
    def nonfinite_count(self) -> int:
        """NaN, +Inf and -Inf together."""

    @property
    def zero_count(self) -> int:
        """Zeros of either sign."""

    @property
    def subnormal_count(self) -> int:
        """Values that are subnormal in the tensor's own dtype."""

    @property
    def min(self) -> float: ...
    @property
    def max(self) -> float: ...
    @property
    def absmax(self) -> float: ...
    @property
    def sum(self) -> float: ...
    @property
    def mean(self) -> float: ...
    @property
    def var(self) -> float:
        """Population variance (``ddof=0``)."""

    @property
    def std(self) -> float:
        """Population standard deviation, right even where the variance leaves float64."""

    @property
    def l1(self) -> float: ...
    @property
    def l2(self) -> float: ...
    @property
    def skewness(self) -> float: ...
    @property
    def kurtosis(self) -> float:
        """Excess kurtosis: 0 for a normal distribution."""

    @property
    def exponent_histogram(self) -> NDArray[np.int64]:
        """Exact counts of floor(log2|x|) over the finite values other than zero."""

    @property
    def exponents(self) -> NDArray[np.int64]:
        """The exponent of each bin of :attr:`exponent_histogram`; the occupied span only."""

    def abs_quantile(self, q: float) -> float:
        """The magnitude of rank floor(q (n - 1)) of the n finite values, zeros included.

        Its bin of the histogram is exact, its place inside is interpolated on a logarithmic scale:
        off by a factor of 2 at most. Zeros and ``q=1`` are exact. NaN if there is no finite value.

        Args:
            q: From 0 to 1.

        Raises:
            ValueError: If ``q`` is out of range.
        """

    def underflow_fraction(self, fmt: str) -> float:
        """Share of the finite values other than zero that become zero in a smaller format.

        With s the smallest subnormal number of the format, values up to s/2 become zero. Below s/2
        lie whole bins of the histogram, so the share is exact but for values of exactly s/2: these
        count as kept, unless that is ``absmax``. 0 if there is no value other than zero.

        Args:
            fmt: ``"float16"``, ``"bfloat16"``, ``"float32"``, ``"float8_e4m3fn"`` or
                ``"float8_e5m2"``.

        Raises:
            ValueError: If ``fmt`` is not known.
        """

    def overflow_fraction(self, fmt: str) -> float:
        """Share of the finite values beyond what a smaller format holds after rounding.

        They become infinite, or NaN in ``"float8_e4m3fn"``. Exactly 0 if ``absmax`` fits. Exact
        but for the one bin of the histogram in which the limit lies, [2^15, 2^16) for
        ``"float16"``: values are taken to be spread evenly on a logarithmic scale within that bin
        and within the extremes. 0 if there is no finite value.

        Args:
            fmt: As in :meth:`underflow_fraction`.

        Raises:
            ValueError: If ``fmt`` is not known.
        """

    def merge(self, other: TensorStats) -> TensorStats:
        """The record of the values of both; neither is changed.

        Counts, extremes and the histogram are exact, moments agree with those of the whole up to
        rounding. ``a.merge(b) == b.merge(a)``, bit for bit.
        """

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values that strict JSON can hold, bit for bit."""

    @staticmethod
    def from_dict(d: dict[str, Any]) -> TensorStats:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: If no tensor can have such a record.
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    __hash__: None  # type: ignore[assignment]

def summarize(x: Any, dtype: str | None = None) -> TensorStats:
    """With ``dtype``, unsigned integers are taken for the bits of such values."""

def summarize_all(tensors: list[Any], names: Sequence[str]) -> list[TensorStats]: ...
def total_norm(tensors: list[Any], names: Sequence[str]) -> float:
    """The names are for messages."""

def clip(
    tensors: list[Any], max_norm: float, finite_only: bool
) -> tuple[float, bool] | None:
    """Scale PyTorch tensors in place so that their norm is at most ``max_norm``.

    Returns the norm before, and whether the tensors have been scaled: with ``finite_only`` not by a
    norm that is not finite. None, and nothing is done, unless all of them are dense, in host
    memory, of float64, float32, float16 or bfloat16, and no two values share memory.
    """

def merge_all(records: list[TensorStats]) -> TensorStats: ...

@final
class ArrowColumn:
    is_text: bool
    def __len__(self) -> int: ...

def read_arrow(data: Any) -> list[tuple[str, ArrowColumn]]: ...

@type_check_only
class _Count(TypedDict):
    left: str
    right: str
    kind: str
    pairs: int
    left_rows: int
    right_rows: int
    conflicts: int
    first: list[int]
    first_conflicts: list[int]

@type_check_only
class _Statistics(TypedDict):
    rows: int
    missing: int
    distinct: int
    bands: int
    recall: float | None
    compared: int
    cut_buckets: int
    cut_groups: int

@final
class Leaks:
    def __len__(self) -> int: ...
    def pair(self, index: int) -> tuple[str, int, str, int, str, float, bool | None]: ...
    def counts(self) -> list[_Count]: ...
    def shown(self, index: int) -> tuple[str, str]: ...
    def statistics(self) -> _Statistics: ...
    def kept(self, index: int) -> NDArray[np.int64]: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

def find_leaks(
    splits: Sequence[tuple[str, Sequence[tuple[str, Any]]]],
    *,
    text: bool,
    labels: Sequence[Any] | None,
    near: float | None,
    within: bool,
    examples: int,
    progress: Callable[[str, int, int], object],
) -> Leaks: ...
def shared_groups(
    groups: Sequence[Any], examples: int
) -> list[tuple[int, int, int, int, int, list[str]]]: ...
def time_disorder(times: Sequence[Any]) -> list[tuple[int, int, int, str, str]]: ...
def fingerprint(buffers: Sequence[NDArray[Any]]) -> str: ...
