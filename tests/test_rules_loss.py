"""The rules on the curve of a training loss: planted cases, healthy ones, and labelled runs."""

import csv
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet as pq

from gyrostat import rules
from gyrostat.findings import Severity

RNG = np.random.default_rng


def found(rule, losses, steps=None, **columns):
    """Every finding of a rule over a series."""
    out = []
    for i, loss in enumerate(losses):
        step = i if steps is None else int(steps[i])
        answer = rule.update(float(loss), step, **{k: v[i] for k, v in columns.items()})
        out += answer if isinstance(answer, tuple) else [answer] if answer else []
    return out


def told(findings):
    return [(f.code, str(f.severity)) for f in findings]


def descent(n=4000, noise=0.05, seed=0, tail=False):
    rng = RNG(seed)
    wobble = rng.standard_t(3, n) if tail else rng.standard_normal(n)
    return 2.0 + 6.0 * np.exp(-np.arange(n) / 300) + 3.0 * (1 - np.arange(n) / n) + noise * wobble


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("tail", [False, True])
def test_a_healthy_descent_is_silent(seed, tail):
    losses = descent(seed=seed, tail=tail)
    assert found(rules.LossCurve(), losses) == []
    every_tenth = np.arange(0, len(losses), 10)
    assert found(rules.LossCurve(), losses[every_tenth], steps=every_tenth) == []


@pytest.mark.parametrize("seed", range(5))
def test_spikes_and_nan_on_a_descent_are_for_other_rules(seed):
    losses = descent(seed=seed)
    losses[RNG(seed).choice(4000, 40, replace=False)] *= 3
    losses[RNG(seed).choice(4000, 40, replace=False)] = math.nan
    assert found(rules.LossCurve(), losses) == []


# plateau


def test_a_plateau_is_told_once_and_again_after_a_descent():
    flat = np.full(1500, 4.0)
    losses = np.concatenate(
        [np.linspace(9, 4, 300), flat, np.linspace(4, 1, 1500), flat[:1] * 0 + 1]
    )
    losses = np.concatenate([losses, np.full(6000, 1.0)]) + 0.02 * RNG(0).standard_normal(9301)
    findings = found(rules.LossPlateau(), losses)
    assert [f.code for f in findings] == ["loss-plateau"] * 2
    first, second = findings
    assert 250 < first.evidence["since"] < first.step < 1500
    assert first.value == pytest.approx(4.0, abs=0.02)
    assert second.value == pytest.approx(1.0, abs=0.02)
    assert second.step > 3300


# not decreasing


def test_a_loss_that_never_falls_is_told_once():
    losses = math.log(10) + 0.05 * RNG(1).standard_normal(1000)
    findings = found(rules.LossCurve(), losses)
    assert told(findings) == [("loss-not-decreasing", "warning")]
    assert 128 <= findings[0].step < 200


def test_a_warm_up_that_is_known_is_waited_for():
    rate = np.concatenate([np.linspace(1e-6, 1e-3, 600), np.full(600, 1e-3)])
    losses = 7.0 + 0.01 * RNG(0).standard_normal(1200)
    losses[600:] -= np.linspace(0, 3, 600)
    assert found(rules.LossNotDecreasing(), losses)[0].step < 600
    assert found(rules.LossNotDecreasing(), losses, lr=rate) == []


def test_what_is_no_start_or_no_loss_that_must_fall_is_not_judged():
    flat = 3.0 + 0.05 * RNG(0).standard_normal(500)
    assert found(rules.LossNotDecreasing(), flat, steps=range(10_000, 10_500)) == []
    assert found(rules.LossNotDecreasing(), flat - 3.0) == []
    from_above = np.concatenate([[9.0], flat])
    assert found(rules.LossNotDecreasing(), from_above) == []


# divergence


