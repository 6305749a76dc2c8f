"""A PyTorch model and its optimizer, as the guard sees them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_leaves

from gyrostat.guard.subject import Gradients, OptimizerState, Subject
from gyrostat.integrations.torch.activations import ActivationProbe
from gyrostat.integrations.torch.codec import CODEC, TorchCodec
from gyrostat.integrations.torch.data import LoaderSource, TorchRandomState, tensor_leaves
from gyrostat.integrations.torch.learning_rate import LearningRateScale
from gyrostat.rules import Activations
from gyrostat.tensors import Level, TensorTable, summarize_all

__all__ = ["TorchSubject"]

_SAMPLE = 1024
"""Values of each tensor of the optimizer's state that are looked at: they stand for the whole."""

_LOOK_EVERY = 50
"""Forward passes between two looks at the activations."""

_FIRST = ("exp_avg", "momentum_buffer")
_SECOND = ("exp_avg_sq", "square_avg")
_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NO_NUMPY = frozenset({torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2})
_LARGEST_BUFFERS = 1 << 26  # bytes; what is larger is no running statistic


class TorchSubject(Subject):
    """The :class:`gyrostat.guard.Subject` of a PyTorch model.

    Args:
        model: The model.
        optimizer: Its optimizer.
        scheduler: Its learning-rate scheduler, or None.
        scaler: Its loss scaler, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._scaler = scaler
        self._random = TorchRandomState()
        parts = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": scaler,
        }
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self._rates = LearningRateScale(optimizer)
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._memory = _OptimizerMemory(model, optimizer)
        self._carried = _CarriedGradients(model, optimizer)
        self._activations = ActivationProbe(model, every=_LOOK_EVERY)

    def gradients(self, level: Level | None) -> Gradients:
        """L2 norm of each gradient, freed of the loss scale; records of those in host memory."""
        grads = {
            name: p.grad.detach()
            for name, p in self._model.named_parameters()
            if p.grad is not None
        }
        scale = self._present_scale()
        norms, table = _norms(grads, level)
        if scale != 1.0:
            norms = {name: norm / scale for name, norm in norms.items()}
        return Gradients(norms, table, scale)

    def weight_extremes(self) -> Mapping[str, float]:
        """Largest absolute value of each parameter."""
        return _extremes({n: p.detach() for n, p in self._model.named_parameters()})

    def expects_overflow(self) -> bool:
        """Whether a loss scaler is at work."""
        return self._scaler is not None and self._scaler.is_enabled()

    def capture(self) -> object:
        """Copies of all state dicts in host memory, and of the generators of random numbers."""
        return {
            "parts": {name: _to_host(part.state_dict()) for name, part in self._parts.items()},
            "random": self.random.capture(),
            "passes": self._activations.passes,
        }

    def restore(self, state: Any) -> None:
        """Loads the captured state dicts; the gradients of the failed step are dropped."""
        for name, part in self._parts.items():
            # Optimizers adopt the tensors that they are given; the snapshot must stay as it is.
            part.load_state_dict(copy.deepcopy(state["parts"][name]))
        self.drop_gradients()
        self.random.restore(state["random"])
        self._activations.passes = state["passes"]

    def leaves(self, batch: object) -> Iterator[NDArray[Any]]:
        """The arrays of a batch, tensors without a copy where they are in host memory."""
        return tensor_leaves(batch)

    def drop_gradients(self) -> None:
        """Sets every gradient to None."""
        self._model.zero_grad(set_to_none=True)
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def clip(self, factor: float, name: str | None = None) -> None:
        """Multiplies gradients in place."""
        grads = [
            p.grad
            for each, p in self._model.named_parameters()
            if p.grad is not None and name in (None, each)
        ]
        if grads:
            torch._foreach_mul_(grads, factor)

    def learning_rates(self) -> tuple[float, ...]:
        """The rate of each parameter group; a rate in a tensor on a device makes the host wait."""
        return tuple(float(group["lr"]) for group in self._optimizer.param_groups)

    def scale_learning_rate(self, factor: float) -> None:
        """Scales the rates for the length of each step."""
        self._rates.factor = factor

    def optimizer_state(self) -> OptimizerState | None:
        """Norms over the first 1,024 values of each moment or momentum, in host memory only."""
        return self._memory.measure()

    def restore_optimizer(self, state: Any) -> None:
        """Takes the moments of a captured state; rates and other options stay as they are."""
        held = copy.deepcopy(state["parts"]["optimizer"])
        present = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**held, "param_groups": present["param_groups"]})

    @torch.no_grad()
    def hold_buffers(self) -> None:
        """Copies the floating-point buffers that training changes."""
        now = [b for b in self._model.buffers() if b.is_floating_point() or not b.dim()]
        if sum(b.numel() * b.element_size() for b in now) > _LARGEST_BUFFERS:
            now = []
        if [id(b) for b in now] != [id(b) for b, _ in self._buffers]:
            self._buffers = [(b, b.clone()) for b in now]
        for buffer, kept in self._buffers:
            kept.copy_(buffer)

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Copies the held buffers back."""
        for buffer, kept in self._buffers:
            buffer.copy_(kept)

    @property
    def codec(self) -> TorchCodec:
        """Tensors of PyTorch beside arrays of NumPy."""
        return CODEC

    @property
    def random(self) -> TorchRandomState:
        """The generators of Python, NumPy and torch, on every CUDA device."""
        return self._random

    def source(self, loader: Iterable[Any]) -> LoaderSource:
        """A ``DataLoader`` tells the samples of its batches."""
        return LoaderSource(loader)

    def stale_gradients(self) -> bool:
        """Whether a gradient of before the last update was added to."""
        return self._carried.found

    def clear_gradients_after_updates(self) -> None:
        """Sets all gradients to None after each step of the optimizer."""
        self._carried.clear()
        self.drop_gradients()

    def untrained_parameters(self) -> tuple[str, ...]:
        """Parameters that ask for no gradient, or are in no group of the optimizer."""
        held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        named = self._model.named_parameters()
        return tuple(name for name, p in named if not p.requires_grad or id(p) not in held)

    def gains(self) -> Mapping[str, float]:
        """Of linear maps and convolutions."""
        matrices = {
            f"{name}.weight" if name else "weight": module.weight.detach()
            for name, module in self._model.named_modules()
            if isinstance(module, _MATRICES) and type(module.weight) is nn.Parameter
        }
        return {
            name: float(w.float().std(correction=0)) * math.sqrt(w[0].numel())
            for name, w in matrices.items()
            if w.numel()
        }

    def memory_rise(self, state: Any) -> float:
        """Of Adam's ``exp_avg``, or the momentum of SGD."""
        now = _largest_memory(self._optimizer.state_dict()["state"])
        then = _largest_memory(state["parts"]["optimizer"]["state"])
        return now / then if then > 0 else 1.0

    def activations(self) -> Activations | None:
        """What the hooks of the present forward pass saw."""
        return self._activations.take()

    def arrays(self, batch: object) -> list[NDArray[Any]]:
        """The tensors and arrays of a batch; those on a device are copied to the host."""
        return [array for leaf in tree_leaves(batch) if (array := _as_array(leaf)) is not None]

    def _present_scale(self) -> float:
        if self._scaler is None or not self._scaler.is_enabled():
            return 1.0
        # The scaler keeps track of whether unscale_ was called since its last update.
        # It tells nobody: the private record is the only way to know.
        stage = self._scaler._per_optimizer_states[id(self._optimizer)]["stage"]  # noqa: SLF001
        return 1.0 if stage.name == "UNSCALED" else float(self._scaler.get_scale())


