"""The record of one tensor against a twin in long double, on data of every kind."""

import functools
import os
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch

import gyrostat
import reference
from gyrostat import TensorStats

needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double here"
)

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
COUNTS = (
    "count",
    "nan_count",
    "posinf_count",
    "neginf_count",
    "nonfinite_count",
    "zero_count",
    "subnormal_count",
)
MOMENTS = ("min", "max", "absmax", "sum", "mean", "var", "std", "l1", "skewness", "kurtosis")
N = 150_001  # three chunks, the last of them ragged


def _normal(rng):
    return rng.standard_normal(N)


def _sparse(rng):
    return np.where(rng.random(N) < 0.95, 0.0, rng.standard_normal(N))


def _mixed(rng):
    x = rng.standard_normal(N)
    x[rng.integers(0, N, 900)] = np.tile([np.nan, np.inf, -np.inf], 300)
    return x


WIDE = ("float64", "float32")
ALL = (*WIDE, "float16", "bfloat16")
CASES = {
    "normal": (_normal, ALL),
    "small": (lambda rng: 1e-3 * _normal(rng), ALL),
    "mean 1e4 sd": (lambda rng: _normal(rng) + 1e4, ALL),
    "mean 1e6 sd": (lambda rng: _normal(rng) + 1e6, (*WIDE, "bfloat16")),
    "layer norm gain": (lambda rng: 1 + 1e-6 * _normal(rng), WIDE),
    "1e-25": (lambda rng: 1e-25 * _normal(rng), (*WIDE, "bfloat16")),
    "1e25": (lambda rng: 1e25 * _normal(rng), (*WIDE, "bfloat16")),
    "student t2": (lambda rng: rng.standard_t(2, N), ALL),
    "lognormal 3": (lambda rng: rng.lognormal(0, 3, N), ALL),
    "60 octaves": (lambda rng: np.exp2(rng.uniform(-40, 20, N)) * rng.choice([-1, 1], N), WIDE),
    "200 octaves": (lambda rng: np.exp2(rng.uniform(-100, 100, N)), (*WIDE, "bfloat16")),
    "all subnormal": (lambda rng: 1e-40 * rng.uniform(0.01, 1, N), ("float32", "bfloat16")),
    "5 % NaN": (lambda rng: np.where(rng.random(N) < 0.05, np.nan, _normal(rng)), ALL),
    "step": (lambda rng: np.where(np.arange(N) < 5000, 0.0, 1e4) + _normal(rng), ALL),
    "constant": (lambda rng: np.full(N, 0.1), ALL),
    "95 % zeros": (_sparse, ALL),
    "all zero": (lambda rng: np.zeros(N), ALL),
    "all NaN": (lambda rng: np.full(N, np.nan), ALL),
    "NaN and Inf": (_mixed, ALL),
    "empty": (lambda rng: np.empty(0), ALL),
    "one value": (lambda rng: np.array([-0.3]), ALL),
    "two values": (lambda rng: np.array([1.0, 4.0]), ALL),
    "negative": (lambda rng: -rng.lognormal(0, 1, 777), ALL),
    "1e300": (lambda rng: 1e300 * rng.uniform(-1, 1, N), ("float64",)),
    "1e-300": (lambda rng: 1e-300 * _normal(rng), ("float64",)),
    "1e300 among ones": (lambda rng: np.append(_normal(rng), [1e300, -1e300]), ("float64",)),
    "beside zeros at 1e-300": (lambda rng: 1e-300 * _sparse(rng), ("float64",)),
}


def _data(case, dtype):
    make, _ = CASES[case]
    with np.errstate(over="ignore"):
        return make(np.random.default_rng(len(case))).astype(DTYPES[dtype])


def _subnormals(dtype):
    bits = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[dtype]
    rng = np.random.default_rng(0)
    unsigned = f"u{DTYPES[dtype].itemsize}"
    magnitudes = rng.integers(1, 2**bits, 5000, dtype=np.uint64)
    signs = rng.integers(0, 2, 5000, dtype=np.uint64) << np.uint64(8 * int(unsigned[1]) - 1)
    return (magnitudes | signs).astype(unsigned).view(DTYPES[dtype])


