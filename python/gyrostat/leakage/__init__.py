"""Data-leakage hashing: rows of one split that are also in another, every pair verified."""

from gyrostat.leakage.check import check_leakage
from gyrostat.leakage.report import LeakageReport, Pair, Pairs

__all__ = ["LeakageReport", "Pair", "Pairs", "check_leakage"]
