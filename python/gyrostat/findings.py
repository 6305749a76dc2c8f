"""Findings: what Gyrostat has to say, in one form for live runs, finished runs and data sets."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Self

__all__ = ["CATALOGUE", "Code", "Culprit", "Finding", "Severity", "worst"]


class Severity(enum.StrEnum):
    """How bad it is. Ordered: ``INFO < WARNING < CRITICAL``; compares with its names as well."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for critical."""
        return _RANK[self]

    # Without these a string would decide, in alphabetical order.
    def __lt__(self, other: str) -> bool:
        return self.rank < Severity(other).rank

    def __le__(self, other: str) -> bool:
        return self.rank <= Severity(other).rank

    def __gt__(self, other: str) -> bool:
        return self.rank > Severity(other).rank

    def __ge__(self, other: str) -> bool:
        return self.rank >= Severity(other).rank


_RANK = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


@dataclass(frozen=True, slots=True)
class Code:
    """One entry of the catalogue.

    Attributes:
        slug: The kebab-case name, which never changes and is never used again for something else.
        severity: How bad a finding of this code usually is.
        title: What it is, in a few words.
        advice: What to do about it.
    """

    slug: str
    severity: Severity
    title: str
    advice: str


def _catalogue(*codes: Code) -> Mapping[str, Code]:
    return MappingProxyType({code.slug: code for code in codes})


