"""The rules on validation losses: planted cases, healthy ones, and small real trainings."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyrostat import rules
from gyrostat.demo.digits import load_digits
from gyrostat.demo.network import NumpyTraining

RNG = np.random.default_rng


def found(train, val, rule=None):
    rule = rules.Generalisation() if rule is None else rule
    out = []
    for i, (seen, val_loss) in enumerate(zip(train, val, strict=True)):
        for loss in np.atleast_1d(seen):
            rule.see(float(loss))
        out += rule.update(float(val_loss), 100 * i)
    return out


def noisy(values, noise, seed=0):
    return np.asarray(values) + noise * RNG(seed).standard_normal(len(values))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("n", [12, 60, 300])
def test_validation_that_falls_or_rests_beside_training_is_silent(seed, n):
    falling = 1.0 + 2.0 * np.exp(-np.arange(n) / (n / 4))
    assert found(noisy(falling, 0.03, seed), noisy(falling + 0.05, 0.01, seed + 1)) == []
    resting = np.maximum(falling, falling[n // 2])
    findings = found(noisy(falling, 0.03, seed), noisy(resting + 0.05, 0.01, seed + 1))
    assert "overfitting" not in {f.code for f in findings}
    findings = found(noisy(resting, 0.03, seed), noisy(resting + 0.05, 0.01, seed + 1))
    assert findings == []


def test_overfitting_is_told_once_with_its_best_step():
    train = 2.0 * np.exp(-np.arange(40) / 15)
    val = np.concatenate([np.linspace(2, 1, 12), np.linspace(1, 1.8, 28)])
    findings = found(noisy(train, 0.01), noisy(val, 0.01))
    over = [f for f in findings if f.code == "overfitting"]
    assert len(over) == 1
    assert over[0].signal == "val_loss"
    assert 900 <= over[0].evidence["best_step"] <= 1400
    assert over[0].step <= 2000
    assert "train-val-gap" not in {f.code for f in findings if f.step > over[0].step}


def test_validation_that_rises_with_training_is_no_overfitting():
    both = np.concatenate([np.linspace(2, 1, 12), np.linspace(1, 1.8, 28)])
    assert found(noisy(both, 0.01), noisy(both, 0.01, 1)) == []


def test_a_growing_gap_is_told():
    train = 2.0 * np.exp(-np.arange(30) / 10)
    findings = found(
        noisy(train, 0.005), noisy(np.maximum(train, 0.7 - 0.001 * np.arange(30)), 0.005)
    )
    assert [f.code for f in findings] == ["train-val-gap"]
    assert findings[0].evidence["gap"] > 0.1 * findings[0].expected


def test_two_losses_that_stop_together_and_high_are_told_once():
    level = np.maximum(2.3 - 0.02 * np.arange(40), 2.1)
    findings = found(noisy(level, 0.003), noisy(level, 0.003, 1))
    assert [f.code for f in findings] == ["underfitting"]
    assert findings[0].expected == pytest.approx(2.25, abs=0.06)
    far_down = np.maximum(2.3 - 0.2 * np.arange(40), 0.3)
    assert found(noisy(far_down, 0.003), noisy(far_down, 0.003, 1)) == []


def test_a_validation_loss_far_below_training_is_told_once():
    train = noisy(np.linspace(2, 1, 30), 0.02)
    findings = found(train, 0.02 * train)
    assert [f.code for f in findings] == ["loss-suspiciously-low"]
    assert found(train, 0.4 * train) == []


def test_without_training_losses_nothing_is_judged_and_nan_is_left_out():
    rule = rules.Generalisation()
    assert [rule.update(1.0 + i, i) for i in range(20)] == [()] * 20
    train = 2.0 * np.exp(-np.arange(60) / 20)
    val = np.concatenate([np.linspace(2, 1, 12), np.linspace(1, 1.8, 48)])
    val[::7] = math.nan
    train[::5] = math.inf
    assert "overfitting" in {f.code for f in found(train, val)}


# small real trainings on the digits that travel with the package


def train_digits(rows, wrong, epochs, seed=0):
    """Training losses of each epoch and the validation loss after it."""
    digits, rng = load_digits(), RNG(seed)
    images, labels = (part[:rows] for part in digits.train)
    labels = labels.copy()
    labels[: int(wrong * rows)] = rng.integers(0, 10, int(wrong * rows))
    network = NumpyTraining(seed, epochs * max(rows // 32, 1))
    train, val = [], []
    for _ in range(epochs):
        order = rng.permutation(rows)
        losses = []
        for start in range(0, rows - 31, 32):
            batch = order[start : start + 32]
            losses.append(network.backward((images[batch], labels[batch])))
            network.update()
        train.append(losses)
        val.append(network.validate(digits.validation))
    return train, val


@pytest.mark.parametrize("seed", range(3))
def test_few_and_wrong_labels_overfit_and_many_right_ones_do_not(seed):
    codes = {f.code for f in found(*train_digits(rows=128, wrong=0.4, epochs=60, seed=seed))}
    assert "overfitting" in codes
    train, val = train_digits(rows=1344, wrong=0.0, epochs=15, seed=seed)
    assert [f for f in found(train, val) if f.severity > "info"] == []


# state


LOSS = st.floats(0.01, 10.0) | st.sampled_from([math.nan, math.inf, 0.0, -2.0]) | st.floats()


@given(st.lists(st.tuples(st.lists(LOSS, max_size=3), LOSS), max_size=150), st.integers(0, 150))
def test_resumed_rules_say_the_same(evaluations, cut):
    whole, resumed = rules.Generalisation(), rules.Generalisation()
    said = {}
    for rows in (evaluations[:cut],):
        found([t for t, _ in rows], [v for _, v in rows], whole)
    whole.see(1.5)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
    assert resumed.state_dict() == whole.state_dict()
    for rule in (whole, resumed):
        rows = evaluations[cut:]
        said[rule] = repr(found([t for t, _ in rows], [v for _, v in rows], rule))
    assert said[whole] == said[resumed]


@pytest.mark.parametrize(
    "kind",
    [
        rules.Generalisation,
        rules.Overfitting,
        rules.TrainValGap,
        rules.Underfitting,
        rules.ValidationTooLow,
    ],
)
def test_a_state_of_nothing_is_refused_and_changes_nothing(kind):
    rule = kind()
    before = rule.state_dict()
    for bad in (None, {}, {"version": 9}, dict.fromkeys(before, "?") | {"version": 1}):
        with pytest.raises(ValueError, match=r"^state: "):
            rule.load_state_dict(bad)
        assert rule.state_dict() == before
