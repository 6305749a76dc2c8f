"""A PyTorch model and its optimizer, as the guard sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_leaves

from gyrostat.guard.subject import Gradients, Measured, OptimizerState, Subject
from gyrostat.integrations.torch.activations import ActivationProbe
from gyrostat.integrations.torch.codec import CODEC, TorchCodec
from gyrostat.integrations.torch.data import LoaderSource, TorchRandomState, tensor_leaves
from gyrostat.integrations.torch.late import measure_on_device
from gyrostat.integrations.torch.learning_rate import LearningRateScale
from gyrostat.integrations.torch.ranks import Ranks, group_of, unwrapped
from gyrostat.integrations.torch.states import local_part, to_host, to_load
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
        group: The ranks that decide together; as in :class:`gyrostat.integrations.torch.Guard`.
        settings: What else must be the same on all of them.
        may_wait: Whether the host may wait for the device at each step. If not, activations are not
            looked at, nor rates in tensors on a device.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        scaler: torch.amp.GradScaler | None = None,
        group: Any = None,
        settings: object = None,
        *,
        may_wait: bool = True,
    ) -> None:
        together = group_of(model, group)
        self._model = model = unwrapped(model)
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
        self._named: list[tuple[str, nn.Parameter]] = []
        self._held_by: list[dict[str, torch.Tensor | None]] = []
        self._sharded = False
        self._look_up_parameters()
        self._rates = LearningRateScale(optimizer)
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._memory = _OptimizerMemory(model, optimizer)
        self._carried = _CarriedGradients(model, optimizer)
        self._may_wait = may_wait
        self._ranks: Ranks | None = None
        if together is not None:
            named = dict(model.named_parameters())
            self._ranks = Ranks(together, named, self._memory.names, settings)
        self._activations = ActivationProbe(model, every=_LOOK_EVERY) if may_wait else None

    def gradients(self, level: Level | None) -> Gradients:
        """L2 norm of each gradient, freed of the loss scale; records of those in host memory."""
        grads = self._present_gradients()
        if self._sharded:
            grads = {name: local_part(grad) for name, grad in grads.items()}
        scale = self._present_scale()
        norms, table = _norms(grads, level)
        if scale != 1.0:
            norms = {name: norm / scale for name, norm in norms.items()}
        return Gradients(norms, table, scale)

    def weight_extremes(self) -> Mapping[str, float]:
        """Largest absolute value of each parameter, on all ranks."""
        self._look_up_parameters()
        own = _extremes({n: local_part(p) for n, p in self._named})
        return own if self._ranks is None else self._ranks.largest(own)

    def expects_overflow(self) -> bool:
        """Whether a loss scaler is at work."""
        return self._scaler is not None and self._scaler.is_enabled()

    def capture(self) -> object:
        """Copies of all state dicts in host memory, and of the generators of random numbers.

        Of a DTensor it is the part of this rank that is copied; the ranks need not talk.
        """
        return {
            "parts": {name: to_host(part.state_dict()) for name, part in self._parts.items()},
            "random": self.random.plain(self.random.capture()),
            "passes": 0 if self._activations is None else self._activations.passes,
        }

    def restore(self, state: Any) -> None:
        """Loads the captured state dicts; the gradients of the failed step are dropped."""
        for name, part in self._parts.items():
            part.load_state_dict(to_load(state["parts"][name]))
        self.drop_gradients()
        self.random.restore(state["random"])
        if self._activations is not None:
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
        grads = [p.grad for each, p in self._named if p.grad is not None and name in (None, each)]
        if grads:
            torch._foreach_mul_(grads, factor)

    def learning_rates(self) -> tuple[float, ...]:
        """The rate of each parameter group.

        A rate in a tensor on a device makes the host wait: none is told if it may not.
        """
        rates = [group["lr"] for group in self._optimizer.param_groups]
        if not self._may_wait and any(torch.is_tensor(r) and r.device.type != "cpu" for r in rates):
            return ()
        return tuple(map(float, rates))

    def scale_learning_rate(self, factor: float) -> None:
        """Scales the rates for the length of each step."""
        self._rates.factor = factor

    def optimizer_state(self) -> OptimizerState | None:
        """Norms over the first 1,024 values of each moment or momentum, in host memory only."""
        return self._memory.measure()

    def restore_optimizer(self, state: Any) -> None:
        """Takes the moments of a captured state; rates and other options stay as they are."""
        held = to_load(state["parts"]["optimizer"])
        present = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**held, "param_groups": present["param_groups"]})

    @torch.no_grad()
    def hold_buffers(self) -> None:
        """Copies the floating-point buffers that training changes."""
        held = (b for buffers in self._held_by for b in buffers.values() if b is not None)
        now = [b for b in held if b.is_floating_point() or not b.dim()]
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
        return None if self._activations is None else self._activations.take()

    def arrays(self, batch: object) -> list[NDArray[Any]]:
        """The tensors and arrays of a batch; those on a device are copied to the host."""
        return [array for leaf in tree_leaves(batch) if (array := _as_array(leaf)) is not None]

    def measure_later(self, loss: Any, *, gate: bool) -> Callable[[], tuple[float, Gradients]]:
        """Queues the work on the device; gradients and buffers are gated there, on all ranks."""
        ranks = self._ranks
        grads = [p.grad for p in self._model.parameters() if p.grad is not None]
        return measure_on_device(
            loss,
            self._present_gradients(),
            gate=[local_part(grad) for grad in grads] if gate else None,
            buffers=self._buffers,
            shares=None if ranks is None else ranks.shares,
            group=None if ranks is None else ranks.group,
        )

    def agree(self, measured: Measured, step: int) -> Measured:
        """One small collective of all ranks."""
        return measured if self._ranks is None else self._ranks.agree(measured, step)

    def all_of(self, *flags: bool, step: int) -> tuple[bool, ...]:
        """One small collective of all ranks."""
        return flags if self._ranks is None else self._ranks.all_of(flags, step)

    def ranks_with(self, flag: bool, *, step: int) -> tuple[int, ...]:
        """One small collective of all ranks."""
        return () if self._ranks is None else self._ranks.ranks_with(flag, step)

    def by_rank(self, signal: str, layer: str | None = None) -> Mapping[int, float]:
        """What each rank had, in what was agreed on last."""
        return {} if self._ranks is None else self._ranks.by_rank(signal, layer)

    def _present_gradients(self) -> dict[str, torch.Tensor]:
        """The gradients, placed as their parameters are."""
        present = [(name, p, p.grad) for name, p in self._named]
        if self._sharded:
            return {name: _placed_as(grad, p) for name, p, grad in present if grad is not None}
        # Only a gradient that is itself to be differentiated needs it, and it takes long.
        return {
            name: grad.detach() if grad.requires_grad else grad
            for name, _, grad in present
            if grad is not None
        }

    def _look_up_parameters(self) -> None:
        """Goes through the modules, which takes longer than to measure small gradients."""
        self._named = list(self._model.named_parameters())
        # The dicts, since a buffer may come later, or be replaced as moving a model does.
        self._held_by = [module._buffers for module in self._model.modules()]  # noqa: SLF001
        self._sharded = any(hasattr(p, "placements") for _, p in self._named)

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
        self.names = tuple(name for name, _ in self._held)
        self._seen: list[int] = []
        self._names: tuple[str, ...] = ()
        self._parts: list[torch.Tensor] = []
        self._at: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None

    def measure(self) -> OptimizerState | None:
        state = self._optimizer.state
        # Where the optimizer has made or loaded a state, views of what it held before are of no
        # use. A state is made or loaded as a whole, but for parameters that come later.
        ends = (self._held[0][1], self._held[-1][1]) if self._held else ()
        present = [len(state), *(id(t) for p in ends if p in state for t in _moments(state[p]))]
        if present != self._seen:
            self._look([(name, _moments(state[p])) for name, p in self._held if p in state])
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
            local_part(t).reshape(-1)[:_SAMPLE]
            for k in (0, 1)
            for _, pair in known
            if (t := pair[k]) is not None and _readable(t)
        ]


def _moments(state: Mapping[str, Any]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    first = next((state[key] for key in _FIRST if key in state), None)
    return first, next((state[key] for key in _SECOND if key in state), None)


def _readable(t: object) -> Any:
    """Whether a view of the first values follows what the optimizer does to the tensor."""
    if not isinstance(t, torch.Tensor):
        return False
    t = local_part(t)
    return (
        type(t) is torch.Tensor
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
    parts = [local_part(t) if isinstance(t, torch.Tensor) else t.part for t in held]
    return max((float(t.abs().max()) for t in parts if t.numel()), default=0.0)


def _as_array(leaf: object) -> NDArray[Any] | None:
    if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided and not leaf.is_complex():
        held = leaf.detach().cpu()
        return (held.float() if held.dtype in _NO_NUMPY else held).numpy()
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
        return leaf
    return None


def _placed_as(grad: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A gradient whose placements differ, as partial sums of it do, is brought to those."""
    g: Any = grad.detach()
    wanted = getattr(parameter, "placements", None)
    if wanted is not None and g.placements != wanted:
        g = g.redistribute(placements=wanted)
    placed: torch.Tensor = g
    return placed


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
