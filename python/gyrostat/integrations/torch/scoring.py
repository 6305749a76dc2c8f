"""The samples of a batch, scored one by one or by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from gyrostat.integrations.torch.data import TorchRandomState

__all__ = ["ComputeLoss", "SampleScores", "score_samples"]

ComputeLoss = Callable[[Any, Any], torch.Tensor]
"""The user's own function: of a model and a batch the mean loss, a scalar tensor."""

_SLICES = 8  # that a bisection begins with
_COMPANY = 8  # samples taken to be good that a few are scored in the company of
_DEVIATIONS = 6.0  # from the median, in robust standard deviations, that stand out
_OF_LARGEST = 1 / 3  # share of the largest loss: what is smaller does not explain the alarm
_SPLIT = 1.5  # times the usual loss at which a slice is bisected


@dataclass(frozen=True, slots=True)
class SampleScores:
    """Losses of the samples of one batch.

    Attributes:
        losses: float64, shape (samples,). Of a slice that was not bisected further each sample has
            the mean; NaN if it has that loss, or if none could be had.
        places: Places of the samples that stand out; none if that is more than half of them.
        calls: How often the loss was computed.
        passes: Samples that it was computed of, in sizes of this batch.
    """

    losses: NDArray[np.float64]
    places: tuple[int, ...]
    calls: int
    passes: float


def score_samples(
    model: nn.Module,
    compute_loss: ComputeLoss,
    batch: Any,
    *,
    earlier: Any = None,
    limit: int = 256,
    passes: float = 8.0,
) -> SampleScores:
    """Scores the samples of a batch by the losses of slices of it.

    Weights, gradients, buffers, training modes and generators of random numbers are afterwards what
    they were. Dropout is off meanwhile. Where the loss of one sample can be had each is scored by
    itself: one pass over the batch. Under a batch norm in training mode, where ``compute_loss``
    fails for one sample, and for more samples than ``limit``, the batch is cut into eight slices
    and those with a high loss are bisected: of the order of k log n calls for k bad samples. Slices
    of a few samples are then scored in the company of eight from the slices of lowest loss.

    Samples stand out if their loss is NaN or Inf; or else if it is more than six robust standard
    deviations (1.4826 times the median absolute deviation) above the median, in this batch and in
    ``earlier``, and at least a third of the largest.

    Args:
        model: The model.
        compute_loss: Mean loss of ``model`` for a batch.
        batch: A nested batch. Each tensor, array and list of the length of the first tensor's first
            axis is sliced; the rest is handed over as it is.
        earlier: A batch known to be good, to compare with.
        limit: Most calls of ``compute_loss`` for each of the two batches.
        passes: Most samples scored, in sizes of ``batch``, for each of the two.

    Raises:
        ValueError: If ``batch`` holds no samples, or a number is out of range.
    """
    if limit < 1:
        raise ValueError(f"limit: expected 1 or more, got {limit!r}")
    if not passes >= 1:
        raise ValueError(f"passes: expected 1 or more, got {passes!r}")
    scorer = _Scorer(model, compute_loss, batch, limit, passes)
    with _untouched(model):
        beside = None if earlier is None else _Scorer(model, compute_loss, earlier, limit, passes)
        each = limit >= scorer.size and passes >= 1 and not _normalises(model)
        losses = scorer.each() if each else None
        if losses is not None:
            usual = None if beside is None or beside.size > limit else beside.each()
        else:
            usual = None if beside is None else np.array([beside.loss(range(beside.size))])
            losses = scorer.bisect(None if usual is None else float(usual[0]))
        counts = [s for s in (scorer, beside) if s is not None]
    return SampleScores(
        losses,
        _standing_out(losses, usual),
        sum(s.calls for s in counts),
        sum(s.scored for s in counts) / scorer.size,
    )


