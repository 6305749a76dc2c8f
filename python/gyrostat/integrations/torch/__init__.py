"""Gyrostat in PyTorch."""

from gyrostat.integrations.torch.activations import ActivationProbe
from gyrostat.integrations.torch.clip import clip_grad_norm_
from gyrostat.integrations.torch.distributed import DistributedTable, summarize_distributed
from gyrostat.integrations.torch.guard import Guard
from gyrostat.integrations.torch.moments import adam_moments
from gyrostat.integrations.torch.noise import DDPNoiseScale
from gyrostat.integrations.torch.subject import TorchSubject
from gyrostat.integrations.torch.updates import UpdateTracker

__all__ = [
    "ActivationProbe",
    "DDPNoiseScale",
    "DistributedTable",
    "Guard",
    "TorchSubject",
    "UpdateTracker",
    "adam_moments",
    "clip_grad_norm_",
    "summarize_distributed",
]
