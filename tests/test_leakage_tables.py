"""The check on rows of tables, groups and times."""

import datetime as dt
import itertools

import numpy as np
import pandas as pd
import pytest

import gyrostat


def found(splits, **options):
    report = gyrostat.check_leakage(splits, **options)
    return [(p.left_row, p.right_row, p.kind, p.similarity) for p in report.pairs]


def frame(**columns):
    return pd.DataFrame(columns)


def test_rows_are_matched_by_column_name():
    train = frame(a=[1, 2], b=["x", "y"])
    test = frame(b=["y", "z"], a=[2, 1])
    assert found({"train": train, "test": test}, near=None) == [(1, 0, "exact", 1.0)]


def test_cells_compare_as_values():
    train = np.array([[0.0, np.nan], [1.0, 2.5]])
    test = np.array([[-0.0, np.nan], [1.0, 2.5]], dtype=np.float32)
    expected = [(0, 0, "exact", 1.0), (1, 1, "exact", 1.0)]
    assert found({"train": train, "test": test}) == expected
    ints = np.array([[1, 2], [0, 5]])
    assert found({"train": ints, "test": ints.astype(float)}) == expected
    assert found({"train": ints.astype(np.uint8), "test": ints.astype(">f4")}) == expected


def test_normalised_rows_forgive_case_space_and_the_seventh_digit():
    train = frame(name=["Ann  Lee ", "Bob"], x=[0.123456, 1.0])
    test = frame(name=["ann lee", "Rob"], x=[0.12345604, 1.0])
    kinds = found({"train": train, "test": test})
    assert kinds == [(0, 0, "normalised", 1.0)]


def test_near_rows_share_most_cells():
    rows = np.arange(20).reshape(2, 10)
    other = rows.copy()
    other[0, 3] = 99  # 9 of 11
    other[1, :2] = 99  # 8 of 12
    assert found({"train": rows, "test": other}) == [(0, 0, "near", 9 / 11)]


@pytest.mark.parametrize("near", [0.3, 0.5, 0.8, 0.95])
def test_near_rows_agree_with_all_pairs(near):
    rng = np.random.default_rng(0)
    train = np.concatenate([rng.integers(0, 3, (150, 9)), rng.integers(0, 50, (50, 9))])
    test = np.concatenate([rng.integers(0, 3, (60, 9)), train[-50:]])
    test[60:, :2] = rng.integers(0, 50, (50, 2))
    expected = []
    for (i, a), (j, b) in itertools.product(enumerate(train), enumerate(test)):
        same = int((a == b).sum())
        similarity = same / (2 * len(a) - same)
        if similarity >= near:
            expected.append((i, j, "exact" if same == len(a) else "near", similarity))
    assert len(expected) >= 8 or near > 0.8
    assert found({"train": train, "test": test}, near=near) == expected


def test_label_group_and_time_are_not_compared():
    train = frame(x=[1, 2], y=["a", "b"], who=["ann", "bob"], t=[1, 2])
    test = frame(x=[1, 3], y=["c", "b"], who=["eve", "ann"], t=[5, 1])
    report = gyrostat.check_leakage(
        {"train": train, "test": test}, label="y", group="who", time="t", near=None
    )
    assert [tuple(pair) for pair in report.pairs] == [("train", 0, "test", 0, "exact", 1.0, True)]
    codes = [finding.code for finding in report.findings]
    assert codes == [
        "leakage-exact-duplicate",
        "leakage-group",
        "leakage-label-conflict",
        "leakage-time",
    ]


def test_groups_in_two_splits_are_counted():
    report = gyrostat.check_leakage(
        {"train": ["a", "b", "c"], "test": ["d", "e"]},
        group={"train": ["ann", "ann", None], "test": ["ann", None]},
    )
    (finding,) = report.findings
    assert finding.code == "leakage-group"
    assert finding.evidence == {
        "left": "train",
        "right": "test",
        "groups": 1,
        "left_rows": 2,
        "right_rows": 1,
        "examples": ["ann"],
    }


TIMES = {
    "numbers": ([2001, 2003, np.nan], [2004, 2002.5]),
    "datetime64": (
        np.array(["2001-01-01", "2003-01-01", "NaT"], "M8[D]"),
        np.array(["2004-01-01", "2002-05-01"], "M8[ns]"),
    ),
    "ISO text": (["2001-01-01", "2003-01-01T00:00:00Z", None], ["2004-01-01", "2002-05-01 12:00"]),
    "objects": (
        [dt.date(2001, 1, 1), dt.datetime(2003, 1, 1, tzinfo=dt.UTC), None],
        [dt.date(2004, 1, 1), dt.date(2002, 5, 1)],
    ),
}


@pytest.mark.parametrize("kind", TIMES)
def test_a_later_split_must_not_hold_older_rows(kind):
    train, test = TIMES[kind]
    splits = {"train": ["a", "b", "c"], "test": ["d", "e"]}
    report = gyrostat.check_leakage(splits, time={"train": train, "test": test})
    (finding,) = report.findings
    assert finding.code == "leakage-time"
    assert finding.evidence["rows"] == 1
    assert finding.evidence["newest"].startswith("2003")
    assert finding.evidence["oldest"].startswith("2002")
    in_order = {"train": train[:1], "test": test}
    splits["train"] = ["a"]
    assert gyrostat.check_leakage(splits, time=in_order).findings == ()


def test_what_is_no_time_is_refused():
    splits = {"train": ["a"], "test": ["b"]}
    with pytest.raises(TypeError, match=r"time: .*soon"):
        gyrostat.check_leakage(splits, time={"train": ["soon"], "test": ["2001-01-01"]})
    with pytest.raises(ValueError, match="time: expected numbers alone or dates alone"):
        gyrostat.check_leakage(splits, time={"train": [1], "test": ["2001-01-01"]})


def test_many_equal_rows_give_a_short_list():
    rows = np.zeros((200_000, 3), dtype=np.int8)
    report = gyrostat.check_leakage({"train": rows[:100_000], "test": rows[100_000:]})
    assert len(report.pairs) == 200_000 - 1
    assert len(report.clean_rows("train")) == 0


def test_adult_has_the_known_duplicate_rows(shared):
    adult = pd.read_parquet(shared / "data/tabular_adult/adult.parquet")
    truth = pd.read_csv(shared / "data/tabular_adult/exact_duplicate_groups.csv")
    report = gyrostat.check_leakage({"all": adult}, near=None, within=True)
    pairs = {(p.left_row, p.right_row) for p in report.pairs if p.kind == "exact"}
    groups = truth.groupby("group")["row"].apply(sorted)
    assert len(groups) == 49
    assert pairs == {pair for rows in groups for pair in itertools.combinations(rows, 2)}
    assert len(adult) - len(report.clean_rows("all")) == 52
