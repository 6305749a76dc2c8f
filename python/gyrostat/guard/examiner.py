"""The examiner: looks at what a step was made of, and has the diagnosis weigh what it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gyrostat.findings import Finding, Severity, worst
from gyrostat.guard.batches import Batch, BatchRegistry
from gyrostat.guard.contents import Contents
from gyrostat.guard.diagnosis import Diagnosis, Incidence
from gyrostat.guard.outliers import BatchFacts, compare_batch, outlier_batch
from gyrostat.guard.stretch import Stretch
from gyrostat.guard.subject import Subject

__all__ = ["Examiner"]

_VERSION = 2
_MEMORY = 20  # steps for which a jump of the learning rate may be the cause of what follows
_FEW = 0.3
_GAINS = (0.03, 6.0)
"""Of initial weights, standard deviation by root of fan-in: 0.2 to 1.5 is usual."""
_LOUD = frozenset(
    {
        "hard-batch",
        "loss-spike",
        "loss-divergence",
        "loss-not-finite",
        "gradient-not-finite",
        "gradient-spike",
    }
)
"""Codes that a bad batch may be behind."""
_HIGH = frozenset({"loss-spike", "loss-divergence"})
_DEAD = frozenset({"dead-units", "all-zero-tensor"})
_BESIDE = 4  # batches that a bad one is compared with
_PASSED = 32  # batches that are gone through to find them


class Examiner:
    """Looks at batches and model; what is costly it looks at only when a step was bad.

    Args:
        subject: The model and optimizer.
        registry: Where earlier batches are to be had from.

    Attributes:
        diagnosis: What it has found out.
    """

    def __init__(self, subject: Subject, registry: BatchRegistry) -> None:
        self.diagnosis = Diagnosis()
        self._subject = subject
        self._registry = registry
        self._contents = Contents()
        self._stretch = Stretch()
        self._rate_raised: int | None = None
        self._last = Incidence(0, ())

    @property
    def data_is_sorted(self) -> bool:
        """Whether the batches were found to come sorted by label."""
        return self._contents.is_sorted

    def hypotheses(self) -> tuple[Finding, ...]:
        """The causes, the likeliest first; that of wrong labels with the batches to suspect."""
        return tuple(map(self._with_batches, self.diagnosis.hypotheses()))

    def _with_batches(self, cause: Finding) -> Finding:
        if cause.code != "cause-label-noise" or not (suspects := self._stretch.batches()):
            return cause
        return replace(cause, evidence={**cause.evidence, "batches": suspects})

    def look_around(
        self, batches: Sequence[Batch], data: Any, position: int, loss: float
    ) -> tuple[Finding, ...]:
        """What the batch says of the data; at the first step, what of the model is not trained.

        Args:
            batches: The batches of the step.
            data: The last of them.
            position: Steps of training so far.
            loss: The loss of the step.
        """
        self._stretch.update([batch.identity for batch in batches], loss)
        if position == 0:
            self._look_at_the_start()
        if len(batches) != 1:
            return ()
        found = self._contents.update(batches[0].identity, self._subject.arrays(data), position)
        return tuple(_with_samples(f, batches[0]) for f in found)

    def _look_at_the_start(self) -> None:
        if idle := self._subject.untrained_parameters():
            # Few that do not learn were forgotten; many are a choice, as in a fine-tuning.
            share = len(idle) / max(1, len(self._subject.weight_extremes()))
            text = f"no update changes {', '.join(idle[:5])}{', ...' if idle[5:] else ''}"
            weight = 0.8 if share <= _FEW else 0.2
            self.diagnosis.fact("cause-frozen-parameters", weight, 0, text, idle[0])
        low, high = _GAINS
        gains = self._subject.gains()
        wild = {name: gain for name, gain in gains.items() if gain > 0 and not low < gain < high}
        for name, gain in list(wild.items())[:1]:
            text = (
                f"{len(wild)} of {len(gains)} matrices are out of scale: the weights of {name} "
                f"have a standard deviation of {gain:.2g} over the root of their fan-in"
            )
            self.diagnosis.fact("cause-initialisation", 0.7, 0, text, name)

    def diagnose(
        self,
        findings: Sequence[Finding],
        rises: Mapping[str, float],
        batches: Sequence[Batch],
        data: Any,
        healthy: object,
        position: int,
    ) -> list[Finding]:
        """Weighs what may be behind the findings of a bad step.

        Args:
            findings: The findings.
            rises: How many times its usual level each gradient norm is, by parameter.
            batches: The batches of the step.
            data: The last of them.
            healthy: The state of the last healthy snapshot, or None.
            position: Steps of training so far.

        Returns:
            The findings, with the samples to blame where some stand out of the batch.
        """
        codes = {f.code for f in findings}
        if "lr-jump" in codes:
            self._rate_raised = position
        facts = self._compare(batches, data) if batches and codes & _LOUD else None
        if facts is not None and facts.odd:
            first = findings[0]
            findings = [
                *findings,
                outlier_batch(facts, first.step, first.culprit, Severity.WARNING),
            ]
            samples = _samples(batches[-1], facts.samples)
            findings = [replace(f, culprit=replace(f.culprit, samples=samples)) for f in findings]
        elif worst(findings) is Severity.INFO:
            return list(findings)  # a hard batch: nothing is wrong
        elif codes & _HIGH:
            self._stretch.alarm()
        raised = self._rate_raised
        self._last = Incidence(
            step=findings[0].step or 0,
            findings=findings,
            rises=rises,
            batch=facts,
            momentum_rise=1.0 if healthy is None else self._subject.memory_rise(healthy),
            rate_raised=raised is not None and 0 <= position - raised < _MEMORY,
            finite_weights="weight-not-finite" not in codes,
        )
        self.diagnosis.incident(self._last)
        return list(findings)

    def told(self, finding: Finding, norms: Mapping[str, float]) -> None:
        """Weighs a finding that no action follows from.

        Args:
            finding: The finding.
            norms: L2 norm of each gradient by parameter, from the input to the output.
        """
        if finding.code in _DEAD and (still := [n for n, norm in norms.items() if norm == 0]):
            # What comes before a dead layer gets no gradient either, nor do the weights after it,
            # but for their bias: the last bias without one is that of the dead layer.
            layer = next((n for n in reversed(still) if n.endswith("bias")), still[-1])
            finding = replace(finding, culprit=replace(finding.culprit, layer=layer))
        self.diagnosis.told(finding)

    def probed(self, *, healthy: bool) -> None:
        """Weighs that an earlier batch was tried again after the last bad step."""
        self.diagnosis.probe(healthy=healthy, seen=self._last)

    def counterfactual(self, cause: str, weight: float, step: int, text: str) -> None:
        """Weighs what came of a re-run with one thing changed."""
        self.diagnosis.fact(cause, weight, step, text)

    def scored(
        self, findings: Sequence[Finding], places: tuple[int, ...], batch: Batch
    ) -> tuple[Finding, ...]:
        """Blames the samples whose own loss stands out.

        Args:
            findings: The findings of the step.
            places: Places of the samples in the batch.
            batch: The batch.
        """
        samples = _samples(batch, places)
        named = tuple(replace(f, culprit=replace(f.culprit, samples=samples)) for f in findings)
        text = f"{len(samples)} samples of usual content make up the loss of the batch"
        self.diagnosis.sampled("cause-label-noise", 0.5, named[0], text)
        return named

    def _compare(self, batches: Sequence[Batch], data: Any) -> BatchFacts:
        own = {batch.identity for batch in batches}
        others = [
            beside
            for batch, beside in self._registry.recent(_PASSED)
            if batch.identity not in own and batch.identity not in self._registry.bad
        ]
        arrays = self._subject.arrays
        return compare_batch(arrays(data), [arrays(beside) for beside in others[-_BESIDE:]])

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        return {
            "version": _VERSION,
            "diagnosis": self.diagnosis.state_dict(),
            "contents": self._contents.state_dict(),
            "stretch": self._stretch.state_dict(),
            "rate_raised": self._rate_raised,
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: If ``d`` is no such state; the examiner is then left as it was.
        """
        if not isinstance(d, Mapping) or d.get("version") != _VERSION:
            raise ValueError(f"state: expected a state of Examiner, version {_VERSION}")
        raised = d.get("rate_raised")
        if not isinstance(raised, int | None):
            raise ValueError(f"state: expected rate_raised to be a step, got {raised!r}")
        diagnosis, contents, stretch = Diagnosis(), Contents(), Stretch()
        diagnosis.load_state_dict(d.get("diagnosis", {}))
        contents.load_state_dict(d.get("contents", {}))
        stretch.load_state_dict(d.get("stretch", {}))
        self.diagnosis, self._contents, self._stretch = diagnosis, contents, stretch
        self._rate_raised = raised


def _with_samples(finding: Finding, batch: Batch) -> Finding:
    places = finding.evidence.get("samples") if finding.code == "outlier-batch" else None
    if not places:
        return finding
    samples = _samples(batch, tuple(places))
    return replace(finding, culprit=replace(finding.culprit, samples=samples))


def _samples(batch: Batch, places: tuple[int, ...]) -> tuple[int, ...]:
    """Indices in the data set where the loader tells them, else places in the batch."""
    known = batch.samples
    if not known or max(places, default=0) >= len(known):
        return places
    return tuple(known[place] for place in places)
