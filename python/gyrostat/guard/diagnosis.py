"""Diagnosis: what may be behind the findings of a run, each cause with the evidence for it.

Every clue makes one cause so much more likely; clues add up as independent chances do, ``1 - (1 -
a)(1 - b)``. The numbers order causes, they are no measured probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gyrostat.findings import Culprit, Finding, Severity
from gyrostat.guard.outliers import BatchFacts

__all__ = ["Diagnosis", "Incidence"]

_VERSION = 1
_TEXTS = 8  # pieces of evidence kept for each cause


@dataclass(frozen=True, slots=True)
class Incidence:
    """What is known of a bad step when its cause is asked for.

    Attributes:
        step: The step.
        findings: What was found.
        rises: How many times its usual level each gradient norm is, by parameter.
        batch: What stands out in the batch; None if its content is not known.
        momentum_rise: How many times its size at the last healthy snapshot the optimizer's memory
            is, where that can be told.
        rate_raised: Whether the learning rate jumped within the last steps.
        finite_weights: Whether all weights are finite; None if they were not looked at.
    """

    step: int
    findings: Sequence[Finding]
    rises: Mapping[str, float] = field(default_factory=dict)
    batch: BatchFacts | None = None
    momentum_rise: float = 1.0
    rate_raised: bool = False
    finite_weights: bool | None = None


@dataclass
class _Cause:
    doubt: float = 1.0
    step: int = 0
    layer: str | None = None
    batch: str | None = None
    samples: tuple[int | str, ...] = ()
    texts: list[str] = field(default_factory=list)


class Diagnosis:
    """Collects clues over a run and ranks the causes that they speak for."""

    def __init__(self) -> None:
        self._causes: dict[str, _Cause] = {}

    def incident(self, seen: Incidence) -> None:
        """Weighs a bad step."""
        codes = {f.code for f in seen.findings}
        culprit = next((f.culprit for f in seen.findings if f.culprit), Culprit())
        if "outlier-batch" in codes:
            self._add("cause-bad-batch", 0.9, seen, _text(seen, "outlier-batch"), culprit)
        elif "optimizer-state-damage" in codes:
            self._add(
                "cause-optimizer-state", 0.95, seen, _text(seen, "optimizer-state-damage"), culprit
            )
        elif "stale-gradient" in codes:
            self._add("cause-missing-zero-grad", 0.95, seen, _text(seen, "stale-gradient"), culprit)
        elif codes & {"weight-jump", "weight-not-finite"}:
            self._damaged(seen, culprit)
        elif codes & {"loss-not-finite", "gradient-not-finite"}:
            self._not_finite(seen, codes, culprit)
        elif codes & {"loss-spike", "loss-divergence"}:
            self._high_loss(seen, culprit)
        elif "gradient-spike" in codes:
            self._gradient_alone(seen, culprit)
        if "lr-jump" in codes:
            self._add("cause-lr-too-high", 0.9, seen, _text(seen, "lr-jump"), Culprit())

    def told(self, finding: Finding) -> None:
        """Weighs a finding that was told and not acted on."""
        for code, weight in _TOLD.get(finding.code, ()):
            seen = Incidence(finding.step or 0, (finding,))
            self._add(code, weight, seen, finding.message, finding.culprit)

    def probe(self, *, healthy: bool, seen: Incidence) -> None:
        """Weighs that an earlier batch was tried again.

        Args:
            healthy: Whether its loss was as usual.
            seen: The bad step that led to it.
        """
        culprit = next((f.culprit for f in seen.findings if f.culprit), Culprit())
        if not healthy:
            text = "an earlier batch fails as well: the weights are at fault"
            self._add("cause-weights-damaged", 0.5, seen, text, culprit)
        elif seen.batch is not None and seen.batch.odd:
            text = "an earlier batch is fine, and the content of this one stands out"
            self._add("cause-bad-batch", 0.6, seen, text, culprit)
        else:
            text = "an earlier batch is fine, and the inputs are as usual: the labels may not be"
            self._add("cause-label-noise", 0.6, seen, text, culprit)

    def fact(
        self, code: str, weight: float, step: int, text: str, layer: str | None = None
    ) -> None:
        """Adds a clue that follows from what is seen, at a bad step or not."""
        self._add(code, weight, Incidence(step, ()), text, Culprit(layer=layer))

    def sampled(self, code: str, weight: float, finding: Finding, text: str) -> None:
        """Adds a clue that names samples: those of the culprit of ``finding``."""
        self._add(code, weight, Incidence(finding.step or 0, (finding,)), text, finding.culprit)

    def hypotheses(self) -> tuple[Finding, ...]:
        """The causes, the likeliest first, as findings of severity info.

        ``score`` is how strongly the evidence speaks for it, from 0 to 1.
        """
        ranked = sorted(self._causes.items(), key=lambda item: (item[1].doubt, item[1].step))
        return tuple(
            Finding(
                code,
                Severity.INFO,
                step=cause.step,
                score=1.0 - cause.doubt,
                message=cause.texts[0] if cause.texts else "",
                culprit=Culprit(layer=cause.layer, batch=cause.batch, samples=cause.samples),
                evidence={"clues": list(cause.texts)},
            )
            for code, cause in ranked
        )

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        causes = {
            code: {
                "doubt": c.doubt,
                "step": c.step,
                "layer": c.layer,
                "batch": c.batch,
                "samples": list(c.samples),
                "texts": list(c.texts),
            }
            for code, c in self._causes.items()
        }
        return {"version": _VERSION, "causes": causes}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state; the diagnosis is then left as it was.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a state of Diagnosis, version {_VERSION}")
        try:
            self._causes = {
                str(code): _Cause(
                    doubt=float(c["doubt"]),
                    step=int(c["step"]),
                    layer=c["layer"],
                    batch=c["batch"],
                    samples=tuple(c["samples"]),
                    texts=[str(text) for text in c["texts"]],
                )
                for code, c in d["causes"].items()
            }
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"state: not a diagnosis: {error!r}") from error

    # Weighing

    def _damaged(self, seen: Incidence, culprit: Culprit) -> None:
        if seen.momentum_rise >= _MOMENTUM_RISE:
            text = f"the optimizer's memory is {seen.momentum_rise:.3g} times its healthy size"
            self._add("cause-optimizer-state", 0.9, seen, text, culprit)
            self._add("cause-weights-damaged", 0.3, seen, text, culprit)
        elif seen.rate_raised:
            text = "the learning rate had jumped before the weights did"
            self._add("cause-lr-too-high", 0.8, seen, text, culprit)
        else:
            text = _text(seen, "weight-jump") or _text(seen, "weight-not-finite")
            self._add("cause-weights-damaged", 0.8, seen, text, culprit)
            self._add("cause-optimizer-state", 0.3, seen, text, culprit)

    def _not_finite(self, seen: Incidence, codes: Collection[str], culprit: Culprit) -> None:
        sick = next((f for f in seen.findings if f.code == "gradient-not-finite"), None)
        few = sick is not None and len(sick.evidence.get("tensors", ())) == 1
        if "loss-not-finite" not in codes and few:
            text = "the loss and all other gradients are finite"
            self._add("cause-silent-corruption", 0.7, seen, text, culprit)
            self._add("cause-precision-overflow", 0.3, seen, text, culprit)
            return
        known = [] if seen.batch is None else ["the batch"]
        known += ["the weights"] if seen.finite_weights else []
        text = "a value overflowed" + (f": {' and '.join(known)} are finite" if known else "")
        self._add("cause-precision-overflow", 0.4 + 0.15 * len(known), seen, text, culprit)
        self._add("cause-silent-corruption", 0.2, seen, text, culprit)
        if seen.batch is None:
            self._add("cause-bad-batch", 0.4, seen, "a value that is not finite", culprit)

    def _high_loss(self, seen: Incidence, culprit: Culprit) -> None:
        if seen.rate_raised:
            text = "the learning rate had jumped before the loss rose"
            self._add("cause-lr-too-high", 0.7, seen, text, Culprit())
        if seen.momentum_rise >= _MOMENTUM_RISE:
            text = f"the optimizer's memory is {seen.momentum_rise:.3g} times its healthy size"
            self._add("cause-optimizer-state", 0.7, seen, text, culprit)
        rise = float(np.median(list(seen.rises.values()))) if seen.rises else 1.0
        text = "the loss is high and the inputs are as usual"
        if seen.batch is not None:
            self._add("cause-label-noise", 0.35, seen, text, culprit)
        else:
            self._add("cause-bad-batch", 0.3, seen, "the loss is high for this batch", culprit)
        lone = _lone_layer(seen.rises)
        if lone is not None:
            text = f"the gradient of {lone} alone is out of range"
            self._add("cause-silent-corruption", 0.4, seen, text, Culprit(layer=lone))
        elif rise >= _WILD:
            text = f"gradients are {rise:.3g} times their usual size"
            self._add("cause-weights-damaged", 0.2, seen, text, culprit)

    def _gradient_alone(self, seen: Incidence, culprit: Culprit) -> None:
        lone = _lone_layer(seen.rises)
        if lone is not None:
            text = f"the gradient of {lone} alone is out of range, and the loss is as usual"
            self._add("cause-silent-corruption", 0.8, seen, text, Culprit(layer=lone))
        elif (factor := _common_factor(seen.rises)) is not None:
            text = (
                f"every gradient is about {factor:.3g} times its usual size; the loss is as usual"
            )
            self._add("cause-loss-scale", 0.75, seen, text, Culprit())
        else:
            text = "gradients are out of range and the loss is as usual"
            self._add("cause-bad-batch", 0.3, seen, text, culprit)
            self._add("cause-loss-scale", 0.1, seen, text, Culprit())

    def _add(self, code: str, weight: float, seen: Incidence, text: str, culprit: Culprit) -> None:
        cause = self._causes.setdefault(code, _Cause(step=seen.step))
        # What only fits a cause does not prove it, however often it comes.
        least = 0.0 if weight >= _DIRECT else min(cause.doubt, 1.0 - _CIRCUMSTANTIAL)
        cause.doubt = max(cause.doubt * (1.0 - weight), least)
        cause.layer = cause.layer or culprit.layer
        cause.batch = cause.batch or culprit.batch
        cause.samples = cause.samples or culprit.samples
        if text and text not in cause.texts and len(cause.texts) < _TEXTS:
            cause.texts.append(text)


_DIRECT = 0.8
_CIRCUMSTANTIAL = 0.75
_MOMENTUM_RISE = 100.0
_WILD = 10.0
_QUIET = 4.0

_TOLD: Mapping[str, tuple[tuple[str, float], ...]] = {
    "poor-initialisation": (("cause-initialisation", 0.8),),
    "vanishing-gradient": (("cause-initialisation", 0.4),),
    "exploding-gradient": (("cause-initialisation", 0.4), ("cause-lr-too-high", 0.2)),
    "dead-units": (("cause-dead-layer", 0.8),),
    "all-zero-tensor": (("cause-dead-layer", 0.7),),
    "unchanged-tensor": (("cause-frozen-parameters", 0.7),),
    "sorted-labels": (("cause-data-order", 0.9),),
    "unmasked-padding": (("cause-padding", 0.6),),
    "outlier-batch": (("cause-bad-batch", 0.6),),
    "repeated-batch": (("cause-repeated-data", 0.9),),
    "gradient-underflow": (("cause-precision-overflow", 0.3),),
    "loss-scale-thrash": (("cause-precision-overflow", 0.5),),
    "level-shift": (("cause-label-noise", 0.3),),
    "repeated-epoch-pattern": (("cause-data-order", 0.5),),
    "slow-divergence": (("cause-lr-too-high", 0.3),),
}
"""What findings that no action follows from speak for."""


def _text(seen: Incidence, code: str) -> str:
    return next((f.message for f in seen.findings if f.code == code), "")


def _lone_layer(rises: Mapping[str, float]) -> str | None:
    """The one tensor whose gradient is wild while those of the others are as usual."""
    if len(rises) < 3:
        return None
    wild = [name for name, rise in rises.items() if rise >= _WILD]
    usual = sum(rise < _QUIET for rise in rises.values())
    return wild[0] if len(wild) == 1 and usual >= 0.8 * (len(rises) - 1) else None


def _common_factor(rises: Mapping[str, float]) -> float | None:
    """The factor by which all gradients rose, if it is about the same for all."""
    if len(rises) < 3:
        return None
    logs = np.log([rise for rise in rises.values() if rise > 0])
    if not logs.size or np.median(logs) < math.log(_WILD):
        return None
    spread = float(np.percentile(logs, 90) - np.percentile(logs, 10))
    return float(math.exp(np.median(logs))) if spread < math.log(_QUIET) else None
