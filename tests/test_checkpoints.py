"""Checkpoints on disk: exact, whole or not there, and the last healthy one kept."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, OrderedDict

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat.guard.checkpoints import (
    CheckpointGuardian,
    check_finite,
    newest_complete,
    read_checkpoint,
    write_checkpoint,
)

STATE = {
    "weights": {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.float64("nan")},
    3: [(1, -2.5, None), {True, False}, b"\x00\xff", "é", float("inf"), 2 + 1j, 10**30],
    ("a", 1): OrderedDict(z=Counter([1, 1, 2])),
    "empty": [np.zeros((0, 3)), {}, (), []],
    "rng": random.Random(0).getstate(),  # noqa: S311
    "times": np.array(["2024-01-01"], dtype="M8[s]"),
    "big": np.arange(3, dtype=">f8"),
}


def same(a, b):
    if isinstance(a, np.ndarray | np.generic):
        bits = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return bits and type(a) is type(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def test_everything_comes_back_as_it_was(tmp_path):
    path = tmp_path / "deep" / "one.safetensors"
    write_checkpoint(path, STATE, {"step": 7, "guard": {"x": [1, None]}})
    state, meta = read_checkpoint(path)
    assert same(state, STATE)
    assert meta == {"step": 7, "guard": {"x": [1, None]}}
    assert state["weights"]["w"].flags.writeable
    assert [p.name for p in path.parent.iterdir()] == ["one.safetensors"]
    # Any reader of the format finds the weights.
    assert np.array_equal(safetensors.numpy.load_file(path)["weights.w"], STATE["weights"]["w"])


def test_names_that_meet_are_told_apart(tmp_path):
    state = {"a": {"b": np.ones(1)}, "a.b": np.zeros(1), 1: np.full(1, 2.0), "1": np.full(1, 3.0)}
    write_checkpoint(tmp_path / "x.safetensors", state, {})
    assert same(read_checkpoint(tmp_path / "x.safetensors")[0], state)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@settings(max_examples=40)
@given(PLAIN)
def test_any_plain_value_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("checkpoint") / "x.safetensors"
    write_checkpoint(path, value, {})
    assert same(read_checkpoint(path)[0], value)


def test_what_cannot_be_written_is_named_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"w": np.ones(2)}, {"step": 1})
    for bad, where in [
        ({"a": [1, object()]}, "state: a.1 is a object"),
        ({"a": np.array([None])}, "state: a has dtype object"),
    ]:
        with pytest.raises(TypeError, match=where):
            write_checkpoint(path, bad, {})
    assert read_checkpoint(path)[1] == {"step": 1}


def test_a_disk_that_does_not_keep_what_was_written(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"w": np.ones(20)}, {"step": 1})
    real = safetensors.serialize_file

    def lossy(specs, name, metadata):
        real(specs, name, metadata)
        with open(name, "r+b") as file:  # noqa: PTH123
            file.seek(-8, os.SEEK_END)
            file.write(b"\x01")

    monkeypatch.setattr(safetensors, "serialize_file", lossy)
    with pytest.raises(OSError, match=r"did not keep what was written: .* damaged in w"):
        write_checkpoint(path, {"w": np.zeros(20)}, {"step": 2})
    assert read_checkpoint(path)[1] == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_cut_or_changed_anywhere_is_refused_and_the_one_before_is_found(tmp_path):
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    write_checkpoint(first, {"w": np.ones(9)}, {"step": 1})
    write_checkpoint(second, {"w": np.arange(9.0), "n": 3}, {"step": 2})
    assert newest_complete(tmp_path) == second
    whole = second.read_bytes()
    for cut in range(0, len(whole), 13):
        second.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="path: "):
            read_checkpoint(second)
        assert newest_complete(tmp_path) == first
    for at in range(0, len(whole), 7):
        second.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            state, meta = read_checkpoint(second)
        except ValueError as error:
            assert str(error).startswith("path: ")  # noqa: PT017
        else:  # blanks that fill the header up
            assert (meta, state["n"], state["w"].tolist()) == ({"step": 2}, 3, list(range(9)))
    assert newest_complete(tmp_path / "none") is None
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.safetensors")


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_a_file_of_any_bytes_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("checkpoint") / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="path: "):
        read_checkpoint(path)
    assert newest_complete(path.parent) is None


CHILD = """
import sys, numpy as np
from gyrostat.guard.batches import BatchRegistry
from gyrostat.guard.checkpoints import CheckpointGuardian, write_checkpoint
folder, step = sys.argv[1], int(sys.argv[2])
guardian = CheckpointGuardian(folder, keep=2)
registry = BatchRegistry(path=folder + "/left-out.jsonl")
def announce(path, step):
    guardian.saved(path, step)
    if step % 5 == 0:
        guardian.mark_healthy(step)
if step:  # the kill may have come before it was announced
    announce(f"{folder}/step-{step}.safetensors", step)
print("ready", flush=True)
while True:
    step += 1
    registry.leave_out(f"{step:016x}", samples=[step])
    path = f"{folder}/step-{step}.safetensors"
    write_checkpoint(path, {"w": np.random.default_rng(step).random(200_000)}, {"step": step})
    announce(path, step)
    guardian.prune()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this platform has no kill -9")
