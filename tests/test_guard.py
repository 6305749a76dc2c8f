"""The guard without any framework, on the demo's NumPy network and real digits."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat.demo.digits import load_digits
from gyrostat.demo.network import NumpyTraining
from gyrostat.findings import Finding
from gyrostat.guard import Action, Guard, Journal, Policy
from gyrostat.guard.batches import leaves
from gyrostat.guard.history import History
from gyrostat.guard.ladder import Ladder, Situation

DIGITS = load_digits()
STEPS = 200
BUDGETS = ("clip", "skip", "reset", "lower_lr", "rollback")


def batches(n=STEPS):
    out = []
    for epoch in range(1 + n // 21):
        out += DIGITS.batches(64, seed=epoch)
    return out[:n]


def spoil(batch):
    return np.full_like(batch[0], np.nan), batch[1]


def mislabel(batch):
    return batch[0], (batch[1] + 5) % 10


def train(guard, training, loader, before_backward=lambda step: None):
    verdicts = []
    for batch in guard.batches(loader):
        before_backward(len(verdicts))
        verdicts.append(guard.approve(training.backward(batch)))
        if verdicts[-1]:
            training.update()
    return verdicts


def weights(training):
    return {name: w.copy() for name, w in training.capture()[0].items()}


def same(a, b):
    return all(np.array_equal(a[k].view(np.uint32), b[k].view(np.uint32)) for k in a)


def start(policy="recover", run_dir=None):
    training = NumpyTraining(seed=0, steps=STEPS)
    return training, training.guard(policy, run_dir)


def test_a_healthy_run_is_not_touched():
    plain = NumpyTraining(seed=0, steps=STEPS)
    for batch in batches():
        plain.backward(batch)
        plain.update()
    training, guard = start()
    assert all(train(guard, training, batches()))
    assert guard.incidents == ()
    assert same(weights(training), weights(plain))


def test_where_the_loss_goes_is_told_and_never_acted_on():
    training, guard = start()
    training.update = lambda: None  # an optimizer that holds other parameters
    verdicts = train(guard, training, batches())
    assert all(verdicts)
    assert guard.incidents == ()
    (finding,) = guard.findings
    assert (finding.code, finding.severity) == ("loss-not-decreasing", "warning")
    assert [v.findings for v in verdicts if v.findings] == [(finding,)]
    state = json.loads(json.dumps(guard.state_dict(), allow_nan=False))
    _, resumed = start()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == guard.state_dict()


def test_a_nan_batch_is_skipped_blamed_and_left_out_from_then_on():
    training, guard = start()
    loader = batches()
    loader[100] = spoil(loader[100])
    verdicts = train(guard, training, loader)
    assert [i for i, v in enumerate(verdicts) if not v] == [100]
    assert verdicts[100].action is Action.SKIP
    (incident,) = guard.incidents
    codes = {"loss-not-finite", "gradient-not-finite", "outlier-batch"}
    assert {f.code for f in incident.findings} == codes
    assert guard.hypotheses[0].code == "cause-bad-batch"
    assert incident.causes[0][0] == "cause-bad-batch"
    assert incident.position == (0, 100)
    assert incident.findings[0].culprit.batch == incident.batch
    assert guard.bad_batches == {incident.batch}
    assert len(train(guard, training, loader)) == STEPS - 1
    assert all(np.isfinite(w).all() for w in weights(training).values())


def test_a_huge_batch_is_skipped_before_it_reaches_the_weights():
    training, guard = start()
    loader = batches()
    loader[100] = (loader[100][0] * np.float32(1e4), loader[100][1])
    before = {}

    def look(step):
        before[step] = weights(training)

    verdicts = train(guard, training, loader, look)
    assert [i for i, v in enumerate(verdicts) if not v] == [100]
    assert same(before[100], before[101])


def corrupt(training):
    weights = training.weight_bits().view(np.float32)
    weights[np.argmax(np.abs(weights))] *= 2.0**32


def test_a_corrupted_weight_is_rolled_back_and_the_end_is_that_of_a_run_without():
    clean, _ = start()
    for batch in batches():
        clean.backward(batch)
        clean.update()
    training, guard = start(Policy(snapshot_every=20))
    verdicts = train(
        guard, training, batches(), lambda step: corrupt(training) if step == 125 else None
    )
    assert [i for i, v in enumerate(verdicts) if not v] == [125]
    (incident,) = guard.incidents
    assert incident.action is Action.ROLLBACK
    assert incident.restored_step == 100  # the one of step 120 has not proved itself
    damage = next(f for f in incident.findings if f.code == "weight-jump")
    assert damage.culprit.layer == "layer2.weight"
    assert guard.bad_batches == frozenset()
    assert len(verdicts) == STEPS + 26
    assert same(weights(training), weights(clean))


def test_damage_that_moves_no_loss_is_found_when_a_snapshot_is_due():
    training, guard = start(Policy(snapshot_every=20))

    def spoil_unused(step):
        if step == 105:  # a pixel that is 0 in every digit: its weights never count
            dead = int(np.flatnonzero(~DIGITS.train[0].any(axis=0))[0])
            training._weights["layer0.weight"][dead] = 1e6

    verdicts = train(guard, training, batches(), spoil_unused)
    (incident,) = guard.incidents
    assert incident.action is Action.ROLLBACK
    assert incident.findings[0].code == "weight-jump"
    assert [i for i, v in enumerate(verdicts) if not v] == [incident.step]
    assert 105 < incident.step <= 125
    assert np.abs(training._weights["layer0.weight"]).max() < 100


def test_what_comes_of_sorted_data_is_told_and_not_acted_on():
    rows = np.argsort(DIGITS.train[1], kind="stable")
    images, labels = (part[rows] for part in DIGITS.train)
    ordered = [(images[i : i + 8], labels[i : i + 8]) for i in range(0, len(rows) - 8, 8)]
    training, guard = start()
    assert all(train(guard, training, ordered * 4))
    assert guard.incidents == ()
    told = {f.code: f.step for f in guard.findings}
    assert told["sorted-labels"] == 19
    assert told["loss-divergence"] > 19
    assert told["gradient-spike"] > 19
    assert guard.hypotheses[0].code == "cause-data-order"


def test_observe_tells_and_never_touches():
    loader = batches()
    loader[100] = (loader[100][0] * np.float32(1e4), loader[100][1])
    plain = NumpyTraining(seed=0, steps=STEPS)
    for batch in loader:
        plain.backward(batch)
        plain.update()
    training, guard = start("observe")
    assert all(train(guard, training, loader))
    assert same(weights(training), weights(plain))
    assert guard.incidents[0].action is Action.CONTINUE
    assert guard.incidents[0].proposed is Action.SKIP
    assert guard.bad_batches == frozenset()


def test_bad_data_is_told_from_damage_by_an_earlier_batch():
    training, guard = start(Policy(patience=2, skip_budget=8, rollback_budget=0))
    good = batches(60)
    bad = [mislabel(b) for b in batches(64)[60:]]
    verdicts = train(guard, training, good + bad + batches(70))
    refused = [i for i, v in enumerate(verdicts) if not v]
    assert refused == [60, 61, 62, 63, 64]
    probe = guard.incidents[2]
    assert probe.probe_healthy
    assert probe.probe not in guard.bad_batches
    assert len(guard.bad_batches) == 4
    assert guard.hypotheses[0].code == "cause-label-noise"
    assert all(v for v in verdicts[65:])


def test_a_spent_budget_stops_at_a_healthy_state():
    training, guard = start(Policy(patience=2, skip_budget=5, rollback_budget=0))
    verdicts = train(guard, training, batches(60) + [mislabel(b) for b in batches(100)[60:]])
    assert [v.action for v in verdicts[60:]] == [Action.SKIP] * 6 + [Action.STOP]
    assert guard.stopped
    assert list(guard.batches(batches(3))) == []
    with pytest.raises(RuntimeError, match="stopped"):
        guard.approve(1.0)
    assert all(np.isfinite(w).all() for w in weights(training).values())
    assert guard.report().summary["stopped"] is True


def test_damage_that_an_earlier_batch_shows_as_well_is_rolled_back():
    training, guard = start(Policy(patience=2, snapshot_every=10))

    def shuffle(step):
        if step == 75:  # no weight is out of range, but all are in the wrong place
            for name in ("layer1.weight", "layer2.weight"):
                np.random.default_rng(0).shuffle(training._weights[name].reshape(-1))

    verdicts = train(guard, training, batches(), shuffle)
    assert [v.action for v in verdicts[75:78]] == [Action.SKIP, Action.SKIP, Action.ROLLBACK]
    last = guard.incidents[-1]
    assert (last.probe_healthy, last.restored_step) == (False, 60)
    assert guard.bad_batches == frozenset()
    assert all(verdicts[78:])


def test_a_failure_that_comes_back_lowers_the_rate_and_goes_further_back():
    policy = Policy(snapshot_every=10, healthy_after=0, snapshots_kept=4, cooldown=30)
    training, guard = start(policy)
    failing = {45, 47, 49}
    rates = []

    def spoil_weights(step):
        rates.append(training._rate_factor)
        if step in failing:
            corrupt(training)

    train(guard, training, batches(), spoil_weights)
    assert [i.action for i in guard.incidents] == [Action.ROLLBACK] * 3
    assert [i.restored_step for i in guard.incidents] == [40, 40, 30]
    assert [i.lr_factor for i in guard.incidents] == [1.0, 0.5, 0.25]
    assert len(guard.incidents[0].left_out) == 0
    assert len(guard.incidents[1].left_out) > 0
    # The rate is given back in steps.
    assert sorted(set(rates), reverse=True) == [1.0, 0.5, 0.25]
    assert rates[-1] > 0.25


def test_a_rate_that_jumps_is_taken_back_until_it_falls_or_is_accepted():
    training, guard = start()
    training._learning_rate = 0.01
    wrong = {100, *range(120, 200)}
    used = []

    def jump(step):
        training._learning_rate = 1.0 if step in wrong else 0.01
        if step == 180:
            guard.accept_learning_rate()

    train(guard, training, batches(180), lambda s: (jump(s), used.append(training._rate_factor)))
    assert [i.action for i in guard.incidents] == [Action.LOWER_LR] * 2
    assert {f.code for f in guard.findings if f.severity > "info"} == {"lr-jump"}
    assert used[99] == used[102] == 1.0
    assert used[101] == pytest.approx(0.01, rel=0.1)
    assert used[179] == pytest.approx(0.01, rel=0.1)
    guard.accept_learning_rate()
    assert guard.lr_factor == training._rate_factor == 1.0


def test_a_restart_leaves_the_bad_batches_out(tmp_path):
    loader = batches()
    loader[100] = spoil(loader[100])
    training, guard = start(run_dir=tmp_path)
    train(guard, training, loader)
    training, again = start(run_dir=tmp_path)
    assert again.bad_batches == guard.bad_batches
    assert all(train(again, training, loader))
    assert len(again.incidents) == 1


def test_state_survives_json_and_the_verdicts_go_on():
    loader = batches()
    loader[150] = spoil(loader[150])
    training, guard = start()
    train(guard, training, loader[:140])
    other_training, other = start()
    other_training.restore(training.capture())
    other.load_state_dict(json.loads(json.dumps(guard.state_dict(), allow_nan=False)))
    assert other.state_dict() == guard.state_dict()
    a = train(guard, training, loader[140:])
    b = train(other, other_training, loader[140:])
    assert [v.action for v in a] == [v.action for v in b]
    assert same(weights(training), weights(other_training))


def test_a_foreign_state_is_named_and_changes_nothing():
    _, guard = start()
    good = guard.state_dict()
    bad = [None, {}, {**good, "version": 1}, {**good, "watch": 1}, {**good, "ladder": {}}]
    bad += [{**good, "step": "1"}, {**good, "watch": {}}, {**good, "batches": {}}]
    for state in bad:
        with pytest.raises(ValueError, match="state: "):
            guard.load_state_dict(state)
        assert guard.state_dict() == good


@pytest.mark.parametrize("loss", ["high", None, [1.0, 2.0], 1j])
def test_a_loss_that_is_no_number_is_named(loss):
    _, guard = start()
    with pytest.raises(TypeError, match="loss: expected one real number"):
        guard.approve(loss)
    assert guard.step == 0


def test_a_nan_at_the_first_step_is_survived():
    training, guard = start()
    loader = [spoil(batches(1)[0]), *batches(30)]
    verdicts = train(guard, training, loader)
    assert [i for i, v in enumerate(verdicts) if not v] == [0]


def test_the_report_has_the_picture_and_what_was_done(tmp_path):
    training, guard = start()
    loader = batches()
    loader[100] = spoil(loader[100])
    train(guard, training, loader)
    report = guard.report()
    assert report.exit_code == 1
    page = report.save(tmp_path / "run.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "skip" in page


# Policy


def test_a_policy_round_trips_and_presets_are_known():
    policy = Policy(name="mine", patience=7)
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert Policy.preset("observe").act is False
    assert Policy.preset(policy) is policy


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Policy(patience=0), "patience: expected"),
        (lambda: Policy(skip_budget=-1), "skip_budget: expected"),
        (lambda: Policy(snapshot_every=1.5), "snapshot_every: expected"),
        (lambda: Policy.preset("brave"), "policy: expected"),
        (lambda: Policy.from_dict({"patients": 3}), "patients"),
    ],
)
def test_a_bad_policy_is_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


CODES = ["loss-spike", "gradient-spike", "weight-jump", "lr-jump", "optimizer-state-damage"]


@given(
    st.lists(st.tuples(st.sampled_from([None, *CODES]), st.booleans(), st.booleans())),
    st.integers(1, 4),
    st.fixed_dictionaries({f"{a}_budget": st.integers(0, 4) for a in BUDGETS}),
)
def test_budgets_are_never_exceeded(steps, patience, budgets):
    policy = Policy(patience=patience, **budgets)
    ladder = Ladder(policy)
    actions = []
    for step, (code, held, probe_healthy) in enumerate(steps):
        findings = [] if code is None else [Finding(code, "warning")]
        situation = Situation(
            step=step, findings=findings, can_probe=held, can_repair=held, can_roll_back=held
        )
        decision = ladder.decide(situation)
        actions.append(decision.action)
        assert (code is None) == (decision.action is Action.CONTINUE)
        if decision.probe:
            assert decision.action is Action.SKIP
            after = ladder.after_probe(healthy=probe_healthy, situation=situation).action
            actions += [] if probe_healthy else [after]
            assert (after is Action.SKIP) == probe_healthy
        if Action.STOP in actions:
            break
    for action in set(Action) - {Action.CONTINUE, Action.STOP}:
        assert actions.count(action) <= policy.budget(action)


# Journal


def test_a_journal_cut_at_any_byte_keeps_every_whole_line(tmp_path):
    training, guard = start(Policy(patience=50), run_dir=tmp_path)
    loader = batches(40) + [spoil(b) for b in batches(43)[40:]]
    train(guard, training, loader)
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 3
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        # A line that lacks only its end is whole.
        kept = sum(end - 1 <= cut for end in ends)
        assert len(journal.incidents) == kept
        journal.append(guard.incidents[0])
        assert [i.step for i in Journal(path).incidents] == [
            *(i.step for i in guard.incidents[:kept]),
            guard.incidents[0].step,
        ]


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_a_journal_of_any_bytes_can_be_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    path.write_bytes(data)
    assert Journal(path).incidents == []


# Batches and history


def test_leaves_tell_batches_apart():
    def bits(batch):
        return [(a.dtype.str, a.shape, a.tobytes()) for a in leaves(batch)]

    x = np.arange(6.0)
    different = [x, x.astype("f4"), x.reshape(2, 3), {"a": x}, {"b": x}, [x, 1], [x, "1"], None]
    seen = [bits(b) for b in different]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i] if a)
    assert bits((x[::2], ["a", None])) == bits([x[::2].copy(), ["a", None]])
    assert bits(np.array(["a", None], dtype=object)) == bits(["a", None])


def test_history_stays_bounded_and_keeps_every_peak():
    history = History()
    for step in range(100_000):
        history.append(step, math.nan if step == 40_000 else 9.0 if step == 77_777 else 1.0, 2.0)
    step, loss, norm = history.columns()
    assert 2000 < len(step) < 9000
    assert np.all(np.diff(step) > 0)
    assert step[np.isnan(loss)].tolist() == [40_000]
    assert step[loss == 9].tolist() == [77_777]
    assert set(norm) == {2.0}


def test_the_guard_class_is_usable_with_any_subject():
    assert isinstance(start()[1], Guard)
