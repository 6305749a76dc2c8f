from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self, TypeAlias, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ArraySketcher",
    "ArrowColumn",
    "Benchmark",
    "Blocks",
    "Clusters",
    "ColumnCodes",
    "Contamination",
    "ImageSketcher",
    "Leaks",
    "Records",
    "SpikeDetector",
    "TensorStats",
    "Window",
    "build_info",
    "clip",
    "column_codes",
    "compare_all",
    "connected",
    "entity_candidates",
    "entity_levels",
    "find_array_leaks",
    "find_image_leaks",
    "find_leaks",
    "find_spikes",
    "find_token_leaks",
    "fingerprint",
    "random_pairs",
    "read_arrow",
    "shared_groups",
    "sketches",
    "statistics",
    "summarize",
    "summarize_all",
    "time_disorder",
    "total_norm",
    "trend",
]

@type_check_only
class _BuildInfo(TypedDict):
    version: str
    profile: str
    target: str
    kernel: str
    threads: int

def build_info() -> _BuildInfo: ...

_Table: TypeAlias = NDArray[np.float64] | NDArray[np.float32]

# Code, expected value, threshold, score, duration, position; start of the event, its highest loss.
_PlainVerdict: TypeAlias = tuple[str, float, float, float, int, int, int, float]

# Code, start, peak, end, first alarm, findings, expected and highest loss, score, confirmed, over.
_PlainEvent: TypeAlias = tuple[
    str,
    int,
    int,
    int,
    int | None,
    int,
    float | None,
    float | None,
    float | None,
    bool,
    bool,
]

@final
class SpikeDetector:
    def __new__(cls, false_alarms_per_10k: float) -> SpikeDetector: ...
    def update(
        self,
        loss: float,
        grad_norm: float | None = None,
        step: float | None = None,
        update_rms: float | None = None,
    ) -> _PlainVerdict | None: ...
    @property
    def seen(self) -> int: ...
    @property
    def event(self) -> _PlainEvent | None: ...
    def state_json(self) -> str: ...
    def load_state_json(self, text: str) -> None: ...

def find_spikes(
    loss: _Table,
    grad_norm: _Table | None,
    step: _Table | None,
    update_rms: _Table | None,
    false_alarms_per_10k: float,
    events: bool,
) -> list[Any]:
    """For each row the indices of the alarms, or the events; all of one two-dimensional shape."""

@final
class Blocks:
    """A series in at most ``capacity`` blocks, which double in length as it grows."""

    def __new__(cls, capacity: int) -> Blocks: ...
    def __len__(self) -> int:
        """How many blocks are full."""

    def push(self, value: float, step: float) -> bool:
        """Take in a point; True if it completes a block. What is not finite is left out."""

    @property
    def levels(self) -> list[float]:
        """The mean of the medians of five that make each full block, oldest first."""

    @property
    def ends(self) -> list[float]:
        """The step of the last point of each."""

    @property
    def block_len(self) -> int:
        """Points in a block."""

    def noise(self, count: int) -> float:
        """Standard deviation of one point over the last ``count`` blocks; NaN if there is none."""

    def trend(self, count: int, confidence: float) -> tuple[float, float, float, float] | None:
        """As :func:`trend`, of the last ``count`` blocks."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, d: dict[str, Any]) -> None: ...

@final
class Window:
    """The last ``capacity`` finite values of a series."""

    def __new__(cls, capacity: int) -> Window: ...
    def push(self, value: float) -> int:
        """Take in a value, if it is finite; how many are held now."""

    def clear(self) -> None: ...
    @property
    def values(self) -> list[float]: ...
    def shift(self, after: int) -> tuple[float, float, float, float, float, bool] | None:
        """Level before, rise in units of noise, drift, level after, noise, whether separate."""

    def autocorrelation(self, lags: int) -> list[float]:
        """About the trend, from lag 1 on; empty if there are too few values or they are equal."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, d: dict[str, Any]) -> None: ...

def trend(values: list[float], confidence: float) -> tuple[float, float, float, float] | None:
    """Mann-Kendall z, Theil-Sen slope and its confidence limits; None below three values."""

