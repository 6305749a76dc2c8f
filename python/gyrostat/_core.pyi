from collections.abc import Callable, Sequence
from typing import Any, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ArrowColumn",
    "Leaks",
    "SpikeDetector",
    "build_info",
    "find_leaks",
    "find_spikes",
    "fingerprint",
    "read_arrow",
    "shared_groups",
    "time_disorder",
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
        self, loss: float, grad_norm: float | None = None
    ) -> tuple[str, float, float, float, int] | None:
        """Code, expected loss, threshold, score and duration of an alarm."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, d: dict[str, Any]) -> None: ...

def find_spikes(
    loss: NDArray[np.float64], grad_norm: NDArray[np.float64] | None, false_alarms_per_10k: float
) -> NDArray[np.int64]:
    """Indices of the alarms; both arrays one-dimensional and contiguous."""

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