class _Scorer:
    def __init__(
        self, model: nn.Module, compute_loss: ComputeLoss, batch: Any, limit: int, passes: float
    ) -> None:
        self.size = _samples_of(batch)
        self.calls = self.scored = 0
        self._model = model
        self._compute_loss = compute_loss
        self._batch = batch
        self._limit = limit
        self._most = passes * self.size

    def loss(self, places: Sequence[int] | NDArray[np.intp]) -> float:
        """Of these samples; NaN if it is not to be had."""
        self.calls += 1
        self.scored += len(places)
        with torch.no_grad():
            part = _taken(self._batch, [int(i) for i in places], self.size)
            return float(self._compute_loss(self._model, part))

    def each(self) -> NDArray[np.float64] | None:
        """Of every sample by itself; None if that cannot be had."""
        losses = np.empty(self.size)
        for i in range(self.size):
            try:
                losses[i] = self.loss([i])
            except Exception:  # noqa: BLE001 - the user's function; a bisection may do
                return None
        return losses

    def bisect(self, usual: float | None) -> NDArray[np.float64]:
        """Slices, the bad ones smaller and smaller, the worst first."""
        losses = np.full(self.size, np.nan)
        parts = np.array_split(np.arange(self.size), min(_SLICES, max(1, self.size // 2)))
        try:
            scored = [(self.loss(part), part) for part in parts]
            for loss, part in scored:
                losses[part] = loss
            good = sorted((s for s in scored if math.isfinite(s[0])), key=lambda s: s[0])
            company = np.concatenate([part for _, part in good] or [parts[0][:0]])[:_COMPANY]
            of_company = self.loss(company) if len(company) else 0.0
            level = of_company if usual is None else usual
            open_ = [s for s in scored if len(s[1]) > 1]
            while open_:
                open_.sort(key=lambda s: (math.isfinite(s[0]), -s[0]))
                loss, part = open_.pop(0)
                if loss <= _SPLIT * level or not self._affords(len(part) + 2 * len(company)):
                    break
                for half in np.array_split(part, 2):
                    beside = np.setdiff1d(company, half) if len(half) < _COMPANY else company[:0]
                    together = self.loss(np.concatenate([half, beside]).tolist())
                    n, c = len(half), len(beside)
                    own = ((n + c) * together - c * of_company) / n
                    losses[half] = own
                    if n > 1:
                        open_.append((own, half))
        except Exception:  # noqa: BLE001 - what was scored before counts
            return losses
        return losses

    def _affords(self, samples: int) -> bool:
        return self.calls + 2 <= self._limit and self.scored + samples <= self._most


def _standing_out(
    losses: NDArray[np.float64], usual: NDArray[np.float64] | None
) -> tuple[int, ...]:
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return ()
    if finite.size < losses.size:
        odd = ~np.isfinite(losses)
    else:
        level = max(_bound(part) for part in (finite, usual) if part is not None)
        odd = (losses > level) & (losses >= _OF_LARGEST * finite.max())
    places = np.flatnonzero(odd).tolist()
    return tuple(places) if len(places) <= losses.size / 2 else ()


def _bound(losses: NDArray[np.float64]) -> float:
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return -math.inf
    median = float(np.median(finite))
    return median + _DEVIATIONS * 1.4826 * float(np.median(np.abs(finite - median)))


def _normalises(model: nn.Module) -> bool:
    """Whether samples of a batch are normalised by each other."""
    norm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - the only common base
    return any(isinstance(m, norm) and m.training for m in model.modules())


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Scores change nothing; dropout is off."""
    random = TorchRandomState()
    state = random.capture()
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    modes = [(m, m.training) for m in model.modules()]
    drop = nn.modules.dropout._DropoutNd  # noqa: SLF001 - the only common base
    try:
        for module, _ in modes:
            if isinstance(module, drop):
                module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
        random.restore(state)


def _samples_of(batch: Any) -> int:
    for leaf in tree_leaves(batch):
        if isinstance(leaf, torch.Tensor | np.ndarray) and leaf.ndim and len(leaf):
            return len(leaf)
    raise ValueError("batch: holds no tensor or array with samples along its first axis")


def _taken(batch: Any, places: Sequence[int], size: int) -> Any:
    index = np.asarray(places, dtype=np.intp)

    def take(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.ndim and len(leaf) == size:
            return leaf[torch.from_numpy(index).to(leaf.device)]
        if isinstance(leaf, np.ndarray) and leaf.ndim and len(leaf) == size:
            return leaf[index]
        if _is_column(leaf):
            return [leaf[i] for i in index] if len(leaf) == size else leaf
        return leaf

    return tree_map(take, batch, is_leaf=_is_column)


def _is_column(value: Any) -> bool:
    """A list of what are no tensors or containers: texts or numbers, one of each sample."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, str | bytes | int | float | None) for v in value)
    )
