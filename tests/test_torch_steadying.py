"""The clippers of integrations.torch.steadying: formulas, NaN, resume, AMP, and that they help."""

import json
import math
import statistics
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gyrostat.integrations.torch.steadying import (
    AdaGC,
    AdaptiveGradientClip,
    AutoClip,
    SpikeAwareClip,
    ZClip,
)
from gyrostat.integrations.torch.steadying.clipping import _norms_on_device

RUNS = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "runs"

# With short warm-ups, so that short runs come past them.
CLIPPERS = {
    "autoclip": lambda optimizer: AutoClip(percentile=50, window=20),
    "zclip": lambda optimizer: ZClip(warmup_steps=10),
    "adagc": lambda optimizer: AdaGC(warmup_steps=10),
    "agc": lambda optimizer: AdaptiveGradientClip(factor=0.05),
    "spam": SpikeAwareClip,
}


class Run:
    """A small network that learns a smooth function; batch i is a function of i."""

    def __init__(self, make=None, optimizer=torch.optim.Adam, lr=0.01, **options):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
        )
        self.optimizer = optimizer(self.model.parameters(), lr=lr, **options)
        self.clipper = make(self.optimizer) if make else None
        self.norms = []

    @staticmethod
    def batch(i):
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1000 + i))
        return x, x[:, :1] * x[:, 1:2] + x[:, 2:3].sin()

    def backward(self, i, spike=(), scaler=None):
        x, y = self.batch(i)
        loss = torch.nn.functional.mse_loss(self.model(x), y)
        if i in spike:
            loss = loss * 1000
        self.optimizer.zero_grad()
        (scaler.scale(loss) if scaler else loss).backward()

    def clip(self):
        if self.clipper:
            self.norms.append(self.clipper.clip_(self.model))

    def steps(self, first, last, spike=()):
        for i in range(first, last):
            self.backward(i, spike)
            self.clip()
            self.optimizer.step()
        return self

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def loss(self):
        x, y = self.batch(-1)
        with torch.no_grad():
            return torch.nn.functional.mse_loss(self.model(x), y).item()


def _parameters(*grads):
    parameters = [torch.nn.Parameter(torch.ones_like(g)) for g in grads]
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g.clone()
    return [(f"p{i}", p) for i, p in enumerate(parameters)]


def _state(run):
    return json.dumps(run.clipper.state_dict(), allow_nan=False)


# What holds for each ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIPPERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(name, bad):
    run = Run(CLIPPERS[name]).steps(0, 30)
    state, weights, moments = _state(run), run.weights(), run.optimizer.state_dict()
    moments = json.dumps(moments["state"], default=lambda t: t.tolist())
    run.backward(30)
    run.model[2].weight.grad[0, 3] = bad
    run.clip()
    run.optimizer.step()
    assert math.isnan(run.norms[-1])
    assert torch.equal(run.weights(), weights)
    assert _state(run) == state
    after = run.optimizer.state_dict()["state"]
    assert json.dumps(after, default=lambda t: t.tolist()) == moments
    assert math.isfinite(run.steps(31, 60).loss())


@pytest.mark.parametrize("name", CLIPPERS)
@pytest.mark.parametrize("split", [5, 31])
def test_a_resumed_run_is_the_same_to_the_bit(name, split):
    whole = Run(CLIPPERS[name]).steps(0, 60, spike={40, 50})
    first = Run(CLIPPERS[name]).steps(0, split, spike={40, 50})
    saved = first.model.state_dict(), first.optimizer.state_dict(), _state(first)
    second = Run(CLIPPERS[name])
    second.model.load_state_dict(saved[0])
    second.optimizer.load_state_dict(saved[1])
    second.clipper.load_state_dict(json.loads(saved[2]))
    second.steps(split, 60, spike={40, 50})
    assert torch.equal(second.weights(), whole.weights())
    assert _state(second) == _state(whole)
    assert first.norms + second.norms == whole.norms


