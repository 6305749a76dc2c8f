"""The audit of finished runs, from a file to findings."""

import csv
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

import gyrostat
from gyrostat.cli import main

DATA = Path(__file__).parent / "data" / "runlogs"


def healthy(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return 3.0 * np.exp(-np.arange(n) / 300) + 1.0 + 0.03 * rng.standard_normal(n)


def write_csv(path, **columns):
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(columns)
        out.writerows(zip(*columns.values(), strict=True))
    return path


def told(report):
    return [(f.code, f.step, f.signal) for f in report.findings]


def test_a_healthy_run_has_no_findings(tmp_path):
    report = gyrostat.audit(write_csv(tmp_path / "a.csv", step=range(400), loss=healthy()))
    assert report.findings == ()
    assert report.exit_code == 0
    assert report.summary["rows"] == 400
    assert report.summary["steps"] == "0 to 399"
    assert report.summary["final loss"] == pytest.approx(healthy()[-1])
    assert [chart.title for chart in report.sections] == ["Loss"]


def test_alarms_of_one_event_are_one_finding(tmp_path):
    loss = healthy()
    loss[200:204] = [8.0, 9.5, 7.0, 6.0]
    loss[300] = 7.0
    report = gyrostat.audit(write_csv(tmp_path / "a.csv", step=range(0, 4000, 10), loss=loss))
    assert told(report) == [("loss-spike", 2000, "loss"), ("loss-spike", 3000, "loss")]
    first = report.findings[0]
    assert first.value == 8.0
    assert first.evidence["end_step"] == 2030
    assert first.evidence["points"] == 4
    assert first.evidence["peak"] == 9.5
    assert report.findings[1].evidence["points"] == 1
    assert len(report.sections[0].marks) == 2


def test_a_spike_that_does_not_come_back_is_one_divergence_from_its_first_step(tmp_path):
    loss = healthy()
    loss[250:] = np.linspace(8.0, 60.0, 150)
    report = gyrostat.audit(write_csv(tmp_path / "a.csv", step=range(400), loss=loss))
    first = report.findings[0]
    assert (first.code, first.step, first.severity) == ("loss-divergence", 250, "critical")


def test_a_loss_that_rises_into_nan_is_a_spike_and_then_not_finite(tmp_path):
    loss = healthy()
    loss[300:303] = [20.0, 1e6, 1e12]
    loss[303:] = math.nan
    report = gyrostat.audit(write_csv(tmp_path / "a.csv", step=range(400), loss=loss))
    assert told(report) == [("loss-spike", 300, "loss"), ("loss-not-finite", 303, "loss")]
    assert report.findings[1].evidence["end_step"] == 399
    assert report.findings[1].evidence["points"] == 97


def test_a_run_started_again_is_judged_anew_and_one_resumed_is_not(tmp_path):
    again = np.concatenate([healthy(200), healthy(200, seed=1)])
    steps = [*range(200), *range(200)]
    report = gyrostat.audit(write_csv(tmp_path / "again.csv", step=steps, loss=again))
    assert report.findings == ()
    assert "steps go back once" in report.summary["notes"]

    steps = [*range(200), *range(100, 300)]
    report = gyrostat.audit(write_csv(tmp_path / "resumed.csv", step=steps, loss=again))
    assert told(report)[0][1:] == (100, "loss")


# NaN that the log hides


def test_the_trainers_zeros_are_told_as_nan():
    report = gyrostat.audit(DATA / "hf_trainer")
    assert told(report) == [
        ("loss-not-finite", 41, "loss"),
        ("gradient-not-finite", 41, "grad_norm"),
        ("loss-not-finite", 60, "val_loss"),
    ]
    loss, gradient, _ = report.findings
    assert loss.value == 0.0
    assert "logging_nan_inf_filter" in loss.message
    assert loss.evidence["points"] == gradient.evidence["points"] == 20
    assert math.isnan(loss.evidence["grad_norm"])
    assert report.exit_code == 1
    assert [c.title for c in report.sections] == ["Loss", "Gradient norm", "Validation loss"]


def test_a_stale_loss_in_place_of_nan_is_told_by_its_gradient(tmp_path):
    state = json.loads((DATA / "hf_trainer" / "trainer_state.json").read_text())
    state["log_history"] = state["log_history"][:40]
    rows = [row for row in state["log_history"] if "loss" in row]
    rows[20] |= {"loss": 99.5, "grad_norm": math.nan}  # the mean of the losses before
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps(state))
    report = gyrostat.audit(path)
    assert told(report) == [("gradient-not-finite", rows[20]["step"], "grad_norm")]
    assert "may stand for a NaN" in report.findings[0].message
    assert report.findings[0].evidence["loss"] == 99.5


