"""Tensors by pairs, beside their twin in long double."""

import dataclasses
import hashlib
import json
import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gyrostat
import reference
from gyrostat.pairs import PairStats, PairTable, compare_all
from test_package import run_python

DTYPES = [np.dtype(d) for d in ("f8", "f4", "f2", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)]
CHUNK = 65_536
NAN, INF = math.nan, math.inf
SMALLEST, LARGEST = np.longdouble(5e-324), np.longdouble(np.finfo(np.float64).max)


def compare(x, y):
    return compare_all([x], [y])["0"]


def check(got, x, y):
    """The promise: 1e-12, of the product of the norms for what may cancel."""
    expected = reference.pair_stats(x, y)
    assert got.nonfinite_count == expected.pop("nonfinite_count")
    product = expected["l2_left"] * expected["l2_right"]
    tolerances = {"dot": 1e-12 * product + SMALLEST, "cosine": 1e-12}
    for name, value in expected.items():
        tolerance = tolerances.get(name, 1e-12 * abs(value) + SMALLEST)
        if abs(value) > LARGEST:
            assert getattr(got, name) == math.copysign(INF, value), name
        elif np.isnan(value):
            assert math.isnan(getattr(got, name)), name
        else:
            assert abs(getattr(got, name) - value) <= tolerance, name


def sample(n, dtype, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n).astype(dtype)


@pytest.mark.parametrize("left", DTYPES, ids=str)
@pytest.mark.parametrize("right", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 17, 1000, 2 * CHUNK + 333])
def test_dtypes_and_sizes(left, right, n):
    x, y = sample(n, left, 0), sample(n, right, 1)
    check(compare(x, y), x, y)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_small_update_of_a_weight(dtype):
    before = sample(3 * CHUNK, dtype, 0)
    after = (before.astype("f8") * (1 + 1e-3 * sample(before.size, "f8", 1))).astype(dtype)
    after[0] = 2 * before[0]
    check(compare(after, before), after, before)


@given(
    st.sampled_from(["f8", "f4", "f2"]).flatmap(
        lambda dtype: hnp.arrays(dtype, st.tuples(st.just(2), st.integers(0, 40)))
    )
)
def test_any_values(pair):
    check(compare(*pair), *pair)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_beside_itself(dtype):
    x = sample(CHUNK + 99, dtype, 0)
    same = compare(x, x.copy())
    assert (same.cosine, same.l2_difference, same.ratio) == (1.0, 0.0, 1.0)
    assert same.l2_left == same.l2_right == pytest.approx(gyrostat.total_norm([x]), rel=1e-12)
    opposite = compare(x, -x)
    assert (opposite.cosine, opposite.relative_difference) == (-1.0, 2.0)


@given(st.integers(1, 60), st.floats(-300, 300), st.floats(-8, 8), st.integers(0, 2**32))
def test_cosines_are_within_bounds(n, exponent, slope, seed):
    x = sample(n, "f8", seed) * 10.0**exponent
    for y in (slope * x, slope * np.nextafter(x, 0), x[::-1]):
        cosine = compare(x, y).cosine
        assert -1.0 <= cosine <= 1.0 or not y.any()


@pytest.mark.parametrize("scales", [(1e300, 1e300), (1e-300, 1e-300), (1e300, 1e-290), (1e-310, 1)])
def test_float64_stays_within_its_range(scales):
    x, y = (sample(CHUNK + 9, "f8", i) * scale for i, scale in enumerate(scales))
    got = compare(x, y)
    check(got, x, y)
    assert 0 < got.l2_left < INF
    assert 0 < got.l2_right < INF
    assert 0 < got.l2_difference < INF


