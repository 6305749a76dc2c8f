"""The report of a guarded run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gyrostat.findings import Severity
from gyrostat.guard.history import History
from gyrostat.guard.policy import Action
from gyrostat.report import Chart, Report, Table

if TYPE_CHECKING:
    from gyrostat.guard.monitor import Guard

__all__ = ["run_report"]


def run_report(guard: Guard, history: History) -> Report:
    """What was found, what may be behind it, what was done, and the picture of it."""
    step, loss, grad_norm = history.columns()
    marks = [f for f in guard.findings if f.severity >= Severity.WARNING]
    sections: list[Chart | Table] = [
        Chart("loss", step, {"loss": loss}, marks, log_y=True),
        Chart("gradient norm", step, {"grad_norm": grad_norm}, marks, log_y=True),
    ]
    if causes := guard.hypotheses:
        told = [(f.code, f"{f.score:.2f}", str(f.culprit), f.message) for f in causes]
        sections.append(Table("What may be behind it", ("cause", "score", "who", "why"), told))
    incidents = guard.incidents
    if incidents:
        columns = ("step", "action", "proposed", "found", "batch")
        rows = [
            (i.step, i.action, i.proposed, "; ".join(f.code for f in i.findings), i.batch or "")
            for i in incidents
        ]
        sections.append(Table("What was done", columns, rows))
    return Report(
        f"guarded run, policy {guard.policy.name}",
        list(guard.findings),
        summary={
            "steps": guard.step,
            "skipped": sum(i.action is Action.SKIP for i in incidents),
            "rolled back": sum(i.action is Action.ROLLBACK for i in incidents),
            "batches left out": len(guard.bad_batches),
            "stopped": guard.stopped,
        },
        sections=sections,
    )
