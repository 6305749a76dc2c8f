"""Moments, schedules, averages, losses and curricula of integrations.torch.steadying."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from gyrostat.integrations.torch.steadying import (
    CurriculumBatchSampler,
    MomentumReset,
    Rewarmup,
    competence,
    ema_multi_avg_fn,
    reset_moments_,
    rewarmup_factor,
    sequence_length,
    z_loss,
)
from test_torch_steadying import Run

# Moments ------------------------------------------------------------------------------------------

OPTIMIZERS = [
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.AdamW, {"foreach": True}),
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    (torch.optim.Adadelta, {}),
    (torch.optim.Adamax, {}),
    (torch.optim.NAdam, {}),
    (torch.optim.RAdam, {}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_after_a_reset_an_optimizer_goes_on_as_a_new_one(kind, options):
    run = Run(optimizer=kind, **options).steps(0, 10)
    run.backward(10)
    run.model[0].weight.grad[0, 0] = math.nan
    weights = copy.deepcopy(run.model.state_dict())
    run.optimizer.step()  # NaN in its moments
    run.model.load_state_dict(weights)
    fresh = Run(optimizer=kind, **options)
    fresh.model.load_state_dict(weights)
    reset_moments_(run.optimizer)
    assert torch.equal(run.steps(11, 20).weights(), fresh.steps(11, 20).weights())


def test_reset_of_other_optimizers():
    reset_moments_(Run().optimizer)  # no step yet
    reset_moments_(Run(optimizer=torch.optim.SGD).steps(0, 1).optimizer)  # nothing remembered
    with pytest.raises(ValueError, match=r"^optimizer: knows no moments among \['step', 'sum'\]"):
        reset_moments_(Run(optimizer=torch.optim.Adagrad).optimizer)
    with pytest.raises(TypeError, match=r"^optimizer: "):
        reset_moments_(3)


def test_momentum_resets_end_what_a_spike_leaves_behind():
    plain = Run().steps(0, 300, spike={100})
    run = Run()
    MomentumReset(run.optimizer, every=120, warmup_steps=20)
    run.steps(0, 300, spike={100})
    assert run.loss() < 0.5 * plain.loss()


def test_momentum_reset_resumes_to_the_bit():
    def start():
        run = Run()
        return run, MomentumReset(run.optimizer, every=20, warmup_steps=10)

    (whole, _), (first, reset), (second, resumed) = start(), start(), start()
    whole.steps(0, 70)
    first.steps(0, 45)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    resumed.load_state_dict(json.loads(json.dumps(reset.state_dict())))
    assert torch.equal(second.steps(45, 70).weights(), whole.weights())
    for state in (None, {}, {"version": 1, "done": 3}, {"version": 1, "done": -1}):
        with pytest.raises(ValueError, match=r"^state: "):
            resumed.load_state_dict(state)
    resumed.remove()
    steps = second.optimizer.state[second.model[0].weight]["step"].item()
    assert second.steps(0, 30).optimizer.state[second.model[0].weight]["step"] == steps + 30


# Learning rates -----------------------------------------------------------------------------------


@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.floats(0, 0.99),
    st.sampled_from(["linear", "cosine"]),
)
def test_rewarmup_factor_rises_to_one(step, steps, start, shape):
    now, later = (rewarmup_factor(step + i, steps, start, shape) for i in (0, 1))
    assert start <= now <= later <= 1
    assert rewarmup_factor(steps, steps, start, shape) == 1
    if steps:
        assert rewarmup_factor(0, steps, start, shape) == pytest.approx(start)


class Seen(torch.optim.SGD):
    """Remembers the learning rates that it stepped with."""

    def step(self, closure=None):
        self.rates = [*getattr(self, "rates", []), [float(g["lr"]) for g in self.param_groups]]
        return super().step(closure)


@pytest.mark.parametrize("tensor", [False, True])
def test_rewarmup_scales_the_rate_of_steps_and_no_scheduler_sees_it(tensor):
    a, b = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    lr = torch.tensor(0.5, dtype=torch.float64) if tensor else 0.5
    optimizer = Seen([{"params": [a]}, {"params": [b]}], lr=lr)  # both hold one and the same tensor
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    rewarmup = Rewarmup(optimizer, steps=2, start=0.5)
    outside = []
    for i in range(5):
        if i == 1:
            rewarmup.restart()
        a.grad = b.grad = torch.ones(1)
        optimizer.step()
        outside.append([float(g["lr"]) for g in optimizer.param_groups])
        scheduler.step()
    rates = [0.5 * 0.5**i for i in range(5)]
    assert outside == [[r, r] for r in rates]
    factors = [1, 0.5, 0.75, 1, 1]
    assert optimizer.rates == [[r * f] * 2 for r, f in zip(rates, factors, strict=True)]
    rewarmup.restart()
    rewarmup.remove()
    optimizer.step()
    assert optimizer.rates[-1] == [0.5**6] * 2


def test_a_step_that_fails_leaves_the_rate_as_it_was():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=0.5)
    rewarmup = Rewarmup(optimizer, steps=4, start=0.0)
    rewarmup.restart()

    def fail():
        raise RuntimeError("planted")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="planted"):
            optimizer.step(fail)
    assert rewarmup.factor == 0.0  # none of them counts
    p.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert p.item() == 1.0
    optimizer.step()
    assert p.item() == 1 - 0.5 / 4


def test_rewarmup_resumes_and_skips_of_the_scaler_do_not_count():
    whole, part = Run(), Run()
    one, two = (Rewarmup(run.optimizer, steps=20) for run in (whole, part))
    one.restart()
    two.restart()
    whole.steps(0, 30)
    part.steps(0, 7)
    resumed = Run()
    three = Rewarmup(resumed.optimizer, steps=20)
    resumed.model.load_state_dict(part.model.state_dict())
    resumed.optimizer.load_state_dict(part.optimizer.state_dict())
    three.load_state_dict(json.loads(json.dumps(two.state_dict())))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    resumed.backward(7, scaler=scaler)
    resumed.model[0].bias.grad[0] = math.inf
    scaler.step(resumed.optimizer)
    assert three.state_dict() == two.state_dict()
    assert torch.equal(resumed.steps(7, 30).weights(), whole.weights())
    for state in (None, {}, {"version": 1}, {"version": 1, "done": True}):
        with pytest.raises(ValueError, match=r"^state: "):
            three.load_state_dict(state)


def test_rewarmup_after_lost_moments_keeps_what_was_learnt():
    def worst_after(steps):
        run = Run(lr=0.003).steps(0, 500)
        reset_moments_(run.optimizer)
        for group in run.optimizer.param_groups:
            group["lr"] = 0.1
        Rewarmup(run.optimizer, steps).restart()
        return max(run.steps(i, i + 1).loss() for i in range(500, 520))

    assert worst_after(0) > 2 * worst_after(500)


# Averages -----------------------------------------------------------------------------------------


def test_average_of_weights_is_nearer_to_the_aim_than_the_last_weights():
    run = Run(lr=0.05)
    ema = AveragedModel(run.model, multi_avg_fn=ema_multi_avg_fn(0.98))
    last, average = [], []
    for i in range(400):
        run.steps(i, i + 1)
        ema.update_parameters(run.model)
        if i >= 300:
            last.append(run.loss())
            x, y = run.batch(-1)
            with torch.no_grad():
                average.append(torch.nn.functional.mse_loss(ema(x), y).item())
    assert np.mean(average) < 0.8 * np.mean(last)


def test_average_by_its_formula_and_resumed():
    model = torch.nn.Linear(1, 1, bias=False)
    make = lambda: AveragedModel(model, multi_avg_fn=ema_multi_avg_fn(0.3))  # noqa: E731
    ema, expected = make(), None
    for n in range(8):
        value = float(n**2)
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update_parameters(model)
        kept = min(0.3, (1 + n) / (10 + n))
        expected = value if n == 0 else kept * expected + (1 - kept) * value
        assert ema.module.weight.item() == pytest.approx(expected, rel=1e-6)
        resumed = make()
        resumed.load_state_dict(ema.state_dict())
        ema = resumed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_leave_the_average_alone(bad):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    ours = AveragedModel(model, multi_avg_fn=ema_multi_avg_fn(), use_buffers=True)
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn())
    for ema in (ours, torchs):
        ema.update_parameters(model)
    before = copy.deepcopy(ours.module.state_dict())
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken[0].weight[0, 0] = bad
    for ema in (ours, torchs):
        ema.update_parameters(broken)
        for _ in range(100):
            ema.update_parameters(model)
    assert not torchs.module[0].weight.isfinite().all()
    for name, value in ours.module.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_average_of_a_bfloat16_model_moves():
    def moved(fn, *, wide):
        model = torch.nn.Linear(4, 4).bfloat16()
        ema = AveragedModel(model, multi_avg_fn=fn)
        ema = ema.float() if wide else ema
        ema.update_parameters(model)
        before = ema.module.weight.detach().float().clone()
        with torch.no_grad():
            model.weight.add_(0.125)
        for _ in range(1000):
            ema.update_parameters(model)
        return (ema.module.weight.detach().float() - before).mean().item()

    expected = 0.125 * (1 - 0.999**1000)
    assert moved(ema_multi_avg_fn(warmup=False), wide=True) == pytest.approx(expected, rel=0.02)
    assert moved(get_ema_multi_avg_fn(), wide=False) < 0.1 * expected


# Losses -------------------------------------------------------------------------------------------


def test_z_loss_by_its_formula():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    z = logits.exp().sum(-1)
    target = torch.tensor([[0, 1, -100], [2, -100, 4]])
    full, part = z.log() ** 2, (z.log() ** 2)[target != -100]
    assert z_loss(logits, 0.5).item() == pytest.approx(0.5 * full.mean().item())
    assert z_loss(logits, 0.5, target).item() == pytest.approx(0.5 * part.mean().item())
    assert z_loss(logits, target=torch.full((2, 3), -100)).item() == 0.0
    large = z_loss(torch.full((4, 8), 300.0, dtype=torch.float16), 1.0)
    assert large.dtype == torch.float32
    assert large.item() == pytest.approx((300 + math.log(8)) ** 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert z_loss(logits.float()).dtype == torch.float32


def test_z_loss_of_what_is_not_finite():
    logits = torch.zeros(3, 4, requires_grad=True)
    with torch.no_grad():
        logits[1, 2] = math.nan
    assert math.isnan(z_loss(logits).item())
    assert z_loss(logits, target=torch.tensor([0, -100, 1])).item() > 0
    with pytest.raises(ValueError, match=r"^target: "):
        z_loss(logits, target=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"^logits: "):
        z_loss(torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"^logits: "):
        z_loss(torch.ones(2, 3, dtype=torch.long))


def test_z_loss_brings_drifted_logits_back_and_costs_no_accuracy():
    def train(weight):
        g = torch.Generator().manual_seed(0)
        model = torch.nn.Linear(8, 4)
        with torch.no_grad():
            model.weight.copy_(torch.randn(4, 8, generator=g) * 0.1)
            model.bias.fill_(30.0)  # the drift: it changes no probability
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(400):
            x = torch.randn(32, 8, generator=g)
            y = x[:, :4].argmax(1)
            logits = model(x)
            loss = torch.nn.functional.cross_entropy(logits, y) + z_loss(logits, weight, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return logits.logsumexp(1).abs().mean().item(), (
            logits.argmax(1) == y
        ).float().mean().item()

    (drifted, before), (steady, after) = train(0.0), train(1e-2)
    assert drifted > 25
    assert steady < 0.5 * drifted
    assert after >= before - 0.05


# Curricula ----------------------------------------------------------------------------------------


def test_sequence_length_and_competence():
    lengths = [sequence_length(i, 100, 1024, 64) for i in range(120)]
    assert lengths[0] == 64
    assert lengths[100:] == [1024] * 20
    assert lengths == sorted(lengths)
    assert all(n % 8 == 0 for n in lengths)
    assert sequence_length(50, 100, 100, 7, 64) == 7  # never below the shortest
    shares = [competence(i, 100, 0.2) for i in range(120)]
    assert shares[0] == pytest.approx(0.2)
    assert shares[50] == pytest.approx(math.sqrt(0.5 * (1 - 0.04) + 0.04))
    assert shares[100:] == [1.0] * 20
    for call in (lambda: sequence_length(0, 1, 5, 6), lambda: competence(-1, 3)):
        with pytest.raises(ValueError, match=r"^(longest|step): "):
            call()


@given(st.integers(1, 60), st.integers(1, 10), st.integers(0, 40), st.integers(0, 5))
def test_batches_are_of_the_easiest_and_later_epochs_of_all(n, size, steps, seed):
    size = min(size, n)
    difficulty = np.random.default_rng(seed).permutation(n).astype(float)
    sampler = CurriculumBatchSampler(difficulty, size, steps, start=0.2, seed=seed)
    for t in range(steps):
        batch = sampler.batch(t)
        assert len(set(batch)) == size
        share = max(math.ceil(competence(t, steps, 0.2) * n), size)
        assert max(difficulty[batch]) < share
    first = -(-steps // len(sampler))
    epoch = [i for t in range(len(sampler)) for i in sampler.batch(first * len(sampler) + t)]
    assert sorted(epoch) == list(range(n))


@pytest.mark.parametrize("workers", [0, 2])
def test_curriculum_resumes_in_the_middle_of_an_epoch(workers):
    data = TensorDataset(torch.arange(40))

    def start():
        sampler = CurriculumBatchSampler(np.arange(40.0), 4, steps=13, seed=3)
        return sampler, DataLoader(data, batch_sampler=sampler, num_workers=workers)

    _, loader = start()
    whole = [batch.tolist() for _ in range(3) for (batch,) in loader]
    assert len(whole) == 30
    sampler, loader = start()
    some = []
    for (batch,) in loader:
        some.append(batch.tolist())
        if len(some) == 7:
            # Workers have drawn ahead: only the loop knows how many were trained on.
            saved = json.dumps(sampler.state_dict(step=7 if workers else None))
            break
    sampler, loader = start()
    sampler.load_state_dict(json.loads(saved))
    some += [batch.tolist() for _ in range(3) for (batch,) in loader]
    assert some == whole


def test_losses_that_are_not_finite_are_hardest_and_survive_json():
    sampler = CurriculumBatchSampler(np.zeros(10), 2, steps=100, start=0.1)
    sampler.update([3, 4], torch.tensor([math.nan, math.inf]))
    sampler.update(range(5, 10), [5.0, 6.0, 7.0, 8.0, 9.0])
    sampler.update([], [])
    drawn = {i for t in range(30) for i in sampler.batch(t)}
    assert drawn == {0, 1, 2, 5, 6, 7}  # the easiest 6 at most
    other = CurriculumBatchSampler(np.zeros(10), 2, steps=100, start=0.1)
    other.load_state_dict(json.loads(json.dumps(sampler.state_dict(), allow_nan=False)))
    assert [other.batch(t) for t in range(99)] == [sampler.batch(t) for t in range(99)]
    good = sampler.state_dict()
    for wrong in (None, {}, {**good, "difficulty": [1.0]}, {**good, "difficulty": ["x"] * 10}):
        with pytest.raises(ValueError, match=r"^state: "):
            sampler.load_state_dict(wrong)
    for call in (
        lambda: sampler.update([10], [1.0]),
        lambda: sampler.update([-1], [1.0]),
        lambda: sampler.update([1, 2], [1.0]),
        lambda: CurriculumBatchSampler([], 1, 1),
        lambda: CurriculumBatchSampler([1.0], 2, 1),
        lambda: CurriculumBatchSampler([[1.0]], 1, 1),
    ):
        with pytest.raises(ValueError, match=r"^(samples|losses|difficulty|batch_size): "):
            call()


def test_a_curriculum_by_loss_learns_in_spite_of_wrong_targets():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 4, generator=g)
    clean = x @ torch.tensor([1.0, -2.0, 0.5, 3.0])
    y = clean.clone()
    y[::10] *= -50  # a tenth is wrong, and far out

    def train(sampler):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for t in range(300):
            batch = sampler.batch(t)
            losses = (model(x[batch]).squeeze(1) - y[batch]) ** 2
            sampler.update(batch, losses)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
        return (model(x).squeeze(1) - clean).square().mean().item()

    by_loss = train(CurriculumBatchSampler(np.zeros(400), 16, steps=500, start=0.2))
    shuffled = train(CurriculumBatchSampler(np.zeros(400), 16, steps=0))
    assert by_loss < 0.2 * shuffled


def test_short_sequences_first_go_through_where_long_ones_blow_up():
    def train(length_at):
        torch.manual_seed(0)
        cell = torch.nn.RNN(2, 8, nonlinearity="relu", batch_first=True)
        head = torch.nn.Linear(8, 1)
        with torch.no_grad():
            cell.weight_hh_l0.mul_(4)  # grows along the sequence
        parameters = [*cell.parameters(), *head.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.03)
        g = torch.Generator().manual_seed(1)
        for t in range(200):
            x = torch.randn(16, 16, 2, generator=g)[:, : length_at(t)]
            loss = (head(cell(x)[0])[..., 0] - x.mean(-1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    grown = train(lambda t: sequence_length(t, 120, 16, shortest=2, multiple=1))
    whole = train(lambda t: 16)
    assert grown < 0.1
    assert not whole < 0.1  # NaN: the weights are gone
