"""Samples to blame and counterfactual re-runs, on small real models."""

import copy

import pytest
import torch
from torch import nn

from gyrostat.demo.digits import load_digits
from gyrostat.guard import Policy
from gyrostat.integrations.torch import Guard
from gyrostat.integrations.torch.replay import capture, replay
from gyrostat.integrations.torch.scoring import score_samples

IMAGES, LABELS = map(torch.from_numpy, load_digits().train)
WRONG = (4, 17, 30)


def compute_loss(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x).float(), y)


def digits(n=32, wrong=()):
    rows = torch.randint(len(LABELS), (n,))
    x, y = IMAGES[rows].float(), LABELS[rows].clone()
    y[list(wrong)] = (y[list(wrong)] + 5) % 10
    return x, y


def classifier(*between, seed=0, steps=150, lr=3e-3):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), *between, nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        step(model, optimizer, digits())
    return model, optimizer


def step(model, optimizer, batch):
    optimizer.zero_grad()
    loss = compute_loss(model, batch)
    loss.backward()
    optimizer.step()
    return loss.item()


def everything(model, optimizer):
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    return copy.deepcopy((model.state_dict(), optimizer.state_dict())), grads, modes


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_mislabelled_samples_are_named():
    named, others = 0, 0
    for seed in range(10):
        model, _ = classifier(seed=seed)
        scores = score_samples(model, compute_loss, digits(wrong=WRONG), earlier=digits())
        named += len(set(scores.places) & set(WRONG))
        others += len(set(scores.places) - set(WRONG))
        assert scores.calls == 64
        assert scores.passes == 2
    assert named >= 27
    assert others <= 3


def test_bad_samples_are_found_by_bisection_under_batch_norm():
    found = 0
    for seed in range(5):
        model, _ = classifier(nn.BatchNorm1d(32), seed=seed)
        scores = score_samples(model, compute_loss, digits(64, (9, 40)), earlier=digits(64))
        found += len({9, 40} & set(scores.places))
        assert scores.passes <= 9
        assert scores.calls <= 64
    assert found >= 8


def test_a_loss_that_takes_two_samples_is_bisected():
    def paired(model, batch):
        if len(batch[1]) < 2:
            raise ValueError("two samples or more")
        return compute_loss(model, batch)

    model, _ = classifier()
    assert set(WRONG) <= set(score_samples(model, paired, digits(wrong=WRONG)).places)


def test_nan_is_the_sample_to_blame():
    model, _ = classifier(steps=20)
    x, y = digits()
    x[5, 0] = float("nan")
    assert score_samples(model, compute_loss, (x, y)).places == (5,)


def test_lists_and_nested_batches_are_sliced():
    model, _ = classifier()
    x, y = digits(wrong=WRONG)

    def nested(model, batch):
        assert len(batch["ids"]) == len(batch["of"][0])
        return compute_loss(model, (batch["of"][0], torch.tensor(batch["of"][1])))

    batch = {"of": (x, y.tolist()), "ids": [str(i) for i in range(32)], "source": "digits"}
    assert set(WRONG) <= set(score_samples(model, nested, batch).places)
    with pytest.raises(ValueError, match=r"^batch"):
        score_samples(model, nested, {"source": "digits"})


@pytest.mark.parametrize("earlier", [False, True])
def test_scores_and_replays_change_nothing(earlier):
    def run(asks):
        model, optimizer = classifier(nn.BatchNorm1d(32), nn.Dropout(0.3), steps=5)
        state = capture(model, optimizer)
        for _ in range(5):
            batch = digits()
            step(model, optimizer, batch)
            if asks:
                before = everything(model, optimizer)
                score_samples(model, compute_loss, batch, earlier=digits_of(batch, earlier))
                replay(model, optimizer, compute_loss, state, [batch, batch], bound=0.0)
                assert same(everything(model, optimizer), before)
        return everything(model, optimizer), torch.rand(3)

    assert same(run(asks=False), run(asks=True))


def digits_of(batch, wanted):
    return batch if wanted else None


def fine(outcomes):
    return {o.trial for o in outcomes if o.fails is False}


