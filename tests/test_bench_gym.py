"""The fault gym: its faults do what they say, contestants meet the same run, counts are right."""

import logging
import math
from collections import Counter
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from gym import __main__ as gym
from gym import contestants, evaluation, scoring, tables, tasks, training
from gym.faults import CLEAN, FAULTS
from gym.tasks import TASKS, decay
from gym.training import Result


@pytest.fixture(autouse=True)
def the_log_as_it_was():
    """Our entry to the gym keeps the guard's log still, in this process too."""
    log = logging.getLogger("gyrostat")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture(scope="module")
def mlp():
    return TASKS["mlp"](0)


def test_wilson_is_that_of_the_tables():
    assert scoring.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert scoring.wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert all(map(math.isnan, scoring.wilson(0, 0)))


def test_the_place_of_the_true_cause():
    causes = [("cause-bad-batch", 0.7), ("cause-label-noise", 0.2)]
    assert scoring.rank(causes, "cause-label-noise") == 2
    assert scoring.rank(causes, "cause-padding") is None
    assert scoring.rank(None, "cause-padding") is None


def test_blame_must_hit_and_must_not_spread():
    assert scoring.names_layer("0.weight", "0.weight")
    assert scoring.names_layer("0", "0.weight")
    assert scoring.names_layer("blocks.0.mlp.0.bias", "blocks.0.mlp.0.weight")
    for blamed, true in (("2.weight", "0.weight"), ("", "places"), ("other", "places")):
        assert not scoring.names_layer(blamed, true)
    assert scoring.names_several([1, 2], [1, 2, 3])
    assert not scoring.names_several([1], [1, 2, 3])
    assert not scoring.names_several([1, 4, 5], [1])
    assert not scoring.names_several([], [1])


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_the_same_each_time_and_no_other_seed_s(name, monkeypatch):
    monkeypatch.setattr(tasks.Pretraining, "steps", 3)
    tasks._pretrained.cache_clear()
    one, same, other = (TASKS[name](seed) for seed in (3, 3, 4))
    assert np.array_equal(one.order, same.order)
    assert not np.array_equal(one.order, other.order)
    assert one.order.shape == (one.steps, one.size)
    batch = one.batch(one.order[0])
    assert one.loss(batch).item() == same.loss(batch).item() != other.loss(batch).item()
    inputs, targets, weights = batch
    assert targets.shape == weights.shape
    assert len(inputs) == one.size
    tasks._pretrained.cache_clear()


def test_the_schedule_warms_up_and_ends_at_zero():
    assert decay(0, 100, 10) == 0.1
    assert decay(10, 100, 10) == 1
    assert decay(55, 100, 10) == pytest.approx(0.5)
    assert decay(25, 100, cosine=False) == 0.75
    assert decay(100, 100) == decay(120, 100, cosine=False) == 0


def test_weights_of_padding_count_nothing():
    task = TASKS["lm"](0)
    inputs, targets, weights = task.batch(task.order[0])
    padding = weights == 0
    assert padding.any()
    assert (targets[padding] == 0).all()
    wrong = torch.where(padding, 1, targets)
    same = task.loss((inputs, wrong, weights)).item()
    assert task.loss((inputs, targets, weights)).item() == same


def test_every_fault_says_what_it_is():
    assert len(FAULTS) >= 20
    assert CLEAN.name not in FAULTS
    for name, fault in FAULTS.items():
        assert fault.__doc__
        assert fault.cause.startswith("cause-")
        assert set(fault.tasks) <= set(TASKS), name


@pytest.mark.parametrize("name", [n for n, fault in FAULTS.items() if "mlp" in fault.tasks])
def test_a_fault_changes_the_run_and_only_from_its_start(name, mlp):
    """The loss is told before the fault as in a clean run, and differs after it."""
    early = 6

    class Watcher(contestants.Nobody):
        def __init__(self, *parts):
            super().__init__(*parts)
            self.losses, self.norms = [], []

        def approve(self, loss):
            self.losses.append(loss.item())
            self.norms.append(self.model[0].weight.grad.norm().item())
            return True

    class Short(TASKS["mlp"]):
        steps = 14

    class Soon(FAULTS[name]):
        def __post_init__(self):
            super().__post_init__()
            self.at = early

    def run(fault):
        watcher = None

        def make(*parts):
            nonlocal watcher
            watcher = Watcher(*parts)
            return watcher

        result = training._train(make, Short(0), fault)
        return watcher, result

    clean, end = run(CLEAN)
    faulty, broken = run(Soon)
    assert broken.error == end.error == ""
    assert len(faulty.losses) == len(clean.losses) == Short.steps
    from_the_start = name in (
        "frozen-layer", "dead-relu", "vanishing-init", "exploding-init", "sorted-data"
    )  # fmt: skip
    if not from_the_start:
        assert faulty.losses[:early] == clean.losses[:early]
        assert faulty.norms[:early] == clean.norms[:early]
    assert broken.loss != end.loss
    if FAULTS[name].guilty:
        assert broken.truth["batches"][0] == early


