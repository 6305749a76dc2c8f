"""The guard of a distributed run, in real gloo process groups of 2 and of 4."""

import dataclasses
import os
import pickle
import signal
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import gloo
import ranks
from gyrostat.guard import Policy
from gyrostat.integrations.torch import Guard

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")


# Scenarios: they run on every rank, and what they return comes back to the tests below.


def plain_model_is_alone():
    """A model that is neither wrapped nor sharded is guarded by each process for itself."""
    model = ranks.network("plain")
    guard = Guard(model, torch.optim.SGD(model.parameters(), 0.1))
    steps = 3 + dist.get_rank()
    for _ in range(steps):
        loss = model(torch.ones(4, ranks.WIDTH)).mean()
        loss.backward()
        guard.approve(loss)
        guard._subject.drop_gradients()
    return guard.step


def names_are_those_of_the_model():
    model = ranks.network("ddp")
    guard = Guard(model, torch.optim.Adam(model.parameters()))
    model(torch.ones(4, ranks.WIDTH)).mean().backward()
    return list(guard._subject.gradients(None).norms), list(guard._subject.weight_extremes())


def sharded_norms_are_those_of_the_whole():
    model = ranks.network("fsdp")
    guard = Guard(model, torch.optim.Adam(model.parameters()))
    loss = model(torch.randn(6, ranks.WIDTH) + dist.get_rank()).square().mean()
    loss.backward()
    guard.approve(loss)
    whole = [p.grad.full_tensor().double().norm().item() for p in model.parameters()]
    return (
        guard.report().sections[0].series["loss"][0],
        loss.item(),
        (
            guard.report().sections[1].series["grad_norm"][0],
            float(torch.tensor(whole, dtype=torch.float64).norm()),
        ),
    )


def sharded_state_goes_round(model=None):
    """What was captured comes back to the bit, and does not change with the run."""
    model = ranks.network("fsdp")
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    guard = Guard(model, optimizer)

    def step():
        model(torch.ones(4, ranks.WIDTH)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def state():
        held = [p.full_tensor() for p in model.parameters()]
        held += [t.full_tensor() for s in optimizer.state.values() for t in s.values() if t.ndim]
        return [t.detach().clone() for t in held]

    fresh = guard._subject.capture()
    step()
    before, captured = state(), guard._subject.capture()
    for _ in range(2):
        step()
        guard._subject.restore(captured)
        assert all(map(torch.equal, before, state()))
    guard._subject.restore(fresh)
    assert not optimizer.state
    return True


def policies_differ():
    model = ranks.network("ddp")
    policy = "recover" if dist.get_rank() else "observe"
    Guard(model, torch.optim.Adam(model.parameters()), policy=policy)


def one_rank_asks_once_less():
    model = ranks.network("ddp")
    guard = Guard(model, torch.optim.Adam(model.parameters()))
    for i in range(3):
        loss = model(torch.ones(4, ranks.WIDTH)).mean()
        loss.backward()
        if i == 1 and dist.get_rank() == 0:
            continue
        guard.approve(loss)


def journals_are_apart(folder=None):
    model = ranks.network("ddp")
    guard = Guard(model, torch.optim.Adam(model.parameters()), run_dir=os.environ["RUN_DIR"])
    loss = model(torch.full((4, ranks.WIDTH), torch.nan)).mean()
    loss.backward()
    guard.approve(loss)
    return len(guard.incidents)


def loops_of_ones_own():
    """Without guard.batches: snapshots are taken, and a damaged weight is undone."""
    torch.manual_seed(0)
    model = ranks.network("ddp")
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    policy = Policy(snapshot_every=5, healthy_after=2)
    guard = Guard(model, optimizer, policy=policy)
    for i, (x, y) in enumerate(ranks.batches(30, 0)):
        if i == 25 and dist.get_rank() == 1:
            with torch.no_grad():
                next(model.parameters())[0, 0] = torch.nan
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        if guard.approve(loss):
            optimizer.step()
        optimizer.zero_grad()
    return [(i.step, i.action, i.restored_step) for i in guard.incidents], ranks.digest(model)
