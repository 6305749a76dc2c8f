"""Rules: each a detector of one named problem, framework-free."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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
from gyrostat.rules.replicas import ReplicaRule, check_replicas
from gyrostat.rules.trends import LossNotDecreasing, LossPlateau, SlowDivergence
from gyrostat.rules.weights import WEIGHT_DAMAGE, check_weights

if TYPE_CHECKING:
    from gyrostat.rules.activations import (
        ActivationKurtosis,
        ActivationRules,
        Activations,
        AttentionLogitGrowth,
        DeadUnits,
        OutputLogitDivergence,
        PoorInitialisation,
        SaturatedActivation,
    )
    from gyrostat.rules.batches import BatchRules, ClassBalance, InputScale, PaddingShare
    from gyrostat.rules.layers import (
        AllZeroTensor,
        EmbeddingGradientShare,
        ExplodingGradient,
        VanishingGradient,
    )
    from gyrostat.rules.precision import GradientUnderflow, LossScaleThrash
    from gyrostat.rules.tensors import TensorRules
    from gyrostat.rules.updates import (
        Moments,
        MomentumConflict,
        UnchangedTensor,
        UpdateRatio,
        UpdateRms,
    )

__all__ = [
    "WEIGHT_DAMAGE",
    "ActivationKurtosis",
    "ActivationRules",
    "Activations",
    "AllZeroTensor",
    "AttentionLogitGrowth",
    "BatchRules",
    "ClassBalance",
    "DeadUnits",
    "EmbeddingGradientShare",
    "ExplodingGradient",
    "Generalisation",
    "GradientRule",
    "GradientUnderflow",
    "InputScale",
    "LearningRateJump",
    "LevelShift",
    "LossCurve",
    "LossNotDecreasing",
    "LossOscillation",
    "LossPlateau",
    "LossScaleThrash",
    "LossSuspiciouslyLow",
    "Moments",
    "MomentumConflict",
    "OptimizerStateRule",
    "OutputLogitDivergence",
    "Overfitting",
    "PaddingShare",
    "PoorInitialisation",
    "RepeatedEpochPattern",
    "ReplicaRule",
    "SaturatedActivation",
    "SlowDivergence",
    "TensorRules",
    "TrainValGap",
    "UnchangedTensor",
    "Underfitting",
    "UpdateRatio",
    "UpdateRms",
    "ValidationTooLow",
    "VanishingGradient",
    "check_replicas",
    "check_weights",
]

_ON_DEMAND = ("activations", "batches", "layers", "precision", "tensors", "updates")


def __getattr__(name: str) -> object:
    """The rules on tensors and batches, loaded when asked for: a guard does without them."""
    if name in __all__:
        for module in _ON_DEMAND:
            found = vars(importlib.import_module(f"{__name__}.{module}"))
            if name in found["__all__"]:
                return globals().setdefault(name, found[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
