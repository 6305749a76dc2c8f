"""Techniques that keep a PyTorch run steady: clippers, moments, losses, averages, schedules."""

from gyrostat.integrations.torch.steadying.averaging import ema_multi_avg_fn
from gyrostat.integrations.torch.steadying.clipping import (
    AdaGC,
    AdaptiveGradientClip,
    AutoClip,
    Clipper,
    SpikeAwareClip,
    ZClip,
)
from gyrostat.integrations.torch.steadying.curriculum import (
    CurriculumBatchSampler,
    competence,
    sequence_length,
)
from gyrostat.integrations.torch.steadying.losses import z_loss
from gyrostat.integrations.torch.steadying.moments import MomentumReset, reset_moments_
from gyrostat.integrations.torch.steadying.schedule import Rewarmup, rewarmup_factor

__all__ = [
    "AdaGC",
    "AdaptiveGradientClip",
    "AutoClip",
    "Clipper",
    "CurriculumBatchSampler",
    "MomentumReset",
    "Rewarmup",
    "SpikeAwareClip",
    "ZClip",
    "competence",
    "ema_multi_avg_fn",
    "reset_moments_",
    "rewarmup_factor",
    "sequence_length",
    "z_loss",
]
