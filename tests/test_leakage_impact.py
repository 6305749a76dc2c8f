"""The user's metric with and without the leaked rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import gyrostat
from gyrostat.leakage.impact import measure


def accuracy(true, guess):
    return float((true == guess).mean())


def leaky(n=400, leaked=100, seed=0):
    """Noise that only copies make predictable."""
    rng = np.random.default_rng(seed)
    train = pd.DataFrame(rng.normal(size=(n, 4))).add_prefix("x").assign(y=rng.integers(0, 2, n))
    test = pd.DataFrame(rng.normal(size=(200, 4))).add_prefix("x").assign(y=rng.integers(0, 2, 200))
    test = pd.concat([test, train.iloc[:leaked]], ignore_index=True)
    return {"train": train, "test": test}


def predicted(splits):
    model = KNeighborsClassifier(1)
    features = [c for c in splits["train"] if c != "y"]
    model.fit(splits["train"][features], splits["train"]["y"])
    return splits["test"]["y"].to_numpy(), model.predict(splits["test"][features])


def test_a_memory_scores_on_leaked_rows_alone():
    splits = leaky()
    report = gyrostat.check_leakage(splits, label="y")
    true, guess = predicted(splits)
    impact = report.impact(accuracy_score, true, guess, resamples=200)
    assert (impact.rows, impact.leaked_rows) == (300, 100)
    assert impact.overall.value == accuracy_score(true, guess)
    assert impact.leaked.value == 1.0
    assert impact.clean.value == accuracy_score(true[:200], guess[:200])
    assert impact.clean.low < 0.5 < impact.clean.high
    assert impact.inflation.value == impact.overall.value - impact.clean.value
    assert 0.1 < impact.inflation.low < impact.inflation.value < impact.inflation.high < 0.25
    assert "inflated by" in str(impact)
    assert impact.to_dict()["metric"] == "accuracy_score"
    assert impact == report.impact(accuracy_score, true, guess, resamples=200)
    assert impact != report.impact(accuracy_score, true, guess, resamples=200, seed=1)


def test_clean_and_wholly_leaked_splits():
    splits = leaky(leaked=0)
    true, guess = predicted(splits)
    clean = gyrostat.check_leakage(splits).impact(accuracy, true, guess, resamples=50)
    assert clean.leaked_rows == 0
    assert np.isnan(clean.leaked.value)
    assert (clean.inflation.value, clean.inflation.low, clean.inflation.high) == (0, 0, 0)
    assert "not known" in str(clean)
    whole = {"train": splits["train"], "test": splits["train"][:50]}
    report = gyrostat.check_leakage(whole)
    impact = report.impact(accuracy, np.ones(50), np.ones(50), resamples=50)
    assert impact.leaked_rows == 50
    assert np.isnan(impact.clean.value)
    assert impact.to_dict()["clean"]["value"] == "nan"


def test_copies_are_drawn_together():
    # 20 rows, each ten times: the interval is that of 20 rows, not of 200.
    rng = np.random.default_rng(0)
    right = np.repeat(rng.integers(0, 2, 20), 10)
    options = {"split": "test", "leaked": np.zeros(200, bool), "confidence": 0.9, "resamples": 500}
    options |= {"seed": 0, "progress": lambda *_: None}
    one = measure(accuracy, np.ones(200), right, clusters=np.repeat(np.arange(20), 10), **options)
    each = measure(accuracy, np.ones(200), right, clusters=np.arange(200), **options)

    def width(impact):
        return impact.overall.high - impact.overall.low

    assert width(one) > 2.5 * width(each)
    assert (one.clusters, each.clusters) == (20, 200)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        right = rng.random(150) < 0.7
        options = {"split": "t", "leaked": np.zeros(150, bool), "clusters": np.arange(150)}
        impact = measure(
            accuracy, np.ones(150, bool), right, **options,
            confidence=0.9, resamples=200, seed=seed, progress=lambda *_: None,
        )  # fmt: skip
        hits += impact.overall.low <= 0.7 <= impact.overall.high
    assert 80 <= hits <= 98


def test_draws_that_a_metric_refuses_are_counted():
    splits = leaky(n=100, leaked=6)
    report = gyrostat.check_leakage(splits)

    def auc(true, score):
        if true.all() or not true.any():
            raise ValueError("one class alone")
        return float(roc_auc_score(true, score))

    true = splits["test"]["y"].to_numpy()
    impact = report.impact(auc, true, np.linspace(0, 1, len(true)), resamples=200)
    assert 0 < impact.failed < 200
    assert impact.metric == "auc"


def test_predictions_may_have_any_shape():
    splits = leaky()
    report = gyrostat.check_leakage(splits)
    probabilities = np.random.default_rng(0).random((300, 2))

    def brier(true, p):
        return float(((p[:, 1] - true) ** 2).mean())

    impact = report.impact(brier, splits["test"]["y"], probabilities, resamples=50)
    assert np.isfinite(impact.inflation.value)
    texts = report.impact(
        lambda a, b: (a == b).mean(), ["a"] * 300, np.array(["a", "b", "c"] * 100), resamples=50
    )
    assert texts.overall.value == pytest.approx(1 / 3)


def test_bad_input_is_named():
    report = gyrostat.check_leakage(leaky())
    ones = np.ones(300)
    with pytest.raises(TypeError, match="metric: expected a function"):
        report.impact("accuracy", ones, ones)
    with pytest.raises(ValueError, match="y_true: expected 300 rows"):
        report.impact(accuracy, ones[:5], ones)
    with pytest.raises(ValueError, match="y_pred: expected 300 rows"):
        report.impact(accuracy, ones, 1.0)
    with pytest.raises(ValueError, match="split: expected one of"):
        report.impact(accuracy, ones, ones, split="val")
    with pytest.raises(ValueError, match="confidence: expected"):
        report.impact(accuracy, ones, ones, confidence=95)
    with pytest.raises(ValueError, match="resamples: expected"):
        report.impact(accuracy, ones, ones, resamples=1)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.booleans()), min_size=1, max_size=40)
)
def test_parts_make_the_whole(rows):
    leaked, clusters, right = (np.array(column) for column in zip(*rows, strict=True))
    impact = measure(
        lambda true, guess: float((true == guess).mean()), np.ones(len(rows), bool), right,
        split="t", leaked=leaked, clusters=clusters, confidence=0.9, resamples=20, seed=0,
        progress=lambda *_: None,
    )  # fmt: skip
    parts = np.nan_to_num([impact.leaked.value, impact.clean.value])
    share = leaked.mean()
    assert impact.overall.value == pytest.approx(share * parts[0] + (1 - share) * parts[1])
