"""The check on texts: what is found, what is not, and what stays."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gyrostat
import reference

FOX = "the quick brown fox jumps over the lazy dog and runs far away from here"


def pairs_of(report):
    return {tuple(pair)[:6] for pair in report.pairs}


def test_each_pair_is_reported_once_under_its_strictest_kind():
    train = ["Same text.", "Hello, World!", FOX, "unrelated words of no interest"]
    test = ["Same text.", "hello world", FOX + " today", "something else"]
    report = gyrostat.check_leakage({"train": train, "test": test})
    # 11 shingles of 15 words, one more of 16.
    assert list(report.pairs) == [
        ("train", 0, "test", 0, "exact", 1.0, None),
        ("train", 1, "test", 1, "normalised", 1.0, None),
        ("train", 2, "test", 2, "near", 11 / 12, None),
    ]
    assert [f.code for f in report.findings] == [
        "leakage-exact-duplicate",
        "leakage-normalised-duplicate",
        "leakage-near-duplicate",
    ]
    assert report.exit_code == 1


def test_clean_splits_have_no_findings():
    report = gyrostat.check_leakage({"train": ["a b c", "d e f"], "test": ["g h i"]})
    assert len(report.pairs) == 0
    assert report.findings == ()
    assert report.exit_code == 0
    assert report.clean_rows("train").tolist() == [0, 1]


def test_near_none_leaves_near_duplicates_out():
    splits = {"train": [FOX, "One"], "test": [FOX + " today", "one"]}
    kinds = [pair.kind for pair in gyrostat.check_leakage(splits, near=None).pairs]
    assert kinds == ["normalised"]


def test_texts_shorter_than_a_shingle_are_near_only_if_equal():
    splits = {"train": ["one two three four"], "test": ["one two three", "one two three five"]}
    assert len(gyrostat.check_leakage(splits, near=0.01).pairs) == 0


def test_scripts_without_spaces_are_compared_letter_by_letter():
    text = "机器学习模型在训练集和测试集之间不应该有重复的样本"
    report = gyrostat.check_leakage({"train": [text], "test": [text + "了"]})
    (pair,) = report.pairs
    assert pair.kind == "near"
    assert pair.similarity == (len(text) - 4) / (len(text) - 3)


def test_missing_texts_match_nothing_and_are_counted():
    report = gyrostat.check_leakage({"train": [None, "a", None], "test": [None, "A"]})
    assert pairs_of(report) == {("train", 1, "test", 1, "normalised", 1.0)}
    assert report.summary["missing texts"] == 3
    assert report.clean_rows("train").tolist() == [0, 2]


def test_pairs_inside_a_split_count_on_request():
    splits = {"train": ["a", "b", "a"], "test": ["c"]}
    assert len(gyrostat.check_leakage(splits).pairs) == 0
    report = gyrostat.check_leakage(splits, within=True)
    assert pairs_of(report) == {("train", 0, "train", 2, "exact", 1.0)}
    assert report.clean_rows("train").tolist() == [0, 1]
    assert [str(f.severity) for f in report.findings] == ["warning"]


def test_one_split_alone_is_checked_inside():
    report = gyrostat.check_leakage({"all": ["a", "b", "a"]})
    assert pairs_of(report) == {("all", 0, "all", 2, "exact", 1.0)}


def test_three_splits_keep_the_last():
    splits = {"train": ["a", "b", "c"], "val": ["b", "d"], "test": ["c", "d", "a"]}
    report = gyrostat.check_leakage(splits)
    assert [report.clean_rows(name).tolist() for name in splits] == [[], [0], [0, 1, 2]]


def test_a_row_stays_if_its_only_copies_go():
    a = [f"a{i}" for i in range(20)]
    b = [*a, "b1", "b2"]
    c = [*b, "c1", "c2"]
    splits = {"train": [" ".join(a)], "val": [" ".join(b)], "test": [" ".join(c)]}
    report = gyrostat.check_leakage(splits, near=0.85)
    assert [(p.left_split, p.right_split) for p in report.pairs] == [
        ("train", "val"),
        ("val", "test"),
    ]
    assert [len(report.clean_rows(name)) for name in splits] == [1, 0, 1]


def test_label_conflicts_need_two_known_labels():
    splits = {"train": ["a", "b", "c", "d"], "test": ["a", "b", "c", "D"]}
    labels = {"train": ["x", "x", None, 1], "test": ["x", "y", "x", 2.0]}
    report = gyrostat.check_leakage(splits, label=labels)
    assert [pair.label_conflict for pair in report.pairs] == [False, True, None, True]
    (conflict,) = [f for f in report.findings if f.code == "leakage-label-conflict"]
    assert conflict.evidence["pairs"] == 2
    assert [e["left"] for e in conflict.evidence["examples"]] == ["b", "d"]


def test_the_report_shows_the_pairs_side_by_side_and_escaped():
    report = gyrostat.check_leakage({"train": ["<script>x</script>"], "test": ["script x script"]})
    html = report.to_html()
    assert "<script>" not in html
    assert "<del>&lt;</del>script" in html
    unmarked = re.sub("</?(del|ins)>", "", html)
    assert "&lt;script&gt;x&lt;/script&gt;" in unmarked
    assert "script x script" in unmarked
    counts, examples = report.sections
    assert counts.rows == [["train", "test", "normalised", 1, 1, 1, 0]]
    assert len(examples.pairs) == 1
    assert json.loads(report.to_json())["exit_code"] == 1


def test_the_stated_recall_is_that_of_the_bands():
    report = gyrostat.check_leakage({"a": ["x"], "b": ["y"]})
    assert report.summary["recall at the threshold"] == pytest.approx(1 - (1 - 0.8**5) ** 25)


def test_copies_without_number_give_a_short_list():
    n = 200_000
    report = gyrostat.check_leakage({"train": ["the same text"] * n, "test": ["The same text"] * n})
    assert len(report.pairs) == 2 * n - 1
    assert report.summary["groups of copies not listed pair by pair"] == 1
    assert len(report.clean_rows("train")) == 0
    assert len(report.clean_rows("test")) == n
    report = gyrostat.check_leakage({"all": ["the same text"] * n})
    assert len(report.pairs) == n - 1
    assert report.clean_rows("all").tolist() == [0]


def test_one_document_of_ten_megabytes():
    text = " ".join(map(str, range(1_500_000)))
    assert len(text) > 10_000_000
    (pair,) = gyrostat.check_leakage({"train": [text], "test": [text + " end"]}).pairs
    assert pair.kind == "near"
    assert pair.similarity == (1_500_000 - 4) / (1_500_000 - 3)


def test_pairs_are_a_sequence():
    report = gyrostat.check_leakage({"train": ["a", "b"], "test": ["a", "b"]})
    first, last = report.pairs
    assert report.pairs[0] == first
    assert report.pairs[-1] == last
    assert report.pairs[:1] == [first]
    assert report.pairs[::-1] == [last, first]
    assert repr(report.pairs) == "<2 pairs>"
    with pytest.raises(IndexError):
        report.pairs[2]


def test_pairs_speak_arrow():
    report = gyrostat.check_leakage(
        {"train": ["a", FOX], "test": [FOX + " now", "a"]}, label={"train": [1, 1], "test": [2, 1]}
    )
    expected = [pair._asdict() for pair in report.pairs]
    assert pa.table(report.pairs).to_pylist() == expected
    assert pl.DataFrame(report.pairs).to_dicts() == expected
    assert pa.table(gyrostat.check_leakage({"a": ["x"], "b": []}).pairs).num_rows == 0


WORDS = st.sampled_from(["a", "b", "c", "ab", "é", "日本", "Ⅷ", "x-y", "B", "C.", "हिन्दी"])
TEXTS = st.lists(st.none() | st.lists(WORDS, max_size=12).map(" ".join), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    splits=st.fixed_dictionaries({"train": TEXTS, "val": TEXTS, "test": TEXTS}),
    near=st.none() | st.floats(0.3, 1.0),
    within=st.booleans(),
)
def test_the_check_agrees_with_its_slow_twin(splits, near, within):
    report = gyrostat.check_leakage(splits, near=near, within=within)
    assert pairs_of(report) == reference.leakage_pairs(splits, near, within=within)


@settings(max_examples=100, deadline=None)
@given(
    splits=st.fixed_dictionaries({"train": TEXTS, "val": TEXTS, "test": TEXTS}),
    within=st.booleans(),
)
def test_clean_rows_leave_no_pair_and_drop_nothing_in_vain(splits, within):
    report = gyrostat.check_leakage(splits, near=0.5, within=within)
    kept = {(name, row) for name in splits for row in report.clean_rows(name).tolist()}
    pairs = [((p.left_split, p.left_row), (p.right_split, p.right_row)) for p in report.pairs]
    assert not any(left in kept and right in kept for left, right in pairs)
    saved = {a for left, right in pairs for a, b in ((left, right), (right, left)) if b in kept}
    rows = {(name, row) for name, texts in splits.items() for row in range(len(texts))}
    assert rows - kept == saved
    clean = {
        name: [texts[row] for row in report.clean_rows(name)] for name, texts in splits.items()
    }
    assert len(gyrostat.check_leakage(clean, near=0.5, within=within).pairs) == 0


def edited(words, rng, share):
    """A copy with runs of words replaced at a share of places."""
    words = list(words)
    for i in np.flatnonzero(rng.random(len(words)) < share):
        words[i] = f"edit{rng.integers(10**9)}"
    return words


def test_planted_duplicates_are_all_found_among_many():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(500)]
    train = [list(rng.choice(vocabulary, rng.integers(30, 200))) for _ in range(600)]
    test = [list(rng.choice(vocabulary, rng.integers(30, 200))) for _ in range(200)]
    test += [edited(words, rng, share=0.02) for words in train[:300]]
    splits = {
        "train": [" ".join(words) for words in train],
        "test": [" ".join(words) for words in test],
    }
    truth = reference.leakage_pairs(splits, 0.8)
    near = [similarity for *_, kind, similarity in truth if kind == "near"]
    assert len(near) > 50
    assert min(near) < 0.85
    assert pairs_of(gyrostat.check_leakage(splits)) == truth


SCRIPT = """
import hashlib, gyrostat, numpy as np, sys
rng = np.random.default_rng(1)
base = [" ".join(map(str, rng.integers(0, 40, rng.integers(1, 60)))) for _ in range(3000)]
texts = [base[i] + (" x" if rng.random() < 0.3 else "") for i in rng.integers(0, 3000, 9000)]
report = gyrostat.check_leakage({"train": texts[:6000], "test": texts[6000:]}, near=0.6)
rows = rng.integers(0, 3, (4000, 8))
table = gyrostat.check_leakage({"train": rows[:3000], "test": rows[3000:]}, near=0.7)
seen = [report.to_json(), list(report.pairs), report.clean_rows("train").tolist()]
seen += [table.to_json(), list(table.pairs), table.clean_rows("train").tolist()]
print(len(report.pairs), len(table.pairs), hashlib.sha256(repr(seen).encode()).hexdigest())
"""


def test_the_result_is_the_same_on_any_number_of_threads():
    results = set()
    for threads in (1, 2, 8):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "GYROSTAT_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
            check=True,
        )
        results.add(run.stdout)
    (result,) = results
    assert min(map(int, result.split()[:2])) > 1000
