"""Arrays of many dimensions and token ids: the pairs that the definitions say."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gyrostat


def pairs(report):
    return {(p.left_row, p.right_row): (p.kind, p.similarity) for p in report.pairs}


def cubes(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 4, 5, 8)).astype(np.float32)


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy, lambda x: x[:, ::-1, :, ::-1]])
def test_arrays_of_any_shape_are_rows(wrap):
    train, test = cubes(50), cubes(20, seed=1)
    test[3], test[4] = train[7], train[8]
    test[4, 1, 2, 3] += 1
    report = gyrostat.check_leakage({"train": wrap(train), "test": wrap(test)})
    assert pairs(report) == {(7, 3): ("exact", 1.0), (8, 4): ("near", 63 / 65)}
    assert report.summary["compared"] == "arrays, across splits"
    assert len(report.clean_rows("train")) == 48
    assert "array 7" in str(report.findings[0].evidence)


def test_copies_of_another_dtype_are_normalised():
    train = cubes(30)
    for test in (
        train.astype(np.float16),
        torch.from_numpy(train).half(),
        train.astype(np.float64) * (1 + 1e-7),
    ):
        found = pairs(gyrostat.check_leakage({"train": train, "test": test}, near=0.5))
        assert found.keys() == {(i, i) for i in range(30)}
    whole = np.arange(90).reshape(10, 3, 3)
    for test in (whole.astype(np.float32), whole.astype(np.uint64), torch.from_numpy(whole)):
        found = pairs(gyrostat.check_leakage({"train": whole, "test": test}))
        assert set(found.values()) == {("exact", 1.0)}


def test_nan_and_signed_zeros_are_equal():
    a = np.array([[[0.0, np.nan]], [[1.0, np.inf]]])
    b = np.array([[[-0.0, -np.nan]], [[1.0, -np.inf]]])
    assert pairs(gyrostat.check_leakage({"a": a, "b": b}, near=None)) == {(0, 0): ("exact", 1.0)}


def test_large_integers_stay_apart():
    a = np.full((1, 1, 2), 2**63 - 1)
    for other in (a - 1, a.astype(np.float64), a.astype(np.uint64) + np.uint64(1)):
        assert not gyrostat.check_leakage({"a": a, "b": other}).pairs
    assert gyrostat.check_leakage({"a": a, "b": a.astype(np.uint64)}).pairs


@settings(max_examples=25)
@given(
    hnp.arrays(np.float64, (6, 2, 3), elements=st.sampled_from([0.0, -0.0, 1.0, np.nan, 0.5])),
    hnp.arrays(np.float64, (5, 2, 3), elements=st.sampled_from([0.0, -0.0, 1.0, np.nan, 0.5])),
)
def test_every_equal_pair_is_found_and_no_other(a, b):
    found = pairs(gyrostat.check_leakage({"a": a, "b": b}, near=None))
    equal = lambda x, y: bool(np.all((x == y) | (np.isnan(x) & np.isnan(y))))  # noqa: E731
    assert found.keys() == {(i, j) for i in range(6) for j in range(5) if equal(a[i], b[j])}


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (
            np.zeros((2, 3, 3)),
            np.zeros((2, 3, 4)),
            ValueError,
            "splits: expected rows of one shape",
        ),
        (np.zeros((2, 3, 3)), np.zeros((2, 9)), ValueError, "splits: expected rows of one shape"),
        (np.zeros((2, 3, 3)), ["x"], TypeError, "splits: expected an array in every split"),
        (np.zeros((2, 3, 3), complex), np.zeros((2, 3, 3)), TypeError, "splits: expected real"),
        (np.ma.zeros((2, 3, 3)), np.zeros((2, 3, 3)), TypeError, "splits: expected plain arrays"),
    ],
)
def test_arrays_that_cannot_be_compared_are_named(a, b, error, message):
    with pytest.raises(error, match=message):
        gyrostat.check_leakage({"a": a, "b": b})


def test_rows_without_elements():
    report = gyrostat.check_leakage({"a": np.zeros((2, 0, 3)), "b": np.zeros((0, 0, 3))})
    assert not report.pairs
    assert len(gyrostat.check_leakage({"a": np.zeros((3, 0, 3))}).pairs) == 3


TRAIN = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [1, 2, 3], [], [50001, 50002]]
TEST = [[1, 2, 3], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [50001, 50003]]
FOUND = {(0, 1): ("near", 6 / 7), (1, 0): ("exact", 1.0)}


def arrow(rows):
    return pa.array(rows, pa.list_(pa.int32()))


@pytest.mark.parametrize(
    "make",
    [
        list,
        lambda rows: [np.array(row, np.uint16) for row in rows],
        lambda rows: [torch.tensor(row, dtype=torch.long) for row in rows],
        arrow,
        lambda rows: pa.chunked_array([arrow(rows[:1]), arrow(rows[1:])]),
        lambda rows: arrow(rows).cast(pa.large_list(pa.uint64())),
        pl.Series,
    ],
)
def test_token_ids_are_words(make):
    report = gyrostat.check_leakage({"train": make(TRAIN), "test": make(TEST)}, tokens=True)
    assert pairs(report) == FOUND
    assert report.summary["compared"] == "token ids, across splits"


@pytest.mark.parametrize("make", [pa.table, pl.DataFrame, pd.DataFrame])
def test_columns_of_token_ids(make):
    train = make({"ids": TRAIN, "label": [0, 1, 2, 3]})
    test = make({"ids": TEST, "label": [1, 1, 1]})
    report = gyrostat.check_leakage({"train": train, "test": test}, tokens="ids", label="label")
    assert pairs(report) == FOUND
    assert [pair.label_conflict for pair in report.pairs] == [True, False]


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize(("pad", "found"), [(0, True), ([0, -100], True), ((), False)])
def test_padding_is_ignored_where_told(wrap, pad, found):
    train = np.array([[4, 5, 6, 0, 0], [7, 8, 9, 1, 2]])
    test = np.array([[0, 4, 5, 6], [7, 8, 9, 1]])
    report = gyrostat.check_leakage(
        {"train": wrap(train), "test": wrap(test)}, tokens=True, pad=pad
    )
    assert pairs(report) == ({(0, 0): ("exact", 1.0)} if found else {})


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=12))
def test_tokens_leak_as_their_texts_do(rows):
    texts = [" ".join(map(str, row)) for row in rows]
    tokens = pairs(gyrostat.check_leakage({"a": rows}, tokens=True, near=0.5))
    assert tokens == pairs(gyrostat.check_leakage({"a": texts}, near=0.5))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["abc"], "tokens: expected a list of ints in 'a', row 0"),
        ([[1, 2.5]], "tokens: expected a list of ints in 'a', row 0"),
        ([[[1]]], "tokens: expected a list of ints in 'a', row 0"),
        (np.zeros((2, 3)), "tokens: expected lists of ints"),
        ("abc", "tokens: expected lists of ints"),
        (pa.array(["x"]), "tokens: expected lists of integers"),
        (pa.array([[1.5]]), "tokens: expected lists of integers"),
    ],
)
def test_what_is_no_token_id_is_named(data, message):
    with pytest.raises(TypeError, match=message):
        gyrostat.check_leakage({"a": data}, tokens=True)


def test_a_null_among_ids_is_named():
    with pytest.raises(ValueError, match="tokens: expected ids"):
        gyrostat.check_leakage({"a": pa.array([[1, None]])}, tokens=True)
    with pytest.raises(TypeError, match="pad: expected"):
        gyrostat.check_leakage({"a": [[1]]}, tokens=True, pad=["x"])
