"""Clippers of gradients whose limit comes from the run itself."""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from gyrostat.integrations.torch.steadying import _check
from gyrostat.rules._memory import load_memory, plain_memory
from gyrostat.tensors import summarize_all

__all__ = ["AdaGC", "AdaptiveGradientClip", "AutoClip", "Clipper", "SpikeAwareClip", "ZClip"]

_VERSION = 1

# Squares of anything larger may be beyond float32.
_LARGE = 1e18

_Parameters = nn.Module | Iterable[tuple[str, torch.Tensor]]


class Clipper(ABC):
    """What all clippers share: one look at all gradients, and what is done with NaN and Inf.

    Example::

        clipper = ZClip()
        loss.backward()
        norm = clipper.clip_(model)
        optimizer.step()

    A gradient that holds NaN or Inf spoils the step for all: :meth:`clip_` then sets every
    gradient to None, so that the optimizers of torch leave the weights and their own state as they
    are, remembers nothing of the step and returns NaN. Called after :meth:`Guard.approve
    <gyrostat.guard.Guard.approve>`, it hides nothing from the guard.

    Under a ``GradScaler`` call ``scaler.unscale_(optimizer)`` first: limits are in the units of the
    gradients. ``scaler.step`` has then seen an overflow before the gradients are dropped, skips the
    step and lowers the scale as ever.

    The norms are taken in float64 in host memory. On another device they are taken in float32
    (those of float64 in float64), and the host waits once a call, however many tensors there are.
    """

    def clip_(self, model: _Parameters) -> float:
        """Clips gradients in place.

        Args:
            model: A model, or pairs of name and parameter. Those without a gradient are left out.

        Returns:
            The L2 norm of all gradients before clipping; NaN if it is not finite, 0.0 if there are
            none.

        Raises:
            TypeError: If ``model`` is neither, or a gradient is sparse or sharded (a DTensor).
        """
        named = _with_gradients(model)
        norms = _norms(named)
        total = math.hypot(*norms.values())
        if not math.isfinite(total):
            for p in named.values():
                p.grad = None
            return math.nan
        if total > 0:
            self._clip(named, norms, total)
        return total

    @abstractmethod
    def _clip(
        self, named: Mapping[str, torch.Tensor], norms: Mapping[str, float], total: float
    ) -> None:
        """Clips gradients that are finite and not all zero."""

    def state_dict(self) -> dict[str, Any]:
        """What the clipper remembers, as plain values for JSON; its arguments are not in it."""
        return {"version": _VERSION}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was called: the limits are the same to the last bit.

        Raises:
            ValueError: If it is no such state.
        """
        if not isinstance(state, Mapping) or state.get("version") != _VERSION:
            raise ValueError(f"state: expected a mapping of version {_VERSION}")


class AutoClip(Clipper):
    """Clips to a percentile of the norms seen so far.

    Seetharaman et al. 2020, "AutoClip: Adaptive Gradient Clipping for Source Separation Networks",
    arXiv 2007.14469: the limit is the ``percentile`` of the norms of all steps including this one,
    interpolated linearly. Here of the last ``window`` steps, so that neither memory nor time grows.
    By its nature it clips ``100 - percentile`` per cent of healthy steps.

    Args:
        percentile: From 0 to 100; the paper's 10.
        window: How many norms are kept.
    """

    def __init__(self, percentile: float = 10.0, window: int = 1000) -> None:
        if not (isinstance(percentile, int | float) and 0 <= percentile <= 100):
            raise ValueError(f"percentile: expected a number of [0, 100], got {percentile!r}")
        self.percentile = float(percentile)
        self._norms: deque[float] = deque(maxlen=_check.count("window", window))
        self._sorted: list[float] = []

    def _clip(
        self, named: Mapping[str, torch.Tensor], norms: Mapping[str, float], total: float
    ) -> None:
        del norms
        if len(self._norms) == self._norms.maxlen:
            del self._sorted[bisect.bisect_left(self._sorted, self._norms[0])]
        self._norms.append(total)
        bisect.insort(self._sorted, total)
        place = (len(self._sorted) - 1) * self.percentile / 100
        low = int(place)
        high = min(low + 1, len(self._sorted) - 1)
        limit = self._sorted[low] + (place - low) * (self._sorted[high] - self._sorted[low])
        _scale(named.values(), min(limit / total, 1.0))

    def state_dict(self) -> dict[str, Any]:
        """The norms that are kept, oldest first."""
        return {"version": _VERSION, "norms": list(self._norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Clipper.load_state_dict`; of more norms than the window holds, the newest."""
        super().load_state_dict(state)
        norms = state.get("norms")
        if not isinstance(norms, list) or not all(map(_is_norm, norms)):
            raise ValueError("state: expected norms to be a list of numbers above 0")
        self._norms = deque(map(float, norms), maxlen=self._norms.maxlen)
        self._sorted = sorted(self._norms)


