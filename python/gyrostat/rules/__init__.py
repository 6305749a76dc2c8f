"""Rules: each a detector of one named problem, framework-free."""

from __future__ import annotations

from gyrostat.rules.gradients import GradientRule
from gyrostat.rules.replicas import check_replicas
from gyrostat.rules.weights import WEIGHT_DAMAGE, check_weights

__all__ = ["WEIGHT_DAMAGE", "GradientRule", "check_replicas", "check_weights"]
