"""Runs every contestant on every run, in processes, and keeps what came of the peers.

A peer's result is kept in ``benches/.cache`` and used again while the peer, its adapter, the task, the
fault and the loop are the same; Gyrostat's are always made anew.
"""

import functools
import inspect
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from gym import contestants, ours, tasks, training
from gym.faults import CLEAN, FAULTS
from spikes.evaluation import digest

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "gym"
ENTRIES = {**contestants.PEERS, ours.OURS: ours.ENTRY}
CLEAN_SEEDS = 20


@dataclass(frozen=True)
class Run:
    """What is trained, with which fault, from which seed."""

    task: str
    fault: str
    seed: int


def plan(task_names, fault_names, seeds, clean_seeds=CLEAN_SEEDS):
    """Clean runs and those with a fault; seed by seed, so that what is cut short is a whole."""
    everything = []
    for seed in range(max(seeds, clean_seeds)):
        for task in task_names:
            fitting = [fault for fault in fault_names if task in FAULTS[fault].tasks]
            names = [CLEAN.name, *(fitting if seed < seeds else ())]
            everything += [Run(task, name, seed) for name in names]
    return everything


def key(name, run):
    """Changes with whatever can change the result."""
    fault = FAULTS.get(run.fault, CLEAN)
    return digest(
        run,
        ENTRIES[name].version,
        torch.__version__,
        *map(inspect.getsource, (tasks, training)),
        *(_source(kind) for made in (fault, ENTRIES[name].make) for kind in made.__mro__[:-1]),
    )


@functools.cache
def _source(kind):
    return inspect.getsource(kind)


def read(path):
    """Results by key."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text().splitlines())
    return {line.pop("key"): training.Result(**line) for line in lines}


class Field:
    """The contestants that can run here, by name; the reasons of the others are in ``missing``."""

    def __init__(self, names, workers, cache=CACHE):
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, mp_context=context)
        self._cache = cache
        self.names = list(names)
        self.missing = {
            name: reason for name in names if (reason := ENTRIES[name].missing()) is not None
        }

    def train(self, everything):
        """Results by contestant and run."""
        results, waiting = {}, {}
        for name in self.names:
            if name in self.missing:
                continue
            path = self._path(name)
            kept = read(path) if path else {}
            results[name] = {}
            for run in everything:
                known = kept.get(key(name, run)) if path else None
                if known is None:
                    waiting[self._pool.submit(_train, name, run)] = name, run
                else:
                    results[name][run] = known
        done = as_completed(waiting)
        for future in tqdm(done, desc="training", total=len(waiting), disable=None):
            name, run = waiting[future]
            results[name][run] = result = future.result()
            if path := self._path(name):
                path.parent.mkdir(parents=True, exist_ok=True)
                line = json.dumps({"key": key(name, run), **asdict(result)})
                with path.open("a") as file:
                    file.write(line + "\n")
        return results

    def _path(self, name):
        return None if self._cache is None or name == ours.OURS else self._cache / f"{name}.jsonl"


def _train(name, run):
    return training.train(ENTRIES[name].make, run.task, run.fault, run.seed)
