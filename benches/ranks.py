"""Faults on one rank of many: do all ranks decide the same, and does none of them hang?

    make bench-ranks

Short trainings of a small network under ``DistributedDataParallel`` and ``fully_shard``, in real
gloo groups of 2 and 4 processes, each with one fault. What is checked is that every rank took the
same decisions at the same steps, made as many steps, and that replicas ended with the same bits.
"""

import argparse
import itertools
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import gloo
from gyrostat.guard import Policy
from gyrostat.integrations.torch import Guard

STEPS, ROWS, WIDTH = 50, 16, 12
POLICY = Policy(snapshot_every=10, healthy_after=3)
SEEDS = range(4)
KINDS = ("ddp", "fsdp")
FAULTS = (
    "nan-batch",
    "inf-sample",
    "huge-targets",
    "huge-gradient",
    "nan-gradient",
    "corrupted-weight",
    "nan-weight",
    "lr-jump",
    "lr-jump-on-one-rank",
    "optimizer-memory",
    "slow-rank",
    "bad-batches-in-a-row",
    "nan-loss-in-a-row",
    "uneven-loaders",
)


@dataclass
class Run:
    """What one rank has to tell of a run."""

    steps: int
    decisions: list  # (step, action, proposed, codes, ranks)
    weights: str  # of the whole model, or of a replica of it
    finite: bool
    fault: str
    faulty: int  # the rank that had it

    @property
    def codes(self) -> set:
        return {code for decision in self.decisions for code in decision[3]}

    @property
    def actions(self) -> list:
        return [decision[1] for decision in self.decisions]

    @property
    def blamed(self) -> tuple:
        """The ranks that the first finding to name any named."""
        return next((tuple(decision[4]) for decision in self.decisions if decision[4]), ())


def network(kind: str) -> nn.Module:
    model = nn.Sequential(
        nn.Linear(WIDTH, 24), nn.SiLU(), nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, 1)
    )
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if kind == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for layer in model[::2]:
            fully_shard(layer)
        return fully_shard(model)
    return model


def batches(steps: int, seed: int) -> list:
    """The batches of this rank."""
    draw = torch.Generator().manual_seed(1000 * seed + dist.get_rank())
    made = []
    for _ in range(steps):
        x = torch.randn(ROWS, WIDTH, generator=draw)
        y = x[:, :1] * x[:, 1:2] + 0.1 * torch.randn(ROWS, 1, generator=draw)
        made.append((x, y))
    return made


def local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def largest_here(tensors: Any) -> torch.Tensor:
    """The tensor with the most values on this rank."""
    return max((local(t) for t in tensors), key=torch.Tensor.numel)


def digest(model: nn.Module) -> tuple[str, bool]:
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    flat = torch.cat([t.detach().reshape(-1) for t in whole])
    return flat.numpy().tobytes().hex()[-4096:], bool(flat.isfinite().all())


def bad_data(data: list, fault: str, at: int) -> list:
    """The batches of the faulty rank, where the fault is one of the data."""
    x, y = data[at]
    match fault:
        case "nan-batch" | "slow-rank" | "uneven-loaders":
            data[at] = (torch.full_like(x, torch.nan), y)
        case "inf-sample":
            data[at] = (x.index_fill(0, torch.tensor([3]), torch.inf), y)
        case "huge-targets":
            data[at] = (x, 1e4 * y + 1e4)
        case "bad-batches-in-a-row":
            for i in range(at, at + 5):
                data[i] = (data[i][0], data[i][1] * torch.nan)
    return data[:-4] if fault == "uneven-loaders" else data


