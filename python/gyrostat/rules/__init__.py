"""Rules: each a detector of one named problem, framework-free."""

from __future__ import annotations

from gyrostat.rules.generalisation import (
    Generalisation,
    Overfitting,
    TrainValGap,
    Underfitting,
    ValidationTooLow,
)
from gyrostat.rules.gradients import GradientRule
from gyrostat.rules.levels import LevelShift, LossSuspiciouslyLow
from gyrostat.rules.loss import LossCurve
from gyrostat.rules.optimizer import LearningRateJump, OptimizerStateRule
from gyrostat.rules.patterns import LossOscillation, RepeatedEpochPattern
from gyrostat.rules.replicas import check_replicas
from gyrostat.rules.trends import LossNotDecreasing, LossPlateau, SlowDivergence
from gyrostat.rules.weights import WEIGHT_DAMAGE, check_weights

__all__ = [
    "WEIGHT_DAMAGE",
    "Generalisation",
    "GradientRule",
    "LearningRateJump",
    "LevelShift",
    "LossCurve",
    "LossNotDecreasing",
    "LossOscillation",
    "LossPlateau",
    "LossSuspiciouslyLow",
    "OptimizerStateRule",
    "Overfitting",
    "RepeatedEpochPattern",
    "SlowDivergence",
    "TrainValGap",
    "Underfitting",
    "ValidationTooLow",
    "check_replicas",
    "check_weights",
]
