"""Rules on activations: dead and saturated units, how signals are handed on, and logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gyrostat.findings import Finding
from gyrostat.rules._columns import (
    EPISODES,
    SURGE,
    ColumnRule,
    Rules,
    Single,
    starts,
    tensor_finding,
)
from gyrostat.rules._rule import Rule
from gyrostat.tensors import TensorTable

__all__ = [
    "ActivationKurtosis",
    "ActivationRules",
    "Activations",
    "AttentionLogitGrowth",
    "DeadUnits",
    "OutputLogitDivergence",
    "PoorInitialisation",
    "SaturatedActivation",
]


@dataclass(frozen=True, eq=False)
class Activations:
    """What the modules of a model made of one batch.

    Arrays have shape ``(n,)``, one value for each name of ``table``.

    Attributes:
        table: Records of the outputs by module, in the order in which they ran.
        rows: Samples, or samples times positions, that each unit was seen at.
        signal: What differs between rows: the root of the mean over units of the variance over
            rows. NaN where it is not known.
        weighted: Whether it is a layer with a matrix of weights, such as Linear.
        saturated: Share of the values at which a bounded function, such as tanh, is flat; NaN for
            other functions.
        idle: By module of a function that gives exact zeros, such as ReLU: for each unit, whether
            it was zero at all rows.
        attention: Largest absolute attention logit by module.
        logits: The name in ``table`` of the module whose output the loss takes as logits.
        input_signal: ``signal`` of the input of the first module, NaN if it is not known.
    """

    table: TensorTable
    rows: NDArray[np.int64]
    signal: NDArray[np.float64]
    weighted: NDArray[np.bool_]
    saturated: NDArray[np.float64]
    idle: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    attention: Mapping[str, float] = field(default_factory=dict)
    logits: str | None = None
    input_signal: float = math.nan


class DeadUnits(ColumnRule):
    """Tells of layers most of whose units are dead: zero for every input seen.

    A unit is dead when it was zero at all rows of four looks in a row, and of more, up to nine,
    until they make 256 rows together. A layer is told of from 70 % of its units on; the episode
    ends below 56 %. SageMaker Debugger's DeadRelu tells at half, where a deep network with
    PyTorch's default weights may begin; AUTOTRAINER has the same 70 %, of gradients.

    Source: Lu, Shin, Su and Karniadakis (2019), "Dying ReLU and Initialization".
    """

    _COLUMNS = starts(EPISODES)
    _SCALARS = starts(told=0.0)
    _LOOKS = 4
    _MOST = 9
    _ROWS = 256
    _SHARE = 0.7

    def __init__(self) -> None:
        super().__init__()
        self._idle: dict[str, NDArray[np.uint8]] = {}

    def update(
        self, idle: Mapping[str, NDArray[np.bool_]], rows: Mapping[str, int], step: int
    ) -> Finding | None:
        """Judges one batch.

        Args:
            idle: As in :class:`Activations`.
            rows: The rows of each of these modules.
            step: The step.
        """
        names = tuple(idle)
        self._align(names)
        share = np.zeros(len(names))
        for i, name in enumerate(names):
            now = np.asarray(idle[name], dtype=np.bool_)
            before = self._idle.get(name)
            if before is None or before.shape != now.shape:
                before = np.zeros(now.shape, dtype=np.uint8)
            looks = np.minimum(before + 1, self._MOST).astype(np.uint8) * now
            self._idle[name] = looks
            needed = min(max(self._LOOKS, math.ceil(self._ROWS / max(rows[name], 1))), self._MOST)
            share[i] = np.mean(looks >= needed) if len(looks) else 0.0
        bad = share >= self._SHARE
        if self._quiet(bad):
            return None
        found = self._episodes(bad, share < 0.8 * self._SHARE, 1)
        if found is None:
            return None
        # The first layer in the order of the forward pass: what comes after it may only follow.
        first = int(found[0])
        return tensor_finding(
            "dead-units",
            step,
            signal="activation",
            layer=names[first],
            value=share[first],
            score=share[first] / self._SHARE,
            message=f"{share[first]:.0%} of the units of {names[first]} are zero for every input",
            affected=[names[i] for i in found],
            units=len(self._idle[names[first]]),
        )

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        idle = {name: "".join(map(str, looks.tolist())) for name, looks in self._idle.items()}
        return super().state_dict() | {"idle": idle}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        idle = d.get("idle") if isinstance(d, Mapping) else None
        if not isinstance(idle, Mapping) or not all(
            isinstance(text, str) and text.isascii() and (not text or text.isdigit())
            for text in idle.values()
        ):
            raise ValueError("state: expected idle to be digits by name")
        super().load_state_dict(d)
        self._idle = {
            str(name): np.array([int(digit) for digit in text], dtype=np.uint8)
            for name, text in idle.items()
        }


class SaturatedActivation(ColumnRule):
    """Tells of bounded functions that are flat for half of their values, three looks in a row.

    Flat is where the derivative is less than a thousandth of its largest: tanh beyond 0.9995,
    sigmoid within 0.00025 of 0 or 1. The output of the model is left out, since a classifier that
    is sure and right is there. SageMaker Debugger's SaturatedActivation has the same half, at
    inputs further out.

    Source: Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward
    neural networks".
    """

    _COLUMNS = starts(EPISODES)
    _SCALARS = starts(told=0.0)
    _SHARE = 0.5
    _PATIENCE = 3

    def update(
        self, names: tuple[str, ...], saturated: NDArray[np.float64], step: int
    ) -> Finding | None:
        """Judges one batch.

        Args:
            names: Names of the modules.
            saturated: As in :class:`Activations`.
            step: The step.
        """
        self._align(names)
        bad = saturated >= self._SHARE  # a NaN is not
        if self._quiet(bad):
            return None
        found = self._episodes(bad, saturated < 0.8 * self._SHARE, self._PATIENCE)
        if found is None:
            return None
        first = int(found[0])
        return tensor_finding(
            "saturated-activation",
            step,
            signal="activation",
            layer=names[first],
            value=saturated[first],
            score=saturated[first] / self._SHARE,
            message=f"{names[first]} is flat for {saturated[first]:.0%} of its values",
            affected=[names[i] for i in found],
        )


class PoorInitialisation(ColumnRule):
    """Tells at the first look whether the signal gets lost, or grows, from layer to layer.

    What differs between inputs must reach every layer with weights at a size within a factor of
    ten thousand of that at every other and at the input; 20 plain layers with PyTorch's default
    weights do not keep to that, eight do. Layers whose output is zero are left out: branches are
    begun so on purpose. SageMaker Debugger's PoorWeightInitialization compares variances of the
    weights of layers, by ten.

    Sources: Glorot and Bengio (2010); He, Zhang, Ren and Sun (2015), "Delving Deep into
    Rectifiers".
    """

    _SCALARS = starts(looked=0.0)
    _RANGE = 1e4

    def update(self, activations: Activations, step: int) -> Finding | None:
        """Judges the first batch, before any update if it is to tell of the initialisation.

        Args:
            activations: The batch; later ones are not looked at.
            step: The step.
        """
        if self._scalars["looked"]:
            return None
        self._scalars["looked"] = 1.0
        signal = activations.signal
        places = np.flatnonzero(activations.weighted & (signal > 0.0) & np.isfinite(signal))
        names = [activations.table.names[i] for i in places]
        values = signal[places]
        if 0.0 < activations.input_signal < math.inf:
            names, values = ["input", *names], np.append(activations.input_signal, values)
        if len(values) < 2:
            return None
        low, high = int(np.argmin(values)), int(np.argmax(values))
        spread = float(values[high] / values[low])
        if spread < self._RANGE:
            return None
        # Blame goes to the layer whose signal changed most from that of the layer before it.
        changes = np.abs(np.diff(np.log(values)))
        return tensor_finding(
            "poor-initialisation",
            step,
            signal="activation",
            layer=names[int(np.argmax(changes)) + 1],
            value=spread,
            expected=1.0,
            score=math.log(spread) / math.log(self._RANGE),
            message=(
                f"what differs between inputs is {values[high]:.3g} at {names[high]} and "
                f"{values[low]:.3g} at {names[low]}"
            ),
            highest=names[high],
            lowest=names[low],
        )


class AttentionLogitGrowth(ColumnRule):
    """Tells of attention whose logits grow.

    The largest absolute logit must be above 100, where softmax has long been one-hot and MuonClip
    begins to clip, and four times the first ones of its own layer (their mean over five looks), at
    three looks in a row. Logits of several thousand went before divergence.

    Sources: Dehghani et al. (2023), "Scaling Vision Transformers to 22 Billion Parameters";
    Wortsman et al. (2023), "Small-scale proxies for large-scale Transformer training
    instabilities"; Kimi Team (2025), "Kimi K2", for 100.
    """

    _COLUMNS = starts(EPISODES, looks=0.0, first=0.0)
    _SCALARS = starts(told=0.0)
    _FIRST = 5
    _LEAST = 100.0
    _TIMES = 4.0
    _PATIENCE = 3

    def update(self, attention: Mapping[str, float], step: int) -> Finding | None:
        """Judges one batch.

        Args:
            attention: Largest absolute attention logit by module; NaN and Inf are left out.
            step: The step.
        """
        names = tuple(attention)
        columns = self._align(names)
        values = np.array(list(attention.values()), dtype=np.float64)
        looks, first = columns["looks"], columns["first"]
        early = np.isfinite(values) & (looks < self._FIRST)
        looks += early
        first[early] += (values[early] - first[early]) / looks[early]
        bad = (values > self._LEAST) & (values < math.inf) & ~early
        if self._quiet(bad):
            return None
        bad &= values >= self._TIMES * first
        over = values < 0.8 * np.maximum(self._LEAST, self._TIMES * first)
        found = self._episodes(bad, over, self._PATIENCE)
        if found is None:
            return None
        worst = int(found[np.argmax(values[found])])
        return tensor_finding(
            "attention-logit-growth",
            step,
            signal="attention_logit",
            layer=names[worst],
            value=values[worst],
            expected=first[worst],
            score=values[worst] / max(self._LEAST, self._TIMES * first[worst]),
            message=(
                f"attention logits of {names[worst]} have grown to {values[worst]:.4g} from "
                f"{first[worst]:.3g}"
            ),
            affected=[names[i] for i in found],
        )


class OutputLogitDivergence(Rule[Single]):
    """Tells when the logits of the output run away.

    Their root mean square must be above 50 and stand ten times above its highest level so far,
    with a level of 1 at least, for three looks in a row. Softmax does not see what all logits have
    in common, so they can drift far before the loss tells.

    Sources: Chowdhery et al. (2022), "PaLM", section 5, for the drift and the z-loss against it;
    Wortsman et al. (2023), "Small-scale proxies for large-scale Transformer training
    instabilities".
    """

    _LEAST = 50.0
    _RISE = math.log(10.0)
    _PATIENCE = 3

    def __init__(self) -> None:
        super().__init__(Single())

    def update(
        self, rms: float, mean: float, step: int, layer: str | None = None
    ) -> Finding | None:
        """Judges the logits of one batch.

        Args:
            rms: Root mean square of the logits; NaN and Inf are left out.
            mean: Their mean.
            step: The step.
            layer: The module they come from.
        """
        above = self._memory.surge(max(rms, 1.0))
        bad, over = above > self._RISE and rms > self._LEAST, above < self._RISE / 2.0
        if not self._memory.begins(bad=bad, over=over, patience=self._PATIENCE):
            return None
        return tensor_finding(
            "output-logit-divergence",
            step,
            signal="output_logit",
            layer=layer,
            value=rms,
            expected=rms * math.exp(-above),
            score=above / self._RISE,
            message=f"output logits have grown to {rms:.4g} (rms), with a mean of {mean:.4g}",
            mean=mean,
        )


class ActivationKurtosis(ColumnRule):
    """Tells of activations that grow outliers.

    The kurtosis must be above 100 (3 is normal) and stand 30 times above the highest level of its
    own module, for three looks in a row. An info: outlier features grow in healthy language models
    as well, but they cost precision in low-bit formats, and a sudden growth went before divergence.

    Sources: Dettmers et al. (2022), "LLM.int8()"; He et al. (2024), "Understanding and Minimising
    Outlier Features in Transformer Training".
    """

    _COLUMNS = starts(SURGE, EPISODES)
    _SCALARS = starts(told=0.0, warm=0.0)
    _PATIENCE = 3
    _RISE = math.log(30.0)
    _LEAST = 100.0

    def update(
        self, names: tuple[str, ...], kurtosis: NDArray[np.float64], step: int
    ) -> Finding | None:
        """Judges one batch.

        Args:
            names: Names of the modules.
            kurtosis: Excess kurtosis of the output of each; NaN is left out.
            step: The step.
        """
        self._align(names)
        surged = self._surged(kurtosis + 3.0, self._LEAST, self._RISE, self._PATIENCE)
        if surged is None:
            return None
        found, above = surged
        worst = int(found[np.argmax(above[found])])
        return tensor_finding(
            "activation-kurtosis",
            step,
            signal="activation",
            layer=names[worst],
            value=kurtosis[worst],
            expected=math.exp(float(self._columns["peak"][worst])) - 3.0,
            score=above[worst] / self._RISE,
            message=f"the outputs of {names[worst]} have grown outliers",
            affected=[names[i] for i in found],
        )


class ActivationRules(Rules):
    """All rules on activations, fed as one."""

    def __init__(self) -> None:
        self._dead = DeadUnits()
        self._saturated = SaturatedActivation()
        self._initialisation = PoorInitialisation()
        self._attention = AttentionLogitGrowth()
        self._logits = OutputLogitDivergence()
        self._kurtosis = ActivationKurtosis()

    def update(self, activations: Activations, step: int) -> tuple[Finding, ...]:
        """Judges one batch.

        Args:
            activations: What the modules made of it.
            step: The step.

        Returns:
            What is new; mostly nothing.
        """
        table = activations.table
        names, rows = table.names, activations.rows.tolist()
        found = [
            self._dead.update(activations.idle, dict(zip(names, rows, strict=True)), step),
            self._saturated.update(names, activations.saturated, step),
            self._initialisation.update(activations, step),
            self._attention.update(activations.attention, step),
            self._kurtosis.update(names, table.kurtosis, step),
        ]
        if activations.logits is not None:
            record = table[activations.logits]
            if record.count > record.nonfinite_count:
                rms = record.l2 / math.sqrt(record.count - record.nonfinite_count)
                found.append(self._logits.update(rms, record.mean, step, activations.logits))
        return tuple(f for f in found if f is not None)
