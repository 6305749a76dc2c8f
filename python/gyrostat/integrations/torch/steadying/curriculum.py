"""Easy samples first: short sequences, small losses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from gyrostat.findings import plain
from gyrostat.integrations.torch.steadying import _check

__all__ = ["CurriculumBatchSampler", "competence", "sequence_length"]

_VERSION = 1


def sequence_length(
    step: int, steps: int, longest: int, shortest: int = 64, multiple: int = 8
) -> int:
    """How long sequences are to be at a step; cut them with ``tokens[:, :length]``.

    Li, Zhang and He 2022, "The Stability-Efficiency Dilemma: Investigating Sequence Length Warmup
    for Training GPT Models", arXiv 2108.06084: the length grows along a line from ``shortest`` at
    step 0 to ``longest`` at step ``steps``, rounded down to a ``multiple`` (for tensor cores). Long
    sequences early on are where the extreme gradients come from.

    Args:
        step: Steps done, from 0.
        steps: How many steps it takes.
        longest: The length from then on, in tokens.
        shortest: The length at first, in tokens.
        multiple: Of what the length is a multiple, while it grows.

    Returns:
        A number from ``shortest`` to ``longest``.
    """
    _check.count("step", step, 0)
    _check.count("steps", steps, 0)
    _check.count("shortest", shortest)
    _check.count("longest", longest, shortest)
    _check.count("multiple", multiple)
    if step >= steps:
        return longest
    length = shortest + (longest - shortest) * step // steps
    return max(length - length % multiple, shortest)


def competence(step: int, steps: int, start: float = 0.1) -> float:
    """The share of samples, the easiest, that a step may draw from.

    Platanios et al. 2019, "Competence-based Curriculum Learning for Neural Machine Translation",
    arXiv 1903.09848: sqrt(step (1 - start^2) / steps + start^2), and 1 from step ``steps`` on.

    Args:
        step: Steps done, from 0.
        steps: How many steps it takes.
        start: The share at step 0, of [0, 1). The paper's is 0.01.
    """
    _check.count("step", step, 0)
    _check.count("steps", steps, 0)
    _check.fraction("start", start)
    if step >= steps:
        return 1.0
    return math.sqrt(step * (1 - start**2) / steps + start**2)


class CurriculumBatchSampler(Sampler[list[int]]):
    """Batches of easy samples first; in the end each epoch is a shuffle of all.

    Example::

        sampler = CurriculumBatchSampler([len(s) for s in samples], batch_size=32, steps=1000)
        for batch in DataLoader(dataset, batch_sampler=sampler):
            ...

    Batch t is drawn evenly, without a sample twice in it, from those samples whose difficulty is
    within the easiest :func:`competence` share (ties are equally easy). From batch ``steps`` on
    epochs are permutations. The difficulty may be a length, the loss of a small model, or the loss
    in this run (:meth:`update`): start with zeros, and samples not seen yet are the easiest.

    A batch depends on the seed, its number and the difficulties only, so a run goes on after a
    resume with the very batches that it would have had. Costs a pass over the difficulties a batch.
    All ranks draw the same batch: take ``batch[rank::world]``.

    Args:
        difficulty: One number a sample, shape (samples,). NaN and Inf are hardest of all: NaN
            counts as Inf.
        batch_size: Samples a batch.
        steps: Batches until all samples take part.
        start: Share of samples at first.
        seed: Of the draws.
    """

    def __init__(
        self,
        difficulty: ArrayLike,
        batch_size: int,
        steps: int,
        start: float = 0.1,
        seed: int = 0,
    ) -> None:
        self._difficulty = _difficulties("difficulty", difficulty)
        if not len(self._difficulty):
            raise ValueError("difficulty: expected at least one sample")
        self.batch_size = _check.count("batch_size", batch_size)
        if batch_size > len(self._difficulty):
            raise ValueError(
                f"batch_size: expected at most {len(self._difficulty)}, the samples that there are,"
                f" got {batch_size}"
            )
        self.steps = _check.count("steps", steps, 0)
        self.start = _check.fraction("start", start)
        self.seed = _check.count("seed", seed, 0)
        self.step = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self._difficulty) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of an epoch, or what is left of one after a resume."""
        while True:
            batch = self.batch(self.step)
            self.step += 1
            yield batch
            if self.step % len(self) == 0:
                return

    def batch(self, step: int) -> list[int]:
        """The samples of batch ``step``, with the difficulties as they are."""
        _check.count("step", step, 0)
        n = len(self._difficulty)
        if step < self.steps:
            least = math.ceil(competence(step, self.steps, self.start) * n)
            place = max(least, self.batch_size) - 1
            limit = np.partition(self._difficulty, place)[place]
            easy = np.flatnonzero(self._difficulty <= limit)
            draw = np.random.default_rng([self.seed, 0, step])
            chosen = draw.choice(easy, self.batch_size, replace=False)
        else:
            epoch, place = divmod(step, len(self))
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(n)
            chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return [int(i) for i in chosen]

    def update(self, samples: Sequence[int], losses: ArrayLike | torch.Tensor) -> None:
        """Sets the difficulty of samples to their losses.

        Args:
            samples: Their numbers.
            losses: One a sample. A tensor is copied to the host, which waits for its device.

        Raises:
            ValueError: If there are not as many, or a number is out of range.
        """
        if isinstance(losses, torch.Tensor):
            losses = losses.detach().double().cpu().numpy()
        found = _difficulties("losses", losses)
        places = np.asarray(samples, dtype=np.int64)
        if places.shape != found.shape:
            raise ValueError(f"losses: expected {places.size} numbers, got {found.size}")
        if places.size and not (places.min() >= 0 and places.max() < len(self._difficulty)):
            raise ValueError(f"samples: expected numbers below {len(self._difficulty)}")
        self._difficulty[places] = found

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """The number of the next batch and the difficulties, as plain values for JSON.

        Args:
            step: Batches trained on. Needed where a DataLoader with workers has drawn ahead;
                else None.
        """
        return {
            "version": _VERSION,
            "step": self.step if step is None else _check.count("step", step, 0),
            "difficulty": [plain(x) for x in self._difficulty.tolist()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If it is no such state, or one of another number of samples.
        """
        step = _check.count_in(state, "step", _VERSION)
        held = state.get("difficulty")
        if not isinstance(held, list) or len(held) != len(self._difficulty):
            raise ValueError(f"state: expected difficulty of {len(self._difficulty)} samples")
        try:
            self._difficulty = _difficulties("state", held)
        except (TypeError, ValueError) as error:
            raise ValueError("state: expected difficulty to be numbers") from error
        self.step = step


def _difficulties(name: str, values: Any) -> NDArray[np.float64]:
    found = np.array(values, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError(f"{name}: expected the shape (samples,), got {found.shape}")
    found[np.isnan(found)] = np.inf
    return found