def test_a_bad_batch_is_told():
    model, optimizer = classifier()
    batches = [digits(), digits(), digits(wrong=range(32))]
    outcomes = replay(model, optimizer, compute_loss, capture(model, optimizer), batches, bound=2.0)
    assert fine(outcomes) == {"other-batch"}
    assert [o.cause for o in outcomes if o.cause] == ["cause-bad-batch"]


def test_a_learning_rate_too_high_is_told():
    model, optimizer = classifier()
    batches = [digits() for _ in range(4)]
    rates = [[3e-3], [0.3], [0.3], [0.3]]
    state = capture(model, optimizer)
    outcomes = replay(model, optimizer, compute_loss, state, batches, bound=1.0, rates=rates)
    assert "cause-lr-too-high" in {o.cause for o in outcomes}
    assert fine(outcomes) == {"lower-lr"}


def test_a_lost_second_moment_is_told():
    model, optimizer = classifier()
    for state in optimizer.state.values():
        state["exp_avg_sq"].zero_()
    state = capture(model, optimizer)
    batches = [digits() for _ in range(3)]
    outcomes = replay(model, optimizer, compute_loss, state, batches, bound=1.0)
    assert "cause-optimizer-state" in {o.cause for o in outcomes}
    assert "other-batch" not in fine(outcomes)


def test_a_flipped_weight_is_told():
    model, optimizer = classifier()
    state = capture(model, optimizer)
    batches = [digits() for _ in range(3)]
    for batch in batches[:-1]:
        step(model, optimizer, batch)
    healthy = compute_loss(model, batches[-1]).item()
    with torch.no_grad():
        model[-1].bias[0] += 1e-3  # an upset too small to fail
    small = compute_loss(model, batches[-1]).item()
    assert small != healthy
    for observed, cause in ((healthy, None), (small, "cause-silent-corruption")):
        outcome = replay(
            model, optimizer, compute_loss, state, batches, bound=0.0, observed=observed
        )[0]
        assert outcome.losses[-1] == healthy
        assert outcome.cause == cause
    (outcome,) = replay(model, optimizer, compute_loss, state, batches, bound=1.0, observed=1e9)
    assert not outcome.fails
    assert outcome.cause == "cause-silent-corruption"


def test_an_overflow_of_float16_is_told():
    def in_half(model, batch):
        with torch.autocast("cpu", torch.float16):
            return compute_loss(lambda x: model(x * 1e4), batch)

    model, optimizer = classifier(steps=0)
    with torch.no_grad():
        model[0].weight.mul_(100)
    state = capture(model, optimizer)
    outcomes = replay(model, optimizer, in_half, state, [digits()])
    assert fine(outcomes) == {"float64"}
    assert outcomes[-1].cause == "cause-precision-overflow"


def guarded(loader, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    guard = Guard(model, optimizer, policy=Policy(snapshot_every=20), **options)
    for batch in guard.batches(loader):
        loss = compute_loss(model, batch)
        loss.backward()
        if guard.approve(loss):
            optimizer.step()
        optimizer.zero_grad()
    return guard, model


def test_the_guard_names_samples_and_explains():
    torch.manual_seed(1)
    wrong = set(range(0, 256, 6))
    loader = [*(digits(256) for _ in range(200)), digits(256, wrong=wrong), digits(256)]
    guard, asked = guarded(loader, compute_loss=compute_loss)
    plain, unasked = guarded(loader)
    assert same(asked.state_dict(), unasked.state_dict())
    (incident,) = guard.incidents
    assert incident.step == 200
    named = set(incident.findings[0].culprit.samples)
    assert named <= wrong
    assert len(named) >= 0.85 * len(wrong)
    before = {f.code: f.score for f in guard.hypotheses}
    causes = {f.code: f for f in guard.explain()}
    assert causes["cause-bad-batch"].score > before.get("cause-bad-batch", 0.0)
    assert guard.explain() == guard.hypotheses == tuple(causes.values())  # counted once
    with pytest.raises(RuntimeError, match="compute_loss"):
        plain.explain()


def test_a_healthy_run_has_nothing_to_explain():
    guard, model = guarded([digits() for _ in range(3)], compute_loss=compute_loss)
    with pytest.raises(RuntimeError, match="no incident"):
        guard.explain()
    with pytest.raises(ValueError, match=r"^compute_loss"):
        Guard(model, torch.optim.SGD(model.parameters()), lag=1, compute_loss=compute_loss)