def _check(x, dtype):
    got, expected = gyrostat.summarize(x), reference.tensor_stats(x)
    assert got.dtype == dtype
    for name in COUNTS:
        assert getattr(got, name) == expected[name], name
    for name in ("min", "max", "absmax"):
        np.testing.assert_array_equal(np.longdouble(getattr(got, name)), expected[name], name)
    histogram = dict(zip(got.exponents.tolist(), got.exponent_histogram.tolist(), strict=True))
    assert {e: n for e, n in histogram.items() if n} == reference.exponent_counts(x)
    assert got.exponents.dtype == got.exponent_histogram.dtype == np.int64

    def close(name, tolerance):
        value, wanted = np.longdouble(getattr(got, name)), expected[name]
        with np.errstate(over="ignore", under="ignore"):
            if not np.isfinite(np.float64(wanted)):  # NaN, or a sum beyond the range of float64
                np.testing.assert_array_equal(np.float64(value), np.float64(wanted), name)
                return
        assert abs(value - wanted) <= tolerance, f"{name}: {value} instead of {wanted}"

    # What float64 cannot tell apart, next to its smallest number.
    grain = np.longdouble(5e-324)
    norm = 1e-12 if dtype in WIDE else 2e-6
    close("sum", norm * expected["l1"] + grain)
    close("mean", norm * expected["l1"] / max(got.count, 1) + grain)
    for name in ("l1", "l2"):
        close(name, norm * expected[name] + grain)
    # Beyond that, the rounding of the mean shows: it shifts every distance by u times the mean.
    shift = 2.0**-50 * abs(expected["mean"] / expected["std"]) if expected["std"] > 0 else 0
    loss = (1e-11 if dtype in WIDE else 5e-6) + 10 * shift**2
    close("var", loss * expected["var"] + grain)
    close("std", loss * expected["std"] + grain)
    loss = (1e-11 if dtype == "float64" else 5e-6) + 10 * shift
    fourth = expected["kurtosis"] + 3
    close("skewness", loss * np.sqrt(fourth))
    close("kurtosis", loss * fourth)


@needs_long_double
@pytest.mark.parametrize(
    ("case", "dtype"), [(case, dtype) for case, (_, dtypes) in CASES.items() for dtype in dtypes]
)
def test_a_record_is_that_of_its_twin(case, dtype):
    _check(_data(case, dtype), dtype)


@needs_long_double
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_record_of_subnormal_values_is_that_of_its_twin(dtype):
    x = _subnormals(dtype)
    assert gyrostat.summarize(x).subnormal_count == x.size
    _check(x, dtype)
    _check(np.append(x, _data("normal", dtype)), dtype)


@needs_long_double
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_16_bit_pattern_is_counted(dtype):
    _check(np.arange(2**16, dtype=np.uint16).view(DTYPES[dtype]), dtype)


def test_what_cannot_be_told_is_nan():
    empty = gyrostat.summarize(np.empty((3, 0), np.float32))
    names = ("min", "max", "absmax", "mean", "var", "std", "skewness", "kurtosis")
    assert all(np.isnan(getattr(empty, name)) for name in names)
    assert (empty.sum, empty.l1, empty.l2, empty.exponents.size) == (0.0, 0.0, 0.0, 0)
    one = gyrostat.summarize(np.full(100_000, 0.1, np.float32))
    assert (one.mean, one.var, one.std) == (np.float32(0.1), 0.0, 0.0)
    assert np.isnan([one.skewness, one.kurtosis]).all()


