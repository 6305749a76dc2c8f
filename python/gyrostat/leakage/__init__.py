"""Data-leakage hashing: rows of one split that are also in another, every pair verified."""

from gyrostat.leakage.check import check_leakage, resplit
from gyrostat.leakage.entities import EntityPair, EntityPairs, EntityReport, find_entities
from gyrostat.leakage.fixer import Resplit
from gyrostat.leakage.impact import Impact, Interval
from gyrostat.leakage.report import LeakageReport, Pair, Pairs

__all__ = [
    "EntityPair",
    "EntityPairs",
    "EntityReport",
    "Impact",
    "Interval",
    "LeakageReport",
    "Pair",
    "Pairs",
    "Resplit",
    "check_leakage",
    "find_entities",
    "resplit",
]
