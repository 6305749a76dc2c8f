"""Faults put into healthy losses of language models, as in nats."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from spikes import scoring
from spikes.runs import Run

CASES, HISTORY, LEAST_HISTORY, TAIL, CALM = 20, 1000, 300, 300, 50


@dataclass(frozen=True)
class Fault:
    """``shape(healthy, k)`` is the loss ``k`` steps into the fault.

    An alarm within ``window`` steps of its start finds it.
    """

    name: str
    shape: Callable[[np.ndarray, np.ndarray], np.ndarray]
    window: int
    lasts: int = TAIL

    def into(self, loss, start):
        """A copy of the loss with this fault."""
        faulty = np.array(loss, dtype=float)
        place = slice(start, start + self.lasts)
        healthy = faulty[place]
        faulty[place] = self.shape(healthy, np.arange(len(healthy)))
        return faulty


FAULTS = (
    Fault("+1.0 nat, one step", lambda x, _: x + 1.0, window=3, lasts=1),
    Fault("+0.3 nat, one step", lambda x, _: x + 0.3, window=3, lasts=1),
    Fault("+1.5 nat, decays in 30", lambda x, k: x + 1.5 * np.exp(-k / 30), window=60),
    Fault("+0.003 nat a step", lambda x, k: x + 0.003 * (k + 1), window=TAIL),
    Fault("x1.02 a step", lambda x, k: x * 1.02 ** (k + 1), window=TAIL),
    Fault("NaN, one step", lambda x, _: np.full_like(x, np.nan), window=3, lasts=1),
)


@dataclass(frozen=True)
class Case:
    """A stretch of a healthy run, and the point in it at which a fault starts."""

    run: Run
    start: int

    def with_fault(self, fault):
        return replace(self.run, loss=fault.into(self.run.loss, self.start))


def cases(runs, count=CASES, seed=0):
    """Stretches drawn from the runs by turns, of the loss alone.

    From some way before the fault to the end of the stretch no label excuses an alarm.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for i in range(count):
        run = runs[i % len(runs)]
        starts = np.arange(LEAST_HISTORY, len(run.loss) - TAIL)
        marked = np.zeros(len(run.loss), dtype=bool)
        for first, last in filter(None, (label.excused for label in run.labels)):
            marked[max(0, first - TAIL) : last + CALM] = True
        start = int(rng.choice(starts[~marked[starts]]))
        piece = slice(max(0, start - HISTORY), start + TAIL)
        name = f"{run.name} from {piece.start}"
        drawn.append(Case(Run(name, run.step[piece], run.loss[piece]), start - piece.start))
    return drawn


def latencies(fault, cases, faulty, healthy):
    """The latency of each case, None where the fault was not found.

    Args:
        fault: The fault.
        cases: The cases.
        faulty: The alarms of each case with the fault.
        healthy: The alarms of each case without it.
    """
    return [
        scoring.latency(alarms, without, case.start, fault.window)
        for case, alarms, without in zip(cases, faulty, healthy, strict=True)
    ]
