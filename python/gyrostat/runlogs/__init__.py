"""Finished runs: reading what they logged, and finding what went wrong in them."""

from __future__ import annotations

from gyrostat.runlogs.audit import audit
from gyrostat.runlogs.read import read_run
from gyrostat.runlogs.table import RunLog

__all__ = ["RunLog", "audit", "read_run"]
