"""The guard: watches a run, acts before the damage is done, and tells what it did.

Framework-free. ``gyrostat.integrations.torch.Guard`` ties it to a PyTorch model; anything else
implements :class:`Subject`.
"""

from __future__ import annotations

from gyrostat.guard.journal import Incident, Journal
from gyrostat.guard.monitor import Guard, Verdict
from gyrostat.guard.policy import Action, Policy
from gyrostat.guard.subject import Gradients, Measured, OptimizerState, Subject

__all__ = [
    "Action",
    "Gradients",
    "Guard",
    "Incident",
    "Journal",
    "Measured",
    "OptimizerState",
    "Policy",
    "Subject",
    "Verdict",
]