@final
class TensorStats:
    """The record of one tensor, or of several merged.

    What its level does not tell is an AttributeError, see :data:`gyrostat.tensors.Level`. Norms,
    moments, extremes and the histogram are of the finite values; NaN and infinities are counted
    apart. Variance, skewness and kurtosis are those of the population (divisor n). What cannot be
    told is NaN: mean, variance and extremes of no value, skewness and kurtosis of equal values.

    Counts, extremes and the histogram are exact. Relative error of L1 and L2 at most 1e-12 for
    float64 and float32, 2e-6 for narrower types (typically 1e-9); of sum and mean as much, times
    L1. Of variance 1e-11 and of kurtosis 5e-6; for narrower types 5e-6 of both, typically 1e-7.

    Records are equal if every bit of them is. They can be pickled.
    """

    @property
    def level(self) -> str:
        """``"norm"``, ``"moments"`` or ``"full"``."""

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

    def underflow_fraction(self, fmt: str, scale: float = 1.0) -> float:
        """Share of the finite values other than zero that become zero in a smaller format.

        With s the smallest subnormal number of the format, values up to s/2 become zero. Below s/2
        lie whole bins of the histogram, so the share is exact but for values of exactly s/2: these
        count as kept, unless that is ``absmax``. 0 if there is no value other than zero.

        Args:
            fmt: ``"float16"``, ``"bfloat16"``, ``"float32"``, ``"float8_e4m3fn"`` or
                ``"float8_e5m2"``.
            scale: What the values are multiplied by before the cast: the loss scale. With a power
                of two the share is as exact as without; with others, values are taken to be spread
                evenly within one bin.

        Raises:
            ValueError: If ``fmt`` is not known, or ``scale`` is not positive and finite.
        """

    def overflow_fraction(self, fmt: str, scale: float = 1.0) -> float:
        """Share of the finite values beyond what a smaller format holds after rounding.

        They become infinite, or NaN in ``"float8_e4m3fn"``. Exactly 0 if ``absmax`` fits. Exact
        but for the one bin of the histogram in which the limit lies, [2^15, 2^16) for
        ``"float16"``: values are taken to be spread evenly on a logarithmic scale within that bin
        and within the extremes. 0 if there is no finite value.

        Args:
            fmt: As in :meth:`underflow_fraction`.
            scale: As in :meth:`underflow_fraction`.

        Raises:
            ValueError: If ``fmt`` is not known, or ``scale`` is not positive and finite.
        """

    def merge(self, other: TensorStats) -> TensorStats:
        """The record of the values of both; neither is changed.

        Neither order nor grouping of several merges changes a bit. Records of parts that were cut
        at multiples of 65,536 values merge to the very record of the whole; others agree with it in
        all counts, extremes and the histogram, and in moments up to rounding. The result has the
        lower of the two levels.
        """

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values that strict JSON can hold, bit for bit."""

    @staticmethod
    def from_dict(d: dict[str, Any]) -> TensorStats:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: If no tensor can have such a record.
        """

    def to_bytes(self) -> bytes:
        """The record in some hundred bytes, the same on every platform."""

    @staticmethod
    def from_bytes(data: bytes) -> TensorStats:
        """The inverse of :meth:`to_bytes`.

        Raises:
            ValueError: If ``data`` holds anything else.
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    __hash__: None  # type: ignore[assignment]

def summarize(x: Any, dtype: str | None, level: str) -> TensorStats: ...
def summarize_all(tensors: list[Any], names: Sequence[str], level: str) -> Records: ...
def total_norm(tensors: list[Any], names: Sequence[str]) -> float: ...
def clip(tensors: list[Any], max_norm: float, finite_only: bool) -> tuple[float, bool] | None:
    """Scale PyTorch tensors in place so that their norm is at most ``max_norm``.

    Returns the norm before, and whether the tensors have been scaled: with ``finite_only`` not by a
    norm that is not finite. None, and nothing is done, unless all of them are dense, in host
    memory, of float64, float32, float16 or bfloat16, and no two values share memory.
    """

def compare_all(
    left: list[Any], right: list[Any], names: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The columns of :class:`gyrostat.pairs.PairTable`, and the same of all pairs together.

    Raises:
        TypeError: If one of them is no tensor that can be read.
        ValueError: If the two tensors of a pair differ in the number of their values.
    """

@final
class Records:
    """The records of several tensors, by column."""

    def __new__(cls, records: list[TensorStats]) -> Records: ...
    @staticmethod
    def from_rows(
        dtypes: list[str],
        sums: NDArray[np.float64],
        counts: NDArray[np.int64],
        owner: NDArray[np.int64],
    ) -> Records:
        """The records of tensors whose chunks were summed on a device.

        Args:
            dtypes: The dtype of each tensor, none wider than float32.
            sums: Shape ``(chunks, 9)``: count, min and max of the finite values x, a center c near
                their mean, the sums of (x - c)^j for j from 1 to 4, the sum of abs(x).
            counts: Shape ``(tensors, 281)``: zeros, NaN, +Inf, -Inf, then the values of each
                exponent from -149 to 127.
            owner: Shape ``(chunks,)``: the index of the tensor that a chunk belongs to.

        Raises:
            ValueError: If no tensor can have such sums and counts.
        """

    @property
    def level(self) -> str: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: int, /) -> TensorStats: ...
    def total(self) -> TensorStats: ...
    def column(self, name: str) -> NDArray[Any]: ...

def statistics(level: str) -> list[str]:
    """The names of the scalar statistics that records of a level tell."""

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
    sampled: int
    sampled_pairs: int
    sampled_found: int
    compared: int
    cut_buckets: int
    cut_groups: int
    accepted: int
    chance: float | None

@final
class Leaks:
    def __len__(self) -> int: ...
    def pair(self, index: int) -> tuple[str, int, str, int, str, float, bool | None]: ...
    def counts(self) -> list[_Count]: ...
    def shown(self, index: int) -> tuple[str, str]: ...
    def rows(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]: ...
    def identity(self, index: int) -> tuple[str, str, bool]: ...
    def statistics(self) -> _Statistics: ...
    def clusters(self) -> Clusters: ...
    def kept(self, index: int) -> NDArray[np.int64]: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

