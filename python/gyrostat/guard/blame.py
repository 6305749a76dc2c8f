"""Blame: layer, batch and ranks, for findings that do not name them themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gyrostat.findings import Finding, Severity, plain
from gyrostat.guard.batches import Batch
from gyrostat.guard.ranks import standing_out
from gyrostat.guard.subject import Subject
from gyrostat.rules import GradientRule

__all__ = ["Blame"]

_OUTLIER = "outlier-batch"


class Blame:
    """Names who did it, as far as it is known.

    Args:
        subject: The model and optimizer, which know what each rank had.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def name(
        self,
        findings: Sequence[Finding],
        norms: Mapping[str, float],
        rule: GradientRule,
        batches: Sequence[Batch],
    ) -> list[Finding]:
        """The findings of a step with layer, batch and ranks.

        Args:
            findings: The findings.
            norms: L2 norm of each gradient by parameter.
            rule: Knows the usual norms.
            batches: The batches of the step.
        """
        if not findings:
            return []
        layer = next((f.culprit.layer for f in reversed(findings) if f.culprit.layer), None)
        if layer is None and (blamed := rule.blame(norms)) is not None:
            layer = blamed[0]
        batch = batches[-1].identity if batches else None
        return [
            replace(f, culprit=replace(f.culprit, layer=f.culprit.layer or layer, batch=batch))
            for f in map(self._with_ranks, findings)
        ]

    def share(self, findings: list[Finding], step: int) -> list[Finding]:
        """Adds what another rank alone can see, that its batch stands out of those before."""
        ranks = self._subject.ranks_with(any(f.code == _OUTLIER for f in findings), step=step)
        if not ranks:
            return findings
        message = "the batch of another rank stands out"
        own = [f for f in findings if f.code == _OUTLIER] or [
            Finding(_OUTLIER, Severity.WARNING, step=step, message=message)
        ]
        named = [replace(f, culprit=replace(f.culprit, ranks=ranks)) for f in own]
        return [*(f for f in findings if f.code != _OUTLIER), *named]

    def _with_ranks(self, finding: Finding) -> Finding:
        """Names the ranks that stand out, in a run of several."""
        if finding.culprit.ranks or finding.signal is None:
            return finding
        losses = self._subject.by_rank("loss")
        values = self._subject.by_rank(finding.signal, finding.culprit.layer) or losses
        # A bad batch of one rank shows in its loss alone once the gradients are reduced.
        if not values or not (ranks := standing_out(values) or standing_out(losses)):
            return finding
        evidence = {**finding.evidence, "by_rank": plain({str(r): v for r, v in values.items()})}
        return replace(finding, culprit=replace(finding.culprit, ranks=ranks), evidence=evidence)
