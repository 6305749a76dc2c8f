"""Gyrostat as a contestant, at its defaults."""

import logging
from collections import Counter

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

    def batches(self, loader):
        return self._guard.batches(loader)

    def update(self, loss):
        if self._guard.approve(loss):
            self._optimizer.step()

    def outcome(self):
        guard = self._guard
        told = [f for f in guard.findings if f.severity >= Severity.WARNING]
        acted = [i for i in guard.incidents if i.action is not Action.CONTINUE]
        causes = getattr(guard, "hypotheses", None)
        return Outcome(
            actions=Counter(str(i.action) for i in acted),
            first=(told[0].step, told[0].code) if told else None,
            causes=None
            if causes is None
            else [(cause.code, float(cause.score)) for cause in causes],
            blamed={
                "layer": next((f.culprit.layer for f in told if f.culprit.layer), None),
                "batches": positions(guard.incidents),
                "samples": next((list(f.culprit.samples) for f in told if f.culprit.samples), []),
            },
        )


def positions(incidents):
    """Where in the data the batches stand that are left out in the end."""
    found = {i.batch: i.position[1] for i in incidents if i.position}
    bad = set()
    for incident in incidents:
        bad.difference_update(incident.forgiven)
        bad.update(incident.left_out)
    return sorted(found[identity] for identity in bad if identity in found)


OURS = "gyrostat"
ENTRY = Entry(Gyrostat, "gyrostat")