@final
class Clusters:
    def __len__(self) -> int: ...
    def cluster(self, index: int) -> tuple[list[tuple[str, int]], int, float]: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

def sketches(
    column: ArrowColumn | list[str | None], text: tuple[str, int, bool, bool], near: float
) -> NDArray[np.uint32]: ...
def find_leaks(
    splits: Sequence[tuple[str, Sequence[tuple[str, Any]]]],
    *,
    text: tuple[str, int, bool, bool] | None,
    labels: Sequence[Any] | None,
    near: float | None,
    within: bool,
    exact: bool,
    accepted: Sequence[tuple[str, str, bool]],
    examples: int,
    progress: Callable[[str, int, int], object],
    grids: Sequence[float | None] = ...,
) -> Leaks: ...

@final
class Benchmark:
    def __new__(cls, questions: Any, answers: Any) -> Self: ...
    @staticmethod
    def unpack(data: bytes) -> tuple[Benchmark, str, list[str]]: ...
    def pack(self, name: str, ids: Sequence[str]) -> bytes: ...
    def __len__(self) -> int: ...

@type_check_only
class _Survey(TypedDict):
    texts: int
    missing: int
    bytes: int
    texts_by_rule: list[int]
    questions_by_rule: list[int]
    uncheckable: int
    answers_alone: int

@final
class Contamination:
    RULES: ClassVar[list[str]]
    def __new__(cls, benchmark: Benchmark, deciding: int, threshold: float) -> Self: ...
    def read(self, texts: Any, progress: Callable[[int], object]) -> None: ...
    def __len__(self) -> int: ...
    def get(
        self, index: int
    ) -> tuple[
        tuple[int, int, str, float, float, int, int, int],
        tuple[int, int],
        tuple[int, int] | None,
        bool | None,
    ]: ...
    def shown(self, index: int) -> str: ...
    def statistics(self) -> _Survey: ...
    def clean_texts(self) -> NDArray[np.int64]: ...
    def clean_rows(self) -> NDArray[np.int64]: ...
    def matches(self) -> object: ...
    def rows(self) -> object: ...

@final
class ImageSketcher:
    def __new__(cls) -> Self: ...
    def add(
        self,
        images: Sequence[NDArray[np.uint8] | None],
        raw: Sequence[NDArray[np.uint8]] | None = None,
        titles: Sequence[str | None] | None = None,
    ) -> None: ...
    def __len__(self) -> int: ...
    def hashes(
        self, index: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]: ...

def find_image_leaks(
    splits: Sequence[tuple[str, ImageSketcher]],
    *,
    labels: Sequence[Any] | None,
    near: float | None,
    within: bool,
    examples: int,
    progress: Callable[[str, int, int], object],
) -> Leaks: ...

@final
class ArraySketcher:
    def __new__(cls) -> Self: ...
    def add(self, rows: NDArray[Any]) -> None: ...
    def __len__(self) -> int: ...

def find_array_leaks(
    splits: Sequence[tuple[str, ArraySketcher]],
    *,
    labels: Sequence[Any] | None,
    near: float | None,
    within: bool,
    examples: int,
    progress: Callable[[str, int, int], object],
) -> Leaks: ...
def find_token_leaks(
    splits: Sequence[tuple[str, Any]],
    *,
    pads: Sequence[int],
    labels: Sequence[Any] | None,
    near: float | None,
    within: bool,
    exact: bool,
    examples: int,
    progress: Callable[[str, int, int], object],
) -> Leaks: ...
def shared_groups(
    groups: Sequence[Any], examples: int
) -> list[tuple[int, int, int, int, int, list[str]]]: ...
def time_disorder(times: Sequence[Any]) -> list[tuple[int, int, int, str, str]]: ...
def fingerprint(buffers: Sequence[NDArray[Any]]) -> str: ...

@final
class ColumnCodes:
    def __len__(self) -> int: ...
    @property
    def holds(self) -> str: ...
    @property
    def whole(self) -> bool: ...
    @property
    def words(self) -> float: ...
    @property
    def codes(self) -> NDArray[np.int64]: ...
    @property
    def values(self) -> NDArray[np.float64]: ...
    def text(self, code: int) -> str: ...

def column_codes(
    columns: Sequence[tuple[str, Sequence[Any]]], normalised: bool, most: int
) -> list[ColumnCodes]: ...
def entity_candidates(
    columns: Sequence[ColumnCodes],
) -> tuple[NDArray[np.uint32], int, int]: ...
def entity_levels(
    columns: Sequence[ColumnCodes], left: NDArray[np.uint32], right: NDArray[np.uint32]
) -> NDArray[np.uint8]: ...
def random_pairs(records: int, draws: int) -> NDArray[np.uint32]: ...
def connected(
    n: int, left: NDArray[np.uint32], right: NDArray[np.uint32]
) -> NDArray[np.uint32]: ...
