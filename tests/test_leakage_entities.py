"""Fuzzy entities: records of one person in spite of typing errors."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gyrostat
from gyrostat.leakage import find_entities

FIRST = [
    "anna",
    "berta",
    "carla",
    "david",
    "emil",
    "franz",
    "hanna",
    "ida",
    "karla",
    "nora",
    "otto",
]
LAST = ["fischer", "schneider", "wagner", "becker", "hoffmann", "schulz", "koch", "bauer", "klein"]
TOWNS = ["adelaide", "brisbane", "cairns", "darwin", "geelong", "hobart", "melbourne", "perth"]


def people(n, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "first": rng.choice(FIRST, n),
            "last": [a + b for a, b in zip(rng.choice(LAST, n), rng.choice(LAST, n), strict=True)],
            "born": rng.integers(19300101, 20201231, n),
            "town": rng.choice(TOWNS, n),
            "phone": [f"0{i}" for i in rng.integers(10**8, 10**9, n)],
        }
    )


def mistyped(table, seed=0):
    """One typing error in each row."""
    rng = np.random.default_rng(seed)
    rows = table.astype(str).to_numpy().copy()
    for row in rows:
        at = rng.integers(len(row))
        text = row[at]
        i = rng.integers(len(text) - 1)
        row[at] = [text[:i] + text[i + 1] + text[i] + text[i + 2 :], text[:i] + text[i + 1 :]][
            rng.integers(2)
        ]
    return pd.DataFrame(rows, columns=table.columns)


def scores(report, truth):
    found = report.pairs.columns()
    same = truth[found["left_row"]] == truth[found["right_row"]]
    counts = np.bincount(truth)
    known = int((counts * (counts - 1) // 2).sum())
    precision, recall = same.mean(), same.sum() / known
    return precision, recall, 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("name", ["febrl1", "febrl3"])
@pytest.mark.parametrize("fields", ["all", "no number of its own"])
def test_febrl_pairs_are_found_without_truth(shared, name, fields):
    data = pd.read_csv(shared / f"data/tabular_febrl/{name}.csv.gz")
    table = data.drop(columns=["rec_id", "entity", "is_original"])
    if fields != "all":
        table = table[["given_name", "surname", "address_1", "suburb"]]
    report = find_entities({"all": table})
    precision, _, f1 = scores(report, data["entity"].to_numpy())
    assert precision >= 0.97
    assert f1 >= (0.99 if fields == "all" else 0.93)


def test_one_call_finds_entities_across_splits(shared):
    data = pd.read_csv(shared / "data/tabular_febrl/febrl1.csv.gz")
    names = ["given_name", "surname", "date_of_birth", "address_1", "suburb", "postcode"]
    splits = {
        "train": data[data["is_original"]].reset_index(drop=True),
        "test": data[~data["is_original"]].reset_index(drop=True),
    }
    splits = {name: table[[*names, "state", "entity"]] for name, table in splits.items()}
    truth = {name: table.pop("entity").to_numpy() for name, table in splits.items()}
    report = gyrostat.check_leakage(splits, entity=names, label="state")
    (finding,) = [f for f in report.findings if f.code == "leakage-entity"]
    assert finding.severity == "warning"
    right = sum(
        truth["train"][p.left_row] == truth["test"][p.right_row] for p in report.entities.pairs
    )
    assert right >= 0.97 * 500
    assert right >= 0.97 * len(report.entities.pairs)
    assert finding.evidence["label_conflicts"] == sum(
        p.label_conflict is True for p in report.entities.pairs
    )
    assert finding.evidence["label_conflicts"] > 0
    clusters = report.entities.clusters("train"), report.entities.clusters("test")
    for pair in list(report.entities.pairs)[:50]:
        assert clusters[0][pair.left_row] == clusters[1][pair.right_row]


def test_typing_errors_are_seen_through():
    table = people(300)
    splits = {"train": table, "test": mistyped(table)}
    report = find_entities(splits)
    pairs = {(p.left_row, p.right_row) for p in report.pairs}
    truth = {(i, i) for i in range(300)}
    assert len(pairs & truth) >= 0.98 * 300
    assert len(pairs - truth) <= 3
    assert all(0.5 <= p.probability <= 1 for p in report.pairs)
    example = report.findings[0].evidence["examples"][0]
    assert set(example) == {"left_row", "right_row", "probability", "left", "right"}


@pytest.mark.parametrize("seed", range(3))
def test_different_people_are_not_joined(seed):
    report = find_entities({"train": people(800, seed), "test": people(200, seed + 100)})
    assert len(report.pairs) <= 2


def test_swapped_names_and_missing_fields():
    table = people(200)
    other = table.astype(object).copy()
    swap = np.arange(200) % 5 == 0
    other.loc[swap, ["first", "last"]] = table.loc[swap, ["last", "first"]].to_numpy()
    other.loc[::4, "phone"] = None
    other.loc[1::4, "born"] = None
    report = find_entities({"train": table, "test": other})
    pairs = {(p.left_row, p.right_row) for p in report.pairs}
    assert len(pairs & {(i, i) for i in range(200)}) >= 190
    assert len(pairs) <= 205


def test_pairs_inside_a_split_are_listed_when_asked_for():
    table = people(100)
    double = pd.concat([table, mistyped(table.iloc[:10]).astype({"born": int})], ignore_index=True)
    splits = {"train": double, "test": people(50, seed=9)}
    assert len(find_entities(splits).pairs) == 0
    within = find_entities(splits, within=True)
    assert {(p.left_split, p.right_split) for p in within.pairs} == {("train", "train")}
    assert len(within.pairs) >= 9
    assert all(str(f.severity) == "info" for f in within.findings)
    alone = find_entities({"train": double})
    assert [p[1::2] for p in alone.pairs] == [p[1::2] for p in within.pairs]


def test_nothing_to_find():
    empty = pd.DataFrame({"a": pd.Series([], dtype=str)})
    assert len(find_entities({"train": empty, "test": empty}).pairs) == 0
    missing = pd.DataFrame({"a": [None, None], "b": [np.nan, np.nan]})
    assert len(find_entities({"train": missing, "test": missing}).pairs) == 0
    same = pd.DataFrame({"a": ["x"] * 3000, "b": [1] * 3000})
    assert len(find_entities({"all": same}).pairs) < 3000 * 100  # what all share says nothing


def test_bad_input_is_named():
    table = people(5)
    for options, match in [
        ({"columns": ["nobody"]}, "columns: expected a column"),
        ({"columns": []}, "columns: expected names"),
        ({"columns": "first"}, "columns: expected names"),
        ({"label": "nobody"}, "label: expected a column"),
        ({"least": 0.0}, "least: expected"),
        ({"least": 1.5}, "least: expected"),
    ]:
        with pytest.raises(ValueError, match=match):
            find_entities({"all": table}, **options)
    with pytest.raises(ValueError, match="split: expected one of"):
        find_entities({"all": table}).clusters("test")
    with pytest.raises(TypeError, match="splits: expected a mapping"):
        find_entities(table)
    with pytest.raises(ValueError, match="entity: expected a column"):
        gyrostat.check_leakage({"all": table}, entity="nobody")


@given(st.lists(st.tuples(st.sampled_from(FIRST), st.text("abcdef 01", max_size=6)), max_size=25))
def test_any_records_give_ordered_pairs_and_clusters_that_hold_them(records):
    table = pd.DataFrame(records, columns=["a", "b"])
    report = find_entities({"all": table})
    rows = [(p.left_row, p.right_row) for p in report.pairs]
    assert rows == sorted(set(rows))
    assert all(a < b for a, b in rows)
    clusters = report.clusters("all")
    assert all(clusters[a] == clusters[b] for a, b in rows)
    again = find_entities({"all": table})
    assert list(again.pairs) == list(report.pairs)
