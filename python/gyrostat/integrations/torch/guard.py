"""Gyrostat in a PyTorch training loop."""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gyrostat.guard import Guard as AnyGuard
from gyrostat.guard import Policy
from gyrostat.guard.batches import leaves
from gyrostat.tensors import summarize_all

__all__ = ["Guard", "TorchSubject"]


class Guard(AnyGuard):
    """Watches a PyTorch run and acts on what it finds.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> guard = Guard(model, optimizer)
        >>> loader = [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> for x, y in guard.batches(loader):
        ...     loss = torch.nn.functional.mse_loss(model(x), y)
        ...     loss.backward()
        ...     if guard.approve(loss):
        ...         optimizer.step()
        ...     optimizer.zero_grad()
        >>> guard.incidents
        ()

    Args:
        model: The model.
        optimizer: Its optimizer.
        scheduler: Learning-rate scheduler, rolled back with the rest.
        scaler: ``torch.amp.GradScaler``. :meth:`approve` may come before ``scaler.unscale_`` or
            after it. Overflows, which the scaler itself skips, are left to it.
        policy: ``"observe"``, ``"recover"`` or a :class:`gyrostat.guard.Policy`.
        run_dir: Folder for ``journal.jsonl``; None keeps the journal in memory.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        scaler: torch.amp.GradScaler | None = None,
        policy: str | Policy = "recover",
        run_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}"
            )
        super().__init__(TorchSubject(model, optimizer, scheduler, scaler), policy, run_dir)


class TorchSubject:
    """The :class:`gyrostat.guard.Subject` of a PyTorch model."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._scaler = scaler
        parts = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": scaler,
        }
        self._parts = {name: part for name, part in parts.items() if part is not None}

    def gradient_norms(self) -> Mapping[str, float]:
        """L2 norm of each gradient, freed of the loss scale."""
        grads = {
            name: p.grad.detach()
            for name, p in self._model.named_parameters()
            if p.grad is not None
        }
        scale = self._present_scale()
        return {name: norm / scale for name, norm in _norms(grads, 2.0).items()}

    def weight_extremes(self) -> Mapping[str, float]:
        """Largest absolute value of each parameter."""
        return _norms({n: p.detach() for n, p in self._model.named_parameters()}, math.inf)

    def expects_overflow(self) -> bool:
        """Whether a loss scaler is at work."""
        return self._scaler is not None and self._scaler.is_enabled()

    def capture(self) -> object:
        """Copies of all state dicts in host memory, and of the generators of random numbers."""
        return {
            "parts": {name: _to_host(part.state_dict()) for name, part in self._parts.items()},
            "rng": _rng_state(),
        }

    def restore(self, state: Any) -> None:
        """Loads the captured state dicts; the gradients of the failed step are dropped."""
        for name, part in self._parts.items():
            # Optimizers adopt the tensors that they are given; the snapshot must stay as it is.
            part.load_state_dict(copy.deepcopy(state["parts"][name]))
        self._optimizer.zero_grad(set_to_none=True)
        _set_rng_state(state["rng"])

    def leaves(self, batch: object) -> Iterator[NDArray[Any]]:
        """The arrays of a batch, tensors without a copy where they are in host memory."""
        return leaves(batch, _to_bytes)

    def _present_scale(self) -> float:
        if self._scaler is None or not self._scaler.is_enabled():
            return 1.0
        # The scaler keeps track of whether unscale_ was called since its last update.
        # It tells nobody: the private record is the only way to know.
        stage = self._scaler._per_optimizer_states[id(self._optimizer)]["stage"]  # noqa: SLF001
        return 1.0 if stage.name == "UNSCALED" else float(self._scaler.get_scale())


def _norms(tensors: Mapping[str, torch.Tensor], order: float) -> dict[str, float]:
    """The norm of each tensor, NaN or Inf if it holds either."""
    if not tensors:
        return {}
    if all(t.device.type == "cpu" for t in tensors.values()):
        table = summarize_all(tensors, level="norm" if order == 2 else "moments")
        norms = table.l2 if order == 2 else np.nan_to_num(table.absmax)  # NaN if it is empty
        norms[table.nonfinite_count > 0] = math.nan
        return dict(zip(table.names, norms.tolist(), strict=True))
    # One wait for the device, however many tensors there are. The function has a public name only
    # in the newest torch.
    values = [t.float() for t in tensors.values() if t.numel()]
    each = iter(torch.stack(torch._foreach_norm(values, order)).tolist())  # noqa: SLF001
    return {name: next(each) if t.numel() else 0.0 for name, t in tensors.items()}


def _to_host(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {k: _to_host(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_host(v) for v in value)
    return copy.deepcopy(value)


def _to_bytes(value: object) -> list[object] | None:
    """Dtype, shape and bytes of a tensor: NumPy lacks some of torch's dtypes."""
    if not isinstance(value, torch.Tensor):
        return None
    # A view may turn the sign of its values, or conjugate them, without that being in its bytes.
    flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return [str(flat.dtype), list(flat.shape), flat.reshape(-1).view(torch.uint8).numpy()]


# NPY002: the global generator is the state that a loop outside of our hands draws from.
def _rng_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_rng_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
