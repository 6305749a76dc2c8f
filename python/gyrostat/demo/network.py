"""A small classifier in NumPy, guarded without any framework: an example of ``guard.Subject``."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat.demo.digits import Batch
from gyrostat.guard import Gradients, Guard, Policy, Subject
from gyrostat.guard.batches import leaves
from gyrostat.tensors import Level, TensorTable, summarize_all

__all__ = ["NumpyTraining"]

Array = NDArray[np.float32]

_SIZES = (64, 128, 128, 10)
_SMOOTHING = 0.1  # label smoothing
_MOMENTUM = 0.9
_DECAY = 1e-4


class NumpyTraining(Subject):
    """A three-layer perceptron with SGD, momentum and a cosine schedule.

    Args:
        seed: Of the initial weights.
        steps: Length of the schedule.
        learning_rate: At its start.
    """

    def __init__(self, seed: int, steps: int, learning_rate: float = 0.05) -> None:
        rng = np.random.default_rng(seed)
        self._weights: dict[str, Array] = {}
        for i, (n, m) in enumerate(pairwise(_SIZES)):
            scale = np.sqrt(2 / n)
            self._weights[f"layer{i}.weight"] = (rng.standard_normal((n, m)) * scale).astype("f4")
            self._weights[f"layer{i}.bias"] = np.zeros(m, dtype="f4")
        self._velocity = {name: np.zeros_like(w) for name, w in self._weights.items()}
        self._gradients: dict[str, Array] = {}
        self._updates = 0
        self._steps = steps
        self._learning_rate = learning_rate
        self._rate_factor = 1.0

    def guard(self, policy: str | Policy, run_dir: str | None = None) -> Guard:
        """A guard of this training."""
        return Guard(self, policy, run_dir)

    def backward(self, batch: Batch) -> float:
        """Computes the gradients of one batch and returns its loss."""
        images, labels = batch
        inputs = self._forward(images)
        loss, delta = _cross_entropy(inputs.pop(), labels)
        for i in reversed(range(len(inputs))):
            self._gradients[f"layer{i}.weight"] = inputs[i].T @ delta
            self._gradients[f"layer{i}.bias"] = delta.sum(axis=0)
            delta = (delta @ self._weights[f"layer{i}.weight"].T) * (inputs[i] > 0)
        return loss

    def update(self) -> None:
        """One step of SGD with momentum and weight decay."""
        rate = self._rate() * self._rate_factor
        self._updates += 1
        for name, weight in self._weights.items():
            velocity = self._velocity[name]
            velocity *= _MOMENTUM
            velocity += self._gradients[name] + _DECAY * weight
            np.subtract(weight, np.float32(rate) * velocity, out=weight)

    def validate(self, batch: Batch) -> float:
        """The loss on ``batch``."""
        images, labels = batch
        return _cross_entropy(self._forward(images)[-1], labels)[0]

    def weight_bits(self) -> NDArray[np.uint32]:
        """The bits of the last layer's weights, for a fault to be planted in."""
        return self._weights["layer2.weight"].view(np.uint32).reshape(-1)

    def _rate(self) -> float:
        return float(self._learning_rate * (1 + np.cos(np.pi * self._updates / self._steps)) / 2)

    def _forward(self, images: Array) -> list[Array]:
        inputs = [images]
        last = len(_SIZES) - 2
        for i in range(last + 1):
            out = inputs[-1] @ self._weights[f"layer{i}.weight"] + self._weights[f"layer{i}.bias"]
            inputs.append(out if i == last else np.maximum(out, 0))
        return inputs

    # What gyrostat.guard.Subject asks for.

    def gradients(self, level: Level | None) -> Gradients:
        """L2 norm of each gradient."""
        table = summarize_all(self._gradients, level=level or "norm")
        return Gradients(_by_name(table, table.l2), table)

    def weight_extremes(self) -> Mapping[str, float]:
        """Largest absolute value of each parameter."""
        table = summarize_all(self._weights)
        return _by_name(table, table.absmax)

    def drop_gradients(self) -> None:
        """Forgets the gradients."""
        self._gradients = {}

    def clip(self, factor: float, name: str | None = None) -> None:
        """Scales the gradients."""
        for each in self._gradients if name is None else [name]:
            self._gradients[each] *= np.float32(factor)

    def arrays(self, batch: Any) -> list[NDArray[Any]]:
        """Images and labels."""
        return list(batch)

    def learning_rates(self) -> tuple[float, ...]:
        """The rate of the next update."""
        return (self._rate(),)

    def scale_learning_rate(self, factor: float) -> None:
        """Scales the rate of all updates from here on."""
        self._rate_factor = factor

    def capture(self) -> object:
        """Weights, velocities and the position in the schedule."""
        return copy.deepcopy((self._weights, self._velocity, self._updates))

    def restore(self, state: Any) -> None:
        """Goes back to a captured state."""
        self._weights, self._velocity, self._updates = copy.deepcopy(state)

    def leaves(self, batch: object) -> Iterable[NDArray[Any]]:
        """The arrays of a batch."""
        return leaves(batch)


def _cross_entropy(logits: Array, labels: NDArray[np.int64]) -> tuple[float, Array]:
    """Cross-entropy with label smoothing, and its gradient."""
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        target = np.full_like(log_p, _SMOOTHING / log_p.shape[1])
        target[np.arange(len(labels)), labels] += 1 - _SMOOTHING
        loss = float(-(target * log_p).sum() / len(labels))
        return loss, (np.exp(log_p) - target) / np.float32(len(labels))


def _by_name(table: TensorTable, values: NDArray[np.float64]) -> dict[str, float]:
    norms = np.where(table.nonfinite_count, np.nan, values)
    return dict(zip(table.names, norms.tolist(), strict=True))
