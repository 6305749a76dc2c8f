"""One run: the loop that everyone's users write, with a fault in it."""

import math
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field

import torch

from gym.faults import CLEAN, FAULTS
from gym.tasks import TASKS


@dataclass
class Result:
    """What came of a run.

    Attributes:
        loss: Loss on the validation set at the end; infinite if it is no number.
        actions: What the contestant did to the run, and how often.
        first: Step and code of its first finding, or None.
        causes: Causes that it names with their scores, the likeliest first; None if it names none.
        blamed: What it names under "layer", "batches" (positions) and "samples".
        truth: The same as the fault knows it.
        at: Step of the fault.
        seconds: CPU time of the loop.
        error: What stopped the loop, or nothing.
    """

    loss: float
    actions: dict[str, int]
    first: tuple[int, str] | None
    causes: list[tuple[str, float]] | None
    blamed: dict[str, object]
    truth: dict[str, object]
    at: int
    seconds: float
    error: str = ""


@dataclass
class Outcome:
    """What a contestant tells of a run; see :class:`Result`."""

    actions: Counter = field(default_factory=Counter)
    first: tuple[int, str] | None = None
    causes: list[tuple[str, float]] | None = None
    blamed: dict[str, object] = field(default_factory=dict)


def train(make, task_name, fault_name, seed):
    """Trains with the contestant that ``make(model, optimizer, scheduler)`` gives."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        # A contestant that skips the first update upsets the schedule; some use what is deprecated.
        warnings.simplefilter("ignore")
        return _train(make, TASKS[task_name](seed), FAULTS.get(fault_name, CLEAN))


def _train(make, task, fault_class):
    fault = fault_class(task)
    model = task.model
    fault.before()
    optimizer = task.optimizer([p for p in model.parameters() if p.requires_grad])
    step = 0
    # The schedule's own count goes back with a rollback; the fault looks at the loop's.
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: task.rate(epoch) * fault.rate(step)
    )
    contestant = make(model, optimizer, scheduler)
    loader = (
        fault.batch(position, task.batch(rows))
        for position, rows in enumerate(fault.order(task.order))
    )
    error = ""
    start = time.thread_time()
    try:
        for batch in contestant.batches(loader):
            fault.at_start(step, optimizer)
            loss = task.loss(batch)
            (loss * fault.scale(step)).backward()
            fault.after_backward(step)
            contestant.update(loss)
            clears, step = fault.clears_gradients(step), step + 1
            scheduler.step()
            if clears:
                optimizer.zero_grad()
    except Exception as problem:  # noqa: BLE001 - a peer may fail in any way; its row says how
        error = f"{type(problem).__name__}: {problem}".partition("\n")[0]
    seconds = time.thread_time() - start
    outcome = contestant.outcome()
    loss = task.validate()
    truth = {"layer": fault.layer, "batches": fault.batches, "samples": fault.samples}
    return Result(
        loss=loss if math.isfinite(loss) else math.inf,
        actions=dict(outcome.actions),
        first=outcome.first,
        causes=outcome.causes,
        blamed=outcome.blamed,
        truth=truth,
        at=fault.at,
        seconds=seconds,
        error=error,
    )
