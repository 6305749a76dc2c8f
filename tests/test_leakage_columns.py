"""Leakage through columns: found where it is, and not in honest data."""

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

import gyrostat


def halves(table, seed=0):
    order = np.random.default_rng(seed).permutation(len(table))
    cut = len(table) * 4 // 5
    return {"train": table.iloc[order[:cut]], "test": table.iloc[order[cut:]]}


def findings(splits, code, **options):
    report = gyrostat.check_leakage(splits, **{"near": None, **options})
    return [f for f in report.findings if f.code == code]


def loud(report):
    return [str(f) for f in report.findings if f.severity >= "warning"]


# Honest data -------------------------------------------------------------------------------------

HONEST = {
    "iris": lambda: datasets.load_iris(as_frame=True).frame,
    "iris, one kind": lambda: datasets.load_iris(as_frame=True).frame.assign(
        target=lambda t: (t["target"] == 0).astype(int)
    ),
    "wine": lambda: datasets.load_wine(as_frame=True).frame,
    "breast cancer": lambda: datasets.load_breast_cancer(as_frame=True).frame,
    "diabetes": lambda: datasets.load_diabetes(as_frame=True).frame,
    "digits": lambda: datasets.load_digits(as_frame=True).frame,
    "linnerud": lambda: datasets.load_linnerud(as_frame=True).frame.rename(
        columns={"Weight": "target"}
    ),
    "blobs": lambda: _frame(*datasets.make_blobs(600, 4, random_state=0)),
    "classification": lambda: _frame(*datasets.make_classification(1000, 20, random_state=0)),
    "friedman": lambda: _frame(*datasets.make_friedman1(600, random_state=0)),
    "moons": lambda: _frame(*datasets.make_moons(500, noise=0.1, random_state=0)),
    "hastie": lambda: _frame(*datasets.make_hastie_10_2(1000, random_state=0)),
}


def _frame(x, y):
    return pd.DataFrame(x).add_prefix("x").assign(target=y)


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("seed", range(5))
def test_random_splits_of_honest_data_raise_no_alarm(name, seed):
    report = gyrostat.check_leakage(halves(HONEST[name](), seed), label="target")
    # Rows 101 and 142 of iris are the same flower, or the same numbers.
    assert loud(report) == []
    assert report.exit_code == 0


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("tabular_elec2/elec.parquet", "target"),
        ("tabular_sea/sea_stream.parquet", "class"),
        ("tabular_circle/circle.parquet", "y"),
        ("tabular_car_loan/synthetic_car_loan_reference.parquet", "repaid"),
    ],
)
def test_random_splits_of_the_shared_tables_raise_no_alarm(shared, path, label):
    table = pd.read_parquet(shared / "data" / path)
    assert loud(gyrostat.check_leakage(halves(table), label=label)) == []


def test_only_real_copies_of_adult_are_told_aloud(shared):
    adult = pd.read_parquet(shared / "data/tabular_adult/adult.parquet")
    report = gyrostat.check_leakage(halves(adult), label="class")
    codes = {f.code for f in report.findings if f.severity >= "warning"}
    assert codes == {"leakage-exact-duplicate", "leakage-label-conflict"}


# Titanic -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_titanic_tells_what_it_leaks(shared, seed):
    folder = shared / "data/tabular_titanic"
    later = pd.read_csv(folder / "titanic_analysis.csv")
    later = later.merge(pd.read_csv(folder / "titanic_target.csv"), on="PassengerId")
    table = pd.concat([pd.read_csv(folder / "titanic_reference.csv"), later], ignore_index=True)
    report = gyrostat.check_leakage(halves(table, seed), label="Survived")
    targets = [f for f in report.findings if f.code == "leakage-target"]
    told = {f.evidence["column"]: f for f in targets if f.severity >= "warning"}
    assert set(told) == {"boat", "body"}
    assert told["boat"].evidence["share"] > 0.97
    assert told["body"].evidence["share"] == 1.0
    assert all(f.evidence["information"] > f.evidence["permuted"] for f in told.values())
    (identifiers,) = [f for f in report.findings if f.code == "leakage-identifier"]
    assert {"PassengerId", "Ticket"} <= set(identifiers.evidence["columns"])
    assert str(identifiers.severity) == "info"
    (group,) = [f for f in report.findings if f.code == "leakage-group-column"]
    assert group.evidence["column"] == "Ticket"


