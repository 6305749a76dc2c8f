"""The record as a value: merge, order, round trips, quantiles, what a cast would lose."""

import copy
import functools
import json
import math
import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gyrostat
from gyrostat import TensorStats

EXACT = (
    "dtype",
    "count",
    "nan_count",
    "posinf_count",
    "neginf_count",
    "nonfinite_count",
    "zero_count",
    "subnormal_count",
    "min",
    "max",
    "absmax",
)
any_array = st.sampled_from([np.float64, np.float32, np.float16]).flatmap(
    lambda dtype: hnp.arrays(dtype, st.integers(0, 200))
)
tame_array = hnp.arrays(
    np.float64, st.integers(0, 300), elements=st.floats(-1e6, 1e6) | st.just(math.nan)
)


def _assert_exact_parts_equal(a, b):
    for name in EXACT:
        np.testing.assert_equal(getattr(a, name), getattr(b, name), name)
    np.testing.assert_array_equal(a.exponents, b.exponents)
    np.testing.assert_array_equal(a.exponent_histogram, b.exponent_histogram)


def _merged(parts):
    return functools.reduce(TensorStats.merge, map(gyrostat.summarize, parts))


@given(any_array, st.lists(st.integers(0, 200), max_size=4))
def test_shards_of_anything_give_the_exact_parts_of_the_whole(x, cuts):
    parts = np.split(x, sorted(cuts))
    whole, merged = gyrostat.summarize(x), _merged(parts)
    _assert_exact_parts_equal(merged, whole)
    _assert_exact_parts_equal(_merged(parts[::-1]), whole)


@given(tame_array, st.lists(st.integers(0, 300), max_size=4), st.randoms())
def test_shards_in_any_order_give_the_moments_of_the_whole(x, cuts, random):
    parts = np.split(x, sorted(cuts))
    random.shuffle(parts)
    whole, merged = gyrostat.summarize(x), _merged(parts)
    if whole.count == whole.nan_count:
        return
    n, size = whole.count - whole.nan_count, whole.absmax
    assert merged.sum == pytest.approx(whole.sum, rel=0, abs=1e-12 * whole.l1)
    assert merged.l1 == pytest.approx(whole.l1, rel=1e-12)
    assert merged.l2 == pytest.approx(whole.l2, rel=1e-12)
    assert merged.var == pytest.approx(whole.var, rel=1e-11, abs=1e-28 * size**2)
    if whole.std > 1e-6 * size:
        assert merged.skewness == pytest.approx(whole.skewness, rel=1e-9, abs=1e-9 * n)
        assert merged.kurtosis == pytest.approx(whole.kurtosis, rel=1e-9, abs=1e-9 * n)


@given(any_array, any_array)
def test_a_merge_has_no_order(x, y):
    a, b = gyrostat.summarize(x), gyrostat.summarize(y)
    before = a.to_dict(), b.to_dict()
    assert a.merge(b) == b.merge(a)
    assert (a.to_dict(), b.to_dict()) == before
    assert a.merge(b).dtype == (a.dtype if a.dtype == b.dtype else "mixed")


@given(any_array)
def test_a_record_survives_json_and_pickle(x):
    record = gyrostat.summarize(x)
    text = json.dumps(record.to_dict(), allow_nan=False)
    for other in (
        TensorStats.from_dict(json.loads(text)),
        pickle.loads(pickle.dumps(record)),
        copy.deepcopy(record),
    ):
        assert other == record
        assert (other != record) is False
        assert other.to_dict() == record.to_dict()


def test_equality_is_that_of_every_bit():
    x = np.array([0.1, 0.2, np.nan])
    assert gyrostat.summarize(x) == gyrostat.summarize(x.copy())
    assert gyrostat.summarize(np.array([])) == gyrostat.summarize(np.array([]))
    assert gyrostat.summarize(x) != gyrostat.summarize(x.astype(np.float32))
    assert gyrostat.summarize(x) != gyrostat.summarize(np.nextafter(x, 1))
    assert gyrostat.summarize(x) != "a record"
    with pytest.raises(TypeError):
        gyrostat.summarize(x).merge("a record")


GOOD = gyrostat.summarize(np.array([0.0, -1.5, 3.0, 1e-40, np.nan], np.float32)).to_dict()


