"""Runs that are killed and go on: the same bits, readable files, the last good checkpoint."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import gloo
import ranks
from gyrostat.demo.digits import load_digits
from gyrostat.demo.network import NumpyTraining
from gyrostat.guard import Action, Guard, Journal, Policy
from gyrostat.guard._disk import append_line
from gyrostat.guard.batches import BatchRegistry
from gyrostat.guard.checkpoints import write_checkpoint
from gyrostat.guard.left_out import read_left_out
from gyrostat.integrations.torch import Guard as TorchGuard

BENCH = Path(__file__).resolve().parent.parent / "benches" / "kill.py"
DIGITS = load_digits()
POLICY = Policy(snapshot_every=10, checkpoint_every=10)
EPOCHS = 4


class Killed(Exception):  # noqa: N818 - it is no error
    pass


def loader(epoch, healthy=False):
    made = [*DIGITS.batches(64, seed=epoch)]  # 21 batches
    if healthy:
        return made
    made[7] = np.full_like(made[7][0], np.nan), made[7][1]
    return made


def run(
    run_dir, *, policy=POLICY, kill_at=None, corrupt_at=None, healthy=False, subject=NumpyTraining
):
    """Trains a run that was begun in ``run_dir``, or a new one, until ``kill_at``."""
    training = subject(seed=0, steps=EPOCHS * 21)
    guard = training.guard(policy, run_dir)
    guard.resumed = guard.resume()
    guard.began = guard.step
    for epoch in range(guard.next_epoch, EPOCHS):
        for batch in guard.batches(loader(epoch, healthy)):
            if guard.step == kill_at:
                raise Killed
            if guard.step == corrupt_at:
                weights = training.weight_bits().view(np.float32)
                weights[np.argmax(np.abs(weights))] *= 2.0**32
            if guard.approve(training.backward(batch)):
                training.update()
    return training, guard


def killed(run_dir, at, **options):
    with pytest.raises(Killed):
        run(run_dir, kill_at=at, **options)


def bits(training):
    weights, velocity, updates = training.capture()
    return [a.tobytes() for a in (*weights.values(), *velocity.values())], updates


def incidents(guard):
    return [{**i.to_dict(), "time": 0} for i in guard.incidents]


def checkpoints(run_dir):
    return sorted((run_dir / "checkpoints").glob("*.safetensors"))


def steps(run_dir):
    return [int(path.stem.rpartition("-")[2]) for path in checkpoints(run_dir)]


def test_kills_at_random_moments_end_with_the_same_bits():
    command = [sys.executable, BENCH, "--points", "1", "--kills", "5", "--seed", "7"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 runs" in done.stdout
    assert "['rollback', 'skip']" in done.stdout


@pytest.mark.parametrize("kill_at", [5, 19, 20, 45, 56, 70, 90])
def test_any_subject_goes_on_as_if_it_had_not_been_killed(tmp_path, kill_at):
    whole, unbroken = run(tmp_path / "a", corrupt_at=55)
    assert {i.action for i in unbroken.incidents} == {Action.SKIP, Action.ROLLBACK}
    killed(tmp_path / "b", kill_at, corrupt_at=55)
    written = bool(checkpoints(tmp_path / "b"))
    assert written or kill_at < 25
    training, guard = run(tmp_path / "b", corrupt_at=55)
    assert guard.resumed == written
    assert guard.began < kill_at
    assert bits(training) == bits(whole)
    assert guard.state_dict() == unbroken.state_dict()
    assert incidents(guard) == incidents(unbroken)
    assert read_left_out(tmp_path / "b" / "left-out.jsonl").batches == unbroken.bad_batches


def test_a_skip_after_the_checkpoint_is_made_again_and_told_once(tmp_path):
    killed(tmp_path, 30)  # the batch of step 28 is bad
    left_out = tmp_path / "left-out.jsonl"
    BatchRegistry(path=left_out).leave_out("by-hand", reason="mislabelled")
    before = read_left_out(left_out).batches
    lines = (tmp_path / "journal.jsonl").read_bytes()
    guard = NumpyTraining(seed=0, steps=84).guard(POLICY, tmp_path)
    assert guard.resume()
    assert "by-hand" in guard.bad_batches
    assert len(before - guard.bad_batches) == 1
    assert [i.step for i in guard.incidents] == [7]
    assert (tmp_path / "journal.jsonl").read_bytes().startswith(lines)
    assert [i.step for i in Journal.read(tmp_path / "journal.jsonl")] == [7]


def test_what_was_left_out_since_the_checkpoint_comes_again(tmp_path):
    registry = BatchRegistry(path=tmp_path / "left-out.jsonl")
    registry.leave_out("a", "b", step=3)
    size = registry.file_size
    registry.leave_out("c", samples=[4], step=7)
    registry.forgive("a", step=8)
    registry.leave_out("d")
    for _ in range(2):  # a kill on the way back, and once more
        registry = BatchRegistry(path=tmp_path / "left-out.jsonl")
        registry.undo_since(size, 5)
        assert (registry.bad, registry.bad_samples) == ({"a", "b", "d"}, set())
        found = read_left_out(tmp_path / "left-out.jsonl")
        assert (found.batches, found.samples) == ({"a", "b", "d"}, set())


def test_the_journal_passes_over_what_was_made_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    killed(tmp_path / "run", 60, corrupt_at=55)
    skip, *_, rollback = Journal(tmp_path / "run" / "journal.jsonl").incidents
    journal = Journal(path)
    journal.append(skip)
    size = journal.size
    journal.append(rollback)
    journal.resume(20, size)
    assert journal.incidents == [skip]
    journal.append(rollback)
    journal.append(skip)
    assert journal.incidents == [skip, rollback, skip]
    assert [i.step for i in Journal(path).incidents] == [7, 55, 7]
    assert len(path.read_text("utf-8").splitlines()) == 5
    append_line(path, {"version": 2, "kept_bytes": "all"})
    assert len(Journal(path).incidents) == 3


def test_damaged_checkpoints_are_passed_over_with_a_warning(tmp_path, caplog):
    whole, _ = run(tmp_path / "a")
    killed(tmp_path / "b", 70)
    older, newest = checkpoints(tmp_path / "b")
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="gyrostat"):
        training, guard = run(tmp_path / "b")
    assert "damaged" in caplog.text
    assert guard.began == int(older.stem.rpartition("-")[2])
    assert bits(training) == bits(whole)
    assert newest.with_name(f"{newest.name}.damaged").exists()
    # With none that can be read the run begins anew.
    for path in checkpoints(tmp_path / "b"):
        path.write_bytes(b"")
    training, guard = run(tmp_path / "b")
    assert (guard.resumed, guard.began) == (False, 0)
    assert bits(training) == bits(whole)


def test_only_snapshots_that_proved_healthy_are_written_and_few_are_kept(tmp_path):
    killed(tmp_path / "calm", 9, healthy=True)
    assert steps(tmp_path / "calm") == []
    killed(tmp_path / "calm", 10, healthy=True)
    assert steps(tmp_path / "calm") == [0]
    # The bad batch is the eighth of each epoch: steps 7, 28 and 49. What is followed by it within
    # ten steps is not written.
    killed(tmp_path / "more", 83)
    kept = steps(tmp_path / "more")
    assert len(kept) == POLICY.checkpoints_kept
    assert all(not step <= bad < step + 10 for step in kept for bad in (7, 28, 49, 70))


def test_pacing_by_time_changes_no_bits(tmp_path):
    paced = Policy(snapshot_share=1.0, checkpoint_share=1.0)
    plain = Policy(checkpoints_kept=0)

    training, guard = run(tmp_path / "a", policy=paced, healthy=True)
    other, _ = run(tmp_path / "b", policy=plain, healthy=True)
    assert bits(training) == bits(other)
    assert guard.incidents == ()
    assert checkpoints(tmp_path / "a")
    assert not checkpoints(tmp_path / "b")


def test_a_run_that_is_only_observed_goes_on_as_well(tmp_path):
    policy = Policy(act=False, snapshot_every=10, checkpoint_every=10)

    whole, _ = run(tmp_path / "a", policy=policy, healthy=True)
    killed(tmp_path / "b", 50, policy=policy, healthy=True)
    training, guard = run(tmp_path / "b", policy=policy, healthy=True)
    assert guard.began > 0
    assert bits(training) == bits(whole)


def test_what_cannot_be_written_ends_no_run(tmp_path, caplog):
    class Odd(NumpyTraining):
        def capture(self):
            return super().capture(), object()

        def restore(self, state):
            super().restore(state[0])

    with caplog.at_level(logging.ERROR, logger="gyrostat"):
        run(tmp_path / "odd", subject=Odd)
        assert [r.message for r in caplog.records] == [
            "no checkpoints are written: state: subject.1 is a object, which no file can hold"
        ]
        caplog.clear()
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "checkpoints").write_text("a file is in the way")
        run(tmp_path / "full")
    assert {r.message.partition(":")[0].split(" of ")[0] for r in caplog.records} == {
        "the checkpoint"
    }


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    half = folder / ".000003-step-9.safetensors.tmp"
    half.write_bytes(b"half")
    (folder / "mine.safetensors").write_bytes(b"not of the guard")
    run(tmp_path)
    assert not half.exists()
    assert (folder / "mine.safetensors").exists()


def test_resume_needs_a_folder_and_a_checkpoint_of_its_own(tmp_path):
    with pytest.raises(ValueError, match="run_dir: expected a folder"):
        NumpyTraining(seed=0, steps=84).guard("recover").resume()
    write_checkpoint(tmp_path / "checkpoints" / "000001-step-3.safetensors", {}, {"step": 3})
    with pytest.raises(ValueError, match=r"run_dir: .* is no checkpoint of a guard"):
        NumpyTraining(seed=0, steps=84).guard(POLICY, tmp_path).resume()


def test_without_checkpoints_what_is_left_out_stays_so(tmp_path):
    policy = Policy(checkpoints_kept=0)
    _, first = run(tmp_path, policy=policy)
    _, again = run(tmp_path, policy=policy)
    assert not again.resumed
    assert again.bad_batches == first.bad_batches
    assert len(again.incidents) == len(first.incidents)


def torch_parts():
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    data = torch.randn(200, 4, 8)
    return model, optimizer, data


def test_a_loop_that_forgets_its_gradients_is_helped_after_a_restart_as_well(tmp_path):
    def train(run_dir, kill_at=None):
        model, optimizer, data = torch_parts()
        guard = TorchGuard(model, optimizer, policy=POLICY, run_dir=run_dir)
        guard.resume()
        for x in guard.batches(torch.utils.data.DataLoader(data, batch_size=None)):
            if guard.step == kill_at:
                return guard
            loss = model(x).square().mean()
            loss.backward()
            if guard.approve(loss):
                optimizer.step()
        return model, guard

    model, unbroken = train(tmp_path / "a")
    assert {f.code for i in unbroken.incidents for f in i.findings} == {"stale-gradient"}
    train(tmp_path / "b", kill_at=60)
    assert steps(tmp_path / "b")
    resumed, guard = train(tmp_path / "b")
    assert json.dumps(incidents(guard)) == json.dumps(incidents(unbroken))
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True)
    )


def test_without_guard_batches_the_loop_goes_on_at_the_step(tmp_path):
    def train(guard, model, optimizer, batches):
        for x in batches:
            loss = model(x).square().mean()
            loss.backward()
            if guard.approve(loss):
                optimizer.step()
            optimizer.zero_grad()

    model, optimizer, data = torch_parts()
    guard = TorchGuard(model, optimizer, policy=POLICY, run_dir=tmp_path / "a")
    train(guard, model, optimizer, data[:60])
    again, optimizer, data = torch_parts()
    guard = TorchGuard(again, optimizer, policy=POLICY, run_dir=tmp_path / "a")
    assert guard.resume()
    assert 0 < guard.step < 60
    train(guard, again, optimizer, data[guard.step : 60])
    assert guard.step == 60
    assert torch.equal(model.weight, again.weight)


def replicas_go_on_together():
    """Runs on each rank: the second is killed before it has written the last checkpoint."""
    places = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(places)
    place = Path(places[0])

    def train(run_dir, kill_at=None, lag=0):
        torch.manual_seed(0)
        model = ranks.network("ddp")
        optimizer = torch.optim.Adam(model.parameters(), 0.003)
        data = ranks.batches(60, 0)
        if dist.get_rank() == 1:
            data[35] = (data[35][0] * torch.nan, data[35][1])
        guard = TorchGuard(model, optimizer, policy=POLICY, run_dir=run_dir, lag=lag)
        guard.resume()
        began = guard.step
        for x, y in guard.batches(data):
            if guard.step == kill_at:
                break
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            if guard.approve(loss):
                optimizer.step()
            optimizer.zero_grad()
        return began, len(guard.incidents), ranks.digest(model)

    for lag in (0, 1):
        *whole, end = train(place / f"whole-{lag}", lag=lag)
        train(place / f"cut-{lag}", 50, lag)
        mine = place / f"cut-{lag}" / (f"rank-{dist.get_rank()}" if dist.get_rank() else "")
        if dist.get_rank() == 1:
            checkpoints(mine)[-1].unlink()
        expected = steps(mine)[-1 if dist.get_rank() else -2]
        began, found, again = train(place / f"cut-{lag}", lag=lag)
        yield began == expected > 0, (found, again) == (whole[1], end), found


def both_lags_go_on_together():
    return list(replicas_go_on_together())


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_ranks_go_back_to_a_step_that_all_of_them_have(tmp_path):
    told = gloo.run(2, [both_lags_go_on_together], tmp_path)["both_lags_go_on_together"]
    assert told == [[(True, True, 1)] * 2] * 2


def test_the_guard_class_is_the_same_for_all():
    assert issubclass(TorchGuard, Guard)
