"""What the arrays of batches say: outliers, padding, repetition."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gyrostat.findings import Culprit, Severity
from gyrostat.guard.contents import Contents
from gyrostat.guard.outliers import BatchFacts, compare_batch, compare_range, outlier_batch

RNG = np.random.default_rng(0)


def floats(n=8, width=4):
    return np.clip(RNG.standard_normal((n, width)), -2, 2).astype("f4")


def feed(contents, batches, first=0):
    """Findings with their steps; batches of the same array object are the same batch."""
    return [
        f
        for step, arrays in enumerate(batches, first)
        for f in contents.update(f"{id(arrays)}", arrays, step)
    ]


def usual(n=12):
    return [[floats(), RNG.integers(0, 3, 8)] for _ in range(n)]


# One batch beside others


def test_rows_of_nan_and_huge_rows_are_named():
    others = [[floats()] for _ in range(4)]
    batch = floats()
    assert not compare_batch([batch], others).odd
    batch[3] *= 1e4
    facts = compare_batch([batch], others)
    assert facts.samples == (3,)
    assert 1e3 < facts.ratio < 1e5
    assert not facts.not_finite
    batch[5, 1] = np.nan
    batch[6, 1] = -np.inf
    facts = compare_batch([batch], others)
    assert (facts.not_finite, facts.samples, facts.odd) == (True, (3, 5, 6), True)
    assert "3 samples of the batch hold NaN or Inf" in str(facts)


def test_most_of_a_batch_is_no_list_of_samples():
    facts = compare_range(np.full((8, 2), 100.0), 1.0)
    assert (facts.ratio, facts.samples, facts.odd) == (100.0, (), True)
    assert compare_range(np.full((4, 2), np.nan), 1.0) == BatchFacts(True, 0.0, ())


@pytest.mark.parametrize("level", [0.0, math.nan, math.inf, -1.0])
def test_without_a_level_to_compare_with_nothing_is_said(level):
    assert compare_range(np.full((4, 2), np.nan), level) == BatchFacts()


@pytest.mark.parametrize(
    ("batch", "others"),
    [
        ([], []),
        ([np.empty((0, 3))], [[np.ones((2, 3))]]),
        ([np.ones((2, 3))], [[np.empty((0, 3))]]),
        ([np.ones((2, 3))], [[]]),
        ([np.ones((2, 3))], [[np.ones(2, dtype=int)]]),
        ([np.array([10**9, 1])], [[np.array([1, 1])]]),
        ([np.array([True])], [[np.array([False])]]),
        ([np.full((2, 3), np.nan)], [[np.full((2, 3), np.nan)]]),
    ],
)
def test_what_cannot_be_compared_does_not_stand_out(batch, others):
    assert not compare_batch(batch, others).odd


def test_arrays_without_axes_are_one_sample():
    assert compare_batch([np.float64(50.0)], [[np.float64(1.0)]]) == BatchFacts(False, 50.0, ())
    assert compare_batch([np.array(np.nan)], [[np.array(1.0)]]).not_finite


def test_the_finding_is_strict_json():
    facts = compare_range(np.array([[1.0], [np.inf], [2.0]]), 1.0)
    finding = outlier_batch(facts, 3, Culprit(batch="b"), Severity.WARNING)
    assert json.loads(json.dumps(finding.to_dict(), allow_nan=False))["evidence"] == {
        "samples": [1],
        "not_finite": True,
    }


# Batch by batch


def test_usual_batches_are_silent():
    assert feed(Contents(), usual(60)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_batch_out_of_range_is_an_info_and_teaches_nothing(value):
    contents, batches = Contents(), usual(40)
    for at in (30, 31):
        batches[at][0][2, 1] = value
    found = feed(contents, batches)
    assert [(f.code, f.severity, f.step) for f in found] == [
        ("outlier-batch", Severity.INFO, 30),
        ("outlier-batch", Severity.INFO, 31),
    ]
    assert found[0].evidence["samples"] == [2]


def test_too_few_batches_say_nothing_and_zeros_are_no_level():
    batches = usual(9)
    batches.append([np.full((4, 4), 1e6)])
    assert feed(Contents(), batches) == []
    zeros = [[np.zeros((4, 4))] for _ in range(20)]
    assert feed(Contents(), [*zeros, [np.ones((4, 4))]]) == []


def test_a_batch_that_comes_again_is_told_once():
    same = usual(1)[0]
    contents = Contents()
    found = feed(contents, [*usual(3), *[same] * 10, *usual(3)])
    assert [(f.code, f.step, f.culprit.batch) for f in found] == [
        ("repeated-batch", 6, f"{id(same)}")
    ]
    assert feed(contents, [same] * 3) == []
    assert len(feed(contents, [same])) == 1


def tokens(pad=0, n=16, width=12):
    out = RNG.integers(1, 50, (n, width))
    for i, row in enumerate(out):
        row[width - 1 - i % 6 :] = pad
    return out


def marks(batch, pad=0):
    padding = np.logical_and.accumulate((batch == pad)[:, ::-1], axis=1)[:, ::-1]
    return {
        "mask of integers": (~padding).astype(int),
        "mask of flags": ~padding,
        "mask of floats": (~padding).astype("f4"),
        "labels": np.where(padding, -100, batch),
    }


def padded(steps, mark=None, pad=0):
    for _ in range(steps):
        batch = tokens(pad)
        yield [batch] if mark is None else [batch, marks(batch, pad)[mark]]


@pytest.mark.parametrize("pad", [0, 1, 49])
def test_padding_that_nothing_marks_is_told_once(pad):
    (finding,) = [f for f in feed(Contents(), padded(200, pad=pad)) if f.code != "padding-share"]
    assert (finding.code, finding.step) == ("unmasked-padding", 40)
    assert 0.2 < finding.value < 0.4


@pytest.mark.parametrize("mark", marks(tokens()))
def test_padding_that_is_marked_is_not_told(mark):
    assert feed(Contents(), padded(100, mark)) == []


def test_tokens_beside_that_are_padded_alike_mark_nothing():
    batches = ((batch, np.where(batch > 0, 7 + batch, 0)) for batch in map(tokens, [0] * 60))
    found = feed(Contents(), list(batches))
    assert "unmasked-padding" in {f.code for f in found}


def test_rows_that_are_full_or_end_alike_by_chance_have_no_padding():
    full = [[RNG.integers(0, 50, (16, 12))] for _ in range(100)]
    ended = [[np.c_[RNG.integers(1, 50, (16, 40)), np.full(16, 2)]] for _ in range(100)]
    assert feed(Contents(), full + ended) == []


anything = hnp.arrays(
    st.sampled_from(["f4", "f8", "f2", "i8", "u1", "?"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@given(st.lists(st.lists(anything, max_size=3), max_size=12), st.integers(0, 12))
def test_any_arrays_can_be_looked_at_and_the_state_survives_json(batches, cut):
    whole, first, second = Contents(), Contents(), Contents()
    feed(whole, batches[:cut])
    feed(first, batches[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    assert feed(second, batches[cut:], cut) == feed(whole, batches[cut:], cut)
    assert second.state_dict() == whole.state_dict()
    for batch in batches:
        compare_batch(batch, batches)


def test_a_foreign_state_is_refused_and_changes_nothing():
    contents = Contents()
    feed(contents, usual())
    good = contents.state_dict()
    bad = [{"last": 1}, {"repeats": "1"}, {"unmarked": None}, {"ranges": [1]}, {"rules": {}}]
    bad += [{"version": 2}, {"ranges": {"0": ["x"]}}, {"ranges": {"a": []}}]
    for state in [None, {}, *({**good, **part} for part in bad)]:
        with pytest.raises(ValueError, match="state"):
            contents.load_state_dict(state)
        assert contents.state_dict() == good