@pytest.mark.parametrize("name", CLIPPERS)
def test_amp_gives_the_same_weights_and_overflows_are_left_to_the_scaler(name):
    plain, scaled = Run(CLIPPERS[name]), Run(CLIPPERS[name])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for i in range(50):
        overflow = i == 30
        scaled.backward(i, scaler=scaler)
        if overflow:
            scaled.model[0].bias.grad[0] = math.inf
        scaler.unscale_(scaled.optimizer)
        scaled.clip()
        scaler.step(scaled.optimizer)
        scaler.update()
        if not overflow:
            plain.steps(i, i + 1)
    # A power of two is exact in float32.
    assert torch.equal(plain.weights(), scaled.weights())
    assert _state(plain) == _state(scaled)
    assert scaler.get_scale() == 2.0**11


@pytest.mark.parametrize("name", CLIPPERS)
def test_a_step_like_the_others_is_not_made_larger_and_the_norm_is_that_before(name):
    run = Run(CLIPPERS[name])
    for i in range(40):
        run.backward(i, spike={35})
        before = [p.grad.clone() for p in run.model.parameters()]
        run.clip()
        norm = math.sqrt(math.fsum((g.double() ** 2).sum().item() for g in before))
        assert run.norms[-1] == pytest.approx(norm, rel=1e-12)
        for p, g in zip(run.model.parameters(), before, strict=True):
            assert (p.grad.abs() <= g.abs()).all()
        run.optimizer.step()


@pytest.mark.parametrize("name", CLIPPERS)
def test_one_batch_times_1000_does_less_harm(name):
    plain, clipped = Run().steps(0, 160, spike={100}), Run(CLIPPERS[name]).steps(0, 160, {100})
    harm = plain.loss() - Run().steps(0, 160).loss()
    left = clipped.loss() - Run(CLIPPERS[name]).steps(0, 160).loss()
    assert clipped.loss() < 0.8 * plain.loss()
    # SPAM lets through what is below 70 times the usual: half of the harm. The others, hardly any.
    assert left < (0.6 if name == "spam" else 0.02) * harm


