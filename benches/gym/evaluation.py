"""Every contestant on every run, in processes, and what came of the peers is kept.

A peer's result is kept in ``benches/.cache`` and used again while the peer, its adapter, the task,
the fault and the loop are the same; so is Gyrostat's while every byte of it is.
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
COMPETING = {**contestants.PEERS, ours.OURS: ours.ENTRY}
ENTRIES = {**COMPETING, **contestants.COSTS}
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
        results = {name: {} for name in self.names if name not in self.missing}
        kept = {name: read(path) if (path := self._path(name)) else {} for name in results}
        waiting = {}
        for run in everything:
            for name, of_name in results.items():
                mark = key(name, run)
                if mark in kept[name]:
                    of_name[run] = kept[name][mark]
                else:
                    waiting[self._pool.submit(_train, name, run)] = name, run, mark
        done = as_completed(waiting)
        for future in tqdm(done, desc="training", total=len(waiting), disable=None):
            name, run, mark = waiting[future]
            results[name][run] = result = future.result()
            if path := self._path(name):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a") as file:
                    file.write(json.dumps({"key": mark, **asdict(result)}) + "\n")
        return results

    def _path(self, name):
        if self._cache is None:
            return None
        return self._cache / f"{name.replace(' ', '-')}.jsonl"


def _train(name, run):
    return training.train(ENTRIES[name].make, run.task, run.fault, run.seed)