def test_a_kill_at_any_time_leaves_a_complete_checkpoint(tmp_path):
    chance = random.Random(1)  # noqa: S311
    step = 0
    for _ in range(10):
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(step)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.02, 0.3))
            child.kill()
        newest = newest_complete(tmp_path)
        if newest is None:
            assert step == 0
            continue
        state, meta = read_checkpoint(newest)
        assert meta["step"] >= step
        step = meta["step"]
        expected = np.random.default_rng(step).random(200_000)
        assert np.array_equal(state["w"], expected)
        guardian = CheckpointGuardian(tmp_path)
        if step > 5:
            assert int(guardian.healthy.stem.partition("-")[2]) % 5 == 0
            read_checkpoint(guardian.healthy)
        assert len(list(tmp_path.glob("step-*"))) <= 5
        lines = [
            json.loads(x) for x in (tmp_path / "left-out.jsonl").read_bytes().splitlines() if x
        ]
        assert len(lines) >= step
    assert step > 10


# Finite weights


def test_weights_that_are_not_finite_are_named():
    check_finite(STATE | {"weights": {}})
    check_finite({"counts": np.array([1, 2]), "best": float("inf")})
    bad = {
        "a": {"w": np.array([1.0, np.nan, np.inf])},
        "b": np.array([1j * np.inf]),
        "c": np.ones(3),
    }
    with pytest.raises(ValueError, match=r"state: NaN or Inf in a.w \(2\), b \("):
        check_finite(bad)
    with pytest.raises(ValueError, match="and 4 more"):
        check_finite([np.full(1, np.nan)] * 9)


# The guardian


def save(folder, step, *, as_folder=False):
    path = folder / f"checkpoint-{step}"
    if as_folder:
        path.mkdir()
        (path / "model.bin").write_bytes(b"x")
    else:
        path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("as_folder", [False, True])
def test_the_last_healthy_checkpoint_is_never_rotated_away(tmp_path, as_folder):
    (tmp_path / "checkpoint-mine").write_bytes(b"not announced")
    guardian = CheckpointGuardian(tmp_path, keep=2)
    for step in range(100, 900, 100):
        guardian.saved(save(tmp_path, step, as_folder=as_folder), step)
        if step in (200, 300):
            guardian.mark_healthy(step)
        guardian.prune()
        guardian = CheckpointGuardian(tmp_path, keep=2)  # a restart
    left = sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("."))
    assert left == ["checkpoint-300", "checkpoint-700", "checkpoint-800", "checkpoint-mine"]
    assert guardian.healthy == tmp_path / "checkpoint-300"
    guardian.mark_healthy(800)
    assert [p.name for p in guardian.prune()] == ["checkpoint-300"]


def test_a_checkpoint_written_anew_is_not_healthy_until_marked(tmp_path):
    guardian = CheckpointGuardian(tmp_path, keep=1)
    path = save(tmp_path, 1)
    guardian.saved(path, 1)
    guardian.mark_healthy(1)
    guardian.saved(path, 1)
    assert guardian.healthy is None


def test_what_a_kill_left_half_written_goes(tmp_path):
    half = tmp_path / ".step-1.safetensors.tmp"
    half.write_bytes(b"x")
    os.utime(half, (1, 1))
    guardian = CheckpointGuardian(tmp_path)
    guardian.saved(save(tmp_path, 2), 2)
    busy = tmp_path / ".step-3.safetensors.tmp"
    busy.write_bytes(b"x")
    os.utime(busy, (2**33, 2**33))
    assert guardian.prune() == [half]
    assert busy.exists()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["save", "healthy", "prune"]), st.integers(0, 9))))
def test_no_order_of_calls_loses_the_newest_healthy(tmp_path_factory, calls):
    folder = tmp_path_factory.mktemp("run")
    guardian = CheckpointGuardian(folder, keep=1)
    steps, healthy = [], None
    for what, which in calls:
        if what == "save":
            steps.append(len(steps))
            guardian.saved(save(folder, steps[-1]), steps[-1])
        elif what == "healthy" and steps:
            step = steps[which % len(steps)]
            if (folder / f"checkpoint-{step}").exists():
                guardian.mark_healthy(step)
                healthy = step if healthy is None else max(step, healthy)
        elif what == "prune":
            guardian.prune()
        if healthy is not None:
            assert guardian.healthy == folder / f"checkpoint-{healthy}"
        if steps:
            assert (folder / f"checkpoint-{steps[-1]}").exists()


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="keep: expected"):
        CheckpointGuardian(tmp_path, keep=0)
    guardian = CheckpointGuardian(tmp_path / "a")
    with pytest.raises(ValueError, match=r"path: .* does not exist"):
        guardian.saved(tmp_path / "a" / "none", 1)
    with pytest.raises(ValueError, match="path: expected one in"):
        guardian.saved(save(tmp_path, 1), 1)
    with pytest.raises(ValueError, match="step: no checkpoint"):
        guardian.mark_healthy(5)
    (tmp_path / "a" / ".gyrostat-checkpoints.jsonl").write_text(
        '[1]\n{"saved": "../x", "step": 1}\n'
    )
    assert CheckpointGuardian(tmp_path / "a").prune() == []