@pytest.mark.parametrize("name", CLIPPERS)
def test_nothing_to_clip(name):
    run = Run(CLIPPERS[name])
    state = _state(run)
    assert run.clipper.clip_(run.model) == 0.0
    for p in run.model.parameters():
        p.grad = torch.zeros_like(p)
    assert run.clipper.clip_(run.model) == 0.0
    assert _state(run) == state
    assert all((p.grad == 0).all() for p in run.model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    named = _parameters(torch.full((40, 1000), 300.0, dtype=dtype), torch.ones(3, dtype=dtype))
    norm = AdaGC(absolute=1.0).clip_(named)
    assert norm == pytest.approx(math.sqrt(300.0**2 * 40_000 + 3), rel=1e-3)
    clipped = math.sqrt(sum(p.grad.double().square().sum().item() for _, p in named))
    assert clipped == pytest.approx(1.0, rel=0.01)


def test_norms_of_another_device_are_those_of_the_host():
    g = torch.Generator().manual_seed(0)
    grads = [torch.randn(n, generator=g) for n in (1, 0, 1000)]
    grads += [grads[2].double(), grads[2].half() * 1000, grads[2].bfloat16()]
    expected = [x.double().norm().item() for x in grads]
    assert _norms_on_device(grads) == pytest.approx(expected, rel=1e-6)
    bad = _norms_on_device([torch.tensor([1.0, math.nan]), torch.tensor([math.inf])])
    assert not any(map(math.isfinite, bad))


def test_what_cannot_be_clipped_is_named():
    clipper = ZClip()
    sparse = torch.nn.Embedding(5, 3, sparse=True)
    sparse(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="model: expected dense gradients, that of weight is not"):
        clipper.clip_(sparse)
    for wrong in (torch.ones(3), 3, "model"):
        with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
            clipper.clip_(wrong)
    with pytest.raises(TypeError, match="or pairs of name and parameter"):
        clipper.clip_([torch.nn.Parameter(torch.ones(3))])


@pytest.mark.parametrize(
    ("kind", "arguments", "named"),
    [
        (AutoClip, {"percentile": 101}, "percentile"),
        (AutoClip, {"window": 0}, "window"),
        (ZClip, {"decay": 1.0}, "decay"),
        (ZClip, {"threshold": math.nan}, "threshold"),
        (ZClip, {"warmup_steps": 1}, "warmup_steps"),
        (AdaGC, {"relative": 1.0}, "relative"),
        (AdaGC, {"absolute": 0}, "absolute"),
        (AdaptiveGradientClip, {"factor": -1}, "factor"),
        (AdaptiveGradientClip, {"exclude": "head"}, "exclude"),
        (SpikeAwareClip, {"optimizer": 3}, "optimizer"),
    ],
)
def test_arguments_are_checked(kind, arguments, named):
    with pytest.raises((ValueError, TypeError), match=f"^{named}: "):
        kind(**arguments)


@pytest.mark.parametrize("name", CLIPPERS)
def test_states_are_checked(name):
    clipper = Run(CLIPPERS[name]).clipper
    good = clipper.state_dict()
    wrong = [None, {}, {**good, "version": 2}]
    wrong += [{k: v for k, v in good.items() if k != key} for key in good]
    wrong += [{**good, key: "x"} for key in good]
    wrong += [{**good, "norms": [0.0]}] if "norms" in good else []
    wrong += [{**good, "usual": {"w": math.nan}}] if "usual" in good else []
    wrong += [{**good, "var": -1.0}] if "var" in good else []
    for state in wrong:
        with pytest.raises(ValueError, match=r"^state: "):
            clipper.load_state_dict(state)
    assert clipper.state_dict() == good


# Each by its formula ------------------------------------------------------------------------------


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40),
    st.floats(0, 100),
    st.integers(1, 50),
)
def test_autoclip_is_the_percentile_of_the_last_norms(norms, percentile, window):
    clipper, seen = AutoClip(percentile, window), []
    for norm in norms:
        ((_, p),) = named = _parameters(torch.tensor([norm], dtype=torch.float64))
        clipper.clip_(named)
        seen.append(norm)
        limit = np.percentile(seen[-window:], percentile)
        assert p.grad.item() == pytest.approx(min(norm, limit), rel=1e-9)


def _clipped(clipper, norm):
    ((_, p),) = named = _parameters(torch.tensor([norm], dtype=torch.float64))
    clipper.clip_(named)
    return p.grad.item()


def test_zclip_by_its_formula():
    first = [1.0, 1.2, 0.9, 1.1, 1.0, 0.95, 1.05, 1.15]
    clipper = ZClip(decay=0.9, threshold=3, warmup_steps=8)
    assert [_clipped(clipper, norm) for norm in first] == pytest.approx(first)
    logs = [math.log(norm) for norm in first]
    mean, std = statistics.fmean(logs), statistics.pstdev(logs)
    z = (math.log(50.0) - mean) / std
    assert _clipped(clipper, 50.0) == pytest.approx(math.exp(mean + 9 * std / z))
    # The spike counted as the edge of what is usual.
    state = clipper.state_dict()
    assert state["mean"] == pytest.approx(mean + 0.1 * 3 * std)
    assert state["var"] == pytest.approx(0.9 * (std**2 + 0.1 * (3 * std) ** 2))
    assert _clipped(clipper, 1.05) == 1.05


def test_zclip_takes_a_rise_of_the_norm_for_the_new_normal():
    draw = np.random.default_rng(0)
    clipper = ZClip()
    norms = np.exp(draw.normal(0, 0.1, 600) + np.repeat([0.0, 2.0], 300))
    clipped = [_clipped(clipper, float(norm)) < norm * 0.999 for norm in norms]
    assert not any(clipped[:300])
    assert clipped[300]
    assert not any(clipped[400:])


def _paper_rule(norms):
    """The share of steps that ZClip clips as published and as its package does it."""
    mean, var, clipped = np.mean(norms[:25]), np.var(norms[:25]), 0
    for x in norms[25:]:
        std = math.sqrt(var)
        z = (x - mean) / (std + 1e-6)
        if z > 2.5:
            x, clipped = mean + 2.5 * std / (z / 2.5), clipped + 1  # noqa: PLW2901
        mean = 0.97 * mean + 0.03 * x
        var = 0.97 * var + 0.03 * (x - mean) ** 2
    return clipped / len(norms[25:])


