"""The labelled real runs that lie beside a checkout of the developers."""

import csv
import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spikes.scoring import Label

SHARED = Path(
    os.environ.get("GYROSTAT_SHARED", Path(__file__).resolve().parent.parents[2] / "shared")
)
PER_STEP_LANGUAGE_MODELS = ("nanogpt_", "gpt2_edu_")
SETTLED = 200
EARLY = 250


@dataclass(frozen=True)
class Run:
    """The columns of a run, each of shape ``(n,)``, and what is known about it."""

    name: str
    step: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray | None = None
    labels: tuple[Label, ...] = ()
    update_rms: np.ndarray | None = None

    @property
    def tuned_on(self):
        """Whether a detector may be tuned on this run; the others are for reporting.

        Half of all names, by a hash: whoever adds a run cannot choose.
        """
        return hashlib.sha256(self.name.encode()).digest()[0] % 2 == 0

    @property
    def healthy(self):
        """A mask of the points after the 200th that no label excuses."""
        mask = np.arange(len(self.loss)) >= SETTLED
        for first, last in filter(None, (label.excused for label in self.labels)):
            mask[max(0, first) : last + 1] = False
        return mask

    @property
    def outliers(self):
        """The labels of one bad batch, or so it seems: doubtful spikes of a point or a few."""
        return [x for x in self.labels if x.kind == "spike" and x.severity == "ambiguous"]

    @property
    def early_event(self):
        """The first major event, if it starts within the first 250 points, or None."""
        events = [label for label in self.labels if label.is_event and label.first < EARLY]
        return min(events, key=lambda label: label.first, default=None)


def labelled():
    """All labelled runs in the order of their names, or the reason why there are none."""
    folder = SHARED / "data" / "runs"
    if not (folder / "labels.csv").is_file():
        return "the labelled runs are not beside this checkout"
    try:
        from pyarrow import parquet
    except ImportError as error:
        return f"the labelled runs need pyarrow: {error}"

    rows = defaultdict(list)
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows[row["file"]].append(row)
    runs = []
    for path in sorted(folder.glob("*.parquet")):
        table = parquet.read_table(path)
        columns = {
            name: table[name].to_numpy().astype(float)
            for name in ("step", "loss", "grad_norm")
            if name in table.column_names
        }
        labels = tuple(_label(row, columns["step"]) for row in rows[path.name])
        runs.append(Run(path.stem, **columns, labels=labels))
    return runs


def _label(row, step):
    first = int(np.searchsorted(step, float(row["start_step"]), side="left"))
    last = int(np.searchsorted(step, float(row["end_step"]), side="right")) - 1
    return Label(row["kind"], row["severity"], first, max(first, last))


def per_step_language_models(runs):
    """The runs whose healthy stretches count for rates of false alarms."""
    return [run for run in runs if run.name.startswith(PER_STEP_LANGUAGE_MODELS)]


def modded_nanogpt(runs):
    """The runs that faults are injected into."""
    return [run for run in runs if run.name.startswith("nanogpt_")]


def early_failures(runs):
    """The AlgoPerf runs with a spike, a divergence or NaN within the first 250 points."""
    return [run for run in runs if run.name.startswith("algo_") and run.early_event]
