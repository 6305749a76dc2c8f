"""The kernels under the rules on curves, against their slow twins."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from gyrostat import _core

FINITE = st.floats(-1e6, 1e6)
ANY = st.floats() | st.sampled_from([1.0, 2.0, math.nan, math.inf])


@given(st.lists(FINITE | st.sampled_from([0.0, 1.0]), min_size=3, max_size=30), st.floats(0, 4))
def test_trend_is_its_twin(values, confidence):
    found = _core.trend(values, confidence)
    assert found == pytest.approx(reference.trend(values, confidence), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("n", [0, 4, 5, 39, 40, 41, 79, 80, 1000])
def test_blocks_are_their_twin(n):
    values = np.random.default_rng(n).standard_normal(n)
    values[1:2] = math.nan
    blocks = _core.Blocks(8)
    for step, value in enumerate(values):
        blocks.push(value, step)
    levels, spreads, size = reference.blocks(values, 8)
    assert blocks.levels == pytest.approx(levels, rel=1e-12)
    if len(spreads):
        assert blocks.block_len == size
        assert blocks.noise(8) == pytest.approx(np.median(spreads), rel=1e-12)
        # One value, at the second place, is not finite and belongs to no block.
        assert blocks.ends == [size * (i + 1) for i in range(len(blocks))]


@given(st.integers(0, 2**32), st.floats(-20, 20), st.floats(-0.2, 0.2))
def test_shift_is_its_twin(seed, step, slope):
    values = np.random.default_rng(seed).standard_normal(80) + slope * np.arange(80)
    values[56:] += step
    window = _core.Window(80)
    for value in values:
        window.push(value)
    assert window.shift(24) == pytest.approx(reference.shift(values, 24), rel=1e-9, abs=1e-9)


@given(st.integers(0, 2**32), st.integers(8, 300))
def test_autocorrelation_is_its_twin(seed, n):
    rng = np.random.default_rng(seed)
    values = rng.standard_t(2, n) + np.sin(np.arange(n))
    window = _core.Window(300)
    for value in values:
        window.push(value)
    found = window.autocorrelation(n // 2)
    assert found == pytest.approx(reference.autocorrelation(values, n // 2), rel=1e-9, abs=1e-9)


@given(st.lists(ANY, max_size=120), st.integers(0, 120))
def test_state_survives_json_bit_for_bit(values, cut):
    for make, look in (
        (lambda: _core.Blocks(8), lambda b: (b.levels, b.ends, b.noise(8))),
        (lambda: _core.Window(16), lambda w: (w.values, w.shift(8), w.autocorrelation(4))),
    ):
        whole, resumed = make(), make()
        push = (lambda one, v: one.push(v, 1.0)) if "Blocks" in repr(whole) else _push
        for value in values[:cut]:
            push(whole, value)
        resumed.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
        for value in values[cut:]:
            push(whole, value)
            push(resumed, value)
        assert repr(look(resumed)) == repr(look(whole))


def _push(window, value):
    window.push(value)


@pytest.mark.parametrize(
    ("core", "bad"),
    [
        (_core.Blocks(8), {"capacity": 7}),
        (_core.Blocks(8), {"chunks": 0}),
        (_core.Blocks(8), {"levels": [1.0]}),
        (_core.Blocks(8), {"pending": [1.0] * 5}),
        (_core.Blocks(8), {"level": math.nan}),
        (_core.Window(8), {"capacity": 10**9}),
        (_core.Window(8), {"values": [1.0] * 9}),
        (_core.Window(8), {"values": [math.nan]}),
        (_core.Window(8), {"version": 2}),
    ],
)
def test_a_state_of_nothing_is_refused(core, bad):
    with pytest.raises(ValueError, match=r"^state: "):
        core.load_state_dict(core.state_dict() | bad)


def test_capacities_are_named():
    with pytest.raises(ValueError, match=r"^capacity: "):
        _core.Blocks(5)
    with pytest.raises(ValueError, match=r"^capacity: "):
        _core.Window(0)