def test_a_slow_climb_is_told_once():
    losses = descent(2000)
    losses[1200:] += np.linspace(0, 2.5, 800)
    findings = found(rules.LossCurve(), losses)
    assert told(findings) == [("slow-divergence", "warning")]
    assert 1200 < findings[0].step < 1650
    assert findings[0].value > findings[0].expected


def test_a_climb_that_comes_back_can_be_told_again():
    wave = np.concatenate([np.linspace(0, 2, 400), np.linspace(2, 0, 100), np.zeros(500)])
    losses = 2.0 + np.concatenate([np.zeros(500), wave, wave]) + 0.05 * RNG(0).standard_normal(2500)
    assert [f.code for f in found(rules.SlowDivergence(), losses)] == ["slow-divergence"] * 2


# level


def test_shifts_are_told_within_thirty_two_points():
    losses = 2.0 + 0.05 * RNG(0).standard_normal(600)
    losses[200:] += 0.5
    losses[400:] -= 0.8
    up, down = found(rules.LevelShift(), losses)
    assert (up.severity, down.severity) == (Severity.WARNING, Severity.INFO)
    assert 223 <= up.step <= 232
    assert 423 <= down.step <= 432
    assert up.value == pytest.approx(2.5, abs=0.05)
    assert up.evidence["cause"] is None


def test_a_drop_with_the_learning_rate_is_known_as_such():
    losses = 2.0 + 0.05 * RNG(0).standard_normal(400)
    losses[200:] -= 0.6
    rate = np.where(np.arange(400) < 200, 0.1, 0.01)
    (finding,) = found(rules.LevelShift(), losses, lr=rate)
    assert finding.severity is Severity.INFO
    assert finding.evidence["cause"] == "learning-rate"
    assert finding.evidence["rate_ratio"] == pytest.approx(0.1)


def test_a_restart_is_known_by_its_first_points():
    run = descent(600)
    (finding,) = found(rules.LevelShift(), np.concatenate([run, run]))
    assert finding.evidence["cause"] == "restart"


def test_a_spike_that_decays_and_a_new_interval_are_no_shift():
    losses = 2.0 + 0.05 * RNG(0).standard_normal(600)
    losses[300:] += 4.0 * np.exp(-np.arange(300) / 15)
    assert found(rules.LevelShift(), losses) == []
    steps = np.concatenate([np.arange(100), 100 + 500 * np.arange(1, 201)])
    losses = 2.0 + 5.0 * np.exp(-steps / 2000) + 0.01 * RNG(0).standard_normal(300)
    assert found(rules.LevelShift(), losses, steps=steps) == []


# oscillation


@pytest.mark.parametrize(("period", "severity"), [(2, "warning"), (12, "info"), (60, "info")])
def test_a_period_is_told_once(period, severity):
    i = np.arange(1500)
    losses = 2.0 + 0.1 * np.cos(2 * np.pi * i / period) + 0.05 * RNG(0).standard_normal(1500)
    (finding,) = found(rules.LossOscillation(), losses)
    assert str(finding.severity) == severity
    assert abs(finding.evidence["period"] - period) <= 1


def test_slow_noise_has_no_period():
    for seed in range(10):
        walk = RNG(seed).standard_normal(3000)
        for i in range(1, 3000):
            walk[i] += 0.8 * walk[i - 1]
        assert found(rules.LossOscillation(), 5.0 + 0.1 * walk) == []


# low


def test_a_loss_below_zero_and_one_that_vanishes_are_told_once():
    down = np.linspace(1.0, -1.0, 400)
    (negative,) = found(rules.LossSuspiciouslyLow(), down)
    assert negative.value < 0
    vanishing = np.exp(-np.arange(400) / 30)
    (low,) = found(rules.LossSuspiciouslyLow(), vanishing)
    assert low.value < low.expected / 500
    assert low.severity is Severity.INFO


# epochs