# Labels ------------------------------------------------------------------------------------------


def honest(n=600, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    y = (x[:, 0] + rng.normal(size=n) > 0).astype(int)
    return pd.DataFrame(x).add_prefix("x").assign(y=y), rng


@pytest.mark.parametrize("kind", ["copy", "text", "linear", "flag", "separated"])
def test_columns_made_from_the_label_are_found(kind):
    table, rng = honest()
    y = table["y"]
    if kind == "linear":
        table["y"] = y = table["x0"] + rng.normal(size=len(y))
    table["leak"] = {
        "copy": 1 - y,
        "text": np.where(y == 1, "good", "bad"),
        "linear": 3 * y + 1,
        "flag": np.where(rng.random(len(y)) < 0.03, 1 - y, y),
        "separated": y + rng.normal(size=len(y)) / 10,
    }[kind]
    (finding,) = [
        f for f in findings(halves(table), "leakage-target", label="y") if f.severity >= "warning"
    ]
    assert finding.evidence["column"] == "leak"


def test_what_is_filled_after_the_fact_is_found():
    table, rng = honest()
    hit = (table["y"] == 1) & (rng.random(600) < 0.5)
    table["closed"] = np.where(hit, rng.normal(size=600), np.nan)
    table["amount"] = np.where(hit, rng.integers(1, 10_000, 600), 0)
    table["gap"] = np.where(rng.random(600) < 0.3, np.nan, rng.normal(size=600))
    found = findings(halves(table), "leakage-target", label="y")
    loud = {f.evidence["column"]: f.evidence["kind"] for f in found if f.severity >= "warning"}
    assert loud == {"closed": "filled", "amount": "filled"}


def test_a_single_strong_feature_is_an_info():
    rng = np.random.default_rng(0)
    duration = rng.exponential(300, 3000)
    y = (rng.random(3000) < 1 / (1 + np.exp(4 - duration / 150))).astype(int)
    table = pd.DataFrame({"duration": duration, "y": y})
    for name in "abcd":
        table[name] = rng.normal(size=3000) + 0.3 * y
    (finding,) = findings(halves(table), "leakage-target", label="y")
    assert finding.evidence["column"] == "duration"
    assert str(finding.severity) == "info"


def test_labels_may_be_given_by_split_or_be_many():
    table, _ = honest()
    splits = halves(table.assign(leak=table["y"]))
    labels = {name: part.pop("y") for name, part in splits.items()}
    finding = findings(splits, "leakage-target", label=labels)[0]
    assert (finding.evidence["kind"], finding.severity) == ("copy", "critical")
    words = np.array([f"w{i % 150}" for i in range(600)])
    many = table.assign(y=words, leak=np.char.upper(words))
    (finding,) = findings(halves(many), "leakage-target", label="y")
    assert finding.evidence["kind"] == "copy"


# Groups ------------------------------------------------------------------------------------------


def patients(rng, each=6, count=80):
    person = np.repeat(np.arange(count), each)
    table = pd.DataFrame({"patient_id": rng.permutation(10_000)[:count][person]})
    table["age"] = rng.integers(20, 90, count)[person]
    table["sex"] = rng.choice(["f", "m"], count)[person]
    table["pressure"] = rng.normal(120, 10, len(table))
    table["y"] = np.where(rng.random(len(table)) < 0.9, rng.integers(0, 2, count)[person], 0)
    return table, person


def test_a_column_of_patients_in_two_splits_is_found():
    table, person = patients(np.random.default_rng(0))
    (finding,) = findings(halves(table), "leakage-group-column", label="y")
    assert finding.evidence["column"] == "patient_id"
    assert finding.severity == "warning"
    assert finding.evidence["straddling"] > 40
    by_group = {"train": table[person < 60], "test": table[person >= 60]}
    assert findings(by_group, "leakage-group-column", label="y") == []
    assert findings(halves(table), "leakage-group-column", label="y", group="patient_id") == []
    assert findings(halves(table), "leakage-group-column", label="y", ignore=["patient_id"]) == []


def test_a_row_number_is_no_group_but_an_identifier():
    table, _ = honest()
    table["nr"] = np.arange(len(table))
    report = gyrostat.check_leakage(halves(table), label="y")
    (finding,) = [f for f in report.findings if f.code == "leakage-identifier"]
    assert list(finding.evidence["columns"]) == ["nr"]
    assert loud(report) == []


# Times -------------------------------------------------------------------------------------------


def stamped(n=400):
    rng = np.random.default_rng(0)
    when = pd.Timestamp("2021-01-01") + pd.to_timedelta(
        np.sort(rng.integers(0, 10**7, n)), unit="s"
    )
    return pd.DataFrame({"when": when, "x": rng.normal(size=n), "y": rng.integers(0, 2, n)})


@pytest.mark.parametrize("form", ["stamp", "text", "year"])
def test_the_order_in_time_is_found(form):
    table = stamped()
    if form == "text":
        table["when"] = table["when"].dt.strftime("%Y-%m-%dT%H:%M:%S")
    if form == "year":
        table = table.rename(columns={"when": "year"})
        table["year"] = 1990 + np.arange(400) // 20
    code = "leakage-time-column"
    assert findings({"train": table[:300], "test": table[300:]}, code) == []
    (mixed,) = findings(halves(table), code)
    assert str(mixed.severity) == "info"
    nearly = {"train": pd.concat([table[:300], table[399:]]), "test": table[300:399]}
    (late,) = findings(nearly, code)
    assert late.severity == "warning"
    (turned,) = findings({"train": table[200:], "test": table[:200]}, code)
    assert turned.severity == "warning"
    declared = table.columns[0]
    assert findings(nearly, code, time=declared) == []


def test_columns_that_look_ahead_are_found():
    table = stamped()
    table["next"] = table["y"].shift(-1).fillna(0).astype(int)
    table["before"] = table["y"].shift(1).fillna(0).astype(int)
    (finding,) = findings(halves(table), "leakage-look-ahead", label="y", time="when")
    assert finding.evidence["column"] == "next"
    assert finding.severity == "warning"
    table = stamped().assign(closed=lambda t: t["when"] + pd.Timedelta("3h"))
    (finding,) = findings(halves(table), "leakage-look-ahead", label="y")
    assert (finding.evidence["column"], str(finding.severity)) == ("closed", "info")


# Preprocessing -----------------------------------------------------------------------------------


def test_joint_scaling_is_found_and_that_of_train_is_not():
    table, rng = honest()
    features = table.drop(columns="y") * rng.uniform(1, 5, 4) + 3
    for dtype in ("float64", "float32"):
        joint = ((features - features.mean()) / features.std(ddof=0)).astype(dtype)
        (finding,) = findings(halves(joint.assign(y=table["y"])), "leakage-preprocessing")
        assert finding.evidence == {"kind": "standardised", "columns": list(features.columns)}
        assert finding.severity == "warning"
    splits = halves(features)
    mean, std = splits["train"].mean(), splits["train"].std()
    own = {name: (part - mean) / std for name, part in splits.items()}
    assert findings(own, "leakage-preprocessing") == []
    ranged = (features - features.min()) / (features.max() - features.min())
    found = [findings(halves(ranged, seed), "leakage-preprocessing") for seed in range(3)]
    assert any(f and f[0].evidence["kind"] == "ranged" for f in found)
    assert all(str(f.severity) == "info" for fs in found for f in fs)


def test_joint_imputation_is_found():
    table, rng = honest()
    table["x1"] = table["x1"].mask(rng.random(600) < 0.2)
    splits = halves(table)
    splits["test"] = splits["test"].assign(x1=splits["test"]["x1"] + 2)
    mean = pd.concat(splits.values())["x1"].mean()
    joint = {name: part.fillna({"x1": mean}) for name, part in splits.items()}
    (finding,) = findings(joint, "leakage-preprocessing")
    assert (finding.evidence["kind"], finding.severity) == ("imputed", "warning")
    own = splits["train"]["x1"].mean()
    alone = {name: part.fillna({"x1": own}) for name, part in splits.items()}
    assert findings(alone, "leakage-preprocessing") == []


def test_target_encodings_are_found():
    table, rng = honest()
    town = rng.integers(0, 25, 600)
    splits = halves(table.assign(town=town))
    every = pd.concat(splits.values())
    joint = {
        n: p.assign(code=p["town"].map(every.groupby("town")["y"].mean()))
        for n, p in splits.items()
    }
    (finding,) = findings(joint, "leakage-preprocessing", label="y")
    assert (finding.evidence["kind"], finding.severity) == ("encoded", "warning")
    means = splits["train"].groupby("town")["y"].mean()
    own = {n: p.assign(code=p["town"].map(means)) for n, p in splits.items()}
    (finding,) = findings(own, "leakage-preprocessing", label="y")
    assert str(finding.severity) == "info"


# Shapes ------------------------------------------------------------------------------------------


def test_columns_that_cannot_be_compared_are_passed_over():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"text": ["a b c"] * 60, "lists": [[1, 2]] * 60, "y": [0, 1] * 30})
    report = gyrostat.check_leakage({"train": table, "test": table}, text="text", label="y")
    assert len(report.pairs) > 0


