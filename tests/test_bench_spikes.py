"""The counting rules of the spike bench, its injected faults, and that it agrees with others."""

import importlib
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikes import evaluation, injections, pictures, rules, runs, scoring
from spikes.scoring import Label

SPIKE = Label("spike", "major", 100, 104)


def test_an_event_is_found_from_one_before_to_two_after():
    for at, found in ((98, 0), (99, 1), (100, 1), (106, 1), (107, 0)):
        assert scoring.score([at], [SPIKE], 500).found == found
    assert scoring.score([99, 103], [SPIKE], 500).delays == [0]
    assert scoring.score([103, 104], [SPIKE], 500).delays == [3]


@pytest.mark.parametrize("kind", ["divergence", "nan"])
def test_a_divergence_must_be_found_within_50_points(kind):
    label = Label(kind, "major", 100, 400)
    assert scoring.score([150], [label], 500).found == 1
    late = scoring.score([151], [label], 500)
    assert (late.found, late.events, late.false) == (0, 1, 0)


def test_what_is_doubtful_counts_neither_way():
    labels = [Label("spike", "ambiguous", 100, 120), Label("step_change", "major", 300, 300)]
    for at, false in ((98, 1), (99, 0), (124, 0), (125, 1), (299, 0), (302, 0), (303, 1)):
        result = scoring.score([at], labels, 500)
        assert (result.events, result.false) == (0, false)


@pytest.mark.parametrize("kind", ["none", "lr_decay_drop"])
def test_an_alarm_where_nothing_is_wrong_is_false(kind):
    label = Label(kind, "major", 0, 499)
    result = scoring.score([250], [label], 500)
    assert result.false == 1
    assert (result.clean, result.silent) == ((1, 0) if kind == "none" else (0, 0))
    assert scoring.score([], [label], 500).silent == (kind == "none")


def test_false_alarms_close_to_each_other_are_one():
    assert scoring.episodes([]) == 0
    assert scoring.episodes([5, 15, 25, 36, 100]) == 3
    # Each is measured from the last one, be that counted or not.
    assert scoring.score([10, 20, 30, 40], [], 500).false == 1


def test_scores_add_up():
    one, two = scoring.score([100, 300], [SPIKE], 500), scoring.score([], [SPIKE], 500)
    total = sum([one, two], scoring.Score())
    assert (total.found, total.events, total.false, total.points) == (1, 2, 1, 1000)
    assert (total.recall, total.precision, total.f1) == (0.5, 0.5, 0.5)
    assert scoring.Score().f1 == 0
    assert math.isnan(scoring.Score().median_delay)


def test_a_fault_is_found_by_an_alarm_of_its_own():
    assert scoring.latency([10, 50, 52], [50], start=50, window=3) == 2
    assert scoring.latency([50], [50], start=50, window=3) is None
    assert scoring.latency([53], [], start=50, window=3) is None


def test_a_run_fails_where_its_loss_goes_up_for_good():
    loss = np.full(300, 2.0)
    assert scoring.failure(loss) is None
    loss[100:103] = 9
    assert scoring.failure(loss) is None  # three points of ten, and it comes back
    loss[200:] = 3.1
    assert scoring.failure(loss) == 200
    loss[280:] = 1.9
    assert scoring.failure(loss) is None
    loss[250:] = np.nan
    assert scoring.failure(loss) == 200


def test_only_alarms_near_the_failure_have_a_lead():
    assert scoring.lead([99, 250], 200) == -50
    assert scoring.lead([100, 150], 200) == 100
    assert scoring.lead([99, 251], 200) is None
    assert scoring.lead_by_chance(0) == 0
    assert scoring.lead_by_chance(1e-9) == pytest.approx(0, abs=1e-4)
    assert 98 < scoring.lead_by_chance(1.0) < 100


@pytest.mark.parametrize(
    ("count", "low", "high"), [(0, 0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.39)]
)
def test_the_interval_is_that_of_the_tables(count, low, high):
    assert scoring.garwood(count) == pytest.approx((low, high), rel=1e-3)


def test_the_interval_of_many_is_nearly_normal():
    low, high = scoring.garwood(10_000)
    assert (low, high) == pytest.approx((10_000 - 196, 10_000 + 196), abs=4)


def by_name(name):
    return next(fault for fault in injections.FAULTS if fault.name == name)


def test_faults_are_put_where_they_belong_and_nowhere_else():
    loss = np.full(1000, 3.0)
    for fault in injections.FAULTS:
        faulty = fault.into(loss, 400)
        assert (loss == 3.0).all()
        changed = np.flatnonzero(faulty != loss)
        assert (changed[0], changed[-1]) == (400, 400 + fault.lasts - 1)
        assert 0 < fault.window <= injections.TAIL
    assert by_name("+1.0 nat, one step").into(loss, 400)[400] == 4.0
    decays = by_name("+1.5 nat, decays in 30").into(loss, 400)
    assert decays[[400, 430]] == pytest.approx([4.5, 3 + 1.5 / math.e])
    assert by_name("+0.003 nat a step").into(loss, 400)[499] == pytest.approx(3.3)
    assert by_name("x1.02 a step").into(loss, 400)[401] == pytest.approx(3 * 1.02**2)


