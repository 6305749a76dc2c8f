"""Gyrostat in PyTorch."""

from gyrostat.integrations.torch.clip import clip_grad_norm_
from gyrostat.integrations.torch.guard import Guard, TorchSubject

__all__ = ["Guard", "TorchSubject", "clip_grad_norm_"]
