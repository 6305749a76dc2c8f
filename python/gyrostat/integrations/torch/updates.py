"""What an optimizer step did to the weights, and how gradients turn from step to step."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gyrostat.pairs import PairTable, compare_all

__all__ = ["UpdateTracker"]

_Tensors = dict[str, torch.Tensor | None]


class UpdateTracker:
    """Measures updates against weights, and gradients against those of the step before.

    Example::

        tracker = UpdateTracker(model)
        for x, y in loader:
            loss_function(model(x), y).backward()
            gradients = tracker.gradients()  # None at the first step
            tracker.before_step()
            optimizer.step()
            updates = tracker.after_step()
            optimizer.zero_grad()

    ``updates.relative_difference`` is the norm of the update over that of the weight, by tensor;
    some 1e-3 is usual. ``gradients.cosine`` is the cosine between successive gradients. Each of the
    two may be left out, and either may be called every hundredth step.

    Only parameters that require a gradient are looked at. :meth:`before_step` keeps a copy of them
    in host memory, :meth:`gradients` one of their gradients: as many bytes again as they have, and
    one copy a call. Otherwise what is in host memory is read where it lies. What is on another
    device is copied to the host by each of the three methods, which waits for the device.

    Args:
        model: Its parameters are dense; those of ``fully_shard`` are not.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._weights: _Tensors = {}
        self._gradients: _Tensors = {}

    def gradients(self) -> PairTable | None:
        """The gradients beside those of the last call; None at the first one.

        Called before they are zeroed. A parameter without a gradient is left out.
        """
        found: _Tensors = {name: p.grad for name, p in self._trained()}
        table = _compare(found, self._gradients)
        _keep(found, self._gradients)
        return table

    def before_step(self) -> None:
        """Keeps the weights, so that :meth:`after_step` can tell what has become of them."""
        _keep(dict(self._trained()), self._weights)

    def after_step(self) -> PairTable:
        """The weights beside those that :meth:`before_step` kept: left is after, right before.

        Raises:
            RuntimeError: If :meth:`before_step` has not been called.
        """
        table = _compare(dict(self._trained()), self._weights)
        if table is None:
            raise RuntimeError("after_step: expected before_step to have been called")
        return table

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, p) for name, p in self._model.named_parameters() if p.requires_grad)


def _compare(found: _Tensors, kept: _Tensors) -> PairTable | None:
    """Beside those of the same name that were kept; None if there are none at all."""
    if not kept:
        return None
    on_host = {name: None if x is None else x.detach().cpu() for name, x in found.items()}
    return compare_all(on_host, {name: kept.get(name) for name in found})


def _keep(found: _Tensors, kept: _Tensors) -> None:
    """Copies tensors to host memory, into that of the last time where it fits."""
    for name, x in found.items():
        memory = kept.get(name)
        if x is None:
            kept[name] = None
        elif memory is None or (memory.shape, memory.dtype) != (x.shape, x.dtype):
            kept[name] = x.detach().to("cpu", copy=True)
        else:
            memory.copy_(x.detach())
