"""The spike detector: verdicts, state, bad input, and its score on labelled real runs."""

import importlib
import itertools
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gyrostat
import reference
from gyrostat import Severity, SpikeDetector, find_spikes


def healthy(n=2000, seed=0):
    """A decaying loss with Laplace noise, whose tails are heavier than normal."""
    noise = np.random.default_rng(seed).laplace(size=n)
    return (2 + 5 * np.exp(-np.arange(n) / 300)) * np.exp(0.02 * noise)


def stream(loss, **budget):
    detector = SpikeDetector(**budget)
    return [f.step for f in map(detector.update, loss) if f and f.severity >= Severity.WARNING]


losses = st.lists(
    st.floats(0.1, 10) | st.sampled_from([0.0, np.nan, np.inf, -1.0]) | st.floats(), max_size=150
)


def test_healthy_runs_are_silent():
    assert sum(len(find_spikes(healthy(seed=seed))) for seed in range(20)) <= 1


@pytest.mark.parametrize("at", [20, 21, 150, 1999])
def test_a_spike_is_found_where_it_is(at):
    loss = healthy()
    loss[at] *= 3
    assert find_spikes(loss).tolist() == [at]


def test_a_finding_says_what_was_seen():
    detector = SpikeDetector()
    for value in healthy(100):
        detector.update(value)
    finding = detector.update(50.0, grad_norm=7.0, step=1234)
    assert (finding.code, finding.severity, finding.step) == ("loss-spike", "warning", 1234)
    assert finding.signal == "loss"
    assert finding.value == 50.0
    assert 2 < finding.expected < finding.evidence["threshold"] < 50
    assert finding.score > 1
    assert finding.evidence["grad_norm"] == 7.0


def test_a_divergence_becomes_critical_and_then_the_new_level():
    loss = healthy()
    loss[1000:] *= 3
    detector = SpikeDetector()
    codes = [f.code if f else None for f in map(detector.update, loss)]
    assert codes[1000] == "loss-spike"
    assert codes[1009:1025] == ["loss-divergence"] * 16
    assert set(codes[1025:]) <= {None, "hard-batch"}


def test_nan_from_the_first_step_on_is_told_and_teaches_nothing():
    loss = np.concatenate([[np.nan], healthy(), [np.nan, np.inf, -np.inf]])
    assert find_spikes(loss).tolist() == [0, 2001, 2002, 2003]
    detector = SpikeDetector()
    assert detector.update(float("nan")).code == "loss-not-finite"


def test_a_nan_logged_as_zero_is_told_by_its_gradient_norm():
    loss, norms = healthy(100), np.ones(100)
    loss[60], norms[60] = 0.0, np.nan
    assert find_spikes(loss, norms).tolist() == [60]
    assert find_spikes(loss).tolist() == []


def test_a_loss_that_crosses_zero_is_judged_on_a_linear_scale():
    loss = healthy() - 2.05
    loss[1500] = 4
    assert find_spikes(loss).tolist() == [1500]


def test_steps_may_repeat_go_back_and_jump():
    loss = healthy(200)
    loss[150] *= 3
    steps = np.r_[np.arange(100), np.arange(50), np.arange(50) * 500]
    assert find_spikes(loss, step=steps).tolist() == [150]
    detector = SpikeDetector()
    found = [detector.update(x, step=int(s)) for x, s in zip(loss, steps, strict=True)]
    assert [f.step for f in found if f and f.severity > Severity.INFO] == [0]


def test_the_budget_is_monotone():
    rng = np.random.default_rng(3)
    loss = np.exp(0.05 * rng.standard_t(3, 20_000))
    counts = [len(find_spikes(loss, false_alarms_per_10k=b)) for b in (0.1, 1, 10, 100, 1000)]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


@given(losses)
def test_streaming_and_the_whole_run_agree(loss):
    assert stream(loss) == find_spikes(np.array(loss)).tolist()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.01, 100) | st.just(np.nan), max_size=120),
    st.integers(0, 5),
    st.sampled_from([0.02, 0.2, 10, 1000]),
    st.booleans(),
)
def test_the_twin_agrees(loss, seed, budget, with_norm):
    loss = np.concatenate([healthy(150, seed), loss, healthy(60, seed + 1)])
    norms = None
    if with_norm:
        norms = np.exp(np.random.default_rng(seed).normal(size=len(loss)))
        norms = np.where(np.isfinite(loss), norms * loss**2, np.nan)
    found = find_spikes(loss, norms, false_alarms_per_10k=budget).tolist()
    assert found == reference.find_spikes(loss, budget, grad_norm=norms).tolist()


