"""Gyrostat in PyTorch."""

from gyrostat.integrations.torch.distributed import DistributedTable, summarize_distributed
from gyrostat.integrations.torch.guard import Guard, TorchSubject
from gyrostat.integrations.torch.noise import DDPNoiseScale

__all__ = [
    "DDPNoiseScale",
    "DistributedTable",
    "Guard",
    "TorchSubject",
    "summarize_distributed",
]
