"""The probe of activations, on real models."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gyrostat import rules, summarize
from gyrostat.integrations.torch import ActivationProbe, adam_moments
from small_models import Transformer, cnn, mlp


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_every_nth_pass_in_training_mode_is_looked_at():
    model, x = mlp(), torch.randn(16, 64)
    with ActivationProbe(model, every=3) as probe:
        looked = []
        for _ in range(7):
            model(x)
            looked.append(probe.take() is not None)
            assert probe.take() is None
        assert looked == [True, False, False, True, False, False, True]
        model.eval()
        assert all(model(x) is not None and probe.take() is None for _ in range(3))
        assert hooks(model) == 1
    assert hooks(model) == 0


def test_records_are_those_of_the_outputs_in_order():
    model, x = mlp(depth=2), torch.randn(16, 64)
    with ActivationProbe(model) as probe:
        out = model(x)
        seen = probe.take()
    assert seen.table.names == ("0", "1", "2", "3", "4")
    assert seen.table["4"] == summarize(out)
    assert seen.table["1"].min == 0.0
    assert seen.weighted.tolist() == [True, False, True, False, True]
    assert seen.rows.tolist() == [16] * 5
    assert seen.logits == "4"
    first = model[0](x)
    assert seen.signal[0] == pytest.approx(first.var(0, correction=0).mean().sqrt().item())
    assert math.isnan(seen.signal[1])
    assert seen.input_signal == pytest.approx(x.var(0, correction=0).mean().sqrt().item())
    expected = (torch.relu(first) == 0).all(0).numpy()
    assert np.array_equal(seen.idle["1"], expected)


def test_a_channel_is_a_unit_of_a_convolution_and_inplace_is_seen_before():
    model = cnn()
    with torch.no_grad():
        model[2].bias[5] = -100.0  # one channel that ReLU makes zero everywhere
    with ActivationProbe(model) as probe:
        model(torch.rand(4, 64))
        seen = probe.take()
    assert np.flatnonzero(seen.idle["3"]).tolist() == [5]
    assert seen.idle["3"].shape == (16,)
    assert seen.rows[seen.table.names.index("3")] == 4 * 64
    assert seen.table["5"].min < 0  # the in-place ReLU comes after it


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_functions_without_a_module_tell_of_dead_units_too():
    model = Functional()
    with torch.no_grad():
        model.first.bias[1:] = -100.0
    dead = rules.DeadUnits()
    found = []
    with ActivationProbe(model, every=1) as probe:
        for step in range(6):
            model(torch.randn(128, 8))
            seen = probe.take()
            found.append(dead.update(seen.idle, {"first": 128}, step))
    assert np.flatnonzero(seen.idle["first"]).tolist() == [1, 2, 3, 4, 5]
    assert [f is not None for f in found] == [False, False, False, True, False, False]
    assert found[3].culprit.layer == "first"


def test_flat_shares_of_bounded_functions():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Sigmoid(), nn.Tanh())
    with torch.no_grad():
        model[0].weight.mul_(1e6)
    with ActivationProbe(model) as probe:
        model(torch.randn(64, 4))
        seen = probe.take()
    assert seen.saturated[1] > 0.99
    assert seen.saturated[3] < 0.1
    assert np.isnan(seen.saturated[[0, 2, 4]]).all()  # the output may be sure of itself


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kdim", [None, 12])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_logits_are_those_of_the_formula(batch_first, kdim, bias):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, kdim=kdim, bias=bias)
    attention.train()
    if bias:
        nn.init.normal_(attention.in_proj_bias)
    q, k = torch.randn(3, 5, 8), torch.randn(3, 7, kdim or 8)
    v = torch.randn(3, 7, 8)
    weights = attention.in_proj_weight
    wq = attention.q_proj_weight if weights is None else weights[:8]
    wk = attention.k_proj_weight if weights is None else weights[8:16]
    bq, bk = (attention.in_proj_bias[:8], attention.in_proj_bias[8:16]) if bias else (0, 0)
    left, right = ((x @ w.T + b).unflatten(-1, (2, 4)) for x, w, b in ((q, wq, bq), (k, wk, bk)))
    expected = torch.einsum("nqhd,nkhd->nhqk", left, right).abs().max() / 2
    with ActivationProbe(attention) as probe:
        args = (q, k, v) if batch_first else (x.transpose(0, 1) for x in (q, k, v))
        query, key, value = args
        attention(query, key=key, value=value)
        seen = probe.take()
    assert seen.attention[""] == pytest.approx(expected.item(), rel=1e-5)


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores, self.out = nn.Identity(), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.scores(x @ x.transpose(-1, -2)).softmax(-1) @ x)


def test_a_named_module_gives_the_logits_of_attention():
    model, x = Scores(), torch.randn(2, 5, 4)
    with ActivationProbe(model, attention=["scores"]) as probe:
        model(x)
        seen = probe.take()
    assert seen.attention == {"scores": pytest.approx((x @ x.transpose(1, 2)).abs().max().item())}
    assert seen.table.names == ("out",)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_gradients_are_left_as_they_are(dtype):
    torch.manual_seed(0)
    model, x = Transformer().train(), torch.rand(2, 64)
    grads = []
    for probed in (False, True):
        torch.manual_seed(1)
        model.zero_grad()
        probe = ActivationProbe(model, every=1) if probed else None
        with torch.autocast("cpu", dtype):
            model(x).float().square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    seen = probe.take()
    probe.close()
    assert set(seen.attention) == {f"blocks.layers.{i}.self_attn" for i in (0, 1)}
    assert all(0 < value < 100 for value in seen.attention.values())
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_hooks_come_off_when_the_pass_fails():
    model = mlp()
    with ActivationProbe(model, every=1) as probe:
        with pytest.raises(RuntimeError):
            model(torch.randn(2, 3))
        assert hooks(model) == 1
        model(torch.randn(2, 64))
        assert probe.take() is not None
    assert hooks(model) == 0


def test_values_that_are_not_finite_are_survived():
    model, rule = mlp(act=nn.Tanh), rules.TensorRules()
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    with ActivationProbe(model, every=1) as probe:
        for step in range(10):
            model(torch.randn(8, 64))
            assert rule.update(step, activations=probe.take()) == ()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"every": 0}, "every"),
        ({"modules": ["x"]}, "modules"),
        ({"attention": ["x"]}, "attention"),
        ({"logits": "x"}, "logits"),
    ],
)
def test_bad_options_are_refused_by_name(options, match):
    model = mlp()
    with pytest.raises(ValueError, match=f"^{match}"):
        ActivationProbe(model, **options)
    assert hooks(model) == 0


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam])
def test_moments_are_those_of_the_coming_step(kind):
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    optimizer = kind(model.parameters(), lr=1e-3)
    assert adam_moments(model, optimizer) is None
    for step in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        told = adam_moments(model, optimizer)
        first = {
            name: optimizer.state[p]["exp_avg"].clone()
            for name, p in model.named_parameters()
            if step
        }
        optimizer.step()
        if not step:
            assert told is None
            continue
        for i, (name, p) in enumerate(model.named_parameters()):
            second = optimizer.state[p]["exp_avg_sq"] / (1 - 0.999 ** (step + 1))
            rms = (p.grad.square() / second).mean().sqrt()
            assert told.names[i] == name
            assert told.update_rms[i] == pytest.approx(rms.item(), rel=1e-5)
            cosine = nn.functional.cosine_similarity(p.grad.flatten(), first[name].flatten(), dim=0)
            assert told.cosine[i] == pytest.approx(cosine.item(), abs=1e-5)


def test_sgd_has_no_moments():
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    assert adam_moments(model, torch.optim.SGD(model.parameters(), lr=0.1)) is None
