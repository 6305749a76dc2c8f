"""The spike detector: verdicts, state, bad input, and its score on labelled real runs."""

import importlib
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
    assert codes[1009:1030] == ["loss-divergence"] * 21
    assert set(codes[1030:]) == {None}


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
    assert [f.step for f in found if f] == [0]


def test_the_budget_is_monotone():
    rng = np.random.default_rng(3)
    loss = np.exp(0.05 * rng.standard_t(3, 20_000))
    counts = [len(find_spikes(loss, false_alarms_per_10k=b)) for b in (0.1, 1, 10, 100, 1000)]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


@given(losses)
def test_streaming_and_the_whole_run_agree(loss):
    assert stream(loss) == find_spikes(np.array(loss)).tolist()


@settings(max_examples=50)
@given(
    st.lists(st.floats(0.01, 100) | st.just(np.nan), max_size=120),
    st.integers(0, 5),
    st.sampled_from([0.02, 0.2, 10, 1000]),
)
def test_the_twin_agrees(loss, seed, budget):
    loss = np.concatenate([healthy(150, seed), loss, healthy(60, seed + 1)])
    twin = reference.find_spikes(loss, budget)
    assert find_spikes(loss, false_alarms_per_10k=budget).tolist() == twin.tolist()


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0, 1, 1, 1, 5, 500, -3]), min_size=200, max_size=200))
def test_uneven_steps_agree_with_the_stream_and_the_twin(gaps):
    loss = healthy(200) * np.exp(np.where(np.arange(200) % 50 == 49, 0.8, 0))
    steps = np.cumsum(np.sort(gaps)[::-1] if sum(gaps) % 2 else gaps)
    found = find_spikes(loss, step=steps).tolist()
    assert found == reference.find_spikes(loss, step=steps).tolist()
    detector = SpikeDetector()
    pairs = zip(loss, steps.tolist(), strict=True)
    assert found == [i for i, (x, s) in enumerate(pairs) if detector.update(x, step=s)]


@given(losses, st.integers(0, 150))
def test_a_resumed_detector_gives_the_same_bits(loss, cut):
    loss = [*healthy(60), *loss]
    whole = SpikeDetector()
    for i, value in enumerate(loss[:cut]):
        whole.update(value, step=i * (1 if i < 50 else 9))
    resumed = SpikeDetector(1.0)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
    assert resumed.state_dict() == whole.state_dict()
    for value in loss[cut:]:
        assert repr(resumed.update(value)) == repr(whole.update(value))


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
    "state", [None, 3, {}, {**GOOD, "version": 2}, {**GOOD, "residuals": [0.0] * 201}]
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
        ({"loss": np.ones((2, 2))}, ValueError, "loss: expected one dimension"),
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


def test_score_on_labelled_real_runs(shared):
    sys.path.insert(0, str(shared / "tools"))
    try:
        scorer = importlib.import_module("score_spikes")
    finally:
        sys.path.pop(0)
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
    assert 2 * precision * recall / (precision + recall) >= 0.93