def test_the_twin_agrees_on_a_slow_rise():
    loss = healthy(3000, 1)
    loss[2000:] += 0.002 * np.arange(1000)
    found = find_spikes(loss)
    assert 2000 < found[0] < 2200
    assert found.tolist() == reference.find_spikes(loss).tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 1, 1, 5, 500, -3]), min_size=200, max_size=200))
def test_uneven_steps_agree_with_the_stream_and_the_twin(gaps):
    loss = healthy(200) * np.exp(np.where(np.arange(200) % 50 == 49, 0.8, 0))
    steps = np.cumsum(np.sort(gaps)[::-1] if sum(gaps) % 2 else gaps)
    found = find_spikes(loss, step=steps).tolist()
    assert found == reference.find_spikes(loss, step=steps).tolist()
    detector = SpikeDetector()
    findings = [detector.update(x, step=s) for x, s in zip(loss, steps.tolist(), strict=True)]
    assert found == [i for i, f in enumerate(findings) if f and f.severity > Severity.INFO]


@given(losses, st.integers(0, 150))
def test_a_resumed_detector_gives_the_same_bits(loss, cut):
    loss = [*healthy(60), *loss]
    norms = [abs(x) + 0.1 * (i % 3) for i, x in enumerate(loss)]
    whole = SpikeDetector()
    for i, value in enumerate(loss[:cut]):
        whole.update(value, norms[i], i * (1 if i < 50 else 9), norms[i])
    resumed = SpikeDetector(1.0)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
    assert resumed.state_dict() == whole.state_dict()
    for i, value in enumerate(loss[cut:], cut):
        one, other = (d.update(value, norms[i], 9 * i) for d in (resumed, whole))
        assert repr(one) == repr(other)
        assert repr(resumed.event) == repr(whole.event)
    assert resumed.state_dict() == whole.state_dict()


def test_a_hard_batch_is_known_by_what_follows():
    loss = healthy(1000, 3)
    loss[700] *= 1.6
    detector = SpikeDetector()
    found = [f for f in map(detector.update, loss) if f and f.step >= 700][:2]
    assert [(f.code, f.severity, f.step) for f in found] == [
        ("loss-spike", "warning", 700),
        ("hard-batch", "info", 703),
    ]
    assert "3 points ago" in found[1].message
    assert found[1].value == loss[700]
    event = next(e for e in find_spikes(loss, events=True) if e.start == 700)
    assert (event.code, event.severity, event.alarm) == ("hard-batch", "info", 700)


def test_the_first_few_losses_may_be_far_apart():
    detector = gyrostat.SpikeDetector()
    losses = [0.54, 2.26, 0.31, 1.9, 0.7]
    assert [detector.update(loss) for loss in losses] == [None] * 5
    assert detector.update(1e4).code == "loss-spike"
    assert gyrostat.SpikeDetector().update(float("nan")).code == "loss-not-finite"


def test_a_loss_that_rises_from_its_first_points_is_a_divergence():
    i = np.arange(300)
    noise = 0.002 * np.random.default_rng(0).normal(size=300)
    loss = 6.9 * np.exp(0.002 * np.minimum(i, 50) + noise)
    (event,) = find_spikes(loss, events=True)
    assert (event.code, event.severity) == ("loss-divergence", "critical")
    assert 24 <= event.alarm < 60
    assert event.expected == pytest.approx(loss[:10].mean(), rel=0.01)
    assert find_spikes(loss[::-1]).size == 0


def test_loss_and_gradient_norm_that_climb_together_are_a_divergence():
    loss, norm = healthy(1000, 5), healthy(1000, 6) ** 2
    assert find_spikes(loss, norm).size == 0
    loss[700:] *= 1.09
    assert find_spikes(loss, norm).size == 0
    norm[700:] *= 3
    (alarm,) = (e for e in find_spikes(loss, norm, events=True) if e.alarm is not None)
    assert alarm.code == "loss-divergence"
    assert 700 < alarm.alarm < 715
    # Not where a point stands for many steps.
    assert find_spikes(loss, norm, 50 * np.arange(1000)).size == 0


