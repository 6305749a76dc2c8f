"""The command line as a user runs it."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from gyrostat import __version__
from gyrostat.cli import main

TRAIN = {"text": ["The cat sat.", "A dog barked loudly.", "Rain."], "label": ["a", "b", "c"]}
TEST = {"text": ["the cat sat", "Something else."], "label": ["b", "d"]}


def run(*args):
    command = [sys.executable, "-m", "gyrostat", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def splits(tmp_path):
    paths = {}
    for name, columns in {"train": TRAIN, "test": TEST}.items():
        table = pa.table(columns)
        paths[name] = tmp_path / name
        parquet.write_table(table, paths[name].with_suffix(".parquet"))
        csv.write_csv(table, paths[name].with_suffix(".csv"))
        lines = [json.dumps(row) for row in table.to_pylist()]
        paths[name].with_suffix(".jsonl").write_text("\n".join(lines), encoding="utf-8")
        paths[name].with_suffix(".txt").write_text("\n".join(columns["text"]), encoding="utf-8")
    return paths


def test_the_module_runs_and_says_what_it_is():
    assert run("--version").stdout.strip() == __version__
    done = run("info")
    assert done.returncode == 0
    assert done.stdout.startswith(f"gyrostat {__version__} (release")
    assert run().returncode == 2


def test_audit_tells_a_spike_and_exits_with_1(tmp_path, capsys):
    noise = 0.01 * np.random.default_rng(0).standard_normal(200)
    loss = 2 + np.exp(-np.arange(200) / 50) + noise
    loss[150] = 7
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "".join(f"{i},{x}\n" for i, x in enumerate(loss)))
    assert main(["audit", str(path)]) == 1
    assert "loss-spike at step 150" in capsys.readouterr().out
    assert main(["audit", str(path), "--json", "--html", str(tmp_path / "r.html")]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["step"] == 150
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_audit_of_a_quiet_run_exits_with_0(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "".join(f"{i},{2 + i % 3 / 100}\n" for i in range(100)))
    assert main(["audit", str(path)]) == 0


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_leakage_reads_every_format(splits, suffix, capsys):
    paths = [str(splits[name].with_suffix(suffix)) for name in ("train", "test")]
    assert main(["leakage", *paths, "--text", "text", "--label", "label", "--json"]) == 1
    codes = {f["code"] for f in json.loads(capsys.readouterr().out)["findings"]}
    assert codes == {"leakage-normalised-duplicate", "leakage-label-conflict"}


def test_leakage_reads_lines_of_text(splits):
    paths = [str(splits[name].with_suffix(".txt")) for name in ("train", "test")]
    assert main(["leakage", *paths]) == 1


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["audit", "no/such/file.csv"], "path: there is no"),
        (["leakage", "no/such/file.txt"], "no/such/file.txt"),
        (["leakage", "data.xlsx"], "path: expected .parquet"),
        (["audit", "a.csv", "b.csv", "--html", "r.html"], "--html: expected one PATH"),
        (["demo", "--out", "report.pdf", "--framework", "numpy"], "path: expected"),
    ],
)
def test_what_cannot_be_run_is_told_and_exits_with_2(args, match, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    assert match in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_file_that_is_not_what_its_ending_says_is_told(suffix, tmp_path, capsys):
    path = (tmp_path / "train").with_suffix(suffix)
    path.write_bytes(b'\x00{"a": [1,\n2\xff')
    assert main(["leakage", str(path)]) == 2
    assert "train" in capsys.readouterr().err


def test_findings_go_to_code_review(splits, tmp_path):
    paths = [str(splits[name].with_suffix(".jsonl")) for name in ("train", "test")]
    out = tmp_path / "leaks.sarif"
    assert main(["leakage", *paths, "--text", "text", "--label", "label", "--sarif", str(out)]) == 1
    told = json.loads(out.read_text(encoding="utf-8"))
    assert told["version"] == "2.1.0"
    (run_,) = told["runs"]
    rules = [rule["id"] for rule in run_["tool"]["driver"]["rules"]]
    assert rules == ["leakage-normalised-duplicate", "leakage-label-conflict"]
    first = run_["results"][0]
    assert rules[first["ruleIndex"]] == first["ruleId"]
    assert first["level"] == "error"
    (where,) = first["locations"]
    assert where["logicalLocations"][0]["fullyQualifiedName"] == "test row 0"
    assert where["physicalLocation"]["artifactLocation"]["uri"] == paths[1]
    (other,) = first["relatedLocations"]
    assert other["logicalLocations"][0]["fullyQualifiedName"] == "train row 0"
