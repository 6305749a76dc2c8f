"""Gyrostat keeps deep-learning training steady.

It watches a run, tells what is wrong, where and why, acts before the damage is done, and checks the
data for leakage. Start with :func:`summarize`, :class:`SpikeDetector`,
``gyrostat.integrations.torch.Guard``, :func:`check_leakage` or :func:`audit`.
"""

from __future__ import annotations

import warnings

from gyrostat import _core
from gyrostat.findings import Finding, Severity
from gyrostat.leakage import check_leakage
from gyrostat.runlogs import audit
from gyrostat.spikes import SpikeDetector, SpikeEvent, find_spikes
from gyrostat.tensors import TensorStats, summarize, summarize_all, total_norm

__all__ = [
    "Finding",
    "Severity",
    "SpikeDetector",
    "SpikeEvent",
    "TensorStats",
    "__version__",
    "audit",
    "check_leakage",
    "find_spikes",
    "summarize",
    "summarize_all",
    "total_norm",
]

__version__: str = _core.build_info()["version"]


def _warn_if_debug(profile: str) -> None:
    if profile == "debug":
        warnings.warn(
            "gyrostat was built without optimisation and is some ten times slower than it should "
            "be; build it with `maturin develop --release` or `pip install .`",
            RuntimeWarning,
            stacklevel=3,
        )


_warn_if_debug(_core.build_info()["profile"])
