"""The whole story on real data: a fault, its detection, the blame, the recovery, and leakage."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from gyrostat.demo.digits import Batch, Digits, load_digits
from gyrostat.demo.docstrings import load_docstrings
from gyrostat.demo.network import NumpyTraining
from gyrostat.guard import Guard, Policy
from gyrostat.leakage import LeakageReport, check_leakage
from gyrostat.report import Chart, Report, Table

__all__ = ["run_demo"]

_SEED = 1
_BATCH = 64
_DRAWN_LOSS = 5.0  # the faults reach 10^8, beside which the rest is a line
_EPOCHS = 50
_BAD_BATCH_STEP = 400
_BAD_BATCH_SCALE = 1e4
_CORRUPT_STEP = 700
_CORRUPT_BITS = np.uint32(0x7000_0000)  # of the exponent, in one byte: 2^32 times the weight


class Training(Protocol):
    """What the demo needs of a model in training."""

    def guard(self, policy: str | Policy, run_dir: str | None = None) -> Guard:
        """A guard of this training."""

    def backward(self, batch: Batch) -> float:
        """Computes the gradients of one batch and returns its loss."""

    def update(self) -> None:
        """Applies the gradients."""

    def validate(self, batch: Batch) -> float:
        """The loss on ``batch``."""

    def weight_bits(self) -> NDArray[np.uint32]:
        """The bits of the last layer's weights, shared with the model, as one row."""


@dataclass
class _Run:
    """One training run and how it ended."""

    name: str
    losses: list[float] = field(default_factory=list)
    validation: float = math.nan
    guard: Guard | None = None


def run_demo(
    out: str | os.PathLike[str] = "demo-report.html",
    framework: str = "auto",
    say: Callable[[str], None] = tqdm.write,
) -> Report:
    """Trains a small real model clean, unguarded and guarded, then checks a real text corpus.

    The unguarded and the guarded run meet the same two faults: one batch whose pixels arrive ten
    thousand times too large, and later a corrupted byte in one weight.

    Args:
        out: Where the HTML report goes.
        framework: ``"torch"``, ``"numpy"``, or ``"auto"``: torch if it is installed.
        say: Prints one line.

    Returns:
        The report that was written.

    Raises:
        ValueError: If ``framework`` is none of these.
        ImportError: If torch is asked for and not installed.
    """
    make = _trainer(framework)
    digits = load_digits()
    say(f"Training a digit classifier three times on the same data ({make.__name__}).")
    with _quiet_log():
        runs = [
            _train("clean", make, digits, say, faults=False, guarded=False),
            _train("unguarded", make, digits, say, faults=True, guarded=False),
            _train("guarded", make, digits, say, faults=True, guarded=True),
        ]
    rows = _results(runs)
    say("\n" + _aligned(("run", "final validation loss", "against clean"), rows))
    leakage = _check_docstrings(say)
    report = _report(runs, rows, leakage)
    say(f"\nReport: {report.save(out).resolve()}")
    return report


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """Keeps the guard's log still: the demo says the same at greater length."""
    log = logging.getLogger("gyrostat")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _trainer(framework: str) -> Callable[[int, int], Training]:
    if framework not in ("auto", "numpy", "torch"):
        raise ValueError(f"framework: expected auto, numpy or torch, got {framework!r}")
    has_torch = importlib.util.find_spec("torch") is not None
    if framework == "numpy" or (framework == "auto" and not has_torch):
        return NumpyTraining
    if not has_torch:
        raise ImportError("framework: torch is not installed: pip install 'gyrostat[torch]'")
    from gyrostat.demo.network_torch import TorchTraining

    return TorchTraining