def test_the_norm_of_many_equal_values_is_right():
    # Sums in float32 stop growing: torch says 960 for 1e8 of them, numpy 991.
    x = np.broadcast_to(np.float32(0.1), 20_000_000)
    expected = float(np.float32(0.1)) * np.sqrt(20_000_000)
    assert gyrostat.summarize(x).l2 == pytest.approx(expected, rel=1e-12)
    assert gyrostat.total_norm([x]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_values_survive_a_flushing_processor(dtype):
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers to zero")
    try:
        flushed = gyrostat.summarize(_subnormals(dtype))
    finally:
        torch.set_flush_denormal(False)
    exact = gyrostat.summarize(_subnormals(dtype))
    assert flushed == exact


THREADS = """
import hashlib, json, ml_dtypes, numpy as np, gyrostat
rng = np.random.default_rng(0)
x = rng.standard_t(2, 1_000_003)
tensors = [x, x.astype("f4")[::-2], x.astype("f2"), x.astype(ml_dtypes.bfloat16), x[:64], x[:0]]
table = gyrostat.summarize_all(tensors)
assert list(table) == [gyrostat.summarize(t) for t in tensors]
state = [table.to_dict(), table.total.to_dict(), gyrostat.total_norm(tensors).hex()]
print(hashlib.sha256(json.dumps(state).encode()).hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bits():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", THREADS],
            env={**os.environ, "GYROSTAT_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "8")
    }
    assert len(outputs) == 1


def _hash_with(**environment):
    run = subprocess.run(
        [sys.executable, "-c", THREADS],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout if run.returncode == 0 else run.stderr


def test_every_kernel_gives_the_same_bits():
    refusal = _hash_with(GYROSTAT_FORCE_KERNEL="abacus")
    kernels = re.search(r"GYROSTAT_FORCE_KERNEL: .* can run \((.*)\), got", refusal)[1].split(", ")
    assert kernels[0] == "portable"
    outputs = {kernel: _hash_with(GYROSTAT_FORCE_KERNEL=kernel) for kernel in kernels}
    assert len(set(outputs.values())) == 1, outputs


@pytest.mark.parametrize("level", ["norm", "moments", "full"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_level_tells_what_the_full_record_tells(dtype, level):
    x = _data("NaN and Inf", dtype)
    full, got = gyrostat.summarize(x), gyrostat.summarize(x, level=level)
    assert got.level == level
    told = {
        "norm": {"l2", "count", "nan_count", "posinf_count", "neginf_count", "nonfinite_count"},
        "moments": set(MOMENTS),
        "full": {"zero_count", "subnormal_count", "exponents"},
    }
    levels = ["norm", "moments", "full"]
    for needed, names in told.items():
        for name in names:
            if levels.index(needed) <= levels.index(level):
                rtol = 1e-12 if dtype in WIDE else 2e-6
                np.testing.assert_allclose(getattr(got, name), getattr(full, name), rtol=rtol)
            else:
                with pytest.raises(AttributeError, match=f"{name} is told at level .{needed}"):
                    getattr(got, name)
    assert got.merge(full) == full.merge(got)
    assert got.merge(full).level == level
    assert TensorStats.from_bytes(got.to_bytes()) == got
    assert TensorStats.from_dict(got.to_dict()) == got


def test_an_unknown_level_is_refused():
    for call in (gyrostat.summarize, gyrostat.summarize_all):
        with pytest.raises(ValueError, match=r'level: expected one of "norm"'):
            call([np.ones(3)] if call is gyrostat.summarize_all else np.ones(3), level="some")


@pytest.mark.parametrize("grouping", [[1, 1, 1], [2, 1], [1, 2]])
def test_shards_cut_at_chunk_edges_merge_to_the_bits_of_the_whole(grouping):
    x = (_data("student t2", "float32") + np.float32(3)).astype(np.float32)
    parts = np.split(x, [65_536 * n for n in np.cumsum(grouping)[:-1]])
    records = [gyrostat.summarize(part) for part in parts]
    whole = gyrostat.summarize(x)
    assert functools.reduce(TensorStats.merge, records) == whole
    assert functools.reduce(TensorStats.merge, records[::-1]) == whole
    assert functools.reduce(TensorStats.merge, records).to_bytes() == whole.to_bytes()
