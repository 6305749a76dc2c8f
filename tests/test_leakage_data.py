"""The check on real texts with known duplicates."""

import csv
import gzip
import itertools
import json

import numpy as np
import pytest

import gyrostat


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def truth(path):
    """Pairs of ids by level; those of `normalised` without those of `exact`."""
    groups = {}
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            groups.setdefault((row["level"], row["group"]), set()).add(row["id"])
    pairs = {"exact": set(), "normalised": set()}
    for (level, _), ids in groups.items():
        pairs[level] |= {frozenset(pair) for pair in itertools.combinations(ids, 2)}
    pairs["normalised"] -= pairs["exact"]
    return pairs


def halves(rows, seed):
    """A random 80/20 split."""
    order = np.random.default_rng(seed).permutation(len(rows))
    cut = len(rows) * 4 // 5
    return {"train": [rows[i] for i in order[:cut]], "test": [rows[i] for i in order[cut:]]}


def check(splits, **options):
    return gyrostat.check_leakage(
        {name: [row["text"] for row in rows] for name, rows in splits.items()},
        label={name: [row.get("label") for row in rows] for name, rows in splits.items()},
        **options,
    )


def ids(report, splits, kind):
    return {
        frozenset(
            (splits[p.left_split][p.left_row]["id"], splits[p.right_split][p.right_row]["id"])
        )
        for p in report.pairs
        if p.kind == kind
    }


@pytest.mark.parametrize("seed", range(5))
def test_sms_leaks_exactly_the_known_duplicates(shared, seed):
    folder = shared / "data/text_sms_spam"
    splits, known = halves(read(folder / "sms.jsonl.gz"), seed), truth(folder / "dup_groups.csv")
    train = {row["id"] for row in splits["train"]}
    report = check(splits)
    for kind in ("exact", "normalised"):
        across = {pair for pair in known[kind] if len(pair & train) == 1}
        assert len(across) > 20
        assert ids(report, splits, kind) == across
    clean = {n: [rows[i] for i in report.clean_rows(n)] for n, rows in splits.items()}
    assert len(check(clean).pairs) == 0
    assert len(clean["test"]) == len(splits["test"])


@pytest.mark.parametrize("name", ["pros_cons", "sentence_polarity"])
def test_reviews_leak_exactly_the_known_duplicates(shared, name):
    folder = shared / "data/text_reviews"
    splits = halves(read(folder / f"{name}.jsonl.gz"), seed=0)
    known = truth(folder / f"{name}_dup_groups.csv")
    where = {row["id"]: split for split, rows in splits.items() for row in rows}
    report = check(splits)
    assert "groups of copies not listed pair by pair" not in report.summary
    for kind in ("exact", "normalised"):
        across = {pair for pair in known[kind] if len({where[i] for i in pair}) == 2}
        assert ids(report, splits, kind) == across
    conflicts = any(f.code == "leakage-label-conflict" for f in report.findings)
    assert conflicts == (name == "pros_cons")


def test_label_conflicts_of_reviews_are_those_of_the_labels(shared):
    splits = halves(read(shared / "data/text_reviews/pros_cons.jsonl.gz"), seed=0)
    report = check(splits, near=None)
    assert sum(pair.label_conflict for pair in report.pairs) > 100
    for pair in report.pairs:
        left = splits[pair.left_split][pair.left_row]["label"]
        right = splits[pair.right_split][pair.right_row]["label"]
        assert pair.label_conflict == (left != right)


@pytest.mark.parametrize(
    ("near", "least"),
    [
        # Questions are short: cutting or framing one changes most of its 5-grams.
        (0.8, {"exact": 1.0, "case_space": 1.0, "punct": 0.95}),
        (0.5, {"exact": 1.0, "case_space": 1.0, "punct": 1.0, "truncated": 1.0, "embedded": 0.95}),
    ],
)
def test_gsm8k_contamination_is_found(shared, near, least):
    folder = shared / "data/text_gsm8k"
    mix, test = read(folder / "mix_train.jsonl.gz"), read(folder / "test.jsonl.gz")
    report = gyrostat.check_leakage(
        {"mix": [row["text"] for row in mix], "test": [row["question"] for row in test]}, near=near
    )
    found = {(mix[p.left_row]["id"], test[p.right_row]["id"]) for p in report.pairs}
    with (folder / "mix_truth.csv").open(encoding="utf-8") as lines:
        planted = [(row["kind"], row["mix_id"], row["test_id"]) for row in csv.DictReader(lines)]
    for kind, share in least.items():
        known = {(a, b) for k, a, b in planted if k == kind}
        assert len(known & found) >= share * len(known)
    assert len(found - {(a, b) for _, a, b in planted}) <= 1