def _train(
    name: str,
    make: Callable[[int, int], Training],
    digits: Digits,
    say: Callable[[str], None],
    *,
    faults: bool,
    guarded: bool,
) -> _Run:
    run = _Run(name)
    per_epoch = len(digits.train[1]) // _BATCH
    training = make(_SEED, _EPOCHS * per_epoch)
    run_dir = tempfile.mkdtemp(prefix="gyrostat-demo-") if guarded else None
    guard = run.guard = training.guard("recover", run_dir) if guarded else None
    with tqdm(total=_EPOCHS * per_epoch, desc=name, disable=None, leave=False) as progress:
        for epoch in range(_EPOCHS):
            loader = digits.batches(_BATCH, seed=epoch)
            if faults:
                loader = _with_bad_batch(loader, _BAD_BATCH_STEP - epoch * per_epoch)
            for batch in guard.batches(loader) if guard is not None else loader:
                if faults and len(run.losses) == _CORRUPT_STEP:
                    _corrupt(training.weight_bits())
                loss = training.backward(batch)
                run.losses.append(loss)
                if guard is None or (verdict := guard.approve(loss)):
                    training.update()
                else:
                    say(f"  {verdict.action} at step {guard.step - 1}:")
                    for finding in verdict.findings:
                        say(f"    {finding}")
                progress.update()
    run.validation = training.validate(digits.validation)
    return run


def _with_bad_batch(loader: Iterator[Batch], at: int) -> Iterator[Batch]:
    """The batches of ``loader``, one of them as if its pixels had not been scaled."""
    for index, (images, labels) in enumerate(loader):
        yield (images * np.float32(_BAD_BATCH_SCALE) if index == at else images), labels


def _corrupt(weights: NDArray[np.uint32]) -> None:
    """Corrupts one byte of the largest weight, given as bits."""
    magnitudes = weights & np.uint32(0x7FFF_FFFF)
    weights[np.argmax(magnitudes)] ^= _CORRUPT_BITS


def _results(runs: list[_Run]) -> list[tuple[str, str, str]]:
    clean = runs[0].validation
    return [
        (run.name, f"{run.validation:.4g}", f"{100 * (run.validation / clean - 1):+.3g} %")
        for run in runs
    ]


def _aligned(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, tuple("-" * w for w in widths), *rows]
    return "\n".join(
        "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    )


def _check_docstrings(say: Callable[[str], None]) -> LeakageReport:
    corpus = load_docstrings()
    train, test = corpus.split(test_share=0.2, seed=_SEED)
    say(
        f"\nChecking the {len(corpus.texts):,} docstrings of Python's standard library, "
        "split at random into train and test, for leakage."
    )
    report = check_leakage(
        {"train": train.texts, "test": test.texts},
        label={"train": train.labels, "test": test.labels},
    )
    for finding in report.findings:
        say(f"  {finding}")
    kept = len(report.clean_rows("train"))
    say(f"  clean_rows keeps {kept:,} of {len(train.texts):,} training rows.")
    return report


def _report(runs: list[_Run], rows: list[tuple[str, str, str]], leakage: LeakageReport) -> Report:
    clean, unguarded, guarded = runs
    guard = guarded.guard
    if guard is None:
        raise TypeError("runs: expected the last to be guarded")
    # The guarded run makes the steps since its snapshot twice.
    steps = np.arange(len(guarded.losses))
    losses = {run.name: np.full(len(steps), np.nan) for run in (guarded, unguarded, clean)}
    for run in runs:
        losses[run.name][: len(run.losses)] = np.minimum(run.losses, _DRAWN_LOSS)
    columns = ("run", "final validation loss", "against clean")
    run_report = guard.report()
    return Report(
        "Gyrostat demo: one bad batch, one corrupted byte, one leaky split",
        [*guard.findings, *leakage.findings],
        summary={"steps a run": len(clean.losses), **leakage.summary},
        sections=[
            Chart(
                f"training loss, cut off at {_DRAWN_LOSS:g}",
                steps,
                losses,
                guard.findings,
                log_y=True,
            ),
            Table("How the runs ended", columns, rows),
            *run_report.sections[1:],
            *leakage.sections,
        ],
    )