@pytest.mark.parametrize("key", GOOD)
def test_a_state_that_lacks_a_key_is_refused(key):
    with pytest.raises(ValueError, match=key):
        TensorStats.from_dict({k: v for k, v in GOOD.items() if k != key})


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": None},
        {"dtype": "int8"},
        {"dtype": 3},
        {"dtype": "float16"},
        {"count": 6},
        {"count": -5},
        {"count": 2**70},
        {"count": 5.5},
        {"nan_count": -1},
        {"nan_count": 2},
        {"zero_count": None},
        {"subnormal_count": 0},
        {"min": 0.5},
        {"min": "nan"},
        {"max": "inf"},
        {"max": "three"},
        {"max": [3.0]},
        {"level": "moments"},
        {"level": "some"},
        {"unit": 1},
        {"unit": 2**40},
        {"center": 100.0},
        {"powers": [math.nan, 0.0, 0.0, 0.0]},
        {"powers": [0.0, -1.0, 0.0, 0.0]},
        {"powers": [0.0, 0.0, 1e9, 0.0]},
        {"powers": [0.0, 0.0, 0.0]},
        {"l1": -1.0},
        {"l1": math.inf},
        {"sums": ["0x1p0"] * 4},
        {"sums": ["0x1p0"] * 4 + ["one"]},
        {"sums": ["0x1p99"] * 5},
        {"first_exponent": 2**31 - 1},
        {"first_exponent": -2000},
        {"exponent_counts": None},
        {"exponent_counts": [1, -1]},
        {"exponent_counts": [2**64 - 1, 2**64 - 1]},
        {"exponent_counts": []},
    ],
)
def test_a_state_that_no_data_has_is_refused(change):
    with pytest.raises(ValueError, match=r"^state: "):
        TensorStats.from_dict(GOOD | change)


plain_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(
    st.integers()
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(list(GOOD)), plain_values, max_size=3))
def test_a_state_of_anything_is_read_or_refused(change):
    try:
        record = TensorStats.from_dict(GOOD | change)
    except ValueError:
        return
    assert TensorStats.from_dict(record.to_dict()) == record
    assert record.merge(record).count == 2 * record.count


def test_a_state_is_a_dictionary():
    with pytest.raises(TypeError):
        TensorStats.from_dict([GOOD])


def test_the_representation_is_one_line():
    for x in (np.array([]), np.array([1.0, np.nan, np.inf])):
        text = repr(gyrostat.summarize(x))
        assert text.startswith("TensorStats(")
        assert "\n" not in text


@given(any_array, st.floats(0, 1))
def test_a_quantile_is_off_by_a_factor_of_2_at_most(x, q):
    magnitudes = np.sort(np.abs(x[np.isfinite(x)]).astype(np.float64))
    got = gyrostat.summarize(x).abs_quantile(q)
    if magnitudes.size == 0:
        assert math.isnan(got)
        return
    exact = float(magnitudes[int(q * (magnitudes.size - 1))])
    assert exact / 2 <= got <= exact * 2
    assert gyrostat.summarize(x).abs_quantile(1.0) == magnitudes[-1]


def test_quantiles_of_a_smooth_distribution_are_close():
    x = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    record = gyrostat.summarize(x)
    for q, error in [(0.01, 0.1), (0.1, 0.1), (0.5, 0.1), (0.9, 0.1), (0.99, 0.4)]:
        assert record.abs_quantile(q) == pytest.approx(np.quantile(np.abs(x), q), rel=error)


@pytest.mark.parametrize("q", [-0.01, 1.01, math.nan, math.inf])
def test_a_quantile_outside_of_0_to_1_is_refused(q):
    with pytest.raises(ValueError, match=r"^q: expected a number from 0 to 1"):
        gyrostat.summarize(np.ones(3)).abs_quantile(q)


FORMATS = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


def _lost(x, fmt):
    """Shares that a cast turns into zero and into Inf or NaN, by casting."""
    with np.errstate(over="ignore", under="ignore"):
        cast = x.astype(FORMATS[fmt]).astype(np.float64)
    return np.mean(cast[x != 0] == 0), np.mean(~np.isfinite(cast))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_a_cast_loses(fmt, dtype):
    limits = ml_dtypes.finfo(FORMATS[fmt])
    low, high = np.log2(float(limits.smallest_subnormal)), np.log2(float(limits.max))
    rng = np.random.default_rng(1)
    least = -148 if dtype == np.float32 else -1000
    octaves = rng.uniform(max(low - 9, least), min(high + 9, 127), 50_000)
    x = (np.exp2(octaves) * rng.choice([-1, 1], octaves.size)).astype(dtype)
    record = gyrostat.summarize(x)
    under, over = _lost(x.astype(np.float64), fmt)
    assert record.underflow_fraction(fmt) == under
    assert record.overflow_fraction(fmt) == pytest.approx(over, abs=0.005)
    # Without values in the one bin that is estimated, both are exact.
    clear = x[np.floor(np.log2(np.abs(x))) != np.floor(high)]
    record, (_, over) = gyrostat.summarize(clear), _lost(clear.astype(np.float64), fmt)
    assert record.overflow_fraction(fmt) == over


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_tensor_loses_nothing_in_its_own_format(fmt):
    patterns = np.arange(2 ** min(16, 8 * np.dtype(FORMATS[fmt]).itemsize))
    unsigned = f"u{np.dtype(FORMATS[fmt]).itemsize}"
    if fmt == "float32":
        patterns = patterns * 65_537
    x = patterns.astype(unsigned).view(FORMATS[fmt]).astype(np.float32)
    record = gyrostat.summarize(x)
    assert (record.underflow_fraction(fmt), record.overflow_fraction(fmt)) == (0.0, 0.0)


def test_an_unknown_format_is_named():
    record = gyrostat.summarize(np.ones(3))
    for method in (record.underflow_fraction, record.overflow_fraction):
        with pytest.raises(ValueError, match=r'^fmt: expected one of "float16".*got "int8"'):
            method("int8")