class _OptimizerMemory:
    """Looks at a part of every moment, without asking the optimizer for a copy of its state."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        names = {id(p): name for name, p in model.named_parameters()}
        self._optimizer = optimizer
        self._held = [
            (names.get(id(p), f"parameter {i}"), p)
            for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])
        ]
        self._seen: list[int] = []
        self._names: tuple[str, ...] = ()
        self._parts: list[torch.Tensor] = []
        self._at: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None

    def measure(self) -> OptimizerState | None:
        state = self._optimizer.state
        moments = [(name, _moments(state[p])) for name, p in self._held if p in state]
        present = [id(t) for _, pair in moments for t in pair]
        if present != self._seen:
            # The optimizer has made or loaded a state: views of what it held before are of no use.
            self._look(moments)
            self._seen = present
        if self._at is None:
            return None
        n = len(self._names)
        if not self._parts:
            return OptimizerState((), np.empty(0), np.empty(0))
        table = summarize_all(self._parts, level="norm")
        norms = np.where(table.nonfinite_count > 0, np.inf, table.l2)
        first, second = np.full(n, np.nan), np.full(n, np.nan)
        split = len(self._at[0])
        first[self._at[0]], second[self._at[1]] = norms[:split], norms[split:]
        return OptimizerState(self._names, first, second)

    def _look(
        self, moments: list[tuple[str, tuple[torch.Tensor | None, torch.Tensor | None]]]
    ) -> None:
        known = [(name, pair) for name, pair in moments if any(map(_readable, pair))]
        if not known and self._at is None:
            return  # nothing yet, or nothing that is known
        self._names = tuple(name for name, _ in known)
        at = [
            np.array([i for i, (_, pair) in enumerate(known) if _readable(pair[k])], dtype=np.intp)
            for k in (0, 1)
        ]
        self._at = (at[0], at[1])
        self._parts = [
            t.detach().reshape(-1)[:_SAMPLE]
            for k in (0, 1)
            for _, pair in known
            if (t := pair[k]) is not None and _readable(t)
        ]


def _moments(state: Mapping[str, Any]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    first = next((state[key] for key in _FIRST if key in state), None)
    return first, next((state[key] for key in _SECOND if key in state), None)


def _readable(t: object) -> Any:
    """Whether a view of the first values follows what the optimizer does to the tensor."""
    return (
        isinstance(t, torch.Tensor)
        and type(t) is torch.Tensor
        and t.device.type == "cpu"
        and t.is_contiguous()
        and t.is_floating_point()
    )


class _CarriedGradients:
    """Sees gradients of a step that was already made being added to.

    A hook on the parameter with the fewest values runs before its gradient is accumulated. What is
    there at the first backward pass after an update is what the loop forgot to clear.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.found = False
        self._fresh = False
        self._optimizer = optimizer
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        own = [
            p
            for p in model.parameters()
            if p.requires_grad and id(p) in held and type(p) is nn.Parameter
        ]
        self._watched = min(own, key=torch.Tensor.numel, default=None)
        if self._watched is not None:
            self._watched.register_hook(self._look)  # type: ignore[no-untyped-call]
            optimizer.register_step_post_hook(self._updated)

    def clear(self) -> None:
        self.found = False
        self._optimizer.register_step_post_hook(lambda opt, *_: opt.zero_grad(set_to_none=True))

    def _updated(self, *_: object) -> None:
        self._fresh = True

    def _look(self, _: torch.Tensor) -> None:
        if not self._fresh or self._watched is None:
            return
        self._fresh = False
        kept = self._watched.grad
        # On a device the answer would make the host wait.
        self.found = kept is not None and kept.device.type == "cpu" and bool(kept.any())


