"""lag=1: each step judged at the next, and undone where it has to be."""

import math

import pytest
import torch
from torch import nn

from gyrostat.guard import Policy
from gyrostat.integrations.torch import Guard

POLICY = Policy(snapshot_every=5, healthy_after=3)
WIDTH = 6


def network(*, norm=False):
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, 16), nn.BatchNorm1d(16) if norm else nn.Tanh(), nn.Linear(16, 1)]
    return nn.Sequential(*layers)


def batches(n=40):
    draw = torch.Generator().manual_seed(1)
    xs = torch.randn(n, 8, WIDTH, generator=draw)
    return [(x, x[:, :1] + 0.1 * torch.randn(8, 1, generator=draw)) for x in xs]


def run(data, *, lag=1, norm=False, before_update=None, policy=POLICY, settle=True):
    model = network(norm=norm)
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    guard = Guard(model, optimizer, policy=policy, lag=lag)
    for i, (x, y) in enumerate(guard.batches(data)):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        if before_update is not None:
            before_update(i, optimizer)
        if guard.approve(loss):
            optimizer.step()
        optimizer.zero_grad()
    if settle:
        guard.settle()
    return model, guard


def same(one, other):
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_healthy_run_is_left_alone():
    model, guard = run(batches())
    plain, judged = run(batches(), lag=0)
    assert same(model, plain)
    assert guard.incidents == ()
    assert [f.code for f in guard.findings] == [f.code for f in judged.findings]
    late, now = (g.report().sections for g in (guard, judged))
    assert late[0].series["loss"] == pytest.approx(now[0].series["loss"], rel=1e-12)
    assert late[1].series["grad_norm"] == pytest.approx(now[1].series["grad_norm"], rel=1e-6)


def test_nan_is_kept_out_of_weights_and_buffers_on_the_device():
    data = batches()
    data[25] = (data[25][0] * torch.nan, data[25][1])
    model, guard = run(data, norm=True)
    (incident,) = guard.incidents
    assert (incident.step, incident.action) == (25, "skip")
    assert incident.batch in guard.bad_batches
    assert incident.position == (0, 25)
    assert all(t.isfinite().all() for t in model.state_dict().values())
    # What is left of the update is that of a gradient of zeros, nothing else.
    twin = network(norm=True)
    optimizer = torch.optim.Adam(twin.parameters(), 0.003)
    for i, (x, y) in enumerate(data):
        kept = [b.clone() for b in twin.buffers()]
        nn.functional.mse_loss(twin(x), y).backward()
        if i == 25:
            for p in twin.parameters():
                p.grad.zero_()
            for b, before in zip(twin.buffers(), kept, strict=True):
                b.copy_(before)
        optimizer.step()
        optimizer.zero_grad()
    assert same(model, twin)


@pytest.mark.parametrize("at", [22, 24, 25, 26, 39])
def test_a_finite_bad_update_is_undone(at):
    """The run ends as if the batch had never been there, wherever the snapshots lie."""
    data = batches()
    good = data[:at] + data[at + 1 :]
    data[at] = (data[at][0], data[at][1] * 1e4 + 1e4)
    model, guard = run(data, settle=False)
    verdict = guard.settle()
    assert bool(verdict) == (at < 39)
    (incident,) = guard.incidents
    assert (incident.step, incident.action, incident.proposed) == (at, "rollback", "skip")
    assert incident.restored_step <= at
    expected, _ = run(good[: incident.restored_step] if at == 39 else good)
    assert same(model, expected)


def test_weights_that_the_bad_update_ruined_do_not_excuse_its_batch():
    data = batches()
    data[25] = (data[25][0] * 1e3, data[25][1] * 1e6)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    guard = Guard(model, optimizer, policy=POLICY, lag=1)
    for x, y in guard.batches(data):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        if guard.approve(loss):
            optimizer.step()
        optimizer.zero_grad()
    (incident,) = guard.incidents
    assert (incident.step, incident.action) == (25, "rollback")
    assert guard.bad_batches == {incident.batch}


def test_a_weight_damaged_by_something_else_is_seen():
    def damage(i, optimizer):
        if i == 25:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0][0, 0] = torch.nan

    model, guard = run(batches(), before_update=damage)
    (incident,) = guard.incidents
    assert (incident.step, incident.action) == (26, "rollback")
    assert "weight-not-finite" in {f.code for f in incident.findings}
    assert guard.bad_batches == frozenset()
    assert same(model, run(batches())[0])