@pytest.mark.parametrize("signal", ["grad_norm", "update_rms"])
def test_a_second_signal_confirms_what_is_no_alarm_alone(signal):
    loss = healthy(1000, 4)
    loss[700] *= 1.4
    second = np.exp(0.1 * np.random.default_rng(0).normal(size=1000))
    assert 700 not in find_spikes(loss)
    assert 700 not in find_spikes(loss, **{signal: second})
    second[700] = 9
    assert 700 in find_spikes(loss, **{signal: second})


def test_a_gradient_alone_is_an_info():
    loss, norms = healthy(1000, 3), np.exp(0.1 * np.random.default_rng(0).normal(size=1000))
    norms[600:603] = 50
    assert find_spikes(loss, norms).tolist() == find_spikes(loss).tolist()
    detector = SpikeDetector()
    found = [detector.update(x, g) for x, g in zip(loss, norms, strict=True)]
    finding = found[600]
    assert (finding.code, finding.severity) == ("gradient-spike", "info")
    assert (finding.signal, finding.value) == ("grad_norm", 50.0)
    event = next(e for e in find_spikes(loss, norms, events=True) if e.code == "gradient-spike")
    assert (event.start, event.alarm) == (600, None)
    assert event.findings <= 3


def test_an_event_has_start_peak_and_end():
    loss = healthy(1000, 1)
    loss[500:506] += [1, 3, 5, 3, 2, 1]
    loss[700:702] = np.nan
    loss[998:] *= 4
    detector = SpikeDetector()
    for value in loss[:503]:
        detector.update(value)
    assert (detector.event.start, detector.event.peak, detector.event.over) == (500, 502, False)
    events = [e for e in find_spikes(loss, events=True) if e.alarm is not None]
    seen = [(e.code, e.start, e.peak, e.end, e.over) for e in events]
    assert seen == [
        ("loss-spike", 500, 502, 505, True),
        ("loss-not-finite", 700, 700, 701, True),
        ("loss-spike", 998, 998 + int(loss[999] > loss[998]), 999, False),
    ]
    assert events[0].value == loss[502]
    assert 1.5 < events[0].expected < 4
    assert np.isnan(events[1].value)
    assert np.isinf(events[1].score)
    json.dumps([e.to_dict() for e in events], allow_nan=False)


@given(losses)
def test_events_hold_every_alarm(loss):
    alarms = find_spikes(np.array(loss))
    events = find_spikes(np.array(loss), events=True)
    assert all(a.end < b.start for a, b in itertools.pairwise(events))
    for i in alarms.tolist():
        assert any(e.start <= i <= e.end and e.alarm is not None for e in events)


def test_many_runs_at_once_give_what_each_gives_alone():
    runs = np.stack([healthy(3000, seed) for seed in range(40)])
    runs[np.arange(40), 1000 + np.arange(40)] *= 3
    norms, steps = np.sqrt(runs), np.arange(3000) * 10
    for table in (runs, runs.astype(np.float32), np.asfortranarray(runs), runs[::-1, ::-1]):
        together = find_spikes(table, norms, steps)
        assert [t.tolist() for t in together] == [
            find_spikes(t, n, steps).tolist() for t, n in zip(table, norms, strict=True)
        ]
    events = find_spikes(runs, step=np.broadcast_to(steps, runs.shape), events=True)
    assert events == [find_spikes(run, step=steps, events=True) for run in runs]
    assert find_spikes(np.ones((0, 5))) == []
    assert [t.tolist() for t in find_spikes(np.ones((2, 0)))] == [[], []]


GOOD = SpikeDetector().state_dict()
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(GOOD)), junk)
def test_a_foreign_state_is_a_value_error_and_changes_nothing(key, value):
    detector = SpikeDetector()
    for x in healthy(50):
        detector.update(x)
    before = detector.state_dict()
    try:
        detector.load_state_dict({**before, key: value})
    except ValueError:
        assert detector.state_dict() == before


@pytest.mark.parametrize(
    "state",
    [
        None,
        3,
        {},
        {**GOOD, "version": 1},
        {**GOOD, "unknown": 0},
        {**GOOD, "alarms": [0.0] * 25},
        {**GOOD, "loss": {**GOOD["loss"], "residuals": [0] * 201, "learnt": 201}},
        {**GOOD, "loss": {**GOOD["loss"], "learnt": float("nan")}},
        {**GOOD, "pair": {**GOOD["pair"], "exceedances": 1}},
    ],
)
def test_a_state_that_cannot_be_is_named(state):
    with pytest.raises(ValueError, match="state: "):
        SpikeDetector().load_state_dict(state)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), 1001])