def epochs(count=6, length=100, repeats=True, seed=0):
    rng = RNG(seed)
    order = rng.standard_normal(length)
    batches = [order if repeats else rng.standard_normal(length) for _ in range(count)]
    trend = np.linspace(3, 2, count * length)
    losses = trend + 0.1 * np.concatenate(batches) + 0.1 * rng.standard_normal(count * length)
    return losses, np.repeat(np.arange(count), length)


def test_epochs_in_one_order_are_told_once_and_shuffled_ones_not():
    losses, epoch = epochs()
    (finding,) = found(rules.RepeatedEpochPattern(), losses, epoch=epoch)
    assert finding.step in {200, 300}
    assert finding.value == pytest.approx(0.5, abs=0.2)
    for seed in range(20):
        losses, epoch = epochs(repeats=False, seed=seed)
        assert found(rules.RepeatedEpochPattern(), losses, epoch=epoch) == []
    fraction = np.arange(600) / 100
    assert len(found(rules.RepeatedEpochPattern(), epochs()[0], epoch=fraction)) == 1


# labelled runs


@pytest.fixture(scope="module")
def labelled(shared):
    """What LossCurve says of every labelled run, by name."""
    runs = {}
    for path in sorted((shared / "data" / "runs").glob("*.parquet")):
        columns = pq.read_table(path).to_pydict()
        optional = {
            name: columns[column]
            for name, column in (("lr", "learning_rate"), ("epoch", "epoch"))
            if column in columns
        }
        runs[path.stem] = found(
            rules.LossCurve(),
            [math.nan if loss is None else loss for loss in columns["loss"]],
            steps=columns["step"],
            **optional,
        )
    return runs


def steps_of(findings, code, severity=None):
    return [f.step for f in findings if f.code == code and severity in (None, f.severity)]


def test_runs_without_anything_have_no_warning(labelled, shared):
    healthy = _healthy(shared)
    assert len(healthy) == 18
    warnings = [n for n in healthy if any(f.severity > "info" for f in labelled[n])]
    assert warnings == []


def _healthy(shared):
    """Runs whose only label is that there is nothing."""
    kinds = {}
    with (shared / "data" / "runs" / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            kinds.setdefault(row["file"].removesuffix(".parquet"), set()).add(row["kind"])
    return [name for name, kind in kinds.items() if kind == {"none"}]


def test_the_page_of_findings_counts_these_runs(labelled, shared):
    page = (Path(__file__).parent.parent / "docs" / "findings.md").read_text(encoding="utf-8")
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in page.splitlines()]
    shown = {tuple(row[:2]): [int(cell) for cell in row[2:]] for row in rows if _is_count(row)}
    counted = {key: [0, 0, 0] for key in shown}
    healthy = _healthy(shared)
    for name, findings in labelled.items():
        half = hashlib.sha256(f"{name}.parquet".encode()).digest()[-1] % 2
        for key in set(told(findings)):
            counted[key][half] += 1
            counted[key][2] += name in healthy
    assert counted == shown


def _is_count(row):
    return len(row) == 5 and row[2].isdigit()


@pytest.mark.parametrize(
    ("run", "labels"),
    [
        ("algo_conformer_nadamwseq_s2", [80000, 160000]),  # restarts
        ("algo_conformerln_nadamwseq_s3", [80000, 160000]),
        ("algo_deepspeech_nadamwseq_s4", [48000, 96000]),
        ("algo_deepspeech_caspr_s1t4", [25800]),
        ("algo_wmt_caspr_s4t4", [71500]),
        ("gan_cycle_c", [2927]),
    ],
)
def test_labelled_shifts_up_are_warnings(labelled, run, labels):
    steps = steps_of(labelled[run], "level-shift", "warning")
    assert len(steps) == len(labels)
    for step, label in zip(steps, labels, strict=True):
        assert label < step <= label + (3300 if label > 5000 else 40)


