"""The images that the demo trains on: real, small, and part of the package (see DIGITS.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Digits", "load_digits"]

_VALIDATION = 450

Batch = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Digits:
    """Hand-written digits in a fixed shuffled order, pixels scaled to [0, 1].

    Attributes:
        train: Images of shape ``(1347, 64)`` and labels.
        validation: Images of shape ``(450, 64)`` and labels.
    """

    train: Batch
    validation: Batch

    def batches(self, size: int, seed: int) -> Iterator[Batch]:
        """One epoch of whole batches, shuffled by ``seed``."""
        images, labels = self.train
        order = np.random.default_rng(seed).permutation(len(labels))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield images[rows], labels[rows]


def load_digits() -> Digits:
    """Reads the images that travel with the package."""
    with files("gyrostat.demo").joinpath("digits.npz").open("rb") as file:
        stored = np.load(file)
        images = stored["images"].reshape(-1, 64).astype(np.float32) / 16
        labels = stored["labels"].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
    return Digits(
        train=(images[_VALIDATION:], labels[_VALIDATION:]),
        validation=(images[:_VALIDATION], labels[:_VALIDATION]),
    )
