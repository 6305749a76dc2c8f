"""The demo's classifier in PyTorch, in the loop that a PyTorch user writes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gyrostat.demo.digits import Batch
from gyrostat.guard import Policy
from gyrostat.integrations.torch import Guard

__all__ = ["TorchTraining"]


class TorchTraining:
    """A three-layer perceptron with SGD, momentum and a cosine schedule.

    Args:
        seed: Of the initial weights.
        steps: Length of the schedule.
        learning_rate: At its start.
    """

    def __init__(self, seed: int, steps: int, learning_rate: float = 0.05) -> None:
        torch.manual_seed(seed)
        self._model = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )
        self._loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), learning_rate, momentum=0.9, weight_decay=1e-4
        )
        self._scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)

    def guard(self, policy: str | Policy, run_dir: str | None = None) -> Guard:
        """A guard of this training."""
        return Guard(self._model, self._optimizer, self._scheduler, policy=policy, run_dir=run_dir)

    def backward(self, batch: Batch) -> float:
        """Computes the gradients of one batch and returns its loss."""
        images, labels = (torch.from_numpy(part) for part in batch)
        self._optimizer.zero_grad()
        loss = self._loss(self._model(images), labels)
        loss.backward()
        return float(loss.detach())

    def update(self) -> None:
        """One step of the optimizer and the schedule."""
        self._optimizer.step()
        self._scheduler.step()

    @torch.no_grad()
    def validate(self, batch: Batch) -> float:
        """The loss on ``batch``."""
        images, labels = (torch.from_numpy(part) for part in batch)
        return float(self._loss(self._model(images), labels))

    def weight_bits(self) -> NDArray[np.uint32]:
        """The bits of the last layer's weights, for a fault to be planted in."""
        weight = dict(self._model.named_parameters())["4.weight"]
        return weight.detach().numpy().view(np.uint32).reshape(-1)
