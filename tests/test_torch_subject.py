"""A PyTorch model and its optimizer as the guard sees them."""

import math

import pytest
import torch
from torch import nn

from gyrostat.guard import Action, Policy
from gyrostat.integrations.torch import Guard
from gyrostat.integrations.torch.subject import TorchSubject


def make(optimizer=torch.optim.Adam, lr=1e-2, **kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    made = optimizer(model.parameters(), lr=lr, **kwargs)
    return model, made, TorchSubject(model, made)


def backward(model, x=None):
    x = torch.randn(16, 4) if x is None else x
    loss = model(x).square().mean()
    loss.backward()
    return loss


def train(model, optimizer, steps=3):
    for _ in range(steps):
        backward(model)
        optimizer.step()
        optimizer.zero_grad()


# Stale gradients


def test_gradients_that_were_never_cleared_are_stale():
    model, optimizer, subject = make()
    backward(model)
    assert not subject.stale_gradients()
    optimizer.step()
    backward(model)
    assert subject.stale_gradients()


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_loop_that_clears_them_is_no_alarm(to_none, micro_batches):
    model, optimizer, subject = make()
    for _ in range(5):
        for _ in range(micro_batches):
            backward(model)
            assert not subject.stale_gradients()
        optimizer.step()
        optimizer.zero_grad(set_to_none=to_none)


def test_micro_batches_of_which_the_first_is_added_to_the_last_update_are_an_alarm():
    model, optimizer, subject = make()
    seen = []
    for _ in range(3):
        for _ in range(2):
            backward(model)
        seen.append(subject.stale_gradients())
        optimizer.step()
    assert seen == [False, True, True]


def test_a_skipped_update_is_no_stale_gradient_if_the_loop_clears():
    model, optimizer, subject = make()
    train(model, optimizer)
    backward(model)
    subject.drop_gradients()
    backward(model)
    assert not subject.stale_gradients()


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_guard_clears_what_the_loop_does_not(micro_batches):
    model, optimizer, _ = make(torch.optim.SGD, 1e-3)
    guard = Guard(model, optimizer)
    batches = [torch.randn(16, 4) for _ in range(30)]
    verdicts = []
    for i, x in enumerate(guard.batches(batches)):
        loss = backward(model, x)
        if i % micro_batches:
            continue
        verdicts.append(guard.approve(loss))
        if verdicts[-1]:
            optimizer.step()
    codes = [[f.code for f in v.findings] for v in verdicts]
    assert [i for i, c in enumerate(codes) if "stale-gradient" in c] == [1]
    assert verdicts[1].action is Action.SKIP
    assert all(verdicts[2:])
    assert guard.hypotheses[0].code == "cause-missing-zero-grad"
    assert guard.bad_batches == frozenset()


# Buffers


def test_running_statistics_are_as_if_a_skipped_batch_had_never_come():
    model, optimizer, _ = make()
    guard = Guard(model, optimizer)
    batches = [torch.randn(16, 4) for _ in range(30)]
    batches[20] = torch.full((16, 4), math.nan)
    norm = model[1]
    for i, x in enumerate(guard.batches(batches)):
        before = {n: b.clone() for n, b in norm.named_buffers()}
        loss = backward(model, x)
        verdict = guard.approve(loss)
        kept = all(torch.equal(b, before[n]) for n, b in norm.named_buffers())
        assert (i == 20) == (not verdict) == kept
        if verdict:
            optimizer.step()
        optimizer.zero_grad()
    assert norm.num_batches_tracked == 29
    assert all(torch.isfinite(b).all() for b in norm.buffers())


def test_a_model_without_buffers_and_one_that_got_new_ones():
    model = nn.Linear(2, 1)
    subject = TorchSubject(model, torch.optim.SGD(model.parameters(), 0.1))
    subject.hold_buffers()
    subject.restore_buffers()
    model.register_buffer("mean", torch.ones(2))
    subject.hold_buffers()
    model.mean.fill_(5)
    subject.restore_buffers()
    assert model.mean.tolist() == [1, 1]


# The optimizer's memory


def test_the_memory_is_put_back_and_rate_and_weights_stay():
    model, optimizer, subject = make()
    train(model, optimizer)
    state = subject.capture()
    then = {n: optimizer.state[p]["exp_avg_sq"].clone() for n, p in model.named_parameters()}
    train(model, optimizer)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.param_groups[0]["weight_decay"] = 0.25
    optimizer.state[model[0].weight]["exp_avg_sq"].zero_()
    weights = [p.detach().clone() for p in model.parameters()]
    subject.restore_optimizer(state)
    now = {n: optimizer.state[p]["exp_avg_sq"] for n, p in model.named_parameters()}
    assert all(torch.equal(now[n], then[n]) for n in then)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert all(map(torch.equal, weights, model.parameters()))
    # The captured state stays as it was, whatever the optimizer does next.
    train(model, optimizer)
    subject.restore_optimizer(state)
    now = {n: optimizer.state[p]["exp_avg_sq"] for n, p in model.named_parameters()}
    assert all(torch.equal(now[n], then[n]) for n in then)


def test_the_guard_repairs_a_memory_and_goes_on():
    model, optimizer, _ = make(torch.optim.AdamW)
    guard = Guard(model, optimizer, policy=Policy(snapshot_every=5, healthy_after=2))
    verdicts = []
    for i, x in enumerate(guard.batches([torch.randn(16, 4) for _ in range(40)])):
        if i == 30:
            optimizer.state[model[3].weight]["exp_avg_sq"].zero_()
        verdicts.append(guard.approve(backward(model, x)))
        if verdicts[-1]:
            optimizer.step()
        optimizer.zero_grad()
    assert [i for i, v in enumerate(verdicts) if v.action is not Action.CONTINUE] == [30]
    assert verdicts[30].action is Action.RESET_MOMENTUM
    assert guard.incidents[0].findings[0].culprit.layer == "3.weight"
    assert optimizer.state[model[3].weight]["exp_avg_sq"].min() > 0


@pytest.mark.parametrize(
    ("optimizer", "kwargs", "key"),
    [
        (torch.optim.Adam, {}, "exp_avg"),
        (torch.optim.SGD, {"momentum": 0.9}, "momentum_buffer"),
    ],
)
def test_how_much_the_memory_has_grown(optimizer, kwargs, key):
    model, made, subject = make(optimizer, **kwargs)
    empty = subject.capture()
    train(model, made)
    assert subject.memory_rise(empty) == 1.0  # there is nothing to compare with
    state = subject.capture()
    assert subject.memory_rise(state) == 1.0
    largest = max(float(s[key].abs().max()) for s in made.state.values())
    made.state[model[0].weight][key][0, 0] = 1000 * largest
    assert subject.memory_rise(state) == pytest.approx(1000.0)


def test_an_optimizer_without_memory_has_none():
    model, optimizer, subject = make(torch.optim.SGD)
    assert subject.optimizer_state() is None
    train(model, optimizer)
    assert subject.optimizer_state() is None
    assert subject.memory_rise(subject.capture()) == 1.0


def test_the_memory_is_read_by_name_and_follows_the_optimizer():
    model, optimizer, subject = make()
    assert subject.optimizer_state() is None
    train(model, optimizer)
    memory = subject.optimizer_state()
    assert memory.names == tuple(n for n, _ in model.named_parameters())
    for name, first, second in zip(memory.names, memory.first, memory.second, strict=True):
        state = optimizer.state[model.get_parameter(name)]
        assert first == pytest.approx(float(state["exp_avg"].norm()), rel=1e-5)
        assert second == pytest.approx(float(state["exp_avg_sq"].norm()), rel=1e-5)
    optimizer.state.clear()
    assert subject.optimizer_state().names == ()


# The model


def test_gains_are_deviations_over_the_root_of_fan_in():
    model = nn.Sequential(nn.Conv1d(4, 64, 5), nn.ReLU(), nn.Linear(256, 128), nn.LayerNorm(128))
    with torch.no_grad():
        model[0].weight.normal_(0, 2 / math.sqrt(20))
        model[2].weight.zero_()
    subject = TorchSubject(model, torch.optim.SGD(model.parameters(), 0.1))
    gains = subject.gains()
    assert gains == {"0.weight": pytest.approx(2.0, rel=0.1), "2.weight": 0.0}
    one = nn.Linear(16, 1)
    assert list(TorchSubject(one, torch.optim.SGD(one.parameters(), 0.1)).gains()) == ["weight"]


def test_parameters_that_no_update_changes_are_named():
    model, _, subject = make()
    assert subject.untrained_parameters() == ()
    model[0].bias.requires_grad_(requires_grad=False)
    head = torch.optim.SGD([*model[0].parameters(), *model[1].parameters()], 0.1)
    names = TorchSubject(model, head).untrained_parameters()
    assert names == ("0.bias", "3.weight", "3.bias")


def test_one_gradient_is_clipped_or_all_are():
    model, _, subject = make()
    backward(model)
    before = subject.gradients(None).norms
    subject.clip(0.5, "3.weight")
    after = subject.gradients(None).norms
    changed = {n for n in before if after[n] != before[n]}
    assert changed == {"3.weight"}
    assert after["3.weight"] == pytest.approx(before["3.weight"] / 2)
    subject.clip(0.5)
    assert subject.gradients(None).norms == pytest.approx({n: v / 2 for n, v in after.items()})
    subject.clip(0.5, "no such name")
    subject.drop_gradients()
    subject.clip(0.5)
    assert subject.gradients(None).norms == {}
