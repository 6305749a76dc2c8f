"""Gradient noise scale: known answers, averages, state."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyrostat.noise import GradientNoiseScale, gradient_noise_scale

SMALL, BIG = 4, 64


def gradients(steps, squared_gradient=4.0, trace=400.0, dimensions=50, seed=0):
    """Squared norms at both batch sizes, of gradients with known G and Sigma."""
    rng = np.random.default_rng(seed)
    true = np.full(dimensions, math.sqrt(squared_gradient / dimensions))
    spread = rng.uniform(0.1, 2.0, dimensions)  # samples differ more in some directions
    spread *= math.sqrt(trace / np.square(spread).sum())
    samples = true + spread * rng.standard_normal((steps, BIG, dimensions))
    return (
        np.square(samples[:, :SMALL].mean(axis=1)).sum(axis=-1),
        np.square(samples.mean(axis=1)).sum(axis=-1),
    )


def fed(small, big, **kwargs):
    noise = GradientNoiseScale(**kwargs)
    for one, other in zip(small, big, strict=True):
        noise.update(one, other, SMALL, BIG)
    return noise


def test_the_known_answer_is_found():
    noise = fed(*gradients(4000))
    assert noise.squared_gradient == pytest.approx(4.0, rel=0.05)
    assert noise.trace == pytest.approx(400.0, rel=0.02)
    assert noise.value == pytest.approx(100.0, rel=0.05)
    assert noise.steps == 4000


def test_two_exact_norms_give_the_exact_answer():
    # E|G_B|^2 = |G|^2 + tr(Sigma) / B, here with |G|^2 = 3 and tr(Sigma) = 80
    noise = GradientNoiseScale()
    noise.update(3.0 + 80.0 / 8, 3.0 + 80.0 / 32, 8, 32)
    noise.update(3.0 + 80.0 / 16, 3.0 + 80.0 / 32, 16, 32)  # another batch size, the same answer
    assert noise.squared_gradient == pytest.approx(3.0, rel=1e-14)
    assert noise.trace == pytest.approx(80.0, rel=1e-14)
    assert noise.value == pytest.approx(80.0 / 3.0, rel=1e-14)


def test_the_ratio_is_of_the_averages():
    small, big = gradients(500)
    squared_gradients = (BIG * big - SMALL * small) / (BIG - SMALL)
    traces = (small - big) / (1 / SMALL - 1 / BIG)
    of_averages = traces.mean() / squared_gradients.mean()
    assert gradient_noise_scale(small, big, SMALL, BIG) == pytest.approx(of_averages, rel=1e-12)
    assert of_averages != pytest.approx((traces / squared_gradients).mean(), rel=0.1)


def test_the_past_fades_with_the_half_life():
    before, after = gradients(600), gradients(600, trace=40.0, seed=1)
    small, big = np.concatenate([before, after], axis=1)
    assert fed(small, big, halflife=50).value == pytest.approx(10.0, rel=0.15)
    assert fed(small, big).value > 30.0


def test_a_half_life_weighs_as_it_says():
    noise = GradientNoiseScale(halflife=2.0)
    for trace in (10.0, 20.0, 40.0):
        noise.update(1.0 + trace / SMALL, 1.0 + trace / BIG, SMALL, BIG)
    weights = np.array([0.5, 0.5**0.5, 1.0])
    assert noise.trace == pytest.approx(np.average([10.0, 20.0, 40.0], weights=weights), rel=1e-12)
    assert noise.squared_gradient == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, np.float32("nan")])
def test_a_norm_that_is_not_finite_is_skipped(bad):
    noise = GradientNoiseScale()
    noise.update(5.0, 2.0, 8, 32)
    state = noise.state_dict()
    noise.update(bad, 2.0, 8, 32)
    noise.update(5.0, bad, 8, 32)
    assert noise.state_dict() == {**state, "skipped": 2}


def test_what_cannot_be_told():
    noise = GradientNoiseScale()
    assert math.isnan(noise.value)
    assert math.isnan(noise.trace)
    assert math.isnan(gradient_noise_scale([], [], 1, 2))
    noise.update(10.0, 1.0, 2, 4)  # |G|^2 comes out negative: all noise
    assert noise.squared_gradient < 0
    assert noise.value == math.inf
    assert gradient_noise_scale([2.0], [2.0], 1, 2) == 0.0


@given(
    st.none() | st.floats(1e-3, 1e6),
    st.lists(st.tuples(st.floats(0, 1e300), st.floats(0, 1e300) | st.just(math.nan)), max_size=8),
    st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), max_size=5),
)
def test_state_goes_through_strict_json_to_the_bit(halflife, before, after):
    noise = fed(*np.reshape(before, (-1, 2)).T, halflife=halflife)
    back = GradientNoiseScale()
    back.load_state_dict(json.loads(json.dumps(noise.state_dict(), allow_nan=False)))
    for one in (noise, back):
        for small, big in after:
            one.update(small, big, 1, 2)
    assert repr(back.state_dict()) == repr(noise.state_dict())
    assert repr(back) == repr(noise)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"trace": "much"},
        {"weight": -1.0},
        {"weight": "nan"},
        {"steps": 1.5},
        {"skipped": -1},
        {"halflife": 0},
    ],
)
def test_a_wrong_state_is_refused_and_changes_nothing(change):
    noise = GradientNoiseScale(halflife=3.0)
    noise.update(5.0, 2.0, 8, 32)
    state = noise.state_dict()
    with pytest.raises(ValueError, match="state: expected"):
        noise.load_state_dict({**state, **change})
    lacking = {k: v for k, v in state.items() if k != next(iter(change))}
    if "halflife" not in change:  # none is a value of it
        with pytest.raises(ValueError, match="state: expected"):
            noise.load_state_dict(lacking)
    assert noise.state_dict() == state


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((-1.0, 1.0, 1, 2), "small: expected a squared norm, got -1.0"),
        ((1.0, -1.0, 1, 2), "big: expected a squared norm"),
        ((1.0, 1.0, 2, 2), "small_batch: expected above 0 and below big_batch, got 2 and 2"),
        ((1.0, 1.0, 0, 2), "small_batch: expected above 0"),
        ((1.0, 1.0, 1, math.inf), "small_batch: expected"),
        ((1.0, 1.0, math.nan, 2), "small_batch: expected"),
    ],
)
def test_wrong_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        GradientNoiseScale().update(*arguments)


@pytest.mark.parametrize("halflife", [0, -1.0, math.nan, math.inf, "long", True])
def test_a_wrong_half_life_is_named(halflife):
    with pytest.raises(ValueError, match="halflife: expected a finite half-life"):
        GradientNoiseScale(halflife)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="small: expected one dimension"):
        gradient_noise_scale([1.0, 2.0], [1.0], 1, 2)
    with pytest.raises(ValueError, match="small: expected one dimension"):
        gradient_noise_scale(1.0, 1.0, 1, 2)
