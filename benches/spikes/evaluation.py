"""Runs every contestant over every run, in processes, and keeps what peers said.

A peer's verdicts are kept in ``benches/.cache`` and used again while the peer, its adapter and the
run are the same; Gyrostat's are always made anew. So is a run of :mod:`spikes.organic` kept while
its recipe and the code that makes it are the same.
"""

import functools
import hashlib
import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from spikes import contestants, organic, rules
from spikes.runs import Run

CACHE = Path(__file__).resolve().parents[1] / ".cache"


@dataclass(frozen=True)
class Verdicts:
    """A contestant on a run.

    Attributes:
        alarms: The indices of its alarms.
        seconds: The CPU time that it took.
        points: How many points it has judged.
        error: What stopped it before the end of the run, or nothing.
    """

    alarms: np.ndarray
    seconds: float
    points: int
    error: str = ""


class Field:
    """The contestants that can run here, by name; the reasons of the others are in ``missing``."""

    def __init__(self, names, workers, cache=CACHE):
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, mp_context=context)
        self._cache = cache
        self.names = list(names)
        self.missing = {
            name: reason
            for name in self.names
            if (reason := contestants.ENTRIES[name].missing()) is not None
        }

    def judge(self, runs, what):
        """Verdicts by contestant and name of the run; none on a run that it is too slow for."""
        pairs = [
            (name, run)
            for name in self.names
            if name not in self.missing
            for run in runs
            if len(run.loss) <= contestants.ENTRIES[name].longest
        ]
        verdicts = {name: {} for name in self.names if name not in self.missing}
        waiting = []
        for name, run in pairs:
            path = self._path(name, run)
            if path is not None and path.exists():
                verdicts[name][run.name] = read(path)
            else:
                waiting.append((name, run, path))
        # The long ones first, so that no process works alone at the end.
        waiting.sort(key=lambda task: -len(task[1].loss))
        results = self._map(_judge, waiting, f"judging {what}")
        for (name, run, _), result in zip(waiting, results, strict=True):
            verdicts[name][run.name] = result
        return verdicts

    def make(self, recipes):
        """The organic runs of these recipes."""
        tasks = [(recipe, self._cache and recipe_path(self._cache, recipe)) for recipe in recipes]
        return self._map(_make, tasks, "training")

    def _map(self, function, tasks, what):
        if not tasks:
            return []
        results = self._pool.map(function, tasks)
        return list(tqdm(results, desc=what, total=len(tasks), disable=None))

    def _path(self, name, run):
        if self._cache is None or name == contestants.OURS:
            return None
        arrays = [run.step, run.loss] + ([] if run.grad_norm is None else [run.grad_norm])
        version = contestants.ENTRIES[name].version
        return self._cache / "alarms" / f"{digest(name, version, adapters(), *arrays)}.npz"


def digest(*parts):
    whole = hashlib.sha256()
    for part in parts:
        octets = part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
        whole.update(len(octets).to_bytes(8, "little") + octets)
    return whole.hexdigest()[:32]


@functools.cache
def adapters():
    """The text of what feeds the peers."""
    return [Path(module.__file__).read_text() for module in (contestants, rules)]


def recipe_path(cache, recipe):
    maker = Path(organic.__file__).read_text().partition("FAILING = (")[0]
    return cache / "organic" / f"{digest(recipe, maker, torch.__version__)}.npz"


def read(path):
    with np.load(path) as kept:
        rest = float(kept["seconds"]), int(kept["points"]), str(kept["error"])
        return Verdicts(kept["alarms"], *rest)


def write(path, **arrays):
    """Whole or not at all, also when the bench is stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **arrays)
    part.replace(path)


def judge(contestant, run):
    """Feeds a run to an online contestant, point by point."""
    norms = [None] * len(run.loss) if run.grad_norm is None else run.grad_norm.tolist()
    points = list(zip(run.step.astype(int).tolist(), run.loss.tolist(), norms, strict=True))
    alarms, error, i = [], "", -1
    start = time.thread_time()
    try:
        for i, point in enumerate(points):
            if contestant.update(*point):
                alarms.append(i)
    except Exception as problem:  # noqa: BLE001 - a peer may fail in any way; its row says how
        error = f"{type(problem).__name__}: {problem}".partition("\n")[0]
    return Verdicts(np.array(alarms, dtype=int), time.thread_time() - start, i + 1, error)


def _judge(task):
    name, run, path = task
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    verdicts = judge(contestants.ENTRIES[name].make(len(run.loss)), run)
    if path is not None:
        write(path, **asdict(verdicts))
    return verdicts


def _make(task):
    recipe, path = task
    if path is not None and path.exists():
        with np.load(path) as kept:
            columns = kept["columns"]
    else:
        columns = organic.train(recipe)
        if path is not None:
            write(path, columns=columns)
    loss, grad_norm, update_rms = columns
    step = np.arange(len(loss), dtype=float)
    return Run(recipe.name, step, loss, grad_norm, update_rms=update_rms)
