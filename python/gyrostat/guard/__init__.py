"""The guard: watches a run, acts before the damage is done, and tells what it did.

Framework-free. ``gyrostat.integrations.torch.Guard`` ties it to a PyTorch model; anything else
implements :class:`Subject`.
"""

from __future__ import annotations

from gyrostat.guard.journal import Incident, Journal
from gyrostat.guard.monitor import Guard, Subject, Verdict
from gyrostat.guard.policy import Action, Policy

__all__ = ["Action", "Guard", "Incident", "Journal", "Policy", "Subject", "Verdict"]