def test_cases_lie_in_healthy_stretches():
    labels = tuple(Label("spike", "ambiguous", at, at) for at in range(500, 5000, 450))
    rng = np.random.default_rng(1)
    run = runs.Run("r", np.arange(5000.0), 3 + rng.normal(size=5000), labels=labels)
    first, again = (injections.cases([run], 6) for _ in range(2))
    for case, same in zip(first, again, strict=True):
        assert case.run.name == same.run.name
        assert case.start == same.start
        begin = int(case.run.step[0])
        assert (case.run.loss == run.loss[begin : begin + len(case.run.loss)]).all()
        assert len(case.run.loss) == case.start + injections.TAIL
        assert case.start >= injections.LEAST_HISTORY
        at = begin + case.start
        assert not any(at <= label.first < at + injections.TAIL for label in labels)


class Above:
    """Raises an alarm above a limit; breaks at minus one."""

    def update(self, step, loss, grad_norm):
        if loss == -1:
            raise ZeroDivisionError("a fault\nof a peer")
        return loss > 5


def test_a_contestant_that_breaks_keeps_what_it_has_said():
    loss = np.array([1.0, 9, 1, 9, -1, 9])
    verdicts = evaluation.judge(Above(), runs.Run("r", np.arange(6.0), loss))
    assert verdicts.alarms.tolist() == [1, 3]
    assert verdicts.error == "ZeroDivisionError: a fault"


def test_verdicts_are_kept_under_what_they_depend_on(tmp_path):
    path = tmp_path / "kept" / "x.npz"
    kept = {"alarms": np.array([3, 5]), "seconds": 0.5, "points": 9, "error": "broke"}
    evaluation.write(path, **kept)
    verdicts = evaluation.read(path)
    assert verdicts.alarms.tolist() == [3, 5]
    assert (verdicts.seconds, verdicts.points, verdicts.error) == (0.5, 9, "broke")
    digests = {evaluation.digest(*parts) for parts in (["ab", "c"], ["a", "bc"], [np.arange(3)])}
    assert len(digests) == 3


def test_the_rules_that_are_written_out():
    rng = np.random.default_rng(0)
    loss = np.exp(1 + 0.02 * rng.normal(size=600))
    loss[400] *= 3
    loss[500:] *= 2.5
    loss[300] = np.nan
    run = runs.Run("r", np.arange(600.0), loss)
    plain = evaluation.judge(rules.RobustZ(600), run).alarms
    assert plain[:3].tolist() == [300, 400, 500]
    # A window with NaN in it has no mean; its fifth outlier in a row is an alarm.
    kill = evaluation.judge(rules.KillLossSpike(600), run).alarms
    assert kill[0] == 504


def test_a_picture_shows_every_contestant_and_gaps():
    loss = np.array([2.0, 3, np.nan, 1, 90, 80, 2])
    text = pictures.example("a < b", loss, {"one & two": [1, 2], "none": []}, marked=[(4, 99)])
    assert "a &lt; b" in text
    assert "one &amp; two" in text
    assert text.count("stroke-width") == 1
    assert "nan" not in text


@given(
    st.lists(st.integers(0, 399), max_size=40),
    st.lists(
        st.tuples(
            st.sampled_from(["spike", "divergence", "nan", "none", "plateau", "lr_decay_drop"]),
            st.sampled_from(["major", "minor", "ambiguous"]),
            st.integers(0, 399),
            st.integers(0, 120),
        ),
        max_size=5,
    ),
)
def test_the_counts_agree_with_the_developers_scorer(shared, alarms, rows):
    sys.path.insert(0, str(shared / "tools"))
    try:
        scorer = importlib.import_module("score_spikes")
    finally:
        sys.path.pop(0)
    labels = [Label(kind, severity, at, at + length) for kind, severity, at, length in rows]
    theirs = [
        {"kind": x.kind, "severity": x.severity, "start_step": x.first, "end_step": x.last}
        for x in labels
    ]
    found, delays, false = scorer.score_run(np.arange(600.0), alarms, theirs)
    ours = scoring.score(alarms, labels, 600)
    assert (ours.found, ours.events) == (sum(hit for _, hit in found), len(found))
    assert (ours.delays, ours.false) == (delays, false)


def test_the_labelled_runs_are_read_as_the_developers_scorer_reads_them(shared):
    everything = runs.labelled()
    names = [run.name for run in everything]
    assert names == sorted(path.stem for path in (shared / "data" / "runs").glob("*.parquet"))
    assert 25 <= sum(run.tuned_on for run in everything) <= 46
    assert sum(label.is_event for run in everything for label in run.labels) == 57
    early = {run.name for run in runs.early_failures(everything)}
    assert "algo_criteo_shampoo_s4t3" in early
