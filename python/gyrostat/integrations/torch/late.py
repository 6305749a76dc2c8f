"""Loss and gradients measured on the device, for a host that reads them one step later."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from gyrostat.guard.subject import Gradients
from gyrostat.integrations.torch.states import local_part

__all__ = ["measure_on_device"]


@torch.no_grad()
def measure_on_device(
    loss: Any,
    grads: Mapping[str, torch.Tensor],
    *,
    gate: Sequence[torch.Tensor] | None,
    buffers: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
    shares: Mapping[str, float] | None = None,
    group: Any = None,
) -> Callable[[], tuple[float, Gradients]]:
    """Queues the measurement and returns at once; the host waits where it asks for the result.

    Args:
        loss: The loss; a tensor is not read by the host before the result is.
        grads: Gradients by name.
        gate: What is set to zero if a gradient is not finite, the gradients as they are; None for
            nothing. That is decided on the device, on all ranks alike.
        buffers: Pairs of what a forward pass changes and what is kept of it. With gradients that
            are not finite it goes back to what was kept, otherwise what is kept follows.
        shares: For each gradient 1 over the number of ranks that hold the same part of it.
        group: The ranks that take part; None if there is one only.

    Raises:
        TypeError: If ``loss`` is not a single real number.
    """
    parts = {name: local_part(grad) for name, grad in grads.items()}
    filled = {name: part for name, part in parts.items() if part.numel()}
    device = next((part.device for part in parts.values()), torch.device("cpu"))
    value = _value(loss, device)
    norms = value[:0]
    if filled:
        # The functions for lists have public names only in the newest torch.
        # SLF001: as torch's own clipping does.
        each = torch._foreach_norm([part.float() for part in filled.values()])  # noqa: SLF001
        norms = torch.stack([n.to(device, torch.float64) for n in each])
    if gate is not None:
        squares = norms.square()
        if shares is not None and filled:
            # A tensor of the weights would have to travel to the device, and the host to wait.
            # SLF001: as torch's own clipping does.
            weighted = torch._foreach_mul(squares.unbind(), [shares[n] for n in filled])  # noqa: SLF001
            squares = torch.stack(weighted)
        squares = squares.sum()
        if group is not None:
            dist.all_reduce(squares, group=group)
        _close(~squares.isfinite(), gate, buffers)
    results = torch.cat([value, norms])
    cuda = device.type == "cuda"
    host = torch.empty(results.shape, dtype=torch.float64, pin_memory=cuda)
    host.copy_(results, non_blocking=True)
    # torch.cuda has no annotations.
    event = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]
    if event is not None:
        event.record(torch.cuda.current_stream(device))

    def read() -> tuple[float, Gradients]:
        if event is not None:
            event.synchronize()
        first, *rest = host.tolist()
        known = dict(zip(filled, rest, strict=True))
        found = {n: v if math.isfinite(v := known.get(n, 0.0)) else math.nan for n in parts}
        gated = gate is not None and not math.isfinite(math.hypot(*found.values()))
        return first, Gradients(found, gated=gated)

    return read


def _value(loss: Any, device: torch.device) -> torch.Tensor:
    """The loss as float64 of shape (1,) on the device."""
    if not isinstance(loss, torch.Tensor):
        try:
            return torch.full((1,), float(loss), dtype=torch.float64, device=device)
        except (TypeError, ValueError) as error:
            raise TypeError(f"loss: expected one real number, got {loss!r}") from error
    if loss.numel() != 1 or loss.is_complex():
        got = f"{loss.dtype} of shape {tuple(loss.shape)}"
        raise TypeError(f"loss: expected one real number, got {got}")
    return local_part(loss).reshape(1).to(device, torch.float64, non_blocking=True)


def _close(
    bad: torch.Tensor,
    grads: Sequence[torch.Tensor],
    buffers: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    for grad in grads:
        grad.masked_fill_(bad.to(grad.device), 0)
    for buffer, kept in buffers:
        here = bad.to(buffer.device)
        buffer.copy_(torch.where(here, kept, buffer))
        kept.copy_(buffer)
