"""What the modules of a PyTorch model make of a batch, looked at every n-th forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gyrostat.rules import Activations
from gyrostat.tensors import TensorStats, TensorTable, summarize

__all__ = ["ActivationProbe"]

_CHANNELS_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WEIGHTED = (nn.Linear, nn.Embedding, *_CHANNELS_FIRST)
_BY_CHANNEL = (*_CHANNELS_FIRST, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
_NORMALISED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)
_EXACT_ZEROS = (nn.ReLU, nn.ReLU6, nn.Threshold, nn.Hardswish)
_LEFT_OUT = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_FLAT = 1e-3
_SEQUENCES = 4
"""As many sequences of a batch as attention logits are computed of."""


class ActivationProbe:
    """Records what the modules of a model put out, in every n-th forward pass of training.

    Example::

        rules = TensorRules()
        with ActivationProbe(model, every=50) as probe:
            for step, (x, y) in enumerate(loader):
                loss_function(model(x), y).backward()
                rules.update(step, activations=probe.take())
                optimizer.step()
                optimizer.zero_grad()

    Between two looks one hook counts forward passes of the model. For a look hooks are put on its
    modules, and taken off at the end of the pass, also if it fails. Forward passes in evaluation
    mode are not counted. What is not in host memory is copied there at a look, which waits for the
    device. Eager mode; a model that ``torch.compile`` has made may be compiled anew by the hooks.

    Looked at are modules without children that return a floating tensor, but for dropout and the
    like, each the first time that it runs in a pass. For functions between them, such as
    ``torch.nn.functional.relu``, the input of the next Linear or convolution tells of dead units of
    the layer before, if it has as many and its smallest value is 0. Of ``nn.MultiheadAttention``
    also the logits are computed, for the first four sequences and without a mask.

    Args:
        model: The model.
        every: Look at the first forward pass and each ``every``-th after it.
        modules: Names of the modules to look at; without, all of them.
        attention: Names of modules whose output is the logits of attention.
        logits: Name of the module whose output the loss takes as logits; without, the last one
            that runs, if it is Linear and has two outputs or more. An empty name for none.

    Attributes:
        passes: Forward passes counted so far. Set it for the looks to go on as in an earlier run.

    Raises:
        ValueError: If ``every`` is less than 1, or no module has one of the names.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 50,
        modules: Iterable[str] | None = None,
        attention: Iterable[str] = (),
        logits: str | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every: expected 1 or more, got {every}")
        known = dict(model.named_modules())
        self._attention = frozenset(attention)
        chosen = None if modules is None else set(modules)
        wanted = {"modules": chosen or (), "attention": self._attention}
        for parameter, names in {**wanted, "logits": {logits} if logits else ()}.items():
            for name in names:
                if name not in known:
                    raise ValueError(f"{parameter}: the model has no module {name!r}")
        self._logits = logits
        self._every = every
        self.passes = 0
        self._modules = {
            name: module
            for name, module in known.items()
            if name in self._attention
            or name == logits
            or (
                (chosen is None or name in chosen)
                and (isinstance(module, nn.MultiheadAttention) or not any(module.children()))
                and not isinstance(module, _LEFT_OUT)
            )
        }
        self._functional = not any(isinstance(m, _EXACT_ZEROS) for m in self._modules.values())
        self._look: _Look | None = None
        self._taken: Activations | None = None
        self._hooks: list[RemovableHandle] = []
        self._root = model.register_forward_pre_hook(self._begin)

    def take(self) -> Activations | None:
        """What the last forward pass has made, once; None if it was not looked at."""
        taken, self._taken = self._taken, None
        return taken

    def close(self) -> None:
        """Takes all hooks off the model."""
        for hook in (self._root, *self._hooks):
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, model: nn.Module, _: Any) -> None:
        if not model.training:
            return
        due = self.passes % self._every == 0
        self.passes += 1
        self._taken = None
        if not due:
            return
        self._hooks.append(model.register_forward_hook(self._end, always_call=True))
        self._look = _Look(self._functional, self._attention)
        for name, module in self._modules.items():
            hook = self._look.hook(name)
            # Before other hooks: of the model itself, before the one that takes this one off.
            self._hooks.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))

    def _end(self, *_: Any) -> None:
        if self._look is None:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        look, self._look = self._look, None
        self._taken = look.result(self._logits)


