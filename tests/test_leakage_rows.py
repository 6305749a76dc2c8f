"""Copies of table rows: columns left out, grids, categories, and what chance gives."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gyrostat
from gyrostat.leakage.coded import stack
from gyrostat.leakage.rows import Chance
from gyrostat.leakage.splits import open_split


def kinds(splits, **options):
    report = gyrostat.check_leakage(splits, **{"near": None, "columns": False, **options})
    return [(p.left_row, p.right_row, p.kind) for p in report.pairs]


def halves(table, seed=0):
    order = np.random.default_rng(seed).permutation(len(table))
    cut = len(table) * 4 // 5
    return {"train": table.iloc[order[:cut]], "test": table.iloc[order[cut:]]}


def test_ignored_columns_are_left_out():
    train = pd.DataFrame({"id": [1, 2], "a": [5, 6], "b": ["x", "y"]})
    test = pd.DataFrame({"id": [8, 9], "a": [6, 7], "b": ["y", "z"]})
    splits = {"train": train, "test": test}
    assert kinds(splits) == []
    assert kinds(splits, ignore=["id"]) == [(1, 0, "exact")]
    with pytest.raises(ValueError, match=r"ignore: expected a column .* got 'nr'"):
        kinds(splits, ignore=["nr"])
    with pytest.raises(TypeError, match="ignore: expected names"):
        kinds(splits, ignore=[3])


def test_numbers_on_one_point_of_a_grid_are_normalised_copies():
    train = pd.DataFrame({"x": [1.04, 2.5, np.nan], "y": [10, 20, 30]})
    test = pd.DataFrame({"x": [0.96, 2.51, np.nan], "y": [10, 20, 31]})
    splits = {"train": train, "test": test}
    assert kinds(splits) == []
    assert kinds(splits, grid={"x": 0.1}) == [(0, 0, "normalised"), (1, 1, "normalised")]
    assert kinds(splits, grid=5.0)[-1] == (2, 2, "normalised")
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="grid: expected finite steps above 0"):
            kinds(splits, grid=bad)
    with pytest.raises(ValueError, match=r"grid: .*'z'"):
        kinds(splits, grid={"z": 1.0})
    with pytest.raises(ValueError, match="grid: expected rows"):
        kinds({"a": ["text"]}, grid=1.0)


def test_categories_are_compared_by_what_they_stand_for():
    values = ["b", "a", None, "b"]
    plain = pd.DataFrame({"c": values, "x": [1, 2, 3, 4]})
    forms = [
        plain.assign(c=pd.Categorical(values, categories=["a", "b"])),
        plain.assign(c=pd.Categorical(values, categories=["b", "z", "a"], ordered=True)),
    ]
    pl = pytest.importorskip("polars")
    forms.append(
        pl.DataFrame({"x": [1, 2, 3, 4], "c": values}).with_columns(
            pl.col("c").cast(pl.Categorical)
        )
    )
    expected = [(i, i, "exact") for i in range(4)]
    for form in forms:
        assert kinds({"train": plain, "test": form}) == expected
    ages = plain.assign(c=pd.Categorical([3, 1, 2, 3]))
    assert kinds({"train": ages, "test": plain.assign(c=[3.0, 1.0, 2.0, 3.0])}) == expected


def chance(table, least, **options):
    rows = stack([open_split("all", table)], table.columns, normalised=True)
    return Chance(rows, list(table.columns), **options).pairs(0, 0, least)


def equal_pairs(table, least):
    values = table.to_numpy()
    same = sum((column[:, None] == column[None, :]).astype(np.int16) for column in values.T)
    return int((same[np.triu_indices(len(values), 1)] >= least).sum())


@pytest.mark.parametrize("least", [4, 5, 6])
@pytest.mark.parametrize("dependent", [False, True])
def test_chance_is_what_low_cardinality_gives(least, dependent):
    rng = np.random.default_rng(3)
    table = rng.choice(4, size=(1500, 6), p=[0.6, 0.2, 0.15, 0.05])
    if dependent:  # a chain, which is a tree
        for i in range(1, 6):
            table[:, i] = np.where(rng.random(1500) < 0.7, table[:, i - 1], table[:, i])
    table = pd.DataFrame(table).add_prefix("c")
    assert chance(table, least) == pytest.approx(equal_pairs(table, least), rel=0.15)


def test_chance_gives_no_copies_of_numbers_that_hardly_repeat():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 5))
    copies = pd.DataFrame(np.concatenate([rows, rows[:100]])).add_prefix("c")
    assert chance(copies, 5) < 0.1
    assert equal_pairs(copies, 5) == 100


@given(st.integers(0, 5), st.integers(2, 5))
def test_more_equal_cells_are_never_likelier(seed, columns):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.integers(0, 3, (60, columns))).add_prefix("c")
    expected = [chance(table, least) for least in range(columns + 2)]
    assert expected[0] == pytest.approx(60 * 59 / 2)
    assert expected == sorted(expected, reverse=True)
    assert expected[-1] == 0


def test_copies_that_chance_explains_are_infos():
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.integers(0, 4, (2000, 6))).add_prefix("c")
    report = gyrostat.check_leakage(halves(table))
    assert len(report.pairs) > 100
    assert {str(f.severity) for f in report.findings} == {"info"}
    (exact,) = [f for f in report.findings if f.code == "leakage-exact-duplicate"]
    assert exact.expected == pytest.approx(exact.value, rel=0.3)
    assert report.exit_code == 0


def test_a_test_set_copied_from_train_is_no_chance_though_values_are_few():
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.integers(0, 4, (2000, 8))).add_prefix("c")
    splits = halves(table)
    splits["test"] = pd.concat([splits["test"], splits["train"].iloc[:100]])
    report = gyrostat.check_leakage(splits, near=None)
    (exact,) = [f for f in report.findings if f.code == "leakage-exact-duplicate"]
    assert exact.severity == "critical"


def test_rows_equal_but_for_a_row_number_are_found():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(400, 5)).round(3)).add_prefix("x")
    rows = pd.concat([rows, rows.iloc[:60]], ignore_index=True)
    rows["y"] = np.where(np.arange(460) < 430, 0, 1)  # 30 of the copies carry another label
    for extra in (["nr"], ["nr", "stamp"]):
        table = rows.assign(nr=rng.permutation(460))
        if "stamp" in extra:
            table["stamp"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(
                rng.permutation(460) * 7919, unit="s"
            )
        report = gyrostat.check_leakage(halves(table), label="y")
        (finding,) = [f for f in report.findings if f.code == "leakage-duplicate-but-for"]
        assert sorted(finding.evidence["but_for"]) == sorted(extra)
        assert finding.evidence["surplus"] == finding.value == 60
        assert finding.evidence["label_conflicts"] == 30
        assert finding.severity == "warning"
        assert report.exit_code == 1
        ignored = gyrostat.check_leakage({"all": table}, label="y", ignore=extra)
        assert sum(p.kind == "exact" for p in ignored.pairs) == 60


def test_rows_of_distinct_numbers_are_no_copies_but_for_anything():
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 6))).add_prefix("x")
    report = gyrostat.check_leakage(halves(table))
    assert report.findings == ()


def test_adult_has_the_known_copies_without_fnlwgt(shared):
    adult = pd.read_parquet(shared / "data/tabular_adult/adult.parquet")
    report = gyrostat.check_leakage({"all": adult}, near=None)
    (finding,) = [f for f in report.findings if f.code == "leakage-duplicate-but-for"]
    assert finding.evidence["but_for"] == ["fnlwgt"]
    assert finding.evidence["surplus"] == 6374
    # People share a coarse profile by chance, and chance says how many.
    assert 0.3 < finding.evidence["expected_pairs"] / finding.evidence["pairs"] < 1
    assert finding.severity == "info"
    ignored = gyrostat.check_leakage({"all": adult}, near=None, ignore=["fnlwgt"], columns=False)
    assert len(adult) - len(ignored.clean_rows("all")) == 6374
    labelled = gyrostat.check_leakage(halves(adult), label="class", near=None)
    (finding,) = [f for f in labelled.findings if f.code == "leakage-duplicate-but-for"]
    features = adult.drop(columns=["fnlwgt", "class"])
    kinds = adult.groupby([*features.columns], observed=True, dropna=False)["class"].nunique()
    assert finding.evidence["label_conflicts"] == int((kinds > 1).sum()) > 500


def test_exact_groups_of_adult_are_no_chance(shared):
    adult = pd.read_parquet(shared / "data/tabular_adult/adult.parquet")
    report = gyrostat.check_leakage(halves(adult), near=None, columns=False)
    (finding,) = report.findings
    assert (finding.code, str(finding.severity)) == ("leakage-exact-duplicate", "critical")
    truth = pd.read_csv(shared / "data/tabular_adult/exact_duplicate_groups.csv")
    order = np.random.default_rng(0).permutation(len(adult))
    cut = len(adult) * 4 // 5
    place = {row: ("train", i) for i, row in enumerate(order[:cut])}
    place |= {row: ("test", i) for i, row in enumerate(order[cut:])}
    across = {
        tuple(sorted((place[a], place[b]), reverse=True))
        for rows in truth.groupby("group")["row"].apply(list)
        for a, b in itertools.combinations(rows, 2)
        if place[a][0] != place[b][0]
    }
    found = {((p.left_split, p.left_row), (p.right_split, p.right_row)) for p in report.pairs}
    assert found == across
