"""Pairs that somebody accepted are not told again."""

import json

import numpy as np
import pytest

import gyrostat
from gyrostat.cli import main

TRAIN = ["The cat sat.", "A dog barked.", "Rain fell all day on the old town and its river"]
TEST = ["the cat sat", "A dog barked.", "Sun.", "Rain fell all day on the old town and its rivers"]


def check(**more):
    splits = {"train": TRAIN, "test": TEST} | more.pop("splits", {})
    return gyrostat.check_leakage(splits, near=0.5, **more)


def rows(report):
    return [(pair.left_row, pair.right_row, pair.kind) for pair in report.pairs]


def test_accepted_pairs_are_gone_and_new_ones_are_told(tmp_path):
    path = tmp_path / "accepted.json"
    report = check()
    assert rows(report) == [(0, 0, "normalised"), (1, 1, "exact"), (2, 3, "near")]
    report.save_baseline(path)
    again = check(baseline=path)
    assert rows(again) == []
    assert again.exit_code == 0
    assert again.summary["pairs accepted before"] == 3
    assert again.clean_rows("train").tolist() == report.clean_rows("train").tolist()
    # Rows may move; another copy is a new pair only if its content is.
    moved = {"train": ["New.", *reversed(TRAIN)], "test": [*TEST, "new", "The cat  sat"]}
    assert rows(check(splits=moved, baseline=path)) == [(0, 4, "normalised"), (3, 5, "normalised")]


def test_a_baseline_grows_and_is_the_same_whoever_writes_it(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    check(splits={"test": TEST[:2]}).save_baseline(first)
    check(baseline=first).save_baseline(second)
    assert rows(check(baseline=second)) == []
    check().save_baseline(first)
    assert first.read_bytes() == second.read_bytes()
    assert "cat" not in first.read_text(encoding="utf-8")


def test_labels_that_come_to_differ_are_told(tmp_path):
    path = tmp_path / "accepted.json"
    labels = {"train": ["a", "b", "c"], "test": ["a", "b", "c", "c"]}
    check(label=labels).save_baseline(path)
    assert rows(check(label=labels, baseline=path)) == []
    labels["test"] = ["b", "b", "c", "c"]
    assert rows(check(label=labels, baseline=path)) == [(0, 0, "normalised")]


def test_rows_of_tables_are_known_again(tmp_path):
    path = tmp_path / "accepted.json"
    splits = {"train": [[1.0, 2.0], [3.0, 4.0]], "test": [[3.0, 4.0], [5.0, 6.0]]}
    arrays = {name: np.array(rows) for name, rows in splits.items()}
    gyrostat.check_leakage(arrays).save_baseline(path)
    assert len(gyrostat.check_leakage(arrays, baseline=path).pairs) == 0


def test_the_command_line_accepts_and_compares(tmp_path, capsys):
    files = [tmp_path / "train.txt", tmp_path / "test.txt"]
    for file, texts in zip(files, (TRAIN, TEST), strict=True):
        file.write_text("\n".join(texts), encoding="utf-8")
    names = [str(file) for file in files]
    accepted = str(tmp_path / "accepted.json")
    assert main(["leakage", *names, "--accept", accepted]) == 1
    assert main(["leakage", *names, "--baseline", accepted]) == 0
    assert main(["leakage", *names, "--baseline", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": "other"}',
        '{"format": "gyrostat leakage baseline", "version": 2, "pairs": []}',
        '{"format": "gyrostat leakage baseline", "version": 1}',
        '{"format": "gyrostat leakage baseline", "version": 1, "pairs": [["a"]]}',
        '{"format": "gyrostat leakage baseline", "version": 1, "pairs": [["a", "b", false]]}',
        '{"format": "gyrostat leakage baseline", "version": 1, "pairs": [["a", "b", 0]]}',
    ],
)
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="baseline"):
        check(baseline=path)


def test_what_is_written_is_plain_json(tmp_path):
    path = tmp_path / "accepted.json"
    check().save_baseline(path)
    held = json.loads(path.read_text(encoding="utf-8"))
    assert held["version"] == 1
    assert len(held["pairs"]) == 3
