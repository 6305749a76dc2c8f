"""Data-leakage hashing: rows of one split that are also in another, every pair verified."""

from gyrostat.leakage.check import check_leakage
from gyrostat.leakage.clusters import Cluster, Clusters
from gyrostat.leakage.options import TextOptions
from gyrostat.leakage.report import LeakageReport, Pair, Pairs

__all__ = [
    "Cluster",
    "Clusters",
    "LeakageReport",
    "Pair",
    "Pairs",
    "TextOptions",
    "check_leakage",
]