@dataclass
class _ZClipMemory:
    first: list[float] = field(default_factory=list)
    mean: float = 0.0
    var: float = 0.0
    ready: bool = False


class ZClip(Clipper):
    """Clips norms that stand out from a running mean, after Kumar et al. 2025 (arXiv 2504.02507).

    With the mean m and the standard deviation s of the running norm, a norm x of the score
    z = (x - m) / s above ``threshold`` is clipped to m + threshold^2 s / z: the larger the spike,
    the nearer to the mean. Mean and variance are exponential averages that start with those of the
    first ``warmup_steps`` steps, which are not clipped.

    Three things differ from the paper. x is the logarithm of the norm: norms are skewed to the
    right, and it is ratios that matter. A clipped step enters the averages as m + threshold s, the
    edge of what is usual: fed with the clipped norm, as in the paper, the variance shrinks with
    each clipped step until most of a slow rise is clipped. The threshold is 4, not 2.5. On real
    logs of healthy runs that clips 0.2 to 0.8 % of the steps where the paper's rule clips 3 to 5 %
    (docs/steadying.md).

    Args:
        decay: Decay of the averages, of [0, 1).
        threshold: Score from which on a step is clipped.
        warmup_steps: Steps that are looked at before the first may be clipped; 2 or more.
    """

    def __init__(self, decay: float = 0.97, threshold: float = 4.0, warmup_steps: int = 25) -> None:
        self.decay = _check.fraction("decay", decay)
        self.threshold = _check.positive("threshold", threshold)
        self.warmup_steps = _check.count("warmup_steps", warmup_steps, 2)
        self._memory = _ZClipMemory()

    def _clip(
        self, named: Mapping[str, torch.Tensor], norms: Mapping[str, float], total: float
    ) -> None:
        del norms
        m, x = self._memory, math.log(total)
        if not m.ready:
            m.first.append(x)
            if len(m.first) >= self.warmup_steps:
                m.mean = math.fsum(m.first) / len(m.first)
                m.var = math.fsum((one - m.mean) ** 2 for one in m.first) / len(m.first)
                m.first, m.ready = [], True
            return
        std = math.sqrt(m.var)
        seen = min(x, m.mean + self.threshold * std)
        if x > seen and std > 0:
            limit = m.mean + self.threshold**2 * m.var / (x - m.mean)
            _scale(named.values(), math.exp(limit - x))
        # Without any variance nothing is usual: the step enters as it is.
        gap = (seen if std > 0 else x) - m.mean
        m.mean += (1 - self.decay) * gap
        m.var = self.decay * (m.var + (1 - self.decay) * gap**2)

    def state_dict(self) -> dict[str, Any]:
        """Mean and variance of the logarithm of the norm, or what the warm-up has seen."""
        return {"version": _VERSION, **plain_memory(self._memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Clipper.load_state_dict`."""
        memory = load_memory(_ZClipMemory, state, _VERSION)
        if memory.var < 0:
            raise ValueError(f"state: expected var to be at least 0, got {memory.var!r}")
        self._memory = memory


class AdaGC(Clipper):
    """Clips each tensor to a running mean of its own norm.

    Wang et al. 2025, "AdaGC: Improving Training Stability for Large Language Model Pretraining",
    arXiv 2502.11034. For the first ``warmup_steps`` steps all gradients together are clipped to
    ``absolute``, and of each tensor the least norm g that is left is kept. Then each is clipped to
    ``relative`` g, and g is the exponential average of the clipped norm. Works with any optimizer.

    A gradient of zeros tells nothing of how large the gradients of a tensor are, and is left out:
    by the paper's letter g would be 0 for good, and the first factor of LoRA, whose gradient is
    zero at the first step, would hardly be trained. A tensor met after the warm-up begins with the
    norm it then has.

    Args:
        relative: Factor to the running norm, above 1.
        absolute: Limit of the norm of all gradients during the warm-up.
        decay: Decay of the running norms, of [0, 1).
        warmup_steps: Steps with one limit for all.
    """

    def __init__(
        self,
        relative: float = 1.05,
        absolute: float = 1.0,
        decay: float = 0.98,
        warmup_steps: int = 100,
    ) -> None:
        self.relative = _check.positive("relative", relative)
        if relative <= 1:
            raise ValueError(f"relative: expected a number above 1, got {relative!r}")
        self.absolute = _check.positive("absolute", absolute)
        self.decay = _check.fraction("decay", decay)
        self.warmup_steps = _check.count("warmup_steps", warmup_steps, 0)
        self._step = 0
        self._usual: dict[str, float] = {}

    def _clip(
        self, named: Mapping[str, torch.Tensor], norms: Mapping[str, float], total: float
    ) -> None:
        self._step += 1
        if self._step <= self.warmup_steps:
            factor = min(self.absolute / total, 1.0)
            _scale(named.values(), factor)
            for name, norm in norms.items():
                if norm * factor > 0:
                    self._usual[name] = min(self._usual.get(name, math.inf), norm * factor)
            return
        for name, norm in norms.items():
            if norm == 0:
                continue
            usual = self._usual.get(name, norm)
            factor = min(self.relative * usual / norm, 1.0)
            _scale([named[name]], factor)
            self._usual[name] = self.decay * usual + (1 - self.decay) * norm * factor

    def state_dict(self) -> dict[str, Any]:
        """The running norm of each tensor by its name, and the steps done."""
        return {"version": _VERSION, "step": self._step, "usual": dict(self._usual)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Clipper.load_state_dict`."""
        step = _check.count_in(state, "step", _VERSION)
        usual = state.get("usual")
        if not isinstance(usual, Mapping) or not all(
            isinstance(name, str) and _is_norm(norm) for name, norm in usual.items()
        ):
            raise ValueError("state: expected usual to map names to numbers above 0")
        self._step, self._usual = step, {name: float(norm) for name, norm in usual.items()}


class AdaptiveGradientClip(Clipper):
    """Clips the gradient of each unit by the norm of its weights (AGC).

    Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization", arXiv
    2102.06171: a gradient G_i of the weights W_i of unit i is scaled to ``factor`` max(|W_i|,
    ``eps``) where its norm is above that. A unit is a row of the first dimension, as in linear
    layers and convolutions; a tensor of one dimension or none is one unit. Remembers nothing.

    Args:
        factor: The largest ratio of gradient to weight, the paper's 0.01.
        eps: The least norm that weights count as, so that those of zero can move.
        exclude: Names of parameters or modules that are left alone. The paper leaves out the last
            linear layer.
    """

    def __init__(
        self, factor: float = 0.01, eps: float = 1e-3, exclude: Sequence[str] = ()
    ) -> None:
        self.factor = _check.positive("factor", factor)
        self.eps = _check.positive("eps", eps)
        if isinstance(exclude, str):
            raise TypeError("exclude: expected names, got one string")
        self.exclude = tuple(exclude)

    @torch.no_grad()
    def _clip(
        self, named: Mapping[str, torch.Tensor], norms: Mapping[str, float], total: float
    ) -> None:
        del total
        for name, p in named.items():
            # No unit has a larger norm than the whole.
            if norms[name] <= self.factor * self.eps or self._excluded(name):
                continue
            assert p.grad is not None  # noqa: S101  # _with_gradients leaves out the others
            wide = p.dtype == torch.float64 or norms[name] > _LARGE
            dtype = torch.float64 if wide else torch.float32
            weight, grad = _unit_norms(p.detach(), dtype), _unit_norms(p.grad, dtype)
            limit = weight.clamp_(min=self.eps).mul_(self.factor)
            # A norm of 0 gives Inf or NaN here, of which the clamp makes 1.
            p.grad.copy_(p.grad * (limit / grad).nan_to_num_(nan=1.0).clamp_(max=1.0))

    def _excluded(self, name: str) -> bool:
        return any(name == one or name.startswith(f"{one}.") for one in self.exclude)


class SpikeAwareClip(Clipper):
    """Clips single values that are far beyond what their second moment knows.

    Huang et al. 2025, "SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training", arXiv
    2501.06842: a value g with g^2 > ``threshold`` v becomes sign(g) sqrt(``threshold`` v), with v
    the second moment that Adam keeps of it. For any optimizer with ``exp_avg_sq`` in its state.
    Remembers nothing of its own.

    v is freed of its bias by Adam's correction, so that no steps have to be left out while it
    builds up, as in SPAM. Where v is 0 nothing is known and nothing is clipped: by the paper's
    letter the row of a token that comes up late would be clipped to 0 and stay so.

    Args:
        optimizer: The optimizer. Parameters that it has not stepped yet are left alone.
        threshold: The paper's 5000: some 70 times the usual size.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, threshold: float = 5000.0) -> None:
        self.optimizer = _check.optimizer_of(optimizer)
        self.threshold = _check.positive("threshold", threshold)

    @torch.no_grad()
    def _clip(
        self, named: Mapping[str, torch.Tensor], norms: Mapping[str, float], total: float
    ) -> None:
        del norms, total
        present = {id(p) for p in named.values()}
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                state = self.optimizer.state.get(p, {})
                if id(p) not in present or "exp_avg_sq" not in state:
                    continue
                moment = state["exp_avg_sq"].to(torch.promote_types(p.dtype, torch.float32))
                step = state.get("step", group.get("step"))
                # Optimizers without Adam's betas, or without a count, keep moments without bias.
                known = 1.0
                if step is not None and "betas" in group:
                    known = 1 - group["betas"][1] ** step
                limit = (moment * self.threshold / known).sqrt_()
                limit.masked_fill_(moment == 0, math.inf)
                p.grad.copy_(torch.clamp(p.grad, -limit, limit))


def _with_gradients(model: _Parameters) -> dict[str, torch.Tensor]:
    pairs = model.named_parameters() if isinstance(model, nn.Module) else model
    if isinstance(pairs, Mapping):
        pairs = pairs.items()
    named: dict[str, torch.Tensor] = {}
    if not isinstance(pairs, Iterable) or isinstance(pairs, torch.Tensor | str):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError("model: expected a torch.nn.Module or pairs of name and parameter")
        name, p = pair
        if p.grad is None:
            continue
        # A DTensor, which holds a part only, has a mesh. Its module is public in newer torch only.
        if p.grad.layout != torch.strided or hasattr(p.grad, "device_mesh"):
            raise TypeError(f"model: expected dense gradients, that of {name} is not")
        named[name] = p
    return named


def _norms(named: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The norm of each gradient, NaN or Inf if it holds either."""
    grads = {name: p.grad.detach() for name, p in named.items() if p.grad is not None}
    if not grads:
        return {}
    if all(g.device.type == "cpu" for g in grads.values()):
        table = summarize_all(grads, level="norm")
        norms = np.where(table.nonfinite_count > 0, math.nan, table.l2)
        return dict(zip(table.names, norms.tolist(), strict=True))
    return dict(zip(grads, _norms_on_device(list(grads.values())), strict=True))


def _norms_on_device(grads: list[torch.Tensor]) -> list[float]:
    """With one wait for the device, however many there are."""
    wide = [g if g.dtype == torch.float64 else g.float() for g in grads]
    # The function has a public name only in the newest torch.
    # SLF001: as torch's own clipping does.
    each = [n.to(grads[0].device, torch.float64) for n in torch._foreach_norm(wide)]  # noqa: SLF001
    norms: list[float] = torch.stack(each).tolist()
    return norms


def _scale(parameters: Iterable[torch.Tensor], factor: float) -> None:
    if factor < 1:
        grads = [p.grad.detach() for p in parameters if p.grad is not None]
        torch._foreach_mul_(grads, factor)  # in one launch; no public name


def _unit_norms(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    dim = tuple(range(1, x.ndim)) or None
    norms: torch.Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=x.ndim > 1, dtype=dtype)
    return norms


def _is_norm(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > 0
    )
