"""Loss spikes, divergence and non-finite losses, found online."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gyrostat import _core
from gyrostat.findings import CATALOGUE, Finding, Severity, plain

__all__ = ["SpikeDetector", "SpikeEvent", "find_spikes"]

_VERSION = 3

_Floats: TypeAlias = NDArray[np.float64] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpikeEvent:
    """Findings that belong together, from the first sign to the last high point.

    Positions count points from 0: they are indices into the arrays given to :func:`find_spikes`,
    or calls of :meth:`SpikeDetector.update`. An event is over after three points in a row that are
    not above the noise, when its level is taken as the new one, or when a loss becomes finite
    again.

    Attributes:
        code: The worst that was found. A ``loss-spike`` of one point that the second signal did not
            confirm and nothing followed is a ``hard-batch`` in the end, where each step is logged.
        severity: How bad it is.
        start: Position of the first sign.
        peak: Position of the highest loss; of the first one that is not finite.
        end: Position of the last high point.
        alarm: Position of the first finding of severity warning or critical, or None.
        findings: Number of points with a finding.
        value: The highest loss; NaN if it is not finite.
        expected: The loss that a healthy run would have shown at the start; NaN if not known.
        score: The highest score (1.0 is the threshold of an alarm); infinite if not finite.
        confirmed: Whether gradient norm or update rose along.
        over: Whether the event is over.
    """

    code: str
    severity: Severity
    start: int
    peak: int
    end: int
    alarm: int | None
    findings: int
    value: float
    expected: float
    score: float
    confirmed: bool
    over: bool

    def to_dict(self) -> dict[str, Any]:
        """The event as plain values that JSON can hold (non-finite floats as strings)."""
        return {name: plain(getattr(self, name)) for name in self.__slots__}


def _event(event: tuple[Any, ...]) -> SpikeEvent:
    code, start, peak, end, alarm, findings, expected, highest, score, confirmed, over = event
    return SpikeEvent(
        code=code,
        severity=_severity(code),
        start=start,
        peak=peak,
        end=end,
        alarm=alarm,
        findings=findings,
        value=math.nan if highest is None else highest,
        expected=math.nan if expected is None else expected,
        score=math.inf if score is None else score,
        confirmed=confirmed,
        over=over,
    )


def _severity(code: str) -> Severity:
    # The loss does not follow: rules.GradientRule says when a gradient alone is worth a warning.
    return Severity.INFO if code == "gradient-spike" else CATALOGUE[code].severity


class SpikeDetector:
    """Finds what is wrong with a loss as it comes, with a budget of false alarms.

    The loss is judged by its logarithm, or as it is once it has been negative, against a level that
    follows a descent at once and a rise slowly, in units of a scale learnt from healthy points
    alone. The threshold is the quantile that the budget asks for, of a tail that begins as that of
    public training runs and becomes the run's own (peaks over threshold; Pickands, 1975). An alarm
    is one point, two in a row, one that the gradient norm or update confirms, a slow rise in the
    means of 8 or 32 points, one of loss and gradient norm together (Page, 1954; where each step is
    logged, from point 101 on), or one from the first points on (the first 60 points).
    ``docs/spikes.md`` has the rules, their constants and what they cost.

    What is an alarm is never learnt from. After 10 alarms in a row a spike is called a
    divergence; after 25 their level is taken as the new one. Judgement starts at the 14th
    point; before that a loss is an alarm only from the sixth point on, and if it triples the
    highest so far. Points are judged in the order in which they come; their steps may repeat or
    go back. When three gaps between steps in a row differ from the usual one by more than a
    factor of 4, the log has changed its interval, and the noise is learnt anew.

    Codes: ``loss-spike`` (warning), ``loss-divergence`` and ``loss-not-finite`` (critical), which
    count against the budget; ``hard-batch`` (one outlier of the loss as hard batches make) and
    ``gradient-spike`` (the gradient alone), both of severity info.

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
        self._judge = self._core.update

    def update(
        self,
        loss: float,
        grad_norm: float | None = None,
        step: int | None = None,
        update_rms: float | None = None,
    ) -> Finding | None:
        """Judges the next loss.

        Args:
            loss: The loss; NaN and Inf are findings, not errors.
            grad_norm: The gradient norm, if known. It confirms a rise of the loss that would not be
                an alarm alone. A loss of exactly zero under a norm of NaN is told as not finite:
                the Hugging Face Trainer logs NaN that way.
            step: The step of this point; counted from 0 if None.
            update_rms: Root mean square of the update, if known; confirms like ``grad_norm``.

        Returns:
            What is wrong, or None. When an alarm of one point turns out to have been a hard batch,
            that is told as a ``hard-batch`` three points later.
        """
        verdict = self._judge(loss, grad_norm, step, update_rms)
        if verdict is None:
            return None
        return _finding(verdict, loss, grad_norm, step)

    @property
    def event(self) -> SpikeEvent | None:
        """The event under way, as far as it has come."""
        event = self._core.event
        return None if event is None else _event(event)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        return {"version": _VERSION, **json.loads(self._core.state_json())}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the detector that gave ``d`` stood, its budget included.

        Raises:
            ValueError: If ``d`` is no such state; the detector is then left as it was.
        """
        if not isinstance(d, Mapping):
            raise ValueError(f"state: expected a mapping, got {type(d).__name__}")
        if d.get("version") != _VERSION or isinstance(d["version"], bool):
            raise ValueError(f"state: expected version {_VERSION}, got {d.get('version')!r}")
        try:
            text = json.dumps({k: v for k, v in d.items() if k != "version"}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"state: expected plain values, got {error}") from error
        self._core.load_state_json(text)


def _finding(
    verdict: tuple[Any, ...], loss: float, grad_norm: float | None, step: int | None
) -> Finding:
    code, expected, threshold, score, duration, position, start, highest = verdict
    signal, value = "loss", float(loss)
    evidence: dict[str, Any] = {"threshold": threshold, "duration": duration, "start": start}
    if code == "loss-not-finite":
        message = f"loss is {loss}"
        if loss == 0.0:
            message = "loss is logged as 0 under a gradient norm of NaN: it was NaN"
    elif code == "gradient-spike":
        signal, value = "grad_norm", math.nan if grad_norm is None else float(grad_norm)
        message = f"gradient norm {value:.4g}, expected about {expected:.4g}; the loss is as usual"
    elif duration == 0:
        value = highest
        message = (
            f"loss {highest:.4g}, {position - start} points ago, was one hard batch: "
            "nothing followed"
        )
    else:
        message = f"loss {loss:.4g}, expected about {expected:.4g}"
        if code == "hard-batch":
            message += ", as hard batches of this run are"
        elif duration > 1:
            message += f", for {duration} points now"
    if position > start:
        evidence["peak"] = highest
    if grad_norm is not None:
        evidence["grad_norm"] = float(grad_norm)
    return Finding(
        code,
        _severity(code),
        step=position if step is None else step,
        signal=signal,
        value=value,
        expected=expected,
        score=score,
        message=message,
        evidence=evidence,
    )


def find_spikes(
    loss: ArrayLike,
    grad_norm: ArrayLike | None = None,
    step: ArrayLike | None = None,
    false_alarms_per_10k: float = 0.2,
    *,
    update_rms: ArrayLike | None = None,
    events: bool = False,
) -> Any:
    """The verdicts of :class:`SpikeDetector` over a whole run, or over many, in one call.

    Many runs are judged in parallel, each on its own. Arrays of float64 and float32 are read where
    they are, with any stride; other numbers are copied to float64.

    Args:
        loss: Shape ``(n,)``, or ``(runs, n)`` for several runs; real numbers.
        grad_norm: The shape of ``loss``; NaN where it is not known.
        step: The step of each point, shape ``(n,)`` or that of ``loss``; evenly spaced if None.
        false_alarms_per_10k: False alarms per 10,000 points that a healthy run may cost.
        update_rms: The shape of ``loss``; NaN where it is not known.
        events: Whether to return events in place of indices.

    Returns:
        Ascending int64 indices of the findings of severity warning or critical, as
        :meth:`SpikeDetector.update` raises them; with ``events`` a list of :class:`SpikeEvent`, the
        infos among them, in order of their starts. For several runs a list of these, one a run.

    Raises:
        ValueError: If a shape is wrong or the budget is out of range.
        TypeError: If an array does not hold real numbers.
    """
    losses = _table("loss", loss)
    if losses.ndim not in (1, 2):
        raise ValueError(f"loss: expected one dimension or two, got shape {losses.shape}")
    found = _core.find_spikes(
        losses[np.newaxis] if losses.ndim == 1 else losses,
        _as_many("grad_norm", grad_norm, losses.shape),
        _as_many("step", step, losses.shape),
        _as_many("update_rms", update_rms, losses.shape),
        false_alarms_per_10k,
        events,
    )
    if events:
        found = [[_event(event) for event in run] for run in found]
    return found[0] if losses.ndim == 1 else found


def _table(name: str, values: ArrayLike) -> _Floats:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" and array.size:
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.dtype in (np.float64, np.float32) and array.dtype.isnative:
        return cast("_Floats", array)
    return array.astype(np.float64)


def _as_many(name: str, values: ArrayLike | None, shape: tuple[int, ...]) -> _Floats | None:
    """The values in two dimensions, if there are any and they fit a loss of ``shape``."""
    if values is None:
        return None
    table = _table(name, values)
    # The steps of one run hold for all.
    if table.shape != shape and not (name == "step" and table.shape == shape[-1:]):
        expected = f"{shape[0]} values" if len(shape) == 1 else f"shape {shape}"
        got = len(table) if table.ndim == 1 else f"shape {table.shape}"
        raise ValueError(f"{name}: expected {expected} as in loss, got {got}")
    return cast("_Floats", np.broadcast_to(table, shape if len(shape) == 2 else (1, *shape)))