def test_a_wrong_learning_rate_is_found_before_its_update():
    def jump(i, optimizer):
        if i == 25:
            optimizer.param_groups[0]["lr"] *= 1000

    model, guard = run(batches(), before_update=jump)
    plain, _ = run(batches())
    assert [i.action for i in guard.incidents] == ["lower-lr"]
    weights, expected = (torch.cat([p.flatten() for p in m.parameters()]) for m in (model, plain))
    torch.testing.assert_close(weights, expected)


def test_an_observed_run_is_not_touched():
    data = batches()
    data[25] = (data[25][0] * torch.nan, data[25][1])
    model, guard = run(data, policy="observe")
    assert all(p.isnan().any() for p in model.parameters())
    assert guard.incidents[0].proposed == "skip"


def test_a_loop_of_ones_own_goes_back():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    guard = Guard(model, optimizer, policy=POLICY, lag=1)
    verdicts = []
    for i, (x, y) in enumerate(batches()):
        loss = nn.functional.mse_loss(model(x), y * 1e4 + 1e4 if i == 25 else y)
        loss.backward()
        verdicts.append(guard.approve(loss))
        if verdicts[-1]:
            optimizer.step()
        optimizer.zero_grad()
    assert [i for i, verdict in enumerate(verdicts) if not verdict] == [26]
    assert [(i.step, i.action, i.restored_step) for i in guard.incidents] == [(25, "rollback", 20)]


def test_the_last_step_waits_to_be_settled():
    data = batches(26)
    data[25] = (data[25][0] * torch.nan, data[25][1])
    _, guard = run(data, settle=False)
    assert guard.incidents == ()
    assert {"loss-not-finite", "gradient-not-finite"} <= {f.code for f in guard.settle().findings}
    assert [i.action for i in guard.incidents] == ["skip"]
    assert guard.settle().findings == ()


def test_loss_and_gradients_are_not_read_by_the_host(monkeypatch):
    """On a device each of these would make the host wait."""
    model = network(norm=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    guard = Guard(model, optimizer, policy=Policy(snapshot_every=100), lag=1)
    read = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "numpy"):
        method = getattr(torch.Tensor, name)

        def noted(tensor, *args, _method=method, **kwargs):
            read.append(tensor.data_ptr())
            return _method(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, noted)
    for x, y in batches(30):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        read.clear()
        assert guard.approve(loss)
        here = {loss.data_ptr(), *(p.grad.data_ptr() for p in model.parameters())}
        here |= {b.data_ptr() for b in model.buffers()}
        assert here.isdisjoint(read)
        optimizer.step()
        optimizer.zero_grad()
    assert read  # the result of the step before


@pytest.mark.parametrize("loss", [torch.ones(2), torch.ones((), dtype=torch.complex64), "low"])
def test_a_loss_must_be_one_number(loss):
    guard = Guard(model := network(), torch.optim.SGD(model.parameters(), 0.1), lag=1)
    with pytest.raises(TypeError, match=r"loss: expected one real number"):
        guard.approve(loss)


def test_a_loss_may_be_a_float():
    guard = Guard(model := network(), torch.optim.SGD(model.parameters(), 0.1), lag=1)
    guard.approve(1.0)
    guard.approve(math.nan)
    assert "loss-not-finite" in {f.code for f in guard.settle().findings}


def test_what_does_not_go_together_is_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"lag: expected 0 or 1, got 2"):
        Guard(model, optimizer, lag=2)
    with pytest.raises(ValueError, match=r"policy: "):
        Guard(model, optimizer, policy=Policy(snapshots_kept=1), lag=1)
    with pytest.raises(ValueError, match=r"lag: "):
        Guard(model, optimizer, scaler=torch.amp.GradScaler("cpu"), lag=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_a_gpu():
    model = network().cuda()
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    guard = Guard(model, optimizer, policy=Policy(snapshot_every=1000), lag=1)
    for i, (x, y) in enumerate(guard.batches(batches())):
        x, y = x.cuda(), y.cuda()  # noqa: PLW2901
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        if i > 0:
            torch.cuda.set_sync_debug_mode("error")
        try:
            verdict = guard.approve(loss)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        if verdict:
            optimizer.step()
        optimizer.zero_grad()
    assert guard.incidents == ()
