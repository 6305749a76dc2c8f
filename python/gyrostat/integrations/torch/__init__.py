"""Gyrostat in PyTorch."""

from gyrostat.integrations.torch.guard import Guard, TorchSubject

__all__ = ["Guard", "TorchSubject"]