LAYOUTS = {
    "transposed": (lambda x: x.T, lambda y: y.T.copy()),
    "backwards": (lambda x: x[::-1, ::-2], lambda y: y[:, ::2]),
    "repeated": (lambda x: np.broadcast_to(x[0], x.shape), lambda y: y),
    "at odd addresses": (
        lambda x: np.frombuffer(b"." + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
        lambda y: y,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_tensors_give_the_bits_of_their_copies(layout):
    one, other = LAYOUTS[layout]
    x, y = one(sample((500, 400), "f4", 0)), other(sample((500, 400), "f8", 1))
    got = compare(x, y)
    check(got, x, y)
    assert got == compare(np.ascontiguousarray(x), np.ascontiguousarray(y))


def test_two_tensors_that_lie_alike_are_read_as_they_lie():
    x, y = sample((500, 400), "f4", 0), sample((500, 400), "f8", 1)
    assert compare(x.T, y.T) == compare(x[::-1], y[::-1]) == compare(x, y)


def test_nothing_and_zero():
    for x in (np.empty((0, 3), "f4"), np.zeros(5)):
        stats = compare(x, x)
        assert (stats.dot, stats.l2_left, stats.l2_difference, stats.nonfinite_count) == (
            0,
            0,
            0,
            0,
        )
        assert np.isnan([stats.cosine, stats.ratio, stats.relative_difference]).all()
    stats = compare(np.ones(3), np.zeros(3))
    assert (stats.ratio, stats.relative_difference) == (INF, INF)
    assert math.isnan(stats.cosine)


@pytest.mark.parametrize("dtype", DTYPES[:4], ids=str)
def test_places_that_are_not_finite_are_counted_and_left_out(dtype):
    x, y = sample(2 * CHUNK, dtype, 0), sample(2 * CHUNK, "f4", 1)
    fine = np.ones(x.size, bool)
    for z, place, value in [(x, 0, NAN), (x, 5, INF), (y, 5, -INF), (y, CHUNK + 7, NAN)]:
        z[place], fine[place] = value, False
    got = compare(x, y)
    assert got.nonfinite_count == 3
    check(got, x, y)
    assert math.isfinite(got.cosine)


def test_subnormal_values_survive_a_flushing_processor():
    tiny = np.float32(1e-45) * np.arange(1, 200, dtype="f4")
    pairs = [
        (tiny, np.float32(1e30) * sample(199, "f4", 0)),
        (tiny, 2 * tiny),
        (sample(199, "f4", 1), tiny),
    ]
    exact = [compare(x, y) for x, y in pairs]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers to zero")
    try:
        flushed = [compare(x, y) for x, y in pairs]
    finally:
        torch.set_flush_denormal(False)
    assert flushed == exact
    for got, (x, y) in zip(exact, pairs, strict=True):
        check(got, x, y)


THREADS = """
import hashlib, json, ml_dtypes, numpy as np
from gyrostat.pairs import compare_all
rng = np.random.default_rng(0)
x, y = rng.standard_t(2, (2, 1_000_003))
table = compare_all([x, x.astype("f4"), x[::-2]], [y, y.astype(ml_dtypes.bfloat16), y[::2]])
print(hashlib.sha256(json.dumps([table.to_dict(), table.total.to_dict()]).encode()).hexdigest())
"""


def test_neither_threads_nor_instructions_show():
    runs = [
        run_python(THREADS, **env)
        for env in (
            {"GYROSTAT_NUM_THREADS": "1"},
            {"GYROSTAT_NUM_THREADS": "3"},
            {"GYROSTAT_FORCE_KERNEL": "portable"},
        )
    ]
    assert all(len(run.stdout.strip()) == hashlib.sha256().digest_size * 2 for run in runs), runs
    assert len({run.stdout for run in runs}) == 1


TENSORS = {"a": sample((3, 4), "f4", 0), "b": sample(7, "f8", 1), "c": np.array([1.0, NAN])}


def shifted(x):
    return x + np.asarray(0.5, x.dtype)


def test_names_in_any_order():
    other = {name: shifted(x) for name, x in reversed(TENSORS.items())}
    table = compare_all(TENSORS, other.items())
    assert table.names == ("a", "b", "c")
    assert [s.l2_left for s in table] == table.l2_left.tolist()
    for name, x in TENSORS.items():
        assert table[name] == compare(x, other[name])
    assert "a" in table
    assert "z" not in table
    with pytest.raises(KeyError, match="z"):
        table["z"]


def test_the_total_is_that_of_all_values_in_one_tensor():
    other = {name: shifted(x) for name, x in TENSORS.items()}
    total = compare_all(TENSORS, other).total
    x, y = (np.concatenate([np.ravel(v) for v in d.values()]) for d in (TENSORS, other))
    check(total, x, y)
    assert compare_all({}, {}).total.l2_left == 0.0


def test_a_tensor_that_is_none_on_either_side_is_left_out():
    x = np.ones(2)
    table = compare_all(
        {"a": x, "b": None, "c": x, "d": None}, {"c": None, "a": x, "b": x, "d": None}
    )
    assert table.names == ("a",)
    assert table.missing == ("b", "d", "c")


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ({"a": np.ones(2)}, {"b": np.ones(2), "a": np.ones(2)}, "^left: .* lacks 'b'$"),
        ([np.ones(2)] * 2, [np.ones(2)], "^right: .* lacks '1'$"),
        ([], [np.ones(2)] * 9, "^left: .* lacks '0', .* '7', ...$"),
        ({"a": np.ones((2, 3))}, {"a": np.ones((3, 2))}, r"^left\['a'\]: expected shape \(3, 2\)"),
        ({"a": np.ones(())}, {"a": torch.ones(1)}, r"^left\['a'\]: .*\(1,\) as in right, got \(\)"),
        ([("a", np.ones(2)), ("a", np.ones(2))], {"a": np.ones(2)}, "'a' more often"),
    ],
)
def test_what_does_not_fit_is_named(left, right, message):
    with pytest.raises(ValueError, match=message):
        compare_all(left, right)


class Shapeless:
    """Speaks DLPack and nothing else."""

    def __init__(self, array):
        self.__dlpack__ = array.__dlpack__
        self._array = array

    def __dlpack__(self, **kwargs):
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def test_lengths_are_compared_where_there_is_no_shape():
    assert compare(Shapeless(np.ones(4)), np.ones(4)).cosine == 1.0
    with pytest.raises(ValueError, match=r"^left: .*as in right, got \[4, 5\] values of \"0\""):
        compare(Shapeless(np.ones(4)), np.ones(5))


@pytest.mark.parametrize("bad", [np.ones(3, int), [1.0, 2.0, 3.0], "abc"])
def test_what_is_no_tensor_is_a_type_error(bad):
    for left, right in [(bad, np.ones(3)), (np.ones(3), bad)]:
        with pytest.raises(TypeError, match=r"'w'"):
            compare_all({"w": left}, {"w": right})


def test_torch_parameters_are_read_where_they_lie():
    model = torch.nn.Linear(300, 300, dtype=torch.bfloat16)
    before = {name: p.detach().float() for name, p in model.named_parameters()}
    table = compare_all(model, before, of="parameters")
    assert table.names == ("weight", "bias")
    assert table.cosine.tolist() == [1.0, 1.0]
    assert table.l2_difference.tolist() == [0.0, 0.0]


def test_a_table_as_json_as_frame_and_as_text():
    table = compare_all({"a": np.ones(3), "b": np.ones(2)}, {"a": np.ones(3), "b": np.zeros(2)})
    columns = [field.name for field in dataclasses.fields(PairStats)]
    plain = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert list(plain["a"]) == columns
    assert plain["a"]["cosine"] == 1.0
    assert (plain["b"]["cosine"], plain["b"]["ratio"]) == ("nan", "inf")
    frame = table.to_pandas()
    assert list(frame.columns) == columns
    assert list(frame.index) == ["a", "b"]
    assert frame.loc["a", "l2_left"] == table["a"].l2_left
    assert table.nonfinite_count.dtype == np.int64
    assert "2 tensors" in repr(table)
    assert isinstance(table, PairTable)
