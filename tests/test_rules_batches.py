"""The rules on the data of batches."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyrostat import rules
from gyrostat.demo.digits import load_digits

RNG = np.random.default_rng


def told(batches, rule=None, what="labels"):
    rule = rules.BatchRules() if rule is None else rule
    return [f for step, batch in enumerate(batches) for f in rule.update(step, **{what: batch})]


def test_real_digits_are_silent():
    digits, rule = load_digits(), rules.BatchRules()
    for seed in range(3):
        for step, (images, labels) in enumerate(digits.batches(32, seed)):
            assert rule.update(step, inputs=images, labels=labels) == ()


def test_real_digits_that_are_sorted_are_told_once():
    labels = np.sort(load_digits().train[1])
    found = told(np.array_split(labels, 42))
    assert [f.code for f in found] == ["sorted-labels"]
    assert found[0].step == 19
    assert found[0].value > 0.9


@pytest.mark.parametrize("size", [2, 8, 256])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_shuffled_labels_are_silent_whatever_the_size_of_batches(size, classes):
    rng = RNG(size * classes)
    assert told(rng.integers(classes, size=(100, size))) == []


def test_labels_grouped_in_small_groups_are_silent():
    rng = RNG(0)  # eight classes of four samples each, as for metric learning
    assert told(np.repeat(rng.integers(200, size=(100, 8)), 4, axis=1)) == []


def test_rare_classes_are_told_as_an_info():
    labels = RNG(0).choice(3, p=[0.6, 0.37, 0.03], size=(100, 32))
    found = told(labels)
    assert [(f.code, str(f.severity)) for f in found] == [("class-imbalance", "info")]
    assert (found[0].evidence["most"], found[0].evidence["least"]) == (0, 2)
    assert told(RNG(0).choice(3, p=[0.5, 0.4, 0.1], size=(100, 32))) == []


def test_tokens_and_labels_to_ignore_are_no_classes():
    assert told(np.arange(50_000).reshape(100, 500)) == []
    assert told([[-100] * 32] * 100) == []


def test_raw_pixels_are_told_and_scaled_ones_are_not():
    images = RNG(0).integers(0, 256, (600, 3, 4, 4)).astype(np.float32)
    found = told([images], rules.BatchRules(feature_axis=1), "inputs")
    assert [f.code for f in found] == ["inputs-not-normalised"]
    assert told([images / 255], rules.BatchRules(feature_axis=1), "inputs") == []
    images[0, 0, 0, 0] = math.nan
    assert told([images / 255], rules.BatchRules(feature_axis=1), "inputs") == []


def test_columns_of_other_units_are_told():
    table = RNG(0).standard_normal((10, 100, 3)) * [1.0, 1e-4, 1.0]
    found = told(table, what="inputs")
    assert [f.code for f in found] == ["inputs-not-normalised"]
    assert found[0].evidence["spread"] == pytest.approx(1e4, rel=0.2)
    assert found[0].step == 4
    table[..., 1] = 0.5  # a constant one is none
    assert told(table, what="inputs") == []


def test_padding_is_told():
    flags = np.arange(100) >= RNG(0).integers(10, 60, (20, 50, 1))
    assert [f.code for f in told(flags, what="is_padding")] == ["padding-share"]
    assert told(~flags, what="is_padding") == []


@pytest.mark.parametrize(
    ("what", "batch", "match"),
    [
        ("labels", [0.5], "labels"),
        ("inputs", [1.0], "inputs"),
        ("is_padding", [True], "is_padding"),
    ],
)
def test_bad_input_is_refused_by_name(what, batch, match):
    with pytest.raises(ValueError, match=f"^{match}"):
        told([batch], what=what)


def test_other_features_than_before_are_refused():
    with pytest.raises(ValueError, match=r"^inputs.*3 features"):
        told([np.ones((2, 3)), np.ones((2, 4))], what="inputs")


@given(seed=st.integers(0, 2**32), cut=st.integers(0, 30), power=st.integers(-2, 4))
def test_a_state_goes_on_with_the_same_verdicts(seed, cut, power):
    rng = RNG(seed)
    straight, resumed = rules.BatchRules(), rules.BatchRules()
    shares = rng.dirichlet([0.3] * 4)
    for step in range(30):
        if step == cut:
            state = json.loads(json.dumps(resumed.state_dict(), allow_nan=False))
            resumed = rules.BatchRules()
            resumed.load_state_dict(state)
            assert resumed.state_dict() == state
        given_ = {
            "labels": rng.choice(4, p=shares, size=32),
            "inputs": rng.standard_normal((32, 3)) * 10.0**power,
            "is_padding": rng.random((32, 8)) < 0.5,
        }
        assert repr(straight.update(step, **given_)) == repr(resumed.update(step, **given_))
    assert straight.state_dict() == resumed.state_dict()


@pytest.mark.parametrize("state", [None, {}, {"version": 1}, {"version": 1, "classes": {}}])
def test_a_state_of_something_else_is_refused(state):
    with pytest.raises(ValueError, match=r"^state"):
        rules.BatchRules().load_state_dict(state)
