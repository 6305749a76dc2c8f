"""Rules on the data of batches: classes, their order, the scale of inputs, padding.

Each takes one batch at a time and says a thing once per run. What SageMaker Debugger tells of a
finished evaluation (Confusion) or of other models (TreeDepth, FeatureImportanceOverweight) is no
matter of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gyrostat.findings import Finding
from gyrostat.rules._columns import ColumnRule, Rules, starts, tensor_finding

__all__ = ["BatchRules", "ClassBalance", "InputScale", "PaddingShare"]


class ClassBalance(ColumnRule):
    """Tells of classes that are rare, and of batches that hold one class where the data holds more.

    Both once 20 batches were seen. ``class-imbalance``: of 500 labels or more, the most frequent
    class has ten times as many as the rarest, which has ten at least. The limit is that of
    SageMaker Debugger. Not told of sorted data.

    ``sorted-labels``: two samples of a batch are of one class far more
    often than two samples of the data. With p the latter share, half of the way from p to 1 or
    more. Unlike the entropy of labels within a batch, this does not depend on the size of batches.

    Labels are integers, of at most 10,000 classes; with more of them, as for tokens, nothing is
    told.
    """

    _SCALARS = starts(seen=0.0, pairs=0.0, same=0.0, batches=0.0, unequal=0.0, ordered=0.0)
    _SEEN = 500
    _RAREST = 10
    _TIMES = 10.0
    _BATCHES = 20
    _SORTED = 0.5
    _MOST = 10_000

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[int, int] = {}

    def update(self, labels: ArrayLike, step: int | None = None) -> tuple[Finding, ...]:
        """Judges the labels of one batch.

        Args:
            labels: Integers or flags of any shape; negative ones, which losses ignore, are left
                out.
            step: The step.

        Returns:
            What is new; mostly nothing.

        Raises:
            ValueError: If ``labels`` are not integers.
        """
        array = np.asarray(labels)
        if array.dtype.kind not in "biu":
            raise ValueError(f"labels: expected integers, got {array.dtype}")
        classes, counts = np.unique(array[array >= 0], return_counts=True)
        memory = self._scalars
        if len(self._counts) > self._MOST or not len(classes):
            return ()
        for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
            self._counts[int(label)] = self._counts.get(int(label), 0) + count
        number = int(counts.sum())
        memory["seen"] += number
        memory["pairs"] += number * (number - 1)
        memory["same"] += float((counts * (counts - 1)).sum())
        memory["batches"] += 1
        if memory["batches"] < self._BATCHES:
            return ()
        found = (self._order(step), self._imbalance(step))
        return tuple(f for f in found if f is not None)

    def _imbalance(self, step: int | None) -> Finding | None:
        memory = self._scalars
        # Of sorted data the classes at hand are not those to come.
        if memory["unequal"] or memory["ordered"] or memory["seen"] < self._SEEN:
            return None
        most, least = (pick(self._counts, key=self._counts.__getitem__) for pick in (max, min))
        ratio = self._counts[most] / self._counts[least]
        if ratio < self._TIMES or self._counts[least] < self._RAREST:
            return None
        memory["unequal"] = 1.0
        return tensor_finding(
            "class-imbalance",
            step,
            signal="labels",
            layer=None,
            value=ratio,
            expected=1.0,
            score=ratio / self._TIMES,
            message=f"class {most} is {ratio:.3g} times as frequent as class {least}",
            most=most,
            least=least,
            classes=len(self._counts),
        )

    def _order(self, step: int | None) -> Finding | None:
        memory = self._scalars
        if memory["ordered"] or memory["pairs"] <= 0.0:
            return None
        within = memory["same"] / memory["pairs"]
        alike = sum(count * (count - 1) for count in self._counts.values())
        over = alike / (memory["seen"] * (memory["seen"] - 1))
        if over >= 1.0 or (within - over) / (1.0 - over) < self._SORTED:
            return None
        memory["ordered"] = 1.0
        return tensor_finding(
            "sorted-labels",
            step,
            signal="labels",
            layer=None,
            value=within,
            expected=over,
            score=(within - over) / (1.0 - over) / self._SORTED,
            message=(
                f"two samples of a batch are of one class in {within:.0%} of cases, two of the "
                f"data in {over:.0%}"
            ),
            batches=int(memory["batches"]),
        )

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values that strict JSON can hold, bit for bit."""
        counts = {str(label): count for label, count in self._counts.items()}
        return super().state_dict() | {"counts": counts}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Goes on exactly where the rule that gave ``d`` stood.

        Raises:
            ValueError: If ``d`` is no such state; the rule is then left as it was.
        """
        try:
            counts = {int(label): int(count) for label, count in d["counts"].items()}
        except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
            raise ValueError("state: expected counts to be integers by label") from error
        if any(count < 1 for count in counts.values()):
            raise ValueError("state: expected counts above 0")
        super().load_state_dict(d)
        self._counts = counts


class InputScale(ColumnRule):
    """Tells of inputs that are not of the order of 1, once 500 samples were seen.

    By feature, the root mean square is above 10, or deviations of features differ by a factor of
    1000; constant features are left out of that. Pixels from 0 to 255 are told of, pixels from 0
    to 1 are not: networks train with these. SageMaker Debugger's CheckInputImages asks for a mean
    within 0.2.

    Args:
        axis: The axis of features or channels.
    """

    _COLUMNS = starts(count=0.0, mean=0.0, square=0.0)
    _SCALARS = starts(rows=0.0, told=0.0)
    _ROWS = 500
    _LARGE = 10.0
    _RANGE = 1e3

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self._axis = axis

    def update(self, inputs: ArrayLike, step: int | None = None) -> Finding | None:
        """Judges the inputs of one batch; NaN and Inf are left out.

        Args:
            inputs: Numbers of shape ``(samples, ...)``, two axes at least.
            step: The step.

        Raises:
            ValueError: If there are fewer axes, or other features than before.
        """
        if self._scalars["told"]:
            return None
        array = np.asarray(inputs, dtype=np.float64)
        if array.ndim < 2:
            raise ValueError(f"inputs: expected two axes or more, got shape {array.shape}")
        values = np.moveaxis(array, self._axis, -1).reshape(-1, array.shape[self._axis])
        if len(self._names) not in {0, values.shape[1]}:
            raise ValueError(f"inputs: expected {len(self._names)} features as before")
        columns = self._align(tuple(map(str, range(values.shape[1]))))
        valid = np.isfinite(values) & (np.abs(values) < 1e150)
        kept = np.where(valid, values, 0.0)
        before, means, squares = columns["count"], columns["mean"], columns["square"]
        # Batches are joined as Chan, Golub and LeVeque (1983) do, which loses no digits.
        new = valid.sum(0)
        mean = kept.sum(0) / np.maximum(new, 1)
        square = (np.where(valid, values - mean, 0.0) ** 2).sum(0)
        counts = np.maximum(before + new, 1.0)
        shift = mean - means
        squares += square + shift * shift * before * new / counts
        means += shift * new / counts
        before += new
        self._scalars["rows"] += len(array)
        if self._scalars["rows"] < self._ROWS:
            return None
        return self._judge(means, np.sqrt(squares / counts), step)

    def _judge(
        self, means: NDArray[np.float64], stds: NDArray[np.float64], step: int | None
    ) -> Finding | None:
        rms = np.hypot(means, stds)
        varying = stds[stds > 1e-6 * rms]
        spread = float(varying.max() / varying.min()) if len(varying) else 1.0
        worst = int(np.argmax(rms)) if len(rms) else 0
        if not len(rms) or (rms[worst] <= self._LARGE and spread < self._RANGE):
            return None
        self._scalars["told"] = 1.0
        large = rms[worst] > self._LARGE
        return tensor_finding(
            "inputs-not-normalised",
            step,
            signal="inputs",
            layer=None,
            value=rms[worst] if large else spread,
            expected=1.0,
            message=(
                f"feature {worst} has a mean of {means[worst]:.4g} and a deviation of "
                f"{stds[worst]:.4g}"
                if large
                else f"the deviations of features differ by a factor of {spread:.3g}"
            ),
            feature=worst,
            mean=means[worst],
            std=stds[worst],
            spread=spread,
        )


class PaddingShare(ColumnRule):
    """Tells when half of the tokens or more are padding, once 500 sequences were seen.

    The half is that of SageMaker Debugger's NLPSequenceRatio.
    """

    _SCALARS = starts(sequences=0.0, tokens=0.0, padding=0.0, told=0.0)
    _SEQUENCES = 500
    _SHARE = 0.5

    def update(self, is_padding: ArrayLike, step: int | None = None) -> Finding | None:
        """Judges one batch of sequences.

        Args:
            is_padding: Flags of shape ``(sequences, positions)``: ``tokens == pad_id``, or the
                attention mask turned about.
            step: The step.

        Raises:
            ValueError: If they have another number of axes.
        """
        memory = self._scalars
        flags = np.asarray(is_padding, dtype=np.bool_)
        if flags.ndim != 2:
            raise ValueError(f"is_padding: expected two axes, got shape {flags.shape}")
        memory["sequences"] += len(flags)
        memory["tokens"] += flags.size
        memory["padding"] += float(flags.sum())
        share = memory["padding"] / max(memory["tokens"], 1.0)
        if memory["told"] or memory["sequences"] < self._SEQUENCES or share < self._SHARE:
            return None
        memory["told"] = 1.0
        return tensor_finding(
            "padding-share",
            step,
            signal="tokens",
            layer=None,
            value=share,
            score=share / self._SHARE,
            message=f"{share:.0%} of the tokens are padding",
            sequences=int(memory["sequences"]),
        )


class BatchRules(Rules):
    """All rules on the data of batches, fed as one.

    Example:
        >>> rules = BatchRules()
        >>> for step in range(40):  # sorted: ten batches of each class
        ...     for finding in rules.update(step, labels=[step // 10] * 32):
        ...         print(finding.code, finding.step)
        sorted-labels 19

    Args:
        feature_axis: The axis of features or channels of the inputs.
    """

    def __init__(self, feature_axis: int = -1) -> None:
        self._axis = feature_axis
        self._classes = ClassBalance()
        self._inputs = InputScale(feature_axis)
        self._padding = PaddingShare()

    def update(
        self,
        step: int | None = None,
        *,
        labels: ArrayLike | None = None,
        inputs: ArrayLike | None = None,
        is_padding: ArrayLike | None = None,
    ) -> tuple[Finding, ...]:
        """Judges one batch, or what is given of it.

        Args:
            step: The step.
            labels: As :meth:`ClassBalance.update` takes them.
            inputs: As :meth:`InputScale.update` takes them.
            is_padding: As :meth:`PaddingShare.update` takes them.

        Returns:
            What is new; mostly nothing.
        """
        found: list[Finding | None] = []
        if labels is not None:
            found += self._classes.update(labels, step)
        if inputs is not None:
            found.append(self._inputs.update(inputs, step))
        if is_padding is not None:
            found.append(self._padding.update(is_padding, step))
        return tuple(f for f in found if f is not None)

    def _anew(self) -> BatchRules:
        return BatchRules(self._axis)
