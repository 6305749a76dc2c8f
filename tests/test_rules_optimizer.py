"""Rules on learning rates and on the optimizer's memory, on real optimizers and schedules."""

import copy
import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler as schedules

from gyrostat.integrations.torch.subject import TorchSubject
from gyrostat.rules import LearningRateJump, OptimizerStateRule

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-3),
    "adam-fast": lambda p: torch.optim.Adam(p, 1e-2, betas=(0.5, 0.9)),
    "amsgrad": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True),
    "adam-l2": lambda p: torch.optim.Adam(p, 1e-3, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.95, nesterov=True),
    "dampened": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, dampening=0.9, weight_decay=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3),
    "rmsprop-momentum": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9),
}


class Run:
    """An optimizer given random gradients, watched by the rule through its subject."""

    def __init__(self, optimizer, seed=0):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.subject = TorchSubject(self.model, self.optimizer)
        self.rule = OptimizerStateRule()
        self.step = 0

    def judge(self):
        memory = self.subject.optimizer_state()
        norms = self.subject.gradients(None).norms
        self.step += 1
        if memory is None:
            return None
        return self.rule.update(memory.names, memory.first, memory.second, norms, self.step)

    def steps(self, scales):
        found = []
        for scale in scales:
            for p in self.model.parameters():
                p.grad = torch.randn_like(p) * scale
            found.append(self.judge())
            self.optimizer.step()
        return [f for f in found if f is not None]

    def memory(self, key, parameter=0):
        return self.optimizer.state[list(self.model.parameters())[parameter]][key]


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(OPTIMIZERS)),
    st.lists(st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1.0, 30.0, 1e4]), max_size=15),
    st.integers(0, 99),
)
def test_what_gradients_do_to_a_memory_is_never_damage(optimizer, scales, seed):
    assert Run(optimizer, seed).steps(scales) == []


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "momentum", "rmsprop"])
def test_gradients_that_are_not_finite_are_for_other_rules(optimizer):
    assert Run(optimizer).steps([1.0] * 10 + [math.nan] + [1.0] * 5) == []


@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "adamw", "rmsprop"])
def test_a_mean_of_squares_set_to_zero_is_damage(optimizer):
    run = Run(optimizer)
    key = "square_avg" if optimizer == "rmsprop" else "exp_avg_sq"
    assert run.steps([1.0] * 20) == []
    run.memory(key, 2).zero_()
    (finding,) = run.steps([1.0] * 5)
    assert (finding.code, finding.severity, finding.step) == (
        "optimizer-state-damage",
        "critical",
        21,
    )
    assert finding.culprit.layer == "1.weight"
    assert finding.evidence["how"] == "fell"
    assert finding.evidence["share"] == 0.25


@pytest.mark.parametrize(
    ("optimizer", "key"),
    [
        ("adam", "exp_avg"),
        ("adamw", "exp_avg_sq"),
        ("momentum", "momentum_buffer"),
        ("rmsprop", "square_avg"),
    ],
)
def test_a_flipped_exponent_bit_is_damage(optimizer, key):
    run = Run(optimizer)
    assert run.steps([1.0] * 20) == []
    bits = run.memory(key).view(torch.int32).reshape(-1)
    bits[3] ^= 1 << 30  # numbers below 1 become about 1e38 times as large
    found = run.steps([1.0])
    assert [f.code for f in found] == ["optimizer-state-damage"]
    assert found[0].culprit.layer == "0.weight"
    assert found[0].evidence["how"] == "rose"


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "rmsprop"])
def test_a_lost_memory_is_told_once(optimizer):
    run = Run(optimizer)
    assert run.steps([1.0] * 20) == []
    run.optimizer.state.clear()
    (finding,) = run.steps([1.0] * 5)
    assert "lost" in finding.message
    assert finding.culprit.layer is None


def test_a_memory_of_another_set_of_names_is_not_compared():
    rule = OptimizerStateRule()
    a, b = np.array([1.0]), np.array([1e-9])
    assert rule.update(["w"], a, a, {"w": 1.0}, 0) is None
    assert rule.update(["v"], b, b, {"v": 1.0}, 1) is None
    assert rule.update(["v"], a * 9, b, {"v": 1.0}, 2) is not None


def test_ranks_that_hold_the_damage_are_named_and_a_rule_can_forget():
    rule, one = OptimizerStateRule(), np.ones(3)
    names, ranks, norms = ["w"] * 3, [0, 1, 2], {"w": 1.0}
    assert rule.update(names, one, one, norms, 0, ranks=ranks) is None
    fallen = np.array([1.0, 0.1, 1.0])
    found = rule.update(names, one, fallen, norms, 1, ranks=ranks)
    assert found.culprit.ranks == (1,)
    rule.forget()
    assert rule.update(names, one, fallen / 100, norms, 2, ranks=ranks) is None


def test_a_resumed_memory_rule_says_the_same():
    run = Run("adam")
    run.steps([1.0] * 10)
    run.steps([math.nan])
    state = run.rule.state_dict()
    other = OptimizerStateRule()
    other.load_state_dict(json.loads(json.dumps(state, allow_nan=False)))
    assert repr(other.state_dict()) == repr(state)
    for bad in [None, {}, {**state, "names": 1}, {**state, "first": [1.0]}, {**state, "second": 2}]:
        with pytest.raises(ValueError, match="state"):
            other.load_state_dict(bad)
        assert repr(other.state_dict()) == repr(state)


