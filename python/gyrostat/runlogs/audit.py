"""What went wrong in a finished run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat._svg import thinned
from gyrostat.findings import CATALOGUE, Finding, Severity
from gyrostat.report import Chart, Report
from gyrostat.rules import Generalisation, LossCurve
from gyrostat.runlogs.read import read_run
from gyrostat.runlogs.table import RunLog
from gyrostat.spikes import SpikeDetector

__all__ = ["audit"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_ZERO_HISTORY = 32  # losses looked at before a loss of 0.0
_ZERO_LEAST_HISTORY = 8
_NORMAL_LOSS = 0.01  # loggers round to four decimals at the coarsest: 0.0 is not rounding from here
_KEPT_POINTS = 4000  # of a curve, so that the report of a long run stays small


def audit(path: str | os.PathLike[str]) -> Report:
    """Reads the log of a finished run and tells what went wrong in it.

    The losses go through a :class:`~gyrostat.SpikeDetector` as if the run were live; a run that
    starts again from its first step gets a fresh one. Losses, validation losses and gradient norms
    that are not finite are told, and so is a loss of exactly 0.0 among losses of normal size, which
    is what the Hugging Face Trainer logs for NaN (``logging_nan_inf_filter``). What lasts for
    several rows is one finding, with ``end_step``, ``points`` and, for a loss, ``peak`` in its
    evidence. Beside these, :class:`~gyrostat.rules.LossCurve` tells where the loss goes, given the
    learning rate and the epoch where they are logged, and :class:`~gyrostat.rules.Generalisation`
    how the validation losses compare.

    Args:
        path: As :func:`gyrostat.runlogs.read_run` takes it.

    Returns:
        The findings in order of step, and charts of the loss, the gradient norm and the validation
        loss; a long curve is thinned to its extremes.

    Raises:
        TypeError: If ``path`` is not a path.
        OSError: If there is nothing at ``path``, or it cannot be opened.
        ValueError: If it is not a log that can be read.
    """
    run = read_run(path)
    zeros = _zeros_for_nan(run)
    findings = [*_loss_alarms(run, zeros), *_zero_losses(run, zeros), *_gradients(run, zeros)]
    findings += [*_curve(run, zeros), *_validation_losses(run), *_generalisation(run, zeros)]
    findings.sort(key=lambda f: (f.step or 0, -f.severity.rank))
    step, loss = run.columns["step"], run.columns["loss"]
    summary: dict[str, object] = {
        "format": run.format,
        "rows": len(run),
        "steps": f"{step.min():.0f} to {step.max():.0f}",
        "final loss": float(loss[-1]),
    }
    if run.notes:
        summary["notes"] = "; ".join(run.notes)
    title = f"Audit of {run.path.name}"
    return Report(title, findings, summary=summary, sections=list(_charts(run, findings)))


def _loss_alarms(run: RunLog, skipped: Bools) -> list[Finding]:
    """What the detector says, alarms in neighbouring rows made one."""
    grad_norm: Sequence[float | None] = [None] * len(run)
    if (norms := run.columns.get("grad_norm")) is not None:
        known = zip(norms.tolist(), run.logged["grad_norm"].tolist(), strict=True)
        grad_norm = [norm if is_logged else None for norm, is_logged in known]
    loss, steps = run.columns["loss"].tolist(), run.columns["step"].tolist()
    detector, begins = SpikeDetector(), _beginnings(steps)
    events: list[list[tuple[int, Finding]]] = []
    for row in np.flatnonzero(~skipped).tolist():
        if row in begins:
            detector = SpikeDetector()
        alarm = detector.update(loss[row], grad_norm[row], int(steps[row]))
        if alarm is None or alarm.severity < Severity.WARNING:
            continue
        if events and _goes_on(*events[-1][-1], row, alarm):
            events[-1].append((row, alarm))
        else:
            events.append([(row, alarm)])
    return [_one_of(event, run) for event in events]


def _beginnings(steps: Sequence[float]) -> set[int]:
    """Rows at which a run starts again from its first step, or from before it."""
    begins, begin = set(), steps[0]
    for row, (last, step) in enumerate(pairwise(steps), start=1):
        if last > step <= begin:
            begins.add(row)
            begin = step
    return begins


def _curve(run: RunLog, skipped: Bools) -> Iterator[Finding]:
    """Where the loss goes, as the rules on it tell."""
    columns, steps = run.columns, run.columns["step"].tolist()
    unknown = [None] * len(run)
    rates = columns["learning_rate"].tolist() if "learning_rate" in columns else unknown
    epochs = columns["epoch"].tolist() if "epoch" in columns else unknown
    curve, begins = LossCurve(), _beginnings(steps)
    for row, loss in enumerate(columns["loss"].tolist()):
        if row in begins:
            curve = LossCurve()
        if not skipped[row]:
            yield from curve.update(loss, int(steps[row]), rates[row], epochs[row])


def _generalisation(run: RunLog, skipped: Bools) -> Iterator[Finding]:
    """How the validation losses compare with the training losses up to their steps."""
    if run.validation is None:
        return
    steps, losses = run.columns["step"].tolist(), run.columns["loss"].tolist()
    begins = _beginnings(steps)
    rule, row, last = Generalisation(), 0, -np.inf
    evaluations = zip(run.validation["step"], run.validation["val_loss"], strict=True)
    for at, val_loss in evaluations:
        if at < last:  # the run started again: so do the training rows
            while row < len(run) and row not in begins:
                row += 1
            rule = Generalisation()
        last, first = at, row
        while row < len(run) and steps[row] <= at and (row == first or row not in begins):
            if not skipped[row]:
                rule.see(losses[row])
            row += 1
        yield from rule.update(float(val_loss), int(at))


def _goes_on(last_row: int, last: Finding, row: int, alarm: Finding) -> bool:
    """Whether an alarm belongs to the event before it: a divergence begins as a spike."""
    both_finite = "loss-not-finite" not in (last.code, alarm.code)
    return row == last_row + 1 and (both_finite or last.code == alarm.code)


def _one_of(event: Sequence[tuple[int, Finding]], run: RunLog) -> Finding:
    (first_row, first), (last_row, _) = event[0], event[-1]
    worst = max((finding for _, finding in event), key=lambda f: f.severity.rank)
    losses = run.columns["loss"][first_row : last_row + 1]
    peak = float(losses.max())  # NaN if one is NaN
    evidence = {**first.evidence, **_extent(run.columns["step"], first_row, last_row), "peak": peak}
    evidence.pop("duration", None)
    evidence.pop("start", None)  # counts points, where end_step counts steps
    message = first.message
    if last_row > first_row:
        message += f", until step {evidence['end_step']} ({len(losses)} points"
        message += f", peak {peak:.4g})" if np.isfinite(peak) else ")"
    return replace(
        first, code=worst.code, severity=worst.severity, message=message, evidence=evidence
    )


def _zeros_for_nan(run: RunLog) -> Bools:
    """Losses of exactly 0.0 in a run whose losses were far from it before the first of them."""
    loss = run.columns["loss"]
    zeros: Bools = loss == 0.0
    if not zeros.any():
        return zeros
    before = loss[: int(np.argmax(zeros))]
    before = before[np.isfinite(before)][-_ZERO_HISTORY:]
    if len(before) < _ZERO_LEAST_HISTORY or before.min() < _NORMAL_LOSS:
        return np.zeros(len(run), dtype=np.bool_)
    return zeros


def _zero_losses(run: RunLog, zeros: Bools) -> Iterator[Finding]:
    rows = np.flatnonzero(zeros)
    if rows.size == 0:
        return
    first, last = int(rows[0]), int(rows[-1])
    before = run.columns["loss"][:first]
    before = np.sort(before[np.isfinite(before)][-_ZERO_HISTORY:])
    usual = float(before[len(before) // 2])
    evidence: dict[str, Any] = {**_extent(run.columns["step"], first, last), "points": rows.size}
    message = f"the loss is exactly 0.0 where losses near {usual:.4g} came before"
    norms = run.columns.get("grad_norm")
    if norms is not None and run.logged["grad_norm"][first]:
        evidence["grad_norm"] = float(norms[first])
        message += f", and the gradient norm is {norms[first]:.4g}"
    message += ": a NaN that the logger wrote as zero (logging_nan_inf_filter of the Trainer)"
    yield _finding("loss-not-finite", run, first, "loss", 0.0, message, evidence, expected=usual)


def _gradients(run: RunLog, zeros: Bools) -> Iterator[Finding]:
    if (norms := run.columns.get("grad_norm")) is None:
        return
    loss = run.columns["loss"]
    unwell = ~np.isfinite(loss) | zeros
    for first, last in _stretches(run.logged["grad_norm"] & ~np.isfinite(norms)):
        survived = last + 1 < len(run) and not unwell[first : last + 2].any()
        evidence = {**_extent(run.columns["step"], first, last), "loss": float(loss[first])}
        message = f"the gradient norm is {norms[first]:.4g}"
        if last > first:
            message += f", until step {evidence['end_step']} ({evidence['points']} points)"
        if survived:
            message += "; training went on, as after an overflow that a loss scaler skipped"
        if run.format == "trainer_state" and not unwell[first]:
            message += (
                f"; the loss of {loss[first]:.4g} logged with it may stand for a NaN "
                "(logging_nan_inf_filter of the Trainer)"
            )
        finding = _finding(
            "gradient-not-finite", run, first, "grad_norm", float(norms[first]), message, evidence
        )
        yield replace(finding, severity=Severity.WARNING) if survived else finding


def _validation_losses(run: RunLog) -> Iterator[Finding]:
    if run.validation is None:
        return
    step, loss = run.validation["step"], run.validation["val_loss"]
    for first, last in _stretches(~np.isfinite(loss)):
        yield Finding(
            "loss-not-finite",
            CATALOGUE["loss-not-finite"].severity,
            step=int(step[first]),
            signal="val_loss",
            value=float(loss[first]),
            message=f"the validation loss is {loss[first]:.4g}",
            evidence=_extent(step, first, last),
        )


def _finding(
    code: str,
    run: RunLog,
    row: int,
    signal: str,
    value: float,
    message: str,
    evidence: dict[str, Any],
    *,
    expected: float | None = None,
) -> Finding:
    return Finding(
        code,
        CATALOGUE[code].severity,
        step=int(run.columns["step"][row]),
        signal=signal,
        value=value,
        expected=expected,
        message=message,
        evidence=evidence,
    )


def _extent(step: Floats, first: int, last: int) -> dict[str, Any]:
    return {"end_step": int(step[last]), "points": last - first + 1}


def _stretches(mask: Bools) -> list[tuple[int, int]]:
    """First and last index of each stretch of True."""
    edges = np.diff(mask.astype(np.int8), prepend=0, append=0)
    firsts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(a), int(b) - 1) for a, b in zip(firsts, ends, strict=True)]


def _charts(run: RunLog, findings: Sequence[Finding]) -> Iterator[Chart]:
    step = run.columns["step"]
    yield _chart("Loss", "loss", step, run.columns["loss"], findings)
    if (norms := run.columns.get("grad_norm")) is not None:
        yield _chart("Gradient norm", "grad_norm", step, norms, findings)
    if run.validation is not None:
        at, loss = run.validation["step"], run.validation["val_loss"]
        yield _chart("Validation loss", "val_loss", at, loss, findings)


def _chart(title: str, name: str, x: Floats, y: Floats, findings: Sequence[Finding]) -> Chart:
    shown = y[np.isfinite(y)]
    log_y = shown.size > 0 and bool(shown.min() > 0) and bool(shown.max() / 10 > shown.min())
    marks = [f for f in findings if f.signal == name]
    x, y = thinned(x, y, _KEPT_POINTS)
    return Chart(title, x, {name: y}, marks, log_y=log_y)
