"""Gyrostat as a contestant, at its defaults."""

import functools
import hashlib
import logging
from collections import Counter
from pathlib import Path

import gyrostat
from gym.contestants import Entry
from gym.training import Outcome
from gyrostat import Severity
from gyrostat.guard import Action
from gyrostat.integrations.torch import Guard


class Gyrostat:
    def __init__(self, model, optimizer, scheduler):
        logging.getLogger("gyrostat").setLevel(logging.CRITICAL)
        self._guard = Guard(model, optimizer, scheduler, policy="recover")
        self._optimizer = optimizer
        self._positions = {}

    def batches(self, loader):
        for batch in self._guard.batches(loader):
            self._positions.setdefault(self._guard.batch.identity, self._guard.batch.index)
            yield batch

    def update(self, loss):
        if self._guard.approve(loss):
            self._optimizer.step()

    def outcome(self):
        guard = self._guard
        likeliest = guard.hypotheses[:1]
        told = [f for f in guard.findings if f.severity >= Severity.WARNING]
        acted = [i for i in guard.incidents if i.action is not Action.CONTINUE]
        return Outcome(
            actions=Counter(str(i.action) for i in acted),
            first=(told[0].step, told[0].code) if told else None,
            causes=[(cause.code, float(cause.score)) for cause in guard.hypotheses],
            blamed={
                "layer": next(
                    (f.culprit.layer for f in (*likeliest, *told) if f.culprit.layer),
                    None,
                ),
                "batches": sorted(
                    self._positions[identity]
                    for identity in guard.bad_batches.union(
                        (f.culprit.batch for f in guard.findings if f.code == "outlier-batch"),
                        *(cause.evidence.get("batches", ()) for cause in likeliest),
                    )
                ),
                "samples": next(
                    (list(f.culprit.samples) for f in guard.findings if f.culprit.samples), []
                ),
            },
        )


class Own(Entry):
    """Ours, whose version is every byte of the package."""

    @property
    def version(self):
        return _content()


@functools.cache
def _content():
    whole = hashlib.sha256()
    for path in sorted(Path(gyrostat.__file__).parent.rglob("*")):
        if path.suffix in {".py", ".so", ".pyd"}:
            whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()


OURS = "gyrostat"
ENTRY = Own(Gyrostat, "gyrostat")
