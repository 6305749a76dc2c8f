"""Counterfactual replay: the steps up to a failure again, each time with one thing changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from gyrostat.integrations.torch.data import TorchRandomState
from gyrostat.integrations.torch.scoring import ComputeLoss
from gyrostat.integrations.torch.states import to_host, to_load

__all__ = ["Outcome", "capture", "replay"]

_LOWER = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one re-run.

    Attributes:
        trial: ``"same"``, ``"other-batch"``, ``"lower-lr"``, ``"fresh-optimizer"`` or
            ``"float64"``.
        losses: Of each step that was made; NaN or Inf ends a run.
        fails: Whether it failed as the run did; None if it could not be made.
        text: What that says, or why it could not be made.
        cause: The cause that it speaks for, a code of ``findings.CATALOGUE``, or None.
        weight: How strongly, from 0 to 1.
    """

    trial: str
    losses: tuple[float, ...]
    fails: bool | None
    text: str
    cause: str | None = None
    weight: float = 0.0


def capture(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy in host memory of weights, buffers, optimizer and generators, for :func:`replay`."""
    parts = {"model": model, "optimizer": optimizer}
    return {
        "parts": {name: to_host(part.state_dict()) for name, part in parts.items()},
        "random": TorchRandomState().capture(),
    }


def replay(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    compute_loss: ComputeLoss,
    state: Mapping[str, Any],
    batches: Sequence[Any],
    *,
    bound: float = math.inf,
    observed: float | None = None,
    other: Any = None,
    rates: Sequence[Sequence[float]] | None = None,
) -> list[Outcome]:
    """Re-runs the steps up to a failure from an earlier state, each time with one thing changed.

    A run fails if the loss of its last step is above ``bound``, or if a loss, or a gradient of the
    last step, is NaN or Inf. The same steps come first: if they do not fail, what failed is in
    none of data, rates and code, and nothing else is tried. At most six runs are made.

    All is done on a deep copy of model and optimizer, which takes as much memory as they do: they
    themselves are not touched, and the generators of random numbers are put back.

    Args:
        model: The model, in the mode that it is trained in.
        optimizer: Its optimizer.
        compute_loss: Mean loss of a model for a batch. It uses the model that it is given, and
            moves the batch to the device.
        state: What :func:`capture` gave, or ``TorchSubject.capture``, before the first batch.
        batches: The batches since, one for each step; at the last the run failed.
        bound: The largest loss that is no failure.
        observed: The loss of the last step, to compare bits with; None if it is not known.
        other: A good batch, to take the place of the last one. None takes the one before.
        rates: The learning rate of each parameter group for each batch; None leaves those of
            ``state``.

    Returns:
        What came of each run, in the order of the attribute ``trial`` of :class:`Outcome`.

    Raises:
        ValueError: If there are no batches, or not as many rates, or ``bound`` is NaN.
        RuntimeError: If model or optimizer cannot be copied.
    """
    if not batches:
        raise ValueError("batches: expected one or more")
    if math.isnan(bound):
        raise ValueError("bound: expected a number, got NaN")
    if rates is not None and len(rates) != len(batches):
        raise ValueError(f"rates: expected {len(batches)}, one for each batch, got {len(rates)}")
    if other is None and len(batches) > 1:
        other = batches[-2]
    try:
        twin = copy.deepcopy((model, optimizer))
    except Exception as error:
        raise RuntimeError(f"model and optimizer cannot be copied: {error}") from error
    random = TorchRandomState()
    before = random.capture()
    runs = _Runs(*twin, compute_loss, state, batches, rates, bound)
    try:
        return _outcomes(runs, observed, other)
    finally:
        random.restore(before)


def _outcomes(runs: _Runs, observed: float | None, other: Any) -> list[Outcome]:
    same = runs.run("same", lambda: None)
    if same.fails is None:
        return [same]
    if not same.fails:
        text = "the same steps from an earlier state do not fail: neither data nor settings did it"
        return [_speaks(same, "cause-silent-corruption", text, 0.85)]
    found = [_differs(runs, same, observed)]
    last = len(runs.batches) - 1
    if other is not None:
        found.append(runs.run("other-batch", lambda: None, {last: other}))
    if last:  # without an update in between neither makes a difference
        found.append(runs.run("lower-lr", lambda: None, factor=_LOWER))
        found.append(runs.run("fresh-optimizer", runs.forget))
    found.append(runs.run("float64", lambda: None, double=True))
    fine = [o.trial for o in found if o.fails is False]
    # What helps alone says more than what helps beside others.
    weight = 0.9 if len(fine) == 1 else 0.8
    return [_speaks(o, *_MEANS[o.trial], weight) if o.fails is False else o for o in found]


def _differs(runs: _Runs, same: Outcome, observed: float | None) -> Outcome:
    if observed is None or _equal(same.losses[-1], observed):
        return same
    again = runs.run("same", lambda: None)
    if not _equal(again.losses[-1], same.losses[-1]):
        return same  # the run itself does not repeat
    text = (
        f"two re-runs agree in all bits on a loss of {same.losses[-1]:.6g}; the run had "
        f"{observed:.6g}"
    )
    return _speaks(same, "cause-silent-corruption", text, 0.8)


class _Runs:
    """A model and optimizer to make runs with, from the same state each time."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        compute_loss: ComputeLoss,
        state: Mapping[str, Any],
        batches: Sequence[Any],
        rates: Sequence[Sequence[float]] | None,
        bound: float,
    ) -> None:
        self.batches = batches
        self._model = model
        self._optimizer = optimizer
        self._compute_loss = compute_loss
        self._state = state
        self._rates = rates
        self._bound = bound

    def forget(self) -> None:
        """Takes all that it remembers from the optimizer."""
        self._optimizer.state.clear()

    def run(
        self,
        trial: str,
        change: Callable[[], None],
        instead: Mapping[int, Any] | None = None,
        *,
        factor: float = 1.0,
        double: bool = False,
    ) -> Outcome:
        losses: list[float] = []
        try:
            if double:  # autocast leaves float64 alone
                self._model.double()
            parts = self._state["parts"]
            self._model.load_state_dict(to_load(parts["model"]))
            self._optimizer.load_state_dict(to_load(parts["optimizer"]))
            TorchRandomState().restore(self._state["random"])
            change()
            base = [group["lr"] for group in self._optimizer.param_groups]
            batches = [(instead or {}).get(i, batch) for i, batch in enumerate(self.batches)]
            for i, batch in enumerate(batches):
                rates = base if self._rates is None else self._rates[i]
                for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                if not self._step(batch, losses, last=i == len(batches) - 1, double=double):
                    return _outcome(trial, losses, fails=True)
        except Exception as error:  # noqa: BLE001 - the user's function; the others may work
            return Outcome(trial, tuple(losses), None, f"could not be made: {error}")
        return _outcome(trial, losses, fails=losses[-1] > self._bound)

    def _step(self, batch: Any, losses: list[float], *, last: bool, double: bool) -> bool:
        """Whether all is finite."""
        self._optimizer.zero_grad(set_to_none=True)
        self._model.zero_grad(set_to_none=True)
        loss = self._compute_loss(self._model, tree_map(_double, batch) if double else batch)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            return False
        loss.backward()  # type: ignore[no-untyped-call]
        if last:
            grads = [p.grad for p in self._model.parameters() if p.grad is not None]
            return all(bool(grad.isfinite().all()) for grad in grads)
        self._optimizer.step()
        return True


_MEANS = {
    "other-batch": ("cause-bad-batch", "with another batch in its place the step does not fail"),
    "lower-lr": ("cause-lr-too-high", "with a tenth of the learning rate the run does not fail"),
    "fresh-optimizer": (
        "cause-optimizer-state",
        "without what the optimizer remembers the run does not fail",
    ),
    "float64": ("cause-precision-overflow", "in float64 the run does not fail"),
}


def _outcome(trial: str, losses: Sequence[float], *, fails: bool) -> Outcome:
    return Outcome(trial, tuple(losses), fails, "fails" if fails else "does not fail")


def _speaks(outcome: Outcome, cause: str, text: str, weight: float) -> Outcome:
    return Outcome(outcome.trial, outcome.losses, outcome.fails, text, cause, weight)


def _equal(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _double(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
        return leaf.double()
    return (
        leaf.astype(np.float64) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" else leaf
    )