# Learning rates


def told(rates, rule=None):
    rule = LearningRateJump() if rule is None else rule
    found = [rule.update([rate], step) for step, rate in enumerate(rates)]
    return [f.step for f in found if f is not None]


def optimizer_of(lr):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr)


def rates_of(make, lr, steps):
    optimizer = optimizer_of(lr)
    scheduler = make(optimizer)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an epoch parameter that SequentialLR passes
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return rates


def warmed_up(optimizer, warm, steps):
    first = schedules.LinearLR(optimizer, 1e-3, total_iters=warm)
    then = schedules.CosineAnnealingLR(optimizer, steps)
    return schedules.SequentialLR(optimizer, [first, then], [warm])


SCHEDULES = {
    "constant": lambda o: schedules.ConstantLR(o, 1.0),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 100),
    "warm restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 40, 2),
    "warm restarts to zero": lambda o: schedules.CosineAnnealingWarmRestarts(o, 25, eta_min=1e-9),
    "linear warm-up": lambda o: schedules.LinearLR(o, 1e-4, total_iters=100),
    "warm-up and cosine": lambda o: warmed_up(o, 50, 200),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=401),
    "cyclic": lambda o: schedules.CyclicLR(o, 1e-4, 1e-1, step_size_up=30),
    "steps": lambda o: schedules.StepLR(o, 50, 0.1),
    "exponential warm-up": lambda o: schedules.LambdaLR(o, lambda i: min(1.0, 1e-6 * 1.5**i)),
    "doubling warm-up": lambda o: schedules.LambdaLR(o, lambda i: min(1.0, 1e-6 * 2.0**i)),
    "warm-up from zero": lambda o: schedules.LambdaLR(o, lambda i: min(1.0, i / 60)),
    "inverse root": lambda o: schedules.LambdaLR(o, lambda i: min(1e-3 * (i + 1), (i + 1) ** -0.5)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_do_not_jump(name):
    rates = rates_of(SCHEDULES[name], 0.1, 400)
    assert len(set(rates)) > 1 or name == "constant"
    assert told(rates) == []


@given(st.integers(1, 300), st.integers(2, 300), st.floats(1e-8, 1e2), st.floats(0.0, 0.5))
def test_warm_up_and_restarts_of_any_length_do_not_jump(warm, period, lr, lowest):
    def rate(i):
        if i < warm:
            return lr * (i + 1) / warm
        phase = (i - warm) % period / period
        return lr * (lowest + (1 - lowest) * (1 + math.cos(math.pi * phase)) / 2)

    assert told([rate(i) for i in range(warm + 2 * period + 10)]) == []


@given(st.floats(4.01, 1e6), st.integers(12, 200), st.floats(1e-9, 1e2))
def test_a_jump_is_told_at_its_step_and_its_factor_takes_it_back(ratio, at, lr):
    rule = LearningRateJump()
    assert told([lr] * at + [lr * ratio] * 5, rule) == [at]
    assert rule.factor == pytest.approx(1 / ratio)
    assert told([lr] * 5, rule) == []
    assert rule.factor == 1.0


def test_a_jump_below_the_ratio_or_at_the_very_start_is_none():
    assert told([1.0] * 50 + [3.9] * 5) == []
    assert told([1e-4, 1e-4, 1.0, 1.0]) == []
    assert told([1.0] * 50 + [3.0] * 5, LearningRateJump(2.5)) == [50]


def test_what_is_accepted_is_scaled_no_more_and_told_no_more():
    rule = LearningRateJump()
    assert told([0.01] * 50 + [1.0], rule) == [50]
    rule.accept()
    assert rule.factor == 1.0
    assert told([1.0] * 20 + [0.01] * 20 + [1.0] * 5, rule) == []


def test_the_group_that_jumped_is_named_and_rates_that_are_no_numbers_begin_anew():
    rule = LearningRateJump()
    for step in range(20):
        assert rule.update([0.1, 0.1], step) is None
    finding = rule.update([0.1, 1.0], 20)
    assert (finding.evidence["group"], finding.value, finding.expected) == (1, 1.0, 0.1)
    for rates in ([math.nan, 0.1], [0.1], [math.inf, 1.0], [], [0.0, 0.0], [1.0, 1.0]):
        assert rule.update(rates, 21) is None
        assert rule.factor == 1.0


@given(st.lists(st.floats(0, 1e3), max_size=60), st.integers(0, 60))
def test_a_resumed_rate_rule_says_the_same(rates, cut):
    whole, first = LearningRateJump(), LearningRateJump()
    told(rates[:cut], whole)
    told(rates[:cut], first)
    second = LearningRateJump()
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    assert told(rates[cut:], second) == told(rates[cut:], whole)
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("state", [None, {}, {"version": 1}, {"version": 9}])
def test_a_state_of_nothing_is_refused(state):
    rule = LearningRateJump()
    told([1.0] * 3, rule)
    before = copy.deepcopy(rule.state_dict())
    with pytest.raises(ValueError, match="state"):
        rule.load_state_dict(state)
    assert rule.state_dict() == before