@torch.no_grad()
def strike(fault: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A fault of the machine on this rank, between the backward pass and the update."""
    match fault:
        case "corrupted-weight":
            largest_here(model.parameters()).view(-1)[0] = 1e6
        case "nan-weight":
            largest_here(model.parameters()).view(-1)[0] = torch.nan
        case "huge-gradient":
            largest_here(p.grad for p in model.parameters()).view(-1)[0] = 1e8
        case "nan-gradient":
            largest_here(p.grad for p in model.parameters()).view(-1)[0] = torch.nan
        case "optimizer-memory":
            largest_here(s["exp_avg_sq"] for s in optimizer.state.values()).mul_(1e-12)
        case "lr-jump-on-one-rank":
            optimizer.param_groups[0]["lr"] *= 100


def train(fault: str, kind: str, seed: int = 0, *, lag: int = 0, policy: Policy = POLICY) -> Run:
    """One run with one fault; every rank calls it."""
    torch.manual_seed(seed)
    faulty = (seed + 1) % dist.get_world_size()
    here = dist.get_rank() == faulty
    at = 25 + 3 * seed
    data = batches(STEPS, seed)
    if here:
        data = bad_data(data, fault, at)
    model = network(kind)
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    guard = Guard(model, optimizer, policy=policy, lag=lag)
    steps, struck = 0, False
    for x, y in guard.batches(data):
        now = steps == at and not struck
        struck |= now
        if here and fault == "slow-rank" and at - 2 <= steps <= at + 2:
            time.sleep(0.05)
        loss = nn.functional.mse_loss(model(x), y)
        if here and fault == "nan-loss-in-a-row" and at <= steps < at + 4:
            loss = loss * torch.nan
        loss.backward()
        if now and here:
            strike(fault, model, optimizer)
        if now and fault == "lr-jump":
            optimizer.param_groups[0]["lr"] *= 100
        if guard.approve(loss):
            optimizer.step()
        optimizer.zero_grad()
        steps += 1
    guard.settle()
    decisions = [
        (
            i.step,
            str(i.action),
            str(i.proposed),
            tuple(f.code for f in i.findings),
            sorted({r for f in i.findings for r in f.culprit.ranks}),
        )
        for i in guard.incidents
    ]
    return Run(steps, decisions, *digest(model), fault, faulty)


def problems(runs: list) -> list[str]:
    """What is wrong with the runs of all ranks of one training."""
    if raised := [r for r in runs if isinstance(r, gloo.Raised)]:
        return [f"raised {raised[0].kind}: {raised[0].message}"]
    first, told = runs[0], []
    if any(run.decisions != first.decisions for run in runs):
        told.append("decisions differ")
    if any(run.steps != first.steps for run in runs):
        told.append("numbers of steps differ")
    # Rates that are not the same on all ranks are told: they have to come from the schedule.
    apart = first.fault == "lr-jump-on-one-rank"
    if not apart and any(run.weights != first.weights for run in runs):
        told.append("weights differ")
    if not all(run.finite for run in runs):
        told.append("weights are not finite")
    return told


@dataclass(frozen=True)
class Case:
    """A training as :func:`gloo.run` takes it."""

    fault: str
    kind: str
    seed: int = 0
    lag: int = 0

    @property
    def __name__(self) -> str:
        return f"{self.fault} {self.kind} {self.seed} {self.lag}"

    def __call__(self) -> Run:
        return train(self.fault, self.kind, self.seed, lag=self.lag)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="runs of each kind")
    parser.add_argument("--lag", type=int, default=0, choices=(0, 1))
    options = parser.parse_args()
    total = Counter()
    print(f"| fault (lag={options.lag}) | runs | same decisions | found | right rank | actions |")
    print("| --- | --- | --- | --- | --- | --- |")
    table = {fault: Counter() for fault in FAULTS}
    actions = {fault: Counter() for fault in FAULTS}
    began = time.perf_counter()
    for world in (2, 4):
        of_each = itertools.product(FAULTS, KINDS, range(options.seeds))
        cases = [Case(*one, options.lag) for one in of_each]
        with tempfile.TemporaryDirectory() as folder:
            told = gloo.run(world, cases, Path(folder), limit=3600)
        for case in cases:
            runs = told[case.__name__]
            wrong = problems(runs)
            row = table[case.fault]
            row["runs"] += 1
            row["same"] += not wrong
            if wrong:
                print(f"{case.__name__} on {world} ranks: {'; '.join(wrong)}")
                continue
            row["found"] += bool(runs[0].decisions)
            row["named"] += runs[0].blamed == (runs[0].faulty,)
            actions[case.fault].update(runs[0].actions)
    for fault, row in table.items():
        total.update(row)
        done = ", ".join(f"{action} {n}" for action, n in actions[fault].most_common())
        counts = " | ".join(str(row[column]) for column in ("runs", "same", "found", "named"))
        print(f"| {fault} | {counts} | {done} |")
    seconds = time.perf_counter() - began
    print(f"\n{total['same']} of {total['runs']} runs alike on all ranks, {seconds:.0f} s")


if __name__ == "__main__":
    main()