def test_a_zero_without_gradient_norms_is_told_and_zeros_of_small_losses_are_not(tmp_path):
    loss = healthy()
    loss[[250, 251, 300]] = 0.0
    report = gyrostat.audit(write_csv(tmp_path / "a.csv", step=range(400), loss=loss))
    assert told(report) == [("loss-not-finite", 250, "loss")]
    assert report.findings[0].expected == pytest.approx(2.35, abs=0.1)
    assert report.findings[0].evidence == {"end_step": 300, "points": 3}

    small = np.round(np.maximum(healthy() - 2.0, 0.0) ** 2, 4)
    assert (small == 0).sum() > 10
    report = gyrostat.audit(write_csv(tmp_path / "b.csv", step=range(400), loss=small))
    assert "loss-not-finite" not in report.counts()


def test_blanks_of_algoperf_are_told_as_nan(shared):
    path = shared / "data" / "raw_logs" / "algoperf_measurements_nan_as_blank.csv"
    report = gyrostat.audit(path)
    assert [f[:2] for f in told(report)] == [("loss-spike", 44), ("loss-not-finite", 48)]


def test_overflows_that_training_survives_are_warnings_and_those_it_ends_in_are_critical(tmp_path):
    norms = np.ones(400)
    norms[[0, 1, 2, 200]] = math.inf
    norms[390:] = math.nan
    path = write_csv(tmp_path / "a.csv", step=range(400), loss=healthy(), grad_norm=norms)
    findings = gyrostat.audit(path).findings
    assert [(f.step, f.severity, f.evidence["points"]) for f in findings] == [
        (0, "warning", 3),
        (200, "warning", 1),
        (390, "critical", 10),
    ]
    assert {f.code for f in findings} == {"gradient-not-finite"}


def test_a_gradient_norm_that_was_not_logged_is_no_finding(tmp_path):
    norms = ["1.0" if i % 10 == 0 else "" for i in range(400)]
    path = write_csv(tmp_path / "a.csv", step=range(400), loss=healthy(), grad_norm=norms)
    assert gyrostat.audit(path).findings == ()


def test_labelled_runs_are_told_as_their_labels_say(shared, tmp_path):
    for name, code, step in (
        ("algo_criteo_genadam_s4", "loss-not-finite", 80),
        ("algo_wmt_baseline_s0t1", "loss-spike", 23200),
        ("algo_wmt_shampoo_s1t5", "loss-spike", 32000),
    ):
        table = pq.read_table(shared / "data" / "runs" / f"{name}.parquet").to_pydict()
        report = gyrostat.audit(write_csv(tmp_path / f"{name}.csv", **table))
        assert (code, step, "loss") in told(report)


# where the loss goes


def test_where_the_loss_goes_is_told_in_order_of_step_and_once(tmp_path):
    rng = np.random.default_rng(0)
    loss = 1.0 + np.concatenate([healthy(600), healthy(600) + np.linspace(0, 1.5, 600)])
    rate = np.where(np.arange(1200) < 300, 0.1, 0.01)
    loss[300:600] -= 0.8
    path = write_csv(tmp_path / "a.csv", step=range(1200), loss=loss, learning_rate=rate)
    findings = gyrostat.audit(path).findings
    assert [f.step for f in findings] == sorted(f.step for f in findings)
    shift = next(f for f in findings if f.code == "level-shift")
    assert (shift.severity, shift.evidence["cause"]) == ("info", "learning-rate")
    flat = 2.0 + 0.01 * rng.standard_normal(2000)
    report = gyrostat.audit(write_csv(tmp_path / "b.csv", step=range(2000), loss=flat))
    assert [(f.code, f.severity) for f in report.findings] == [("loss-not-decreasing", "warning")]
    again = [*range(1000), *range(1000)]  # a run that starts again is told of anew
    report = gyrostat.audit(write_csv(tmp_path / "c.csv", step=again, loss=flat))
    assert report.counts() == {"loss-not-decreasing": 2}