CATALOGUE: Mapping[str, Code] = _catalogue(
    Code(
        "loss-spike",
        Severity.WARNING,
        "the loss jumped above what its own history explains",
        "Skip the update or roll back; look at the batch; lower the learning rate if spikes recur.",
    ),
    Code(
        "loss-divergence",
        Severity.CRITICAL,
        "the loss went up and is not coming back",
        "Roll back to a healthy snapshot and lower the learning rate.",
    ),
    Code(
        "loss-not-finite",
        Severity.CRITICAL,
        "the loss is NaN or infinite",
        "Do not apply the update. Check the batch for NaN, then overflow in low precision.",
    ),
    Code(
        "hard-batch",
        Severity.INFO,
        "one loss stands out as those of hard batches do, and nothing follows",
        "Nothing: skipping such batches throws good data away. If it recurs, look at the batch.",
    ),
    Code(
        "gradient-not-finite",
        Severity.CRITICAL,
        "a gradient holds NaN or Inf",
        "Do not apply the update; the culprit names the first parameters that hold it.",
    ),
    Code(
        "gradient-spike",
        Severity.WARNING,
        "the gradient norm jumped above what its own history explains",
        "Clip or skip the update; look at the batch.",
    ),
    Code(
        "weight-not-finite",
        Severity.CRITICAL,
        "a weight is NaN or Inf",
        "Roll back: no batch can be good with such weights. If no update did it, suspect memory.",
    ),
    Code(
        "weight-jump",
        Severity.CRITICAL,
        "a weight is far larger than at the last healthy snapshot",
        "Roll back. A single huge weight is what a flipped bit looks like; check the hardware.",
    ),
    Code(
        "lr-jump",
        Severity.WARNING,
        "the learning rate is a multiple of what it was one step before",
        "Look at the schedule. If the jump is meant, tell the guard: guard.accept_learning_rate().",
    ),
    Code(
        "optimizer-state-damage",
        Severity.CRITICAL,
        "the optimizer's memory is not what its gradients can have made of it",
        "Load the optimizer's state of the last checkpoint; if it was not loaded by half, or reset "
        "on purpose, suspect memory.",
    ),
    Code(
        "stale-gradient",
        Severity.CRITICAL,
        "gradients of a step that was already made were added to",
        "Call optimizer.zero_grad() once for each update.",
    ),
    Code(
        "replica-mismatch",
        Severity.CRITICAL,
        "copies of one tensor on several ranks differ in their bits",
        "If most tensors differ, check the all-reduce and the seeds. If few do, suspect the "
        "hardware of the ranks named and go back to a checkpoint.",
    ),
    Code(
        "leakage-exact-duplicate",
        Severity.CRITICAL,
        "the same row is in two splits",
        "Drop the copies: report.clean_rows(split) gives the rows to keep.",
    ),
    Code(
        "leakage-normalised-duplicate",
        Severity.CRITICAL,
        "the same row but for case, punctuation and white space is in two splits",
        "Drop the copies: report.clean_rows(split) gives the rows to keep.",
    ),
    Code(
        "leakage-near-duplicate",
        Severity.WARNING,
        "nearly the same row is in two splits",
        "Look at the pairs; drop them or keep each cluster in one split.",
    ),
    Code(
        "leakage-label-conflict",
        Severity.WARNING,
        "copies of one row carry different labels",
        "Correct the labels, or drop both rows: no model can get both right.",
    ),
    Code(
        "leakage-group",
        Severity.CRITICAL,
        "rows of one group are in two splits",
        "Split by group, so that each group is in one split only.",
    ),
    Code(
        "leakage-time",
        Severity.WARNING,
        "a later split holds rows older than the newest row of an earlier split",
        "Split by time: train on the past, test on the future.",
    ),
    Code(
        "leakage-benchmark-question",
        Severity.CRITICAL,
        "questions of a benchmark are in the training texts",
        "Drop the texts, report.clean_rows('corpus'), or report the score without the questions, "
        "report.clean_rows('benchmark').",
    ),
    Code(
        "leakage-benchmark-answer",
        Severity.WARNING,
        "answers of a benchmark are in the training texts without their questions",
        "Look at the matches of the part 'answer'; drop the texts if they give the answers away.",
    ),
    Code(
        "leakage-duplicate-but-for",
        Severity.WARNING,
        "rows are copies but for a column or two",
        "If those columns are no features (row numbers, weights), name them in ignore= and drop "
        "the copies.",
    ),
    Code(
        "leakage-entity",
        Severity.WARNING,
        "rows of two splits are probably of one person, place or thing",
        "Look at the pairs; give report.entities.clusters(split) to a split by group.",
    ),
    Code(
        "leakage-group-column",
        Severity.WARNING,
        "a column looks like an entity with several rows, and they are in two splits",
        "If it is one, such as a patient, declare it with group= and split by it.",
    ),
    Code(
        "leakage-time-column",
        Severity.WARNING,
        "the splits are out of order by a column that looks like a time",
        "If the model is to predict the future, split by time and declare the column with time=.",
    ),
    Code(
        "leakage-look-ahead",
        Severity.WARNING,
        "a column holds what comes later than its row",
        "Drop the column, or take its value as it stood at the time of the row.",
    ),
    Code(
        "leakage-target",
        Severity.WARNING,
        "a column alone tells the label suspiciously well",
        "Check that it is known before the outcome and not made from it; if not, drop it.",
    ),
    Code(
        "leakage-preprocessing",
        Severity.WARNING,
        "the data was prepared with its test rows in view",
        "Fit scalers, imputers and encoders on train alone, inside a pipeline.",
    ),
    Code(
        "leakage-identifier",
        Severity.INFO,
        "a column gives nearly every row a value of its own",
        "Leave it out of the features.",
    ),
    Code(
        "loss-plateau",
        Severity.INFO,
        "the second half of the run has brought the loss nothing",
        "Stop if it is good enough. Early in a run: raise or warm up the learning rate, or check "
        "what the model can see; late: decay the learning rate.",
    ),
    Code(
        "loss-not-decreasing",
        Severity.WARNING,
        "the loss has not gone down since the run began",
        "Check that the optimizer holds the model's parameters, that gradients arrive and labels "
        "fit their inputs; then try other learning rates, first on one batch.",
    ),
    Code(
        "loss-oscillation",
        Severity.INFO,
        "the loss goes up and down with a period",
        "A period of two or three points: lower the learning rate or raise the batch size. A "
        "longer one: look at how batches are ordered, such as by length.",
    ),
    Code(
        "slow-divergence",
        Severity.WARNING,
        "the loss climbs slowly and steadily",
        "Lower the learning rate or go back to a checkpoint from before the climb; look at weight "
        "decay, the growth of norms and logits, and changes in the data.",
    ),
    Code(
        "level-shift",
        Severity.WARNING,
        "the level of the loss has changed at once, and stays",
        "Look at what changed there: a restart, the data, the learning rate, the batch size, an "
        "epoch boundary.",
    ),
    Code(
        "overfitting",
        Severity.WARNING,
        "the validation loss rises from its best while the training loss falls",
        "Go back to the best checkpoint; stop earlier, regularise, or use more data.",
    ),
    Code(
        "underfitting",
        Severity.INFO,
        "training and validation loss have stopped together, with little learnt",
        "Use a larger model, a better learning rate, less regularisation or better features.",
    ),
    Code(
        "train-val-gap",
        Severity.INFO,
        "the validation loss falls ever further behind the training loss",
        "Regularise or use more data if it matters; check that both losses are measured alike and "
        "that both splits come from the same source.",
    ),
    Code(
        "loss-suspiciously-low",
        Severity.INFO,
        "the loss is lower than such losses get",
        "Look for the answer among the inputs, for memorised or duplicate data (gyrostat leakage), "
        "for a wrong mask or reduction, or a sign.",
    ),
    Code(
        "repeated-epoch-pattern",
        Severity.WARNING,
        "each epoch goes through its batches in the same order",
        "Shuffle anew in each epoch: shuffle=True, or sampler.set_epoch(epoch) when distributed.",
    ),
    Code(
        "vanishing-gradient",
        Severity.WARNING,
        "the gradient of a layer is far smaller than that of the others",
        "Look at what lies between it and the loss: saturated functions, a poor initialisation,"
        " no normalisation or residual path; the culprit names the layer.",
    ),
    Code(
        "exploding-gradient",
        Severity.WARNING,
        "the gradient stays far above its highest level so far",
        "Lower the learning rate, clip by the norm, lengthen the warm-up; look at the layer named.",
    ),
    Code(
        "all-zero-tensor",
        Severity.WARNING,
        "every value of a gradient or of a weight is zero",
        "Check that the layer has a path to the loss and no dead units behind it; a weight that"
        " became zero was overwritten.",
    ),
    Code(
        "embedding-gradient-share",
        Severity.WARNING,
        "embeddings have taken over the gradient",
        "Shrink or clip the gradient of the embeddings, or lower the learning rate: it often "
        "comes before a spike of the loss.",
    ),
    Code(
        "gradient-underflow",
        Severity.WARNING,
        "most values of a gradient are lost below a small format",
        "Raise the loss scale, use a dynamic one, or train in bfloat16.",
    ),
    Code(
        "loss-scale-thrash",
        Severity.WARNING,
        "the loss scale falls again and again, or below 1",
        "Look for what overflows in float16; lower the learning rate, raise the growth "
        "interval, or train in bfloat16.",
    ),
    Code(
        "unchanged-tensor",
        Severity.WARNING,
        "a weight does not change though it has a gradient",
        "Check that the optimizer was given it; keep a float32 copy of 16-bit weights, whose "
        "small updates are rounded away.",
    ),
    Code(
        "update-ratio",
        Severity.WARNING,
        "updates are out of proportion to the weights",
        "Usual is 1e-3: lower the learning rate or raise it, in general or for the layer named.",
    ),
    Code(
        "update-rms",
        Severity.INFO,
        "the second moment of the optimizer lags behind the gradient",
        "Clip updates (StableAdamW), or lower beta2 or the learning rate: it often comes before"
        " a spike of the loss.",
    ),
    Code(
        "momentum-conflict",
        Severity.WARNING,
        "gradients keep pointing against their momentum",
        "Lower the learning rate or the momentum: each step overshoots.",
    ),
    Code(
        "dead-units",
        Severity.WARNING,
        "most units of a layer are zero for every input",
        "Lower the learning rate, look at the biases and the initialisation, or use a function "
        "with a slope below zero.",
    ),
    Code(
        "saturated-activation",
        Severity.WARNING,
        "a bounded function is flat for half of its values",
        "Scale the inputs and the initial weights down, normalise before it, or lower the "
        "learning rate.",
    ),
    Code(
        "poor-initialisation",
        Severity.WARNING,
        "signals get lost or grow from layer to layer before training begins",
        "Initialise by fan-in for the functions used (He, Glorot), normalise, or add residual "
        "paths.",
    ),
    Code(
        "attention-logit-growth",
        Severity.WARNING,
        "attention logits have grown far beyond what softmax resolves",
        "Normalise queries and keys (QK-norm), clip their weights, or lower the learning rate.",
    ),
    Code(
        "output-logit-divergence",
        Severity.WARNING,
        "the logits of the output run away",
        "Add a z-loss, regularise the last layer, or lower the learning rate.",
    ),
    Code(
        "activation-kurtosis",
        Severity.INFO,
        "activations have grown outliers",
        "Nothing in itself; look at precision and quantisation, and at the loss.",
    ),
    Code(
        "class-imbalance",
        Severity.INFO,
        "some classes are far rarer than others",
        "Weigh the loss or the sampling if the rare ones matter, and measure by class.",
    ),
    Code(
        "sorted-labels",
        Severity.WARNING,
        "batches hold few classes each, though the data holds more",
        "Shuffle the data, or the buffer that batches are drawn from, over all classes.",
    ),
    Code(
        "inputs-not-normalised",
        Severity.INFO,
        "inputs are not of the order of 1",
        "Subtract the mean and divide by the deviation, by feature or channel, unless the model"
        " does so itself.",
    ),
    Code(
        "padding-share",
        Severity.INFO,
        "most of a batch of sequences is padding",
        "Group sequences of like length, pack them, or cut the longest.",
    ),
    Code(
        "outlier-batch",
        Severity.WARNING,
        "the loss or the gradient stands out, and so does the content of the batch",
        "Look at the samples named; clean the data or leave them out.",
    ),
    Code(
        "unmasked-padding",
        Severity.INFO,
        "rows of tokens end with padding that nothing in the batch marks",
        "Give the loss a mask, or ignore_index; if the model makes its own mask, all is well.",
    ),
    Code(
        "repeated-batch",
        Severity.INFO,
        "the same batch comes again and again",
        "Check the loader, unless overfitting one batch is meant.",
    ),
    Code(
        "cause-bad-batch",
        Severity.INFO,
        "the batch itself is bad",
        "Look at the batch and its samples; clean the data or keep it left out.",
    ),
    Code(
        "cause-label-noise",
        Severity.INFO,
        "the labels do not fit their inputs",
        "Check how labels are made and joined from where the loss rose.",
    ),
    Code(
        "cause-lr-too-high",
        Severity.INFO,
        "the learning rate is too high",
        "Lower the learning rate, warm it up for longer, or correct the schedule.",
    ),
    Code(
        "cause-optimizer-state",
        Severity.INFO,
        "the optimizer's memory was damaged or lost",
        "Load it with the weights at every resume; if nothing of the program did it, "
        "check the hardware.",
    ),
    Code(
        "cause-weights-damaged",
        Severity.INFO,
        "weights were changed by something other than an update",
        "Check the memory and whatever else writes to the weights.",
    ),
    Code(
        "cause-silent-corruption",
        Severity.INFO,
        "a computation gave a wrong result",
        "Run the step again; if it differs, take the device out of service.",
    ),
    Code(
        "cause-precision-overflow",
        Severity.INFO,
        "a value is too large for its format",
        "Use bfloat16 or float32 where it overflows, or a lower loss scale.",
    ),
    Code(
        "cause-loss-scale",
        Severity.INFO,
        "the loss, or its gradients, carry a factor that they should not",
        "Unscale gradients before they are used; check the reduction of the loss.",
    ),
    Code(
        "cause-initialisation",
        Severity.INFO,
        "the initial weights are too small or too large",
        "Use the initialisation that fits the activation: He for ReLU, Glorot for tanh.",
    ),
    Code(
        "cause-dead-layer",
        Severity.INFO,
        "a layer gives only zeros and learns nothing",
        "Check its biases; use a leaky activation, another initialisation or a lower "
        "learning rate.",
    ),
    Code(
        "cause-frozen-parameters",
        Severity.INFO,
        "parameters that should learn do not",
        "Check requires_grad and that the optimizer was given all parameters.",
    ),
    Code(
        "cause-missing-zero-grad",
        Severity.INFO,
        "gradients of earlier steps are added to those of the present one",
        "Call optimizer.zero_grad() once for each update.",
    ),
    Code(
        "cause-data-order",
        Severity.INFO,
        "the data does not come in random order",
        "Shuffle it anew in each epoch.",
    ),
    Code(
        "cause-repeated-data",
        Severity.INFO,
        "the same data comes again and again",
        "Check the loader and the sampler.",
    ),
    Code(
        "cause-padding",
        Severity.INFO,
        "the loss counts the padding",
        "Mask the padding in the loss, such as by ignore_index.",
    ),
)
"""Every code that a finding can carry, by slug."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """Who did it, as far as it is known.

    Attributes:
        layer: Name of the parameter or layer.
        batch: Identity of the batch, as ``guard.batches`` gives it.
        samples: Identities of the samples within the data set.
        ranks: Ranks of a distributed run, as the whole run counts them.
    """

    layer: str | None = None
    batch: str | None = None
    samples: tuple[int | str, ...] = ()
    ranks: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        known = (self.layer, self.batch)
        return any(one is not None for one in known) or bool(self.samples or self.ranks)

    def __str__(self) -> str:
        parts = [f"layer {self.layer}"] if self.layer is not None else []
        if self.batch is not None:
            parts.append(f"batch {self.batch}")
        if self.samples:
            parts.append("samples " + ", ".join(map(str, self.samples)))
        if self.ranks:
            parts.append("ranks " + ", ".join(map(str, self.ranks)))
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that Gyrostat found.

    Attributes:
        code: Slug from the :data:`CATALOGUE`.
        severity: How bad it is.
        step: Training step, or None for a finding about data.
        signal: Name of the signal it was seen in, such as ``"loss"``.
        value: The value seen.
        expected: What was expected in its place.
        score: How far off, in the unit of the rule that found it (1.0 is the rule's threshold).
        message: One sentence for a person.
        culprit: Layer, batch and samples, as far as they are known.
        evidence: Plain values that support the finding.
    """

    code: str
    severity: Severity
    step: int | None = None
    signal: str | None = None
    value: float | None = None
    expected: float | None = None
    score: float | None = None
    message: str = ""
    culprit: Culprit = field(default_factory=Culprit)
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.code not in CATALOGUE:
            raise ValueError(f"code: expected a slug of the catalogue, got {self.code!r}")
        object.__setattr__(self, "severity", Severity(self.severity))

    def __str__(self) -> str:
        where = f" at step {self.step}" if self.step is not None else ""
        who = f" [{self.culprit}]" if self.culprit else ""
        return f"{self.severity} {self.code}{where}: {self.message}{who}"

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain values that JSON can hold (non-finite floats as strings)."""
        return {
            "code": self.code,
            "severity": str(self.severity),
            "step": self.step,
            "signal": self.signal,
            "value": plain(self.value),
            "expected": plain(self.expected),
            "score": plain(self.score),
            "message": self.message,
            "culprit": {
                "layer": self.culprit.layer,
                "batch": self.culprit.batch,
                "samples": list(self.culprit.samples),
                "ranks": list(self.culprit.ranks),
            },
            "evidence": plain(dict(self.evidence)),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: If ``d`` lacks a field, holds an unknown one or an unknown code.
        """
        known = {f.name for f in fields(cls)}
        if unknown := set(d) - known:
            raise ValueError(f"d: unknown fields {sorted(unknown)}")
        if missing := {"code", "severity"} - set(d):
            raise ValueError(f"d: lacks {sorted(missing)}")
        values = dict(d)
        culprit = values.pop("culprit", None) or {}
        for name in ("value", "expected", "score"):
            if isinstance(values.get(name), str):
                values[name] = float(values[name])
        return cls(
            **values,
            culprit=Culprit(
                layer=culprit.get("layer"),
                batch=culprit.get("batch"),
                samples=tuple(culprit.get("samples", ())),
                ranks=tuple(culprit.get("ranks", ())),
            ),
        )


def plain(value: Any) -> Any:
    """``value`` with everything in it turned into what strict JSON can hold.

    Non-finite floats become the strings ``"nan"``, ``"inf"``, ``"-inf"``, which ``float()`` reads;
    NumPy scalars become Python's; tuples become lists.
    """
    if isinstance(value, bool | int | str | None):
        return str(value) if isinstance(value, enum.Enum) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        return plain(value.item())
    return str(value)


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The highest severity among ``findings``, or None if there are none."""
    return max((f.severity for f in findings), default=None)