def test_what_is_flipped_becomes_huge_or_not_finite(mlp):
    fault = FAULTS["flip-weight"](mlp)
    values = torch.linspace(-0.5, 0.5, 100)
    before = values.clone()
    fault.flip(values)
    changed = torch.nonzero(values != before).flatten()
    assert len(changed) == 1
    assert not values[changed].abs().item() < 1e30
    zeros = torch.zeros(3)
    fault.flip(zeros)
    assert (zeros == 0).all()


def test_a_half_overflows_by_its_range_alone():
    class Short(TASKS["mlp"]):
        steps = 12

    task = Short(0)
    fault = FAULTS["fp16-overflow"](task)
    fault.before()
    batch = task.batch(task.order[0])
    clean = task.loss(batch).item()
    fault.at_start(fault.at, None)
    assert not math.isfinite(task.loss(batch).item())
    fault.at_start(fault.at + 1, None)
    assert task.loss(batch).item() == clean


class Raises(contestants.Nobody):
    def approve(self, _loss):
        self.acts("skip", "all")
        if self.step == 2:
            raise ZeroDivisionError("a fault\nof a peer")
        return False


def test_a_contestant_that_breaks_keeps_what_it_has_done():
    result = training.train(Raises, "mlp", "clean", 0)
    assert result.error == "ZeroDivisionError: a fault"
    assert result.actions == {"skip": 3}
    assert result.first == (0, "all")
    assert math.isfinite(result.loss)


def test_runs_with_a_fault_are_planned_where_they_fit():
    runs = evaluation.plan(["mlp", "lm"], ["padding", "nan-batch"], seeds=2, clean_seeds=3)
    assert Counter(run.fault for run in runs) == {"clean": 6, "padding": 2, "nan-batch": 4}
    assert len(set(runs)) == len(runs)


class Here:
    """Runs at once, in this process."""

    def __init__(self, *_, **__):
        pass

    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future


def test_results_are_kept(tmp_path, monkeypatch):
    calls = []

    def trained(name, run):
        calls.append((name, run))
        return Result(math.inf, {"skip": 1}, (3, "x"), None, {}, {"layer": None}, 3, 0.1)

    monkeypatch.setattr(evaluation, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(evaluation, "_train", trained)
    runs = evaluation.plan(["mlp"], ["nan-batch"], 1, 1)
    for _ in range(2):
        field = evaluation.Field(["none", "gyrostat"], 1, tmp_path)
        results = field.train(runs)
        assert results["none"][runs[1]].actions == {"skip": 1}
        assert results["none"][runs[1]].loss == math.inf
        assert set(results) == {"none", "gyrostat"}
    assert Counter(name for name, _ in calls) == {"none": 2, "gyrostat": 2}
    one, other = (evaluation.key("none", run) for run in runs)
    assert one != other != evaluation.key("clip", runs[1])


def test_a_small_gym_from_end_to_end(monkeypatch):
    monkeypatch.setattr(evaluation, "ProcessPoolExecutor", Here)
    faults = ["nan-batch", "weights-x50", "label-shift"]
    sections = gym.judge(["mlp"], faults, ["clip", "gyrostat"], 1, 1, 1, None)
    catalogue, costs, totals, by_model, by_fault, causes, of_each = sections
    assert "| cause-label-noise | no |" in catalogue
    cells = [
        line.split("|") for line in costs.splitlines() if line.startswith(("| 1", "| 2", "| 5"))
    ]
    assert len(cells) == 4
    for _, _, ratios, _ in cells:
        assert float(ratios.split(",")[1]) < 1 + (scoring.WITHIN - 1) / 2
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:]]
        for line in totals.splitlines()
        if len(cells := line.split("|")) > 3
    }
    assert rows["none"][0].startswith("0 of 2")
    assert rows["clip"][0].startswith("0 of 2")
    assert rows["gyrostat"][0].startswith("2 of 2")
    assert (rows["gyrostat"][2], rows["clip"][2]) == ("0 of 1", "1 of 1")
    assert "2 of 2" in by_model
    assert "label-shift *" in by_fault
    assert "gyrostat" in causes
    assert "cause-weights-damaged" in of_each


def test_results_go_between_their_marks(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{gym.START}\nold\n{gym.END}\nafter\n")
    monkeypatch.setattr(gym, "README", readme)
    gym.write(["new"])
    gym.write(["new"])
    assert readme.read_text() == f"before\n{gym.START}\n\nnew\n{gym.END}\nafter\n"


def test_unknown_names_are_told(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gym", "--faults", "nan-batch,nonsense"])
    with pytest.raises(SystemExit):
        gym.main()
    assert "unknown: nonsense" in capsys.readouterr().err


def test_numbers_and_words_of_tables():
    assert tables.number(1.234) == "1.23"
    assert tables.number(12345.0) == "1e+04"
    assert tables.number(math.inf) == "inf"
    assert tables.most(["a", "b", "b"]) == "b"
    assert tables.most([]) == ""
    assert tables.share(0, 0) == ""