def _largest_memory(state: Mapping[Any, Mapping[str, Any]]) -> float:
    held = [first for each in state.values() if (first := _moments(each)[0]) is not None]
    return max((float(t.detach().abs().max()) for t in held if t.numel()), default=0.0)


def _as_array(leaf: object) -> NDArray[Any] | None:
    if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided and not leaf.is_complex():
        held = leaf.detach().cpu()
        return (held.float() if held.dtype in _NO_NUMPY else held).numpy()
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
        return leaf
    return None


def _norms(
    tensors: Mapping[str, torch.Tensor], level: Level | None
) -> tuple[dict[str, float], TensorTable | None]:
    """L2 norm of each tensor, NaN or Inf if it holds either; records if they can be had."""
    if not tensors:
        return {}, None
    if all(t.device.type == "cpu" for t in tensors.values()):
        table = summarize_all(tensors, level="norm" if level is None else level)
        norms = table.l2
        norms[table.nonfinite_count > 0] = math.nan
        return dict(zip(table.names, norms.tolist(), strict=True)), table
    return _on_device(tensors, 2.0), None


def _extremes(tensors: Mapping[str, torch.Tensor]) -> dict[str, float]:
    if not tensors:
        return {}
    if all(t.device.type == "cpu" for t in tensors.values()):
        table = summarize_all(tensors, level="moments")
        extremes = np.nan_to_num(table.absmax)  # NaN if it is empty
        extremes[table.nonfinite_count > 0] = math.nan
        return dict(zip(table.names, extremes.tolist(), strict=True))
    return _on_device(tensors, math.inf)


def _on_device(tensors: Mapping[str, torch.Tensor], order: float) -> dict[str, float]:
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
