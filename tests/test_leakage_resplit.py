"""New splits: nothing straddles, sizes and labels stay, little moves."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gyrostat
from gyrostat.leakage import resplit
from gyrostat.leakage.fixer import assign


def copies(seed=0, n=600, doubles=120):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(n, 5))).add_prefix("x")
    table["y"] = (rng.random(n) < 0.25).astype(int)
    table = pd.concat([table, table.iloc[:doubles]], ignore_index=True)
    order = rng.permutation(len(table))
    cut = len(table) * 4 // 5
    return {"train": table.iloc[order[:cut]], "test": table.iloc[order[cut:]]}


def rebuilt(splits, new):
    return {
        name: pd.concat([splits[old].iloc[rows] for old, rows in new.rows(name).items()])
        for name in new.names
    }


def test_new_splits_share_no_copy():
    splits = copies()
    assert len(gyrostat.check_leakage(splits, label="y").pairs) > 20
    new = resplit(splits, label="y")
    fixed = rebuilt(splits, new)
    assert len(gyrostat.check_leakage(fixed, label="y").pairs) == 0
    assert sum(map(len, fixed.values())) == 720
    for name, table in splits.items():
        assert abs(len(fixed[name]) - len(table)) <= 2
        assert abs(fixed[name]["y"].mean() - pd.concat(splits.values())["y"].mean()) < 0.01
    # Only copies, and what takes their place, move.
    assert new.moved <= 80
    assert new.diff["train"]["train"] > 530
    assert new.clusters == 120
    assert "rows moved" in str(new)
    assert new.to_dict()["diff"] == new.diff
    assert "<table>" in new._repr_html_()


def test_equal_seeds_give_equal_splits():
    splits = copies()
    a, b, c = (resplit(splits, label="y", seed=seed, keep=False) for seed in (1, 1, 2))
    same = [np.array_equal(a.assignment[n], b.assignment[n]) for n in splits]
    other = [np.array_equal(a.assignment[n], c.assignment[n]) for n in splits]
    assert all(same)
    assert not any(other)


def test_one_table_is_split_for_the_first_time():
    table = pd.concat(copies().values(), ignore_index=True)
    new = resplit({"all": table}, {"train": 0.7, "val": 0.1, "test": 0.2}, label="y")
    assert list(new.sizes.values()) == pytest.approx([504, 72, 144], abs=1)
    assert new.shares[:, 1] == pytest.approx([table["y"].mean()] * 3, abs=0.01)
    fixed = rebuilt({"all": table}, new)
    assert len(gyrostat.check_leakage(fixed, label="y").pairs) == 0


def test_groups_and_entities_stay_together():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"who": rng.integers(0, 60, 500), "x": rng.normal(size=500), "y": rng.integers(0, 3, 500)}
    )
    table.loc[::50, "who"] = -1
    table["who"] = table["who"].astype("Int64").mask(table["who"] < 0)
    splits = {"train": table[:400], "test": table[400:]}
    new = resplit(splits, group="who", label="y")
    fixed = rebuilt(splits, new)
    assert not set(fixed["train"]["who"].dropna()) & set(fixed["test"]["who"].dropna())
    assert len(fixed["test"]) == pytest.approx(100, abs=8)
    assert np.abs(new.shares - new.shares.mean(axis=0)).max() < 0.05


def test_entities_of_febrl_stay_together(shared):
    data = pd.read_csv(shared / "data/tabular_febrl/febrl1.csv.gz")
    order = np.random.default_rng(0).permutation(len(data))
    table = data.drop(columns=["rec_id", "is_original", "entity"]).iloc[order]
    entity = data["entity"].to_numpy()[order]
    splits = {"train": table[:700], "test": table[700:]}
    new = resplit(splits, entity=list(table.columns))
    where = np.concatenate(list(new.assignment.values()))
    straddling = [e for e in range(entity.max() + 1) if len(set(where[entity == e])) > 1]
    assert straddling == []
    assert new.sizes == {"train": 700, "test": 300}


def test_a_report_needs_to_know_the_copies_inside():
    splits = copies()
    with pytest.raises(ValueError, match="within: expected"):
        gyrostat.check_leakage(splits).resplit()
    report = gyrostat.check_leakage(splits, label="y", within=True)
    by_report, by_call = report.resplit(seed=3), resplit(splits, label="y", seed=3)
    assert by_report.to_dict() == by_call.to_dict()
    for sizes in ({}, {"a": 0.0}, {"a": float("nan")}, {"a": -1, "b": 2}):
        with pytest.raises(ValueError, match="sizes: expected"):
            report.resplit(sizes)
    with pytest.raises(ValueError, match="name: expected one of"):
        by_call.rows("validation")
    with pytest.raises(ValueError, match="splits: expected rows"):
        resplit({"train": ["a"][:0]})


def test_numbers_are_stratified_by_fifths():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=500), "y": rng.normal(size=500)})
    new = resplit({"all": table}, {"train": 4, "test": 1}, label="y")
    assert new.sizes == {"train": 400, "test": 100}
    assert new.shares == pytest.approx(np.full((2, 5), 0.2), abs=0.011)


@settings(max_examples=60)
@given(st.data())
def test_no_cluster_is_torn_apart(data):
    n = data.draw(st.integers(1, 60))
    splits, new_splits = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    old = np.sort(np.array(data.draw(st.lists(st.integers(0, splits - 1), min_size=n, max_size=n))))
    clusters = np.array(data.draw(st.lists(st.integers(0, n), min_size=n, max_size=n)))
    classes = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    sizes = {str(i): data.draw(st.floats(0.1, 5)) for i in range(new_splits)}
    new = assign(
        old,
        [str(i) for i in range(splits)],
        clusters,
        (classes, ["a", "b", "c"]),
        sizes,
        seed=data.draw(st.integers(0, 3)),
        keep=data.draw(st.booleans()),
    )
    where = np.concatenate([new.assignment[str(i)] for i in range(splits)])
    assert len(where) == n == sum(new.sizes.values())
    assert where.min() >= 0
    for cluster in np.unique(clusters):
        assert len(set(where[clusters == cluster])) == 1
    # Without clusters only rounding stands between a split and its share.
    alone = assign(
        old, [str(i) for i in range(splits)], np.arange(n), None, sizes, seed=0, keep=True
    )
    share = np.array(list(sizes.values())) / sum(sizes.values())
    assert np.abs(np.array(list(alone.sizes.values())) - n * share).max() < 1
