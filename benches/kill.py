"""Runs that are killed at random moments and resumed, beside the one that was not killed.

    uv run --extra torch python benches/kill.py --points 100

A small training with shuffling, augmentation, dropout, AdamW, a cosine schedule, a sample of NaN
and one weight that is corrupted on the way: its guard skips and rolls back. Each point is a run
in a folder of its own, killed by SIGKILL after a random time and started again; one that was
faster than the kill is done again. It counts if weights, optimizer, schedule, random numbers and
the guard's own state end with the same bits, if the journal tells the same incidents, and if
journal and registry could be read after the kill.
"""

import argparse
import hashlib
import itertools
import json
import logging
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from gyrostat.guard import Journal, Policy
from gyrostat.guard.left_out import read_left_out
from gyrostat.integrations.torch import Guard

EPOCHS, SAMPLES, BATCH = 5, 640, 16
POLICY = Policy(snapshot_every=12, checkpoint_every=12)
CORRUPTED_AT = 100  # by the guard's count of steps, so that it happens once


class Noisy(Dataset):
    """A linear map, with inputs that are augmented at each access; one sample is NaN."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(SAMPLES, 16, generator=generator)
        self.y = self.x @ torch.randn(16, 1, generator=generator)
        self.x[123] = torch.nan

    def __len__(self):
        return SAMPLES

    def __getitem__(self, i):
        return self.x[i] + 0.01 * torch.randn(16), self.y[i]


def build():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the generator that training loops draw from
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    steps = EPOCHS * SAMPLES // BATCH
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return model, optimizer, scheduler, DataLoader(Noisy(), BATCH, shuffle=True)


def train(run_dir):
    """Trains to the end and writes what came out to ``end.json``."""
    model, optimizer, scheduler, loader = build()
    guard = Guard(model, optimizer, scheduler, policy=POLICY, run_dir=run_dir)
    resumed_at = guard.step if guard.resume() else 0
    for _ in range(guard.next_epoch, EPOCHS):
        for x, y in guard.batches(loader):
            if guard.step == CORRUPTED_AT:
                with torch.no_grad():
                    model[0].weight[3, 5] *= 2.0**40
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            if guard.approve(loss):
                optimizer.step()
                scheduler.step()
            optimizer.zero_grad()
    parts = (model, optimizer, scheduler, guard)
    end = {
        "bits": digest([part.state_dict() for part in parts] + [torch.get_rng_state()]),
        "incidents": [{**i.to_dict(), "time": 0} for i in guard.incidents],
    }
    (run_dir / "end.json").write_text(json.dumps([end, resumed_at]), "utf-8")


def warm_up():
    """Has torch import what its first step imports, for all children at once.

    Without a backward pass, since its threads would not live on in a child.
    """
    model, optimizer, _, _ = build()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def digest(state):
    """A hash of nested state, down to the bits of its tensors."""
    found = hashlib.sha256()

    def add(value):
        if isinstance(value, Mapping):
            for key, inner in value.items():
                found.update(repr(key).encode())
                add(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                add(inner)
        elif isinstance(value, torch.Tensor):
            found.update(value.detach().numpy().tobytes())
        else:
            found.update(repr(value).encode())

    add(state)
    return found.hexdigest()


def survive(run_dir, moments):
    """Starts a run, kills it after each of ``moments`` in seconds, and lets it end.

    Returns:
        What came out, the step that the last start went on from, and how many kills came before the
        run had ended.
    """
    run_dir.mkdir()
    fork = multiprocessing.get_context("fork")  # what was imported need not be imported again
    kills = 0
    for moment in [*moments, None]:
        process = fork.Process(target=train, args=(run_dir,))
        process.start()
        process.join(moment)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            check_files(run_dir)
        elif process.exitcode:
            raise RuntimeError(f"the run in {run_dir} failed")
        else:
            break
    return *json.loads((run_dir / "end.json").read_text("utf-8")), kills


def check_files(run_dir):
    """Raises if a kill has made the journal or the registry unreadable, but for the last line."""
    for name, read in (("journal.jsonl", Journal.read), ("left-out.jsonl", read_left_out)):
        path = run_dir / name
        if path.exists():
            read(path)
            for line in path.read_bytes().split(b"\n")[:-1]:
                if line:
                    json.loads(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--kills", type=int, default=1, help="kills of each run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("gyrostat").setLevel(logging.ERROR)
    warm_up()
    chance = random.Random(args.seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        expected, *_ = survive(Path(folder) / "whole", [])
        length = time.perf_counter() - began
        actions = sorted({i["action"] for i in expected["incidents"]})
        print(f"not killed: {length:.2f} s, {len(expected['incidents'])} incidents: {actions}")
        runs = same = total = midway = 0
        for attempt in itertools.count():
            if runs == args.points:
                break
            moments = [chance.uniform(0, length) for _ in range(args.kills)]
            end, resumed_at, kills = survive(Path(folder) / str(attempt), moments)
            if not kills:
                length = min(length, moments[0])
                continue
            runs += 1
            total += kills
            midway += resumed_at > 0
            same += end == expected
            if end != expected:
                print(f"killed after {moments} s: another end")
    print(f"{same} of {runs} runs, killed {total} times, ended with the same bits")
    print(f"{midway} of them went on from a checkpoint past step 0")
    return 0 if same == runs else 1


if __name__ == "__main__":
    sys.exit(main())