def test_a_budget_out_of_range_is_named(budget):
    with pytest.raises(ValueError, match="false_alarms_per_10k: expected"):
        SpikeDetector(budget)
    with pytest.raises(ValueError, match="false_alarms_per_10k: expected"):
        find_spikes([1.0], false_alarms_per_10k=budget)


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"loss": np.ones((2, 2, 2))}, ValueError, "loss: expected one dimension or two"),
        ({"loss": np.ones((2, 2)), "step": np.ones(3)}, ValueError, "step: expected shape"),
        ({"loss": np.ones((2, 2)), "grad_norm": np.ones(2)}, ValueError, "grad_norm: expected sh"),
        ({"loss": [1.0], "update_rms": ["a"]}, TypeError, "update_rms: expected real numbers"),
        ({"loss": 1.0}, ValueError, "loss: expected one dimension"),
        ({"loss": np.ones(3, dtype=complex)}, TypeError, "loss: expected real numbers"),
        ({"loss": ["a", "b"]}, TypeError, "loss: expected real numbers"),
        ({"loss": np.array([1.0, None])}, TypeError, "loss: expected real numbers"),
        ({"loss": [1.0], "grad_norm": [1.0, 2.0]}, ValueError, "grad_norm: expected 1 values"),
        ({"loss": [1.0], "step": [1, 2]}, ValueError, "step: expected 1 values"),
    ],
)
def test_bad_arrays_are_named(kwargs, error, match):
    with pytest.raises(error, match=match):
        find_spikes(**kwargs)


@pytest.mark.parametrize("loss", ["high", None, 1j, [1.0, 2.0]])
def test_a_loss_that_is_no_number_is_named(loss):
    with pytest.raises(TypeError, match="loss"):
        SpikeDetector().update(loss)


def test_every_real_array_is_taken():
    loss = healthy(300)
    loss[200] *= 4
    wide = np.zeros((300, 3))
    wide[:, 1] = loss
    for same in (loss.tolist(), loss.astype(np.float32), wide[:, 1], np.asfortranarray(wide)[:, 1]):
        assert find_spikes(same).tolist() == [200]
    assert find_spikes([]).tolist() == []
    assert find_spikes(np.r_[np.full(50, 3), 9]).tolist() == [50]  # integers


def the_scorer(shared):
    sys.path.insert(0, str(shared / "tools"))
    try:
        return importlib.import_module("score_spikes")
    finally:
        sys.path.pop(0)


def test_score_on_labelled_real_runs(shared):
    scorer = the_scorer(shared)
    found = false = events = 0
    for name, step, loss, grad_norm, labels in scorer.read_runs(shared / "data"):
        alarms = gyrostat.find_spikes(loss, grad_norm, step)
        half = len(loss) // 2
        norms = None if grad_norm is None else grad_norm[:half]
        first = gyrostat.find_spikes(loss[:half], norms, step[:half])
        assert first.tolist() == alarms[alarms < half].tolist(), f"{name}: not online"
        hits, _, wrong = scorer.score_run(step, alarms, labels)
        found, events, false = found + sum(h for _, h in hits), events + len(hits), false + wrong
    precision, recall = found / (found + false), found / events
    assert 2 * precision * recall / (precision + recall) >= 0.98
    assert false <= 1


def test_the_budget_holds_on_real_healthy_runs(shared):
    runs = [
        (loss, grad_norm, step)
        for name, step, loss, grad_norm, labels in the_scorer(shared).read_runs(shared / "data")
        if "nanogpt" in name or all(label["kind"] == "none" for label in labels)
    ]
    points = sum(len(loss) for loss, _, _ in runs)
    for budget in (0.1, 0.3, 1, 3, 10):
        alarms = sum(len(find_spikes(*run, false_alarms_per_10k=budget)) for run in runs)
        rate = 1e4 * alarms / points
        assert rate <= 2 * budget
        assert budget < 1 or rate >= budget / 2


def test_faults_in_real_language_model_runs_are_found(shared):
    for name, _, loss, _, _ in the_scorer(shared).read_runs(shared / "data"):
        if "nanogpt" not in name:
            continue
        at = int(0.6 * len(loss))
        after = np.arange(len(loss) - at)
        decaying, growing = loss.copy(), loss.copy()
        decaying[at:] += 1.5 * np.exp(-after / 30)
        growing[at:] *= 1.02 ** np.minimum(after, 150)
        for faulty in (decaying, growing):
            found = find_spikes(faulty, false_alarms_per_10k=1)
            assert np.any((found >= at) & (found < at + 40)), name