class _Look:
    """One forward pass. Outputs are read at once: what runs next may overwrite them."""

    def __init__(self, functional: bool, attention: frozenset[str]) -> None:
        self._functional = functional
        self._attention_names = attention
        self._channel_axis = -1
        self._input_signal = math.nan
        self._seen: set[str] = set()
        self._names: list[str] = []
        self._records: list[TensorStats] = []
        self._rows: list[int] = []
        self._signal: list[float] = []
        self._weighted: list[bool] = []
        self._saturated: list[float] = []
        self._idle: dict[str, NDArray[np.bool_]] = {}
        self._attention: dict[str, float] = {}
        self._last: nn.Module | None = None
        self._source = ("", -1)

    def hook(self, name: str) -> Any:
        def see(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            if name not in self._seen:
                self._seen.add(name)
                with torch.no_grad():
                    self._see(name, module, args, kwargs, output)

        return see

    def result(self, logits: str | None) -> Activations | None:
        """What was seen; None if that is nothing."""
        if not self._names:
            return None
        last = self._names[-1]
        if logits is None and isinstance(self._last, nn.Linear) and self._last.out_features > 1:
            logits = last
        # An output that is sure is flat, and may be right.
        self._saturated[-1] = math.nan
        self._idle.pop(last, None)
        return Activations(
            TensorTable(tuple(self._names), self._records),
            np.array(self._rows),
            np.array(self._signal),
            np.array(self._weighted),
            np.array(self._saturated),
            self._idle,
            self._attention,
            logits if logits in self._seen and logits in self._names else None,
            self._input_signal,
        )

    def _see(
        self, name: str, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any
    ) -> None:
        if isinstance(output, tuple | list) and output:
            output = output[0]
        if not _is_floating(output):
            return
        host = output.detach().cpu()
        if name in self._attention_names:
            record = summarize(host, level="moments")
            self._attention[name] = math.nan if record.nonfinite_count else record.absmax
            return
        if isinstance(module, nn.MultiheadAttention):
            self._attention[name] = _attention_logit(module, args, kwargs)
        if isinstance(module, _BY_CHANNEL):
            self._channel_axis = 1
        elif isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm):
            self._channel_axis = -1
        weighted = isinstance(module, _WEIGHTED)
        if weighted:
            self._see_input(module, args)
        units = _by_unit(host, self._channel_axis)
        if isinstance(module, _EXACT_ZEROS):
            self._idle[name] = _all_zero(units)
        self._names.append(name)
        self._records.append(summarize(host))
        self._rows.append(len(units))
        self._signal.append(_signal(units) if weighted else math.nan)
        self._weighted.append(weighted)
        self._saturated.append(_saturated(module, host))
        self._last = module
        if weighted or isinstance(module, _NORMALISED):
            self._source = (name, units.shape[1])

    def _see_input(self, module: nn.Module, args: Any) -> None:
        """The input of a layer: that of the model, or what a function before the layer made."""
        if not args or not _is_floating(args[0]):
            return
        given = args[0].detach().cpu()
        units = _by_unit(given, 1 if isinstance(module, _CHANNELS_FIRST) else -1)
        if not self._names:
            self._input_signal = _signal(units)
        elif self._functional and self._source[1] == units.shape[1] and given.min() == 0:
            self._idle[self._source[0]] = _all_zero(units)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _by_unit(values: Tensor, axis: int) -> Tensor:
    """Shape ``(rows, units)``."""
    if values.ndim < 2:
        return values.reshape(-1, 1)
    return values.movedim(axis, -1).reshape(-1, values.shape[axis])


def _all_zero(units: Tensor) -> NDArray[np.bool_]:
    idle: NDArray[np.bool_] = (units == 0).all(0).numpy()
    return idle


def _signal(units: Tensor) -> float:
    """Root of the mean over units of the variance over rows; NaN of what is not finite."""
    if len(units) < 2:
        return math.nan
    return float(units.double().var(0, unbiased=False).mean().sqrt())


def _saturated(module: nn.Module, values: Tensor) -> float:
    """The share of values at which the function is flat; NaN if it is not bounded."""
    if isinstance(module, nn.Tanh):
        slope = 1.0 - values.float().square()
    elif isinstance(module, nn.Sigmoid):
        slope = 4.0 * values.float() * (1.0 - values.float())
    else:
        return math.nan
    return float((slope < _FLAT).float().mean())


def _attention_logit(module: nn.MultiheadAttention, args: Any, kwargs: Mapping[str, Any]) -> float:
    """The largest absolute logit of the first sequences; NaN if it cannot be told."""
    given = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs)
    query, key = given.get("query"), given.get("key")
    if not isinstance(query, Tensor) or not isinstance(key, Tensor):
        return math.nan
    if query.ndim == 3 and not module.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    query, key = (x[None] if x.ndim == 2 else x[:_SEQUENCES] for x in (query, key))
    size = module.embed_dim
    joined: Tensor | None = module.in_proj_weight
    bias: Tensor | None = module.in_proj_bias
    if joined is None:
        wq, wk = (w.detach() for w in (module.q_proj_weight, module.k_proj_weight))
    else:
        wq, wk = joined[:size], joined[size : 2 * size]
    bq, bk = (None, None) if bias is None else (bias[:size], bias[size : 2 * size])
    # Autocast must not turn the logits to 16 bits here, which it does not do in a fused kernel.
    with torch.autocast(query.device.type, enabled=False):
        q = nn.functional.linear(query.float(), wq.float(), None if bq is None else bq.float())
        k = nn.functional.linear(key.float(), wk.float(), None if bk is None else bk.float())
        heads = (module.num_heads, module.head_dim)
        q, k = (x.reshape(*x.shape[:-1], *heads).transpose(1, 2) for x in (q, k))
        largest = (q @ k.transpose(-1, -2)).abs().max() / math.sqrt(module.head_dim)
    return float(largest)
