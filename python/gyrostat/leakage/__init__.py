"""Data-leakage hashing: rows of one split that are also in another, every pair verified."""

from gyrostat.leakage.check import check_leakage
from gyrostat.leakage.clusters import Cluster, Clusters
from gyrostat.leakage.contamination import ContaminationReport, check_contamination
from gyrostat.leakage.options import TextOptions
from gyrostat.leakage.packs import BenchmarkPack
from gyrostat.leakage.report import LeakageReport, Pair, Pairs

__all__ = [
    "BenchmarkPack",
    "Cluster",
    "Clusters",
    "ContaminationReport",
    "LeakageReport",
    "Pair",
    "Pairs",
    "TextOptions",
    "check_contamination",
    "check_leakage",
]
