"""What the guard needs of a model and its optimizer, whatever the framework."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat.guard._tree import ArrayCodec, Codec
from gyrostat.guard.batches import RandomState
from gyrostat.guard.loaders import PlainSource, Source
from gyrostat.rules import Activations
from gyrostat.tensors import Level, TensorTable

__all__ = ["Gradients", "Measured", "OptimizerState", "Subject"]


@dataclass(frozen=True, slots=True)
class Gradients:
    """The gradients of one step, measured.

    Attributes:
        norms: L2 norm by parameter name, freed of the loss scale; NaN or Inf if it holds either.
        table: Their records, loss scale included, where they were asked for and can be had.
        loss_scale: The factor that the gradients carry.
        gated: Whether they were set to zero after they were measured, so that the update does no
            harm.
    """

    norms: Mapping[str, float]
    table: TensorTable | None = None
    loss_scale: float = 1.0
    gated: bool = False


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """What of the optimizer's memory can be checked against the gradients that went into it.

    Attributes:
        names: Parameters that the optimizer remembers something of; none if it has lost all.
        first: L2 norm of the mean of gradients by parameter: Adam's ``exp_avg``, or the momentum
            of SGD. Of a part of the tensor where the whole would cost too much; NaN if unknown.
        second: The same for the mean of squares, Adam's ``exp_avg_sq``.
        ranks: The rank that remembers each, in a run of several; a name comes once for each rank.
    """

    names: tuple[str, ...]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """All that a step is judged by.

    Attributes:
        loss: The loss; of several ranks, their mean.
        gradients: The gradients.
        rates: Learning rates.
        memory: What the optimizer remembers, or None.
        stale: Whether the gradients were added to those of a step before.
        activations: What the modules of this rank have made of its batch, or None.
        replicas: Gradients that several ranks hold alike, by name: for each part of the tensor,
            something by rank that is equal where they are. Empty where all are equal.
    """

    loss: float
    gradients: Gradients
    rates: tuple[float, ...] = ()
    memory: OptimizerState | None = None
    stale: bool = False
    activations: Activations | None = None
    replicas: Mapping[str, Sequence[Mapping[int, str]]] = field(default_factory=dict)


class Subject(abc.ABC):
    """The model and its optimizer as the guard sees them.

    The first seven methods are what a guard cannot do without; the rest makes more of the ladder
    available to it.
    """

    @abc.abstractmethod
    def gradients(self, level: Level | None) -> Gradients:
        """The gradients of the present step.

        Args:
            level: How much their records are to tell; None if norms are enough.
        """

    @abc.abstractmethod
    def weight_extremes(self) -> Mapping[str, float]:
        """Largest absolute value of each parameter by name; NaN or Inf if it holds either.

        Of all ranks together; it is asked for on all of them at the same step.
        """

    @abc.abstractmethod
    def capture(self) -> object:
        """A deep copy of all state that an update changes: weights, optimizer, schedule, RNG."""

    @abc.abstractmethod
    def restore(self, state: object) -> None:
        """Goes back to a captured state, which stays usable."""

    @abc.abstractmethod
    def leaves(self, batch: object) -> Iterable[NDArray[Any]]:
        """The arrays of a batch, for its identity."""

    @abc.abstractmethod
    def drop_gradients(self) -> None:
        """Forgets the gradients of the present step."""

    @abc.abstractmethod
    def clip(self, factor: float, name: str | None = None) -> None:
        """Multiplies the gradients of the present step by ``factor``: all, or that of one name."""

    def expects_overflow(self) -> bool:
        """Whether a loss scaler is at work, which skips updates of non-finite gradients itself."""
        return False

    def learning_rates(self) -> tuple[float, ...]:
        """The learning rate of each group of parameters, as the user's schedule has it."""
        return ()

    def scale_learning_rate(self, factor: float) -> None:
        """Has updates from here on made with ``factor`` times the learning rate."""

    def optimizer_state(self) -> OptimizerState | None:
        """What the optimizer remembers; None if it remembers nothing that can be checked."""
        return None

    def restore_optimizer(self, state: object) -> None:
        """Takes what the optimizer remembers, and nothing else, from a captured state."""

    def hold_buffers(self) -> None:
        """Keeps what a forward pass changes, such as running statistics of batch norms."""

    def restore_buffers(self) -> None:
        """Undoes what forward passes have changed since :meth:`hold_buffers`."""

    @property
    def codec(self) -> Codec:
        """What the tensors in a captured state are, for checkpoints on disk."""
        return ArrayCodec()

    @property
    def random(self) -> RandomState | None:
        """The generators of random numbers that the run draws from."""
        return None

    def source(self, loader: Iterable[Any]) -> Source:
        """A loader as the guard reads it."""
        return PlainSource(loader)

    def stale_gradients(self) -> bool:
        """Whether the present gradients were added to those of a step that was already made."""
        return False

    def clear_gradients_after_updates(self) -> None:
        """Has the gradients dropped after each update from here on, since the loop does not."""

    def untrained_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that no update changes."""
        return ()

    def gains(self) -> Mapping[str, float]:
        """Standard deviation by root of fan-in of each matrix of weights, by name."""
        return {}

    def measure_later(self, loss: Any, *, gate: bool) -> Callable[[], tuple[float, Gradients]]:
        """Starts to measure loss and gradients of the present step; the result waits for the end.

        Args:
            loss: The loss as the training loop has it.
            gate: Whether gradients that are not finite may be set to zero on the device.
        """
        del gate  # nothing is gained where the host has to wait anyway
        value, gradients = float(loss), self.gradients(None)
        return lambda: (value, gradients)

    def agree(self, measured: Measured, step: int) -> Measured:
        """What all ranks of the run have measured at a step, together: the same on every rank."""
        del step
        return measured

    def all_of(self, *flags: bool, step: int) -> tuple[bool, ...]:
        """Of each flag, whether it is set on every rank of the run."""
        del step
        return flags

    def ranks_with(self, flag: bool, *, step: int) -> tuple[int, ...]:
        """The ranks of the run on which a flag is set; nothing in a run of one rank."""
        del flag, step
        return ()

    def by_rank(self, signal: str, layer: str | None = None) -> Mapping[int, float]:
        """What each rank had in what was agreed on last.

        Args:
            signal: ``"loss"``, ``"grad_norm"``, ``"weight"`` or ``"lr"``.
            layer: One parameter, for gradients and weights; the largest of all if None.

        Returns:
            Nothing in a run of one rank.
        """
        del signal, layer
        return {}

    def memory_rise(self, state: object) -> float:
        """How much the optimizer's memory has grown.

        Args:
            state: A captured state.

        Returns:
            The largest absolute value of its mean of gradients, or momentum, over that in
            ``state``; 1.0 if that cannot be told.
        """
        del state
        return 1.0

    def activations(self) -> Activations | None:
        """What the modules have made of the present batch, if this is a step to look at it."""
        return None

    def arrays(self, batch: object) -> list[NDArray[Any]]:
        """The arrays of numbers in a batch, the first axis of each that of its samples."""
        del batch
        return []
