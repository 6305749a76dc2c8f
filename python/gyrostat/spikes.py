"""Loss spikes, divergence and non-finite losses, found online."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gyrostat import _core
from gyrostat.findings import CATALOGUE, Finding

__all__ = ["SpikeDetector", "find_spikes"]


class SpikeDetector:
    """Finds what is wrong with a loss as it comes, with a budget of false alarms.

    The loss is judged by its logarithm, or as it is once it has been negative. Its level is
    the lower of two running medians (25 and 9 points) over healthy values, so a descent is followed
    and a rise is not. The threshold comes from the run's own noise: the upper 40 % of the last 200
    one-step residuals is taken as a generalised Pareto tail (peaks over threshold; Pickands, 1975)
    of shape 0.03, and its quantile of probability ``false_alarms_per_10k / 10,000`` is the rise
    that is an alarm; the second of two points in a row needs only that of the probability to the
    power 0.7. An alarm must also stand above every healthy value among the last 25. The constants
    were set on labelled public training runs.

    What is an alarm is never learnt from. After 10 alarms in a row a spike is called a divergence;
    after 30 their level is taken as the new one. Judgement starts at the 21st point; before that
    a loss is an alarm only if it triples the highest so far. Points are judged in the order in
    which they come; their steps may repeat or go back. When three gaps between steps in a row
    differ from the usual one by more than a factor of 4, the log has changed its interval, and the
    noise is learnt anew.

    Codes: ``loss-spike`` (warning), ``loss-divergence`` (critical), ``loss-not-finite`` (critical).

    Example:
        >>> detector = SpikeDetector()
        >>> losses = [2.0 + 0.01 * (i % 7) for i in range(50)] + [3.5]
        >>> findings = [detector.update(loss) for loss in losses]
        >>> findings[-1].code, findings[-1].step
        ('loss-spike', 50)

    Args:
        false_alarms_per_10k: False alarms per 10,000 points that a healthy run may cost.

    Raises:
        ValueError: If the budget is not above 0 and at most 1,000.
    """

    def __init__(self, false_alarms_per_10k: float = 0.2) -> None:
        self._core = _core.SpikeDetector(false_alarms_per_10k)
        self._seen = 0

    def update(
        self, loss: float, grad_norm: float | None = None, step: int | None = None
    ) -> Finding | None:
        """Judges the next loss.

        Args:
            loss: The loss; NaN and Inf are findings, not errors.
            grad_norm: The gradient norm, if known. A loss of exactly zero under a norm of NaN is
                told as not finite: the Hugging Face Trainer logs NaN that way.
            step: The step of this point; counted from 0 if None.

        Returns:
            What is wrong, or None.
        """
        verdict = self._core.update(loss, grad_norm, step)
        self._seen += 1
        if verdict is None:
            return None
        code, expected, threshold, score, duration = verdict
        if code == "loss-not-finite":
            message = f"loss is {loss}"
            if loss == 0.0:
                message = "loss is logged as 0 under a gradient norm of NaN: it was NaN"
        else:
            message = f"loss {loss:.4g}, expected about {expected:.4g}"
            if duration > 1:
                message += f", for {duration} points now"
        evidence: dict[str, Any] = {"threshold": threshold, "duration": duration}
        if grad_norm is not None:
            evidence["grad_norm"] = float(grad_norm)
        return Finding(
            code,
            CATALOGUE[code].severity,
            step=self._seen - 1 if step is None else step,
            signal="loss",
            value=float(loss),
            expected=expected,
            score=score,
            message=message,
            evidence=evidence,
        )

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return {**self._core.state_dict(), "seen": self._seen}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the detector that gave ``d`` stood, its budget included.

        Raises:
            ValueError: If ``d`` is no such state; the detector is then left as it was.
        """
        if not isinstance(d, Mapping):
            raise ValueError(f"state: expected a mapping, got {type(d).__name__}")
        seen = d.get("seen")
        if not isinstance(seen, int) or isinstance(seen, bool) or seen < 0:
            raise ValueError(f"state: expected seen to be a count, got {seen!r}")
        self._core.load_state_dict(dict(d))
        self._seen = seen


def find_spikes(
    loss: ArrayLike,
    grad_norm: ArrayLike | None = None,
    step: ArrayLike | None = None,
    false_alarms_per_10k: float = 0.2,
) -> NDArray[np.int64]:
    """The verdicts of :class:`SpikeDetector` over a whole run, in one call.

    Args:
        loss: Shape ``(n,)``, real numbers.
        grad_norm: Shape ``(n,)``; NaN where it is not known.
        step: Shape ``(n,)``, the step of each point; evenly spaced if None.
        false_alarms_per_10k: False alarms per 10,000 points that a healthy run may cost.

    Returns:
        Indices of the findings of severity warning or critical, ascending.

    Raises:
        ValueError: If a shape is wrong or the budget is out of range.
        TypeError: If an array does not hold real numbers.
    """
    values = _column("loss", loss)
    norms = None if grad_norm is None else _column("grad_norm", grad_norm, len(values))
    steps = None if step is None else _column("step", step, len(values))
    return _core.find_spikes(values, norms, steps, false_alarms_per_10k)


def _column(name: str, values: ArrayLike, length: int | None = None) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" and array.size:
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {array.shape}")
    if length is not None and len(array) != length:
        raise ValueError(f"{name}: expected {length} values as in loss, got {len(array)}")
    return np.ascontiguousarray(array, dtype=np.float64)