@pytest.mark.parametrize(
    ("run", "labels", "width", "cause"),
    [
        ("hf_alpaca_fork", [407, 813], 40, None),  # epochs
        ("hf_mistral_translator", [2170, 4340, 6500], 400, None),
        ("wrn_vgg", [60, 120, 160], 32, "learning-rate"),
        ("wrn_wideresnet", [60, 120, 160], 32, "learning-rate"),
    ],
)
def test_labelled_drops_are_infos(labelled, run, labels, width, cause):
    shifts = [f for f in labelled[run] if f.code == "level-shift"]
    assert [f.severity for f in shifts] == [Severity.INFO] * len(labels)
    for finding, label in zip(shifts, labels, strict=True):
        assert label < finding.step <= label + width
        assert finding.evidence["cause"] == cause


def test_labelled_plateaus_divergence_and_oscillation(labelled):
    steps = steps_of(labelled["algo_conformerln_nadamwseq_s3"], "loss-plateau")
    assert any(81000 < step < 159900 for step in steps)
    assert any(162000 < step < 189000 for step in steps)
    never = labelled["algo_vit_nadamp_s4t4"]
    assert steps_of(never, "loss-not-decreasing")[0] < 9000
    assert 400 < steps_of(never, "slow-divergence")[0] <= 9000
    assert steps_of(labelled["hf_mkgl"], "loss-not-decreasing")
    assert steps_of(labelled["hf_qlora_fork"], "loss-oscillation", "info")
    assert steps_of(labelled["rl_chaos_grpo"], "loss-suspiciously-low", "info")
    assert steps_of(labelled["hf_whisper_lv2_ja"], "loss-suspiciously-low", "info")


# state


LOSSES = st.lists(
    st.floats(0.1, 10.0) | st.sampled_from([math.nan, math.inf, 0.0, -1.0]) | st.floats(),
    max_size=300,
)
KINDS = [
    rules.LossPlateau,
    rules.LossNotDecreasing,
    rules.SlowDivergence,
    rules.LevelShift,
    rules.LossOscillation,
    rules.LossSuspiciouslyLow,
    rules.LossCurve,
]


@given(losses=LOSSES, cut=st.integers(0, 300), steps=st.lists(st.integers(0, 900), min_size=300))
def test_a_resumed_curve_says_the_same(losses, cut, steps):
    whole, resumed = rules.LossCurve(), rules.LossCurve()
    found(whole, losses[:cut], steps=steps)
    state = json.loads(json.dumps(whole.state_dict(), allow_nan=False))
    resumed.load_state_dict(state)
    assert resumed.state_dict() == whole.state_dict()
    rest = losses[cut:]
    epoch = [i / 40 for i in range(len(rest))]
    columns = {"lr": [0.1] * len(rest), "epoch": epoch}
    for rule in (whole, resumed):
        rule.said = repr(found(rule, rest, steps=steps, **columns))
    assert whole.said == resumed.said


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("at", [7, 33, 250, 700])
def test_each_rule_goes_on_where_it_stood(kind, at):
    losses = np.concatenate([descent(500), 4.0 + 0.5 * RNG(0).standard_normal(500)])
    whole, resumed = kind(), kind()
    found(whole, losses[:at])
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
    rest, steps = losses[at:], range(at, 1000)
    assert repr(found(whole, rest, steps)) == repr(found(resumed, rest, steps))


@pytest.mark.parametrize("kind", [*KINDS, rules.RepeatedEpochPattern], ids=lambda k: k.__name__)
def test_a_state_of_nothing_is_refused_and_changes_nothing(kind):
    rule = kind()
    found(rule, descent(100))
    before = rule.state_dict()
    for bad in (None, [], {}, {"version": 9}, {**before, "version": 2}, _spoilt(before)):
        with pytest.raises(ValueError, match=r"^state: "):
            rule.load_state_dict(bad)
        assert rule.state_dict() == before


def _spoilt(state):
    return {key: value if key == "version" else "?" for key, value in state.items()}
