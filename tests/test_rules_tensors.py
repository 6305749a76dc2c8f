"""The rules on tensors: real small trainings, healthy and with a fault, and planted numbers."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gyrostat import rules, summarize_all
from gyrostat.pairs import compare_all
from small_models import Transformer, cnn, mlp, train

RNG = np.random.default_rng


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scaled(model, factor):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(factor)
    return model


def first(found, code):
    return next(f for f in found if f.code == code)


@pytest.mark.parametrize(
    ("make", "optimizer", "lr", "kind", "bf16"),
    [
        (mlp, "adamw", 3e-3, "constant", False),
        (mlp, "sgd", 0.05, "cosine", True),
        (lambda: mlp(depth=6), "adamw", 1e-3, "cosine", False),
        (lambda: mlp(act=nn.Tanh), "sgd", 0.05, "constant", False),
        (cnn, "sgd", 0.05, "constant", False),
        (cnn, "adamw", 1e-3, "cosine", True),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_training_is_silent(make, optimizer, lr, kind, bf16, seed):
    torch.manual_seed(seed)
    found, losses = train(make(), optimizer, lr, 120, seed, kind=kind, bf16=bf16)
    assert np.mean(losses[-10:]) < losses[0]
    assert found == []


@pytest.mark.parametrize("bf16", [False, True])
def test_a_healthy_transformer_is_silent(bf16):
    torch.manual_seed(0)
    found, losses = train(
        Transformer(), "adamw", 3e-3, 60, kind="cosine", bf16=bf16, size=8, every=10
    )
    assert np.mean(losses[-10:]) < losses[0]
    assert found == []


def test_dead_relus_are_told_with_their_layer():
    torch.manual_seed(0)
    model = mlp()
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    found, _ = train(model, steps=50)
    dead = first(found, "dead-units")
    assert dead.culprit.layer == "3"  # the ReLU
    assert dead.value == 1.0
    assert dead.step <= 40
    assert first(found, "all-zero-tensor").evidence["tensors"] == ["0", "2"]
    assert len({f.code for f in found}) == len(found) == 2


def test_tiny_weights_are_told_before_the_first_update():
    torch.manual_seed(0)
    found, _ = train(scaled(mlp(), 1e-3), "sgd", 0.05, 30)
    poor = first(found, "poor-initialisation")
    assert poor.step == 0
    assert poor.evidence["lowest"] == "4"
    vanishing = first(found, "vanishing-gradient")
    assert (vanishing.culprit.layer, vanishing.step) == ("0", 19)


def test_huge_weights_are_told_before_the_first_update():
    torch.manual_seed(0)
    found, _ = train(scaled(mlp(), 100.0), "sgd", 1e-3, 2)
    assert [(f.code, f.step) for f in found] == [("poor-initialisation", 0)]
    assert found[0].evidence["highest"] == "6"


def test_saturated_tanh_is_told_with_its_layer():
    torch.manual_seed(0)
    found, _ = train(scaled(mlp(act=nn.Tanh), 100.0), "sgd", 0.01, 30)
    flat = first(found, "saturated-activation")
    assert flat.culprit.layer == "1"
    assert flat.step == 10  # the third look
    assert flat.evidence["tensors"] == ["1", "3", "5"]


def test_a_layer_that_the_optimizer_was_not_given_is_told():
    torch.manual_seed(0)
    model = mlp()
    given_to_it = [p for name, p in model.named_parameters() if not name.startswith("2.")]
    found, _ = train(model, lambda _: torch.optim.AdamW(given_to_it, lr=1e-3), steps=50)
    assert [(f.code, f.step) for f in found] == [("unchanged-tensor", 10)]
    assert found[0].evidence["tensors"] == ["2.weight", "2.bias"]


def test_a_layer_that_is_frozen_on_purpose_is_not_told():
    torch.manual_seed(0)
    model = mlp()
    model[2].requires_grad_(False)
    assert train(model, steps=50)[0] == []


def test_growing_logits_of_attention_are_told_with_their_module():
    torch.manual_seed(0)
    model = Transformer()
    attention = model.blocks.layers[1].self_attn

    def grow(step, *_):
        if step >= 10:
            with torch.no_grad():
                attention.in_proj_weight[:64].mul_(1.1)

    found, _ = train(model, steps=60, change=grow, size=8, every=3)
    told = first(found, "attention-logit-growth")
    assert told.culprit.layer == "blocks.layers.1.self_attn"
    assert told.value > 100
    assert 20 < told.step < 60
    assert [f.code for f in found].count("attention-logit-growth") == 1


def test_output_logits_that_run_away_are_told():
    torch.manual_seed(0)

    def grow(step, model, _):
        if step >= 50:
            with torch.no_grad():
                model[-1].weight.mul_(1.2)

    found, _ = train(mlp(), steps=100, change=grow, every=2)
    told = first(found, "output-logit-divergence")
    assert told.culprit.layer == "6"
    assert 55 < told.step < 100
    assert 55 < first(found, "exploding-gradient").step < 100


def test_a_learning_rate_far_too_high_is_told_by_the_updates():
    torch.manual_seed(0)

    def raise_it(step, _, optimizer):
        optimizer.param_groups[0]["lr"] = 3.0 if step >= 50 else 0.02

    found, _ = train(mlp(), "sgd", 0.02, 70, change=raise_it, size=1024)
    ratio = first(found, "update-ratio")
    assert 50 < ratio.step < 65
    assert ratio.value > 1


class TestPlanted:
    """Numbers without a model."""

    names = ("wte.weight", "a.weight", "a.bias", "b.weight")

    def healthy(self, step, n=4):
        return np.exp(0.3 * RNG(step).standard_normal(n))

    def told(self, rule, values, names=names):
        found = (rule.update(names, norms, step) for step, norms in enumerate(values))
        return [f for f in found if f is not None]

    def test_vanishing_is_told_once_and_again_after_it_was_over(self):
        values = [self.healthy(i) for i in range(400)]
        for i in [*range(100, 200), *range(300, 400)]:
            values[i][3] *= 1e-7
        found = self.told(rules.VanishingGradient(), values)
        assert [(f.code, f.step) for f in found] == [
            ("vanishing-gradient", 119),
            ("vanishing-gradient", 319),
        ]
        assert found[0].culprit.layer == "b"

    def test_gradients_that_become_small_together_do_not_vanish(self):
        values = [self.healthy(i) * 0.9**i for i in range(400)]
        assert self.told(rules.VanishingGradient(), values) == []

    def test_a_fall_below_the_level_of_its_own_is_told(self):
        values = [self.healthy(i) for i in range(100)]
        for norms in values[50:]:
            norms[3] *= 2e-4  # less than the others need to fall for
        found = self.told(rules.VanishingGradient(), values)
        assert [(f.step, f.culprit.layer) for f in found] == [(69, "b")]

    def test_a_bias_of_rounding_errors_is_none(self):
        values = [self.healthy(i) * [1, 1, 1e-9, 1] for i in range(100)]
        assert self.told(rules.VanishingGradient(), values) == []
        assert self.told(rules.AllZeroTensor(), [v * [1, 1, 0, 1] for v in values]) == []

    def test_exploding_needs_more_than_one_step(self):
        values = [self.healthy(i) for i in range(200)]
        for i in (50, 60, 61, 62):
            values[i] *= 1e3
        assert self.told(rules.ExplodingGradient(), values) == []
        for i in range(100, 200):
            values[i][3] *= 1.15 ** (i - 100)
        found = self.told(rules.ExplodingGradient(), values)
        assert [f.code for f in found] == ["exploding-gradient"]
        assert found[0].culprit.layer == "b"
        assert 120 < found[0].step < 150

    def test_slow_growth_does_not_explode(self):
        values = [self.healthy(i) * 1.001**i for i in range(3000)]
        assert self.told(rules.ExplodingGradient(), values) == []

    def test_embeddings_that_take_over_are_told(self):
        values = [self.healthy(i) for i in range(100)]
        for norms in values[60:]:
            norms[0] *= 50
        found = self.told(rules.EmbeddingGradientShare(), values)
        assert [(f.code, f.step) for f in found] == [("embedding-gradient-share", 62)]
        assert found[0].culprit.layer == "wte.weight"
        assert self.told(rules.EmbeddingGradientShare(["a.weight"]), values) == []

    def test_a_weight_that_becomes_zero_is_told(self):
        values = [self.healthy(i) * [1, 1, 0, 1] for i in range(20)]  # one that begins so is not
        values[10][3] = 0.0
        found = self.told(rules.AllZeroTensor("weights"), values)
        assert [(f.code, f.step, f.culprit.layer) for f in found] == [
            ("all-zero-tensor", 10, "b.weight")
        ]

    def test_a_second_moment_that_lags_is_told(self):
        values = [self.healthy(i) for i in range(100)]
        values[50][1] = 30.0  # one hard batch
        for norms in values[60:]:
            norms[1] = 12.0
        found = self.told(rules.UpdateRms(), values)
        assert [(f.code, f.step) for f in found] == [("update-rms", 62)]
        assert found[0].culprit.layer == "a.weight"

    def test_gradients_against_their_momentum_are_told(self):
        rule = rules.MomentumConflict()
        found = []
        for step in range(200):
            total = -0.9 if step >= 100 else 0.2
            cosine = np.array([0.0, total, math.nan, 0.1])
            found.append(rule.update(self.names, cosine, total, step))
        found = [f for f in found if f is not None]
        assert [f.code for f in found] == ["momentum-conflict"]
        assert 105 < found[0].step < 140
        assert found[0].culprit.layer == "a.weight"

    def test_names_that_change_keep_what_is_known_of_them(self):
        rule = rules.VanishingGradient()
        assert self.told(rule, [self.healthy(i) for i in range(50)]) == []
        names = ("new.weight", *self.names)
        for step in range(50, 100):
            norms = np.append(1.0, self.healthy(step))
            norms[4] *= 2e-4
            found = rule.update(names, norms, step)
            assert (found is not None) == (step == 69)


def test_fp16_gradients_that_underflow_are_told_at_scale_one():
    rng = RNG(0)
    wide = {
        "a.weight": (rng.standard_normal((64, 64)) * 1e-7).astype(np.float32),
        "b.weight": (rng.standard_normal((64, 64)) * 1e-4).astype(np.float32),
    }
    for values in (wide, {n: x.astype(np.float16).astype(np.float32) for n, x in wide.items()}):
        for scale, steps in ((1.0, [32]), (65536.0, [])):
            rule, table = rules.TensorRules(), summarize_all(values)
            found = [
                f for i in range(100) for f in rule.update(i, gradients=table, loss_scale=scale)
            ]
            assert [(f.code, f.step) for f in found] == [("gradient-underflow", i) for i in steps]
            assert all(f.culprit.layer == "a.weight" for f in found)


def test_real_fp16_training_underflows_without_a_loss_scale():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)).half()
    codes = {}
    for scale in (1.0, 2.0**12):
        rule, codes[scale] = rules.TensorRules(), []
        for step in range(40):
            x = torch.randn(64, 32, dtype=torch.float16)
            model.zero_grad()
            (model(x).float().square().mean() * 1e-5 * scale).backward()
            grads = {n: p.grad.float() / scale for n, p in model.named_parameters()}
            found = rule.update(step, gradients=summarize_all(grads), loss_scale=scale)
            codes[scale] += [f.code for f in found]
    assert codes == {1.0: ["gradient-underflow"], 2.0**12: []}


def test_a_loss_scale_that_thrashes_is_told_and_a_healthy_one_is_not():
    def told(scales):
        rule = rules.LossScaleThrash()
        found = (rule.update(scale, step) for step, scale in enumerate(scales))
        return [(f.code, f.step) for f in found if f is not None]

    search = [2.0 ** (16 - i) for i in range(9)]
    scales, scale = list(search), search[-1]
    for step in range(6000):
        scale *= {1999: 2.0, 0: 0.5}.get(step % 2000, 1.0) if step > 1 else 1.0
        scales.append(scale)
    assert told(scales) == []
    flutter = [256.0 * (1 + i // 5 % 2) for i in range(300)]
    thrash = told([*search, *[search[-1]] * 50, *flutter])
    assert [code for code, _ in thrash] == ["loss-scale-thrash"]
    assert told([2.0 ** (4 - i) for i in range(8)]) == [("loss-scale-thrash", 5)]


def test_gradients_that_are_not_finite_are_left_to_the_rule_that_names_them():
    rule = rules.TensorRules()
    table = summarize_all({"a.weight": np.array([1.0, math.nan]), "b.weight": np.zeros(2)})
    assert all(rule.update(step, gradients=table) == () for step in range(100))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda r: r.update(0, updates={"a": 1.0}), "updates"),
        (lambda r: r.update(0, updates={"b": 1.0}, weights=summarize_all([np.ones(2)])), "updates"),
        (
            lambda r: r.update(0, loss_scale=0.0, gradients=summarize_all([np.ones(2)])),
            "loss_scale",
        ),
        (lambda r: rules.VanishingGradient().update(("a",), [1.0, 2.0], 0), "norms"),
        (lambda r: rules.AllZeroTensor("both"), "of"),
        (lambda r: rules.GradientUnderflow("float12"), "fmt"),
        (lambda r: r.load_state_dict({"version": 1}), "state"),
        (lambda r: r.load_state_dict(None), "state"),
    ],
)
def test_bad_input_is_refused_by_name(call, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        call(rules.TensorRules())


def inputs(seed, step, names):
    """All that a step may bring, some of it sick."""
    rng = RNG([seed, step])
    tensors = {n: rng.standard_normal(8) * 10.0 ** rng.integers(-8, 3) for n in names}
    for name in names:
        if rng.random() < 0.3:
            tensors[name] = tensors[name] * 0.0
    weights = {n: rng.standard_normal(8) for n in names}
    after = {n: w + rng.choice([0.0, 1e-3, 10.0]) for n, w in weights.items()}
    idle = {n: rng.random(6) < 0.8 for n in names}
    n = len(names)
    return {
        "gradients": summarize_all(tensors),
        "weights": summarize_all({n: np.full(8, rng.integers(2)) * 1.0 for n in names}),
        "updates": compare_all(after, weights),
        "moments": rules.Moments(
            tuple(names), 10.0 ** rng.normal(0, 1, n), rng.uniform(-1, 1, n), rng.uniform(-1, 0)
        ),
        "activations": rules.Activations(
            summarize_all(tensors),
            np.full(n, 64),
            np.abs(rng.standard_normal(n)),
            np.ones(n, dtype=bool),
            rng.random(n),
            idle,
            {names[0]: float(10.0 ** rng.uniform(0, 4))},
            names[-1],
        ),
        "lr": 1e-3,
        "loss_scale": float(2.0 ** rng.integers(-1, 17)),
    }


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), cut=st.integers(0, 50), change=st.integers(0, 50))
def test_a_state_goes_on_with_the_same_verdicts(seed, cut, change):
    names = ["wte.weight", "a.weight", "a.bias", "b.weight"]
    straight, resumed = rules.TensorRules(), rules.TensorRules()
    told = 0
    for step in range(50):
        if step == cut:
            state = json.loads(json.dumps(resumed.state_dict(), allow_nan=False))
            resumed = rules.TensorRules()
            resumed.load_state_dict(state)
            assert resumed.state_dict() == state
        given_ = inputs(seed, step, names[1:] if step >= change else names)
        found = straight.update(step, **given_)
        assert repr(found) == repr(resumed.update(step, **given_))
        told += len(found)
    assert straight.state_dict() == resumed.state_dict()
    assert told
    assert all(json.dumps(f.to_dict(), allow_nan=False) for f in found)
