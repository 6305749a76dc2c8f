from typing import Any, TypedDict, final, type_check_only

import numpy as np
from numpy.typing import NDArray

__all__ = ["SpikeDetector", "build_info", "find_spikes"]

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
