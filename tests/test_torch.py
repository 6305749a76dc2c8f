"""The guard in real PyTorch loops."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gyrostat.demo.digits import load_digits
from gyrostat.guard import Action, Policy
from gyrostat.integrations.torch import Guard

IMAGES, LABELS = (torch.from_numpy(part) for part in load_digits().train)


def make(dtype=torch.float32, **kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    model.to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    return model, optimizer, scheduler, Guard(model, optimizer, scheduler, **kwargs)


def loader(images=IMAGES):
    return DataLoader(TensorDataset(images, LABELS), batch_size=64, drop_last=True)


def train(model, optimizer, scheduler, guard, batches):
    verdicts = []
    for x, y in guard.batches(batches):
        loss = nn.functional.cross_entropy(model(x).float(), y)
        loss.backward()
        verdicts.append(guard.approve(loss))
        if verdicts[-1]:
            optimizer.step()
            scheduler.step()
        optimizer.zero_grad()
    return verdicts


def state_of(*parts):
    return copy.deepcopy([part.state_dict() for part in parts])


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def poisoned(row=640):
    images = IMAGES.clone()
    images[row] = torch.nan  # one sample of batch 10
    return images


def test_a_nan_batch_is_skipped_and_left_out_in_the_next_epoch():
    model, optimizer, scheduler, guard = make()
    first = train(model, optimizer, scheduler, guard, loader())
    second = train(model, optimizer, scheduler, guard, loader(poisoned()))
    third = train(model, optimizer, scheduler, guard, loader(poisoned()))
    assert all(first)
    assert [i for i, v in enumerate(second) if not v] == [10]
    assert all(third)
    assert len(third) == len(second) - 1
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert guard.incidents[0].position == (1, 10)


def test_a_rollback_restores_everything_bit_for_bit():
    model, optimizer, scheduler, guard = make(policy=Policy(snapshot_every=5, healthy_after=0))
    train(model, optimizer, scheduler, guard, list(loader())[:20])
    x, y = next(iter(loader()))
    kept, rng = None, None
    for step in range(20, 27):
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if step == 25:
            kept, rng = state_of(model, optimizer, scheduler), torch.get_rng_state()
        assert guard.approve(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002 - the global generator is what a rollback restores
    with torch.no_grad():
        model[0].weight[3, 3] = torch.nan
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    verdict = guard.approve(loss)
    assert verdict.action is Action.ROLLBACK
    assert "weight-not-finite" in {f.code for f in verdict.findings}
    assert guard.incidents[-1].restored_step == 25
    assert equal(state_of(model, optimizer, scheduler), kept)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None for p in model.parameters())


def test_a_snapshot_survives_being_restored_twice():
    model, optimizer, scheduler, guard = make(policy=Policy(snapshots_kept=1, healthy_after=0))
    train(model, optimizer, scheduler, guard, list(loader())[:20])
    for _ in range(2):
        with torch.no_grad():
            model[0].weight[0, 0] = torch.inf
        train(model, optimizer, scheduler, guard, list(loader())[:3])
        assert all(torch.isfinite(p).all() for p in model.parameters())
    assert [i.action for i in guard.incidents] == [Action.ROLLBACK] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_guarded(dtype):
    model, optimizer, scheduler, guard = make(dtype)
    train(model, optimizer, scheduler, guard, loader(IMAGES.to(dtype)))
    verdicts = train(model, optimizer, scheduler, guard, loader(poisoned().to(dtype)))
    assert [i for i, v in enumerate(verdicts) if not v] == [10]


def test_a_gradient_that_is_not_finite_names_its_layer():
    model, optimizer, scheduler, guard = make()
    train(model, optimizer, scheduler, guard, loader())
    model[0].weight.register_hook(lambda grad: grad * torch.nan)
    x, y = next(iter(loader()))
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    verdict = guard.approve(loss)
    assert not verdict
    assert verdict.findings[0].code == "gradient-not-finite"
    assert verdict.findings[0].culprit.layer == "0.weight"


def test_overflow_under_a_loss_scaler_is_left_to_the_scaler():
    model, optimizer, _, _ = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=10**6)
    guard = Guard(model, optimizer, scaler=scaler)
    scales = []
    for x, y in guard.batches(loader()):
        loss = nn.functional.cross_entropy(model(x) * 1e6, y)
        scaler.scale(loss).backward()
        assert guard.approve(loss)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scales.append(scaler.get_scale())
    assert scales[-1] < scales[0]
    assert all(f.code != "gradient-not-finite" for f in guard.findings)


@pytest.mark.parametrize("unscale_first", [False, True])
def test_gradient_norms_are_freed_of_the_loss_scale(unscale_first):
    norms = []
    for scale in (1.0, 1024.0):
        model, optimizer, _, _ = make()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        guard = Guard(model, optimizer, scaler=scaler)
        x, y = next(iter(loader()))
        loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        if unscale_first:
            scaler.unscale_(optimizer)
        guard.approve(loss)
        norms.append(guard.report().sections[1].series["grad_norm"][0])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_approve_gives_no_warning_for_a_loss_with_a_graph():
    model, _, _, guard = make()
    x, y = next(iter(loader()))
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert guard.approve(loss)


def test_frozen_and_unused_parameters_are_no_trouble():
    model, optimizer, scheduler, guard = make()
    model[0].weight.requires_grad_(requires_grad=False)
    assert all(train(model, optimizer, scheduler, guard, loader()))


def test_batches_of_any_shape_have_an_identity():
    _, _, _, guard = make()
    batch = {"ids": torch.arange(4), "mask": [torch.ones(2, dtype=torch.bool), "text"], "n": 3}
    changed = {**batch, "ids": torch.arange(1, 5)}
    bf16 = torch.ones(3, dtype=torch.bfloat16)
    view = torch.arange(12.0).reshape(3, 4).T
    seen = []
    for each in guard.batches([batch, changed, bf16, view, view.contiguous(), torch.tensor(1.0)]):
        assert each is not None
        seen.append(guard._registry.current.identity)
    assert seen[3] == seen[4]
    assert len(set(seen)) == 5


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ((1, torch.optim.SGD([torch.zeros(1)], 0.1)), "model: expected"),
        ((nn.Linear(1, 1), "adam"), "optimizer: expected"),
    ],
)
def test_wrong_arguments_are_named(args, match):
    with pytest.raises(TypeError, match=match):
        Guard(*args)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_is_guarded():
    model = nn.Linear(64, 10).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    guard = Guard(model, optimizer)
    verdicts = []
    for images in (IMAGES, poisoned()):
        for x, y in guard.batches(loader(images)):
            loss = nn.functional.cross_entropy(model(x.cuda()), y.cuda())
            loss.backward()
            verdicts.append(guard.approve(loss))
            if verdicts[-1]:
                optimizer.step()
            optimizer.zero_grad()
    assert [i for i, v in enumerate(verdicts) if not v] == [21 + 10]