def _our_rule(norms):
    clipper = ZClip()
    return sum(_clipped(clipper, x) < x * (1 - 1e-9) for x in norms) / len(norms[25:])


@pytest.mark.skipif(not RUNS.exists(), reason="needs shared/data/runs")
def test_zclip_on_real_norms_clips_fewer_healthy_steps():
    shares = {}
    for name in ("gpt2_edu_1epoch", "gpt2_edu_smaller", "nanogpt_llmc_20241013"):
        column = pl.read_parquet(RUNS / f"{name}.parquet")["grad_norm"].to_numpy()
        norms = [float(x) for x in column[:3000] if math.isfinite(x)]
        shares[name] = _paper_rule(norms), _our_rule(norms)
    assert all(paper > 0.02 for paper, _ in shares.values()), shares
    assert all(ours < 0.004 for _, ours in shares.values()), shares


def test_adagc_by_its_formula():
    clipper = AdaGC(relative=1.5, absolute=2.0, decay=0.5, warmup_steps=2)
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    named = _parameters(a, b)  # 5 in all
    clipper.clip_(named)
    assert named[0][1].grad.tolist() == pytest.approx([1.2, 0.0])
    assert named[1][1].grad.tolist() == pytest.approx([1.6])
    clipper.clip_(_parameters(a * 0, b * 0.1))  # of zeros nothing is learnt
    assert clipper.state_dict()["usual"] == pytest.approx({"p0": 1.2, "p1": 0.4})
    named = _parameters(a, b * 0.1)
    clipper.clip_(named)
    assert named[0][1].grad.tolist() == pytest.approx([1.8, 0.0])
    assert named[1][1].grad.tolist() == pytest.approx([0.4])
    assert clipper.state_dict()["usual"] == pytest.approx({"p0": 1.5, "p1": 0.4})


def test_agc_by_its_formula():
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0], [30.0, 40.0]])
    grad = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.03, 0.04]])
    p, q = torch.nn.Parameter(weight), torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    p.grad, q.grad = grad.clone(), torch.tensor([0.0, 10.0])
    AdaptiveGradientClip(factor=0.1, eps=1e-3).clip_([("w", p), ("b", q)])
    expected = torch.stack([grad[0] * 0.5, grad[1] * 2e-4, grad[2]])
    torch.testing.assert_close(p.grad, expected)
    assert q.grad.tolist() == pytest.approx([0.0, 0.5])


def test_agc_leaves_out_what_it_is_told_to():
    run = Run(lambda optimizer: AdaptiveGradientClip(factor=1e-6, exclude=["2", "0.bias"]))
    run.backward(0)
    before = {name: p.grad.clone() for name, p in run.model.named_parameters()}
    run.clip()
    same = {n for n, p in run.model.named_parameters() if torch.equal(p.grad, before[n])}
    assert same == {"2.weight", "2.bias", "0.bias"}


def test_spikes_of_single_values_by_the_second_moment():
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.Adam([p], lr=0.0, betas=(0.9, 0.999))
    for _ in range(3):
        p.grad = torch.tensor([1.0, -2.0, 0.0, 4.0])
        optimizer.step()
    p.grad = torch.tensor([100.0, -1000.0, 1000.0, 8.0])
    SpikeAwareClip(optimizer, threshold=25.0).clip_([("p", p)])
    # 5 times the usual; the third was always zero, of which nothing is known.
    assert p.grad.tolist() == pytest.approx([5.0, -10.0, 1000.0, 8.0], rel=1e-5)


def test_an_optimizer_without_second_moments_is_left_alone():
    run = Run(SpikeAwareClip, optimizer=torch.optim.SGD, momentum=0.9).steps(0, 3)
    plain = Run(optimizer=torch.optim.SGD, momentum=0.9).steps(0, 3)
    assert torch.equal(run.weights(), plain.weights())