def test_overfitting_is_told_from_rows_of_two_kinds(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for epoch in range(40):
        train = 2.0 * math.exp(-epoch / 15)
        for i in range(20):
            row = {"step": 20 * epoch + i, "epoch": epoch + i / 20}
            lines.append(row | {"loss": train + 0.02 * rng.standard_normal()})
        val = (
            max(2.0 - 0.1 * epoch, 1.0) + 0.03 * max(epoch - 10, 0) + 0.003 * rng.standard_normal()
        )
        lines.append({"step": 20 * epoch + 19, "eval_loss": val})
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    findings = gyrostat.audit(path).findings
    (over,) = [f for f in findings if f.code == "overfitting"]
    assert over.signal == "val_loss"
    assert 180 <= over.evidence["best_step"] <= 240
    assert over.step < 400
    twice = [line | {"step": line["step"]} for line in (*lines, *lines)]
    path.write_text("".join(json.dumps(line) + "\n" for line in twice))
    assert gyrostat.audit(path).counts()["overfitting"] == 2


def test_epochs_in_one_order_are_told_where_the_log_has_epochs(tmp_path):
    rng = np.random.default_rng(0)
    order, noise = rng.standard_normal(100), rng.standard_normal(500)
    loss = 4.0 - np.arange(500) / 250 + 0.2 * np.tile(order, 5) + 0.1 * noise
    columns = {"step": range(500), "loss": loss, "epoch": np.arange(500) / 100}
    report = gyrostat.audit(write_csv(tmp_path / "a.csv", **columns))
    assert report.counts()["repeated-epoch-pattern"] == 1


# the report


def test_the_report_can_be_shown_and_saved(tmp_path):
    report = gyrostat.audit(DATA / "lightning")
    assert told(report) == [
        ("loss-not-finite", 67, "loss"),
        ("gradient-not-finite", 67, "grad_norm"),
        ("loss-not-finite", 79, "val_loss"),
    ]
    assert "Audit of metrics.csv" in str(report)
    page = report.save(tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "g-critical" in page
    assert json.loads(report.to_json())["summary"]["final loss"] == "nan"


def test_a_long_run_is_read_in_reasonable_time_and_drawn_thinned(tmp_path):
    loss = 2.0 + 0.03 * np.random.default_rng(0).standard_normal(100_000)
    loss[77_777] = 9.0
    path = write_csv(tmp_path / "a.csv", step=range(100_000), loss=loss)
    start = time.process_time()
    report = gyrostat.audit(path)
    took = time.process_time() - start
    assert ("loss-spike", 77_777, "loss") in told(report)
    chart = report.sections[0]
    assert len(chart.x) <= 4002
    assert max(chart.series["loss"]) == 9.0
    assert took < 5


NUMBERS = st.floats(-1e300, 1e300) | st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf])
ROWS = st.tuples(
    st.integers(-(2**53), 2**53) | st.integers(0, 5),
    NUMBERS,
    st.none() | NUMBERS,
    st.none() | NUMBERS,
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=40))
def test_any_numbers_give_a_report_in_order_that_json_holds(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    names = ("step", "loss", "grad_norm", "val_loss")
    path.write_text("".join(json.dumps(dict(zip(names, r, strict=True))) + "\n" for r in rows))
    report = gyrostat.audit(path)
    steps = [f.step for f in report.findings]
    assert steps == sorted(steps)
    assert json.loads(report.to_json())["summary"]["rows"] == len(rows)
    assert report.to_html().count("<svg") == len(report.sections)
    if not all(math.isfinite(loss) for _, loss, _, _ in rows):
        assert ("loss-not-finite", "loss") in {(f.code, f.signal) for f in report.findings}


# the command line


def test_the_command_line_prints_json_and_exits_as_linters_do(tmp_path, capsys):
    spiked = healthy()
    spiked[200] = 9.0
    clean = str(write_csv(tmp_path / "clean.csv", step=range(400), loss=healthy()))
    bad = str(write_csv(tmp_path / "bad.csv", step=range(400), loss=spiked))

    assert main(["audit", clean]) == 0
    assert "no findings" in capsys.readouterr().out
    assert main(["audit", bad, "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["exit_code"] == 1
    assert [(f["code"], f["step"]) for f in shown["findings"]] == [("loss-spike", 200)]
    assert main(["audit", clean, bad, "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)) == 2
    page = tmp_path / "out.html"
    assert main(["audit", bad, "--html", str(page)]) == 1
    assert "<svg" in page.read_text()
    capsys.readouterr()

    empty = tmp_path / "empty.csv"
    empty.touch()
    for wrong in (empty, tmp_path / "missing.csv"):
        assert main(["audit", str(wrong), "--json"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("gyrostat: path: ")
