"""The guard of a distributed run, in real gloo process groups of 2 and of 4."""

import dataclasses
import multiprocessing
import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
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
    for _ in range(3 + dist.get_rank()):
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


def sharded_state_goes_round():
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


def one_rank_does_not_ask():
    """As a loop does that passes over a loss it does not like."""
    model = ranks.network("ddp")
    guard = Guard(model, torch.optim.Adam(model.parameters()))
    for i, (x, _) in enumerate(guard.batches(ranks.batches(4, 0))):
        loss = model(x).mean()
        loss.backward()
        if i == 1 and dist.get_rank() == 0:
            continue
        guard.approve(loss)


@dataclasses.dataclass
class Journals:
    """One bad step with a folder for the journals."""

    folder: str
    __name__ = "journals"

    def __call__(self):
        model = ranks.network("ddp")
        guard = Guard(model, torch.optim.Adam(model.parameters()), run_dir=self.folder)
        loss = model(torch.full((4, ranks.WIDTH), torch.nan)).mean()
        loss.backward()
        guard.approve(loss)
        return len(guard.incidents)


def loop_of_ones_own():
    """Without guard.batches."""
    torch.manual_seed(0)
    model = ranks.network("ddp")
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    guard = Guard(model, optimizer, policy=Policy(snapshot_every=5, healthy_after=2))
    for i, (x, y) in enumerate(ranks.batches(30, 0)):
        if i == 25 and dist.get_rank() == 1:
            with torch.no_grad():
                next(model.parameters())[0, 0] = torch.nan
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        if guard.approve(loss):
            optimizer.step()
        optimizer.zero_grad()
    return [(i.step, str(i.action), i.restored_step) for i in guard.incidents], ranks.digest(model)


SCENARIOS = [
    plain_model_is_alone,
    names_are_those_of_the_model,
    sharded_norms_are_those_of_the_whole,
    sharded_state_goes_round,
    policies_differ,
    one_rank_does_not_ask,
    loop_of_ones_own,
]
ON_TWO = [
    ranks.Case("nan-batch", "ddp"),
    ranks.Case("corrupted-weight", "fsdp"),
    ranks.Case("nan-loss-in-a-row", "ddp"),
    ranks.Case("uneven-loaders", "ddp"),
    ranks.Case("nan-gradient", "fsdp", lag=1),
    ranks.Case("huge-targets", "ddp", lag=1),
]
ON_FOUR = [
    ranks.Case("nan-batch", "fsdp"),
    ranks.Case("huge-gradient", "ddp"),
    ranks.Case("optimizer-memory", "fsdp"),
    ranks.Case("corrupted-weight", "ddp", lag=1),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(folder, tmp_path_factory):
    scenarios = [*SCENARIOS, Journals(str(folder)), *ON_TWO]
    return gloo.run(2, scenarios, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return gloo.run(4, ON_FOUR, tmp_path_factory.mktemp("four"))


def name_of(case):
    return case.__name__


def test_a_plain_model_is_guarded_alone(two):
    assert two["plain_model_is_alone"] == [3, 4]


def test_names_are_those_of_the_model(two):
    gradients, weights = two["names_are_those_of_the_model"][0]
    expected = [f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")]
    assert gradients == weights == expected


def test_sharded_norms_are_those_of_the_whole(two):
    told = two["sharded_norms_are_those_of_the_whole"]
    losses = [loss for _, loss, _ in told]
    for mean, _, (norm, whole) in told:
        assert mean == pytest.approx(sum(losses) / 2, rel=1e-12)
        assert norm == pytest.approx(whole, rel=1e-6)


def test_sharded_state_goes_round(two):
    assert two["sharded_state_goes_round"] == [True, True]


def test_another_policy_on_one_rank_is_refused_on_all(two):
    for raised in two["policies_differ"]:
        assert raised.kind == "ValueError"
        assert raised.message.startswith("policy: expected the same on every rank")
        assert "observe" in raised.message


def test_ranks_that_are_not_at_the_same_step_are_told(two):
    for raised in two["one_rank_does_not_ask"]:
        assert raised.kind == "RuntimeError"
        assert "rank 0 goes to step 1, rank 1 judges step 1" in raised.message


def test_each_rank_has_a_journal(two, folder):
    assert two["journals"] == [1, 1]
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("journal.jsonl")) == [
        "journal.jsonl",
        "rank-1/journal.jsonl",
    ]


def test_a_loop_without_batches_goes_back_on_all_ranks(two):
    (incidents, (weights, finite)), other = two["loop_of_ones_own"]
    assert ([*incidents], (weights, finite)) == (other[0], other[1])
    assert finite
    ((step, action, restored),) = incidents
    assert (step, action) == (25, "rollback")
    assert restored < 25


@pytest.mark.parametrize("case", ON_TWO, ids=name_of)
def test_two_ranks_decide_the_same(two, case):
    runs = two[case.__name__]
    assert ranks.problems(runs) == []
    assert runs[0].decisions
    if case.fault not in {"lr-jump", "huge-gradient"}:
        assert runs[0].blamed == (1,)


@pytest.mark.parametrize("case", ON_FOUR, ids=name_of)
def test_four_ranks_decide_the_same(four, case):
    runs = four[case.__name__]
    assert ranks.problems(runs) == []
    assert runs[0].blamed == (1,)


def test_what_is_done_about_it(two, four):
    def actions(told, *case, **lag):
        return told[ranks.Case(*case, **lag).__name__][0].actions

    assert actions(two, "nan-batch", "ddp") == ["skip"]
    assert actions(four, "nan-batch", "fsdp") == ["skip"]
    assert actions(two, "corrupted-weight", "fsdp") == ["rollback"]
    assert actions(four, "corrupted-weight", "ddp", lag=1) == ["rollback"]
    assert actions(four, "optimizer-memory", "fsdp") == ["reset-momentum"]
    assert actions(two, "nan-gradient", "fsdp", lag=1) == ["skip"]
    assert actions(two, "huge-targets", "ddp", lag=1) == ["rollback"]
    assert actions(four, "huge-gradient", "ddp") == ["skip"]


def test_the_epoch_ends_with_the_shortest_loader(two):
    assert [run.steps for run in two["uneven-loaders ddp 0 0"]] == [ranks.STEPS - 4] * 2


# A rank that is killed


def _until_killed(rank, world, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.manual_seed(0)
    model = ranks.network("ddp")
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    guard = Guard(model, optimizer)
    try:
        for i, (x, y) in enumerate(guard.batches(ranks.batches(20, 0))):
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            if i == 7 and rank == world - 1:
                (folder / "killed").write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)
            if guard.approve(loss):
                optimizer.step()
            optimizer.zero_grad()
    except RuntimeError as error:
        (folder / f"{rank}.txt").write_text(f"{time.time()}\n{error}")
    os._exit(0)  # as a process that an error ends: at once, without a word to the others


@pytest.mark.parametrize("world", [2, 4])
def test_a_killed_rank_leaves_nobody_waiting(world, tmp_path):
    multiprocessing.set_forkserver_preload(gloo._IMPORTED_ONCE)
    context = multiprocessing.get_context("forkserver" if gloo._FORKS else "spawn")
    processes = [
        context.Process(target=_until_killed, args=(rank, world, tmp_path)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive
    assert processes[-1].exitcode == -signal.SIGKILL
    killed = float((tmp_path / "killed").read_text())
    for rank in range(world - 1):
        raised, _, message = (tmp_path / f"{rank}.txt").read_text().partition("\n")
        assert float(raised) - killed < 10
        assert message.startswith(f"step 7: rank {rank} waits in vain for the other ranks")