def test_little_and_empty_data_say_nothing():
    table, _ = honest(30)
    assert gyrostat.check_leakage(halves(table.assign(leak=table["y"])), label="y").findings == ()
    empty = {"train": table, "test": table[:0]}
    assert gyrostat.check_leakage(empty, label="y").findings == ()
    assert gyrostat.check_leakage({"train": table[:0]}, label="y").findings == ()
    constant = pd.DataFrame({"a": [1] * 200, "y": [0, 1] * 100})
    gyrostat.check_leakage(halves(constant), label="y")


def test_the_search_of_columns_can_be_left_out():
    table, _ = honest()
    splits = halves(table.assign(leak=table["y"]))
    assert findings(splits, "leakage-target", label="y", columns=False) == []


def test_findings_of_columns_are_plain():
    table, _ = patients(np.random.default_rng(0))
    report = gyrostat.check_leakage(halves(table.assign(leak=table["y"])), label="y")
    assert report.to_json()
    assert "patient_id" in str(report)
    for finding in report.findings:
        assert (
            gyrostat.Finding.from_dict(finding.to_dict()).evidence == finding.to_dict()["evidence"]
        )


def test_stores_with_many_rows_each_are_an_info():
    rng = np.random.default_rng(0)
    store = rng.integers(0, 30, 6000)
    table = pd.DataFrame({"store_nr": 1000 + store * 37 % 911, "sales": rng.normal(size=6000)})
    for name in ("town", "state", "size"):
        table[name] = rng.integers(0, 8, 30)[store]
    (finding,) = findings(halves(table), "leakage-group-column")
    assert str(finding.severity) == "info"


def test_large_tables_are_searched_in_a_sample(monkeypatch):
    from gyrostat.leakage import beyond

    table, _ = honest(5000)
    splits = halves(table.assign(leak=table["y"]))
    monkeypatch.setattr(beyond, "_CELLS", 1)
    report = gyrostat.check_leakage(splits, label="y", near=None)
    assert report.summary["columns searched in"] == "at most 1,000 rows of each split"
    assert any(f.code == "leakage-target" and f.severity == "critical" for f in report.findings)
