"""Batches: identities, replay, what is left out, and where a restart goes on."""

import json
import logging
from collections import UserDict, namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat.guard.batches import BatchRegistry, leave_out
from gyrostat.guard.left_out import LeftOut, read_left_out
from gyrostat.guard.loaders import rebuilt


def numbers(n, first=0):
    return [np.array([float(i)]) for i in range(first, first + n)]


def values(batches):
    return [int(b[0]) for b in batches]


def through_json(state):
    return json.loads(json.dumps(state, allow_nan=False))


class NumpyRandom:
    """One generator that loader and loop draw from."""

    def __init__(self, seed=0):
        self.generator = np.random.default_rng(seed)

    def capture(self):
        return self.generator.bit_generator.state

    def plain(self, captured):
        return captured

    def restore(self, state):
        self.generator.bit_generator.state = state


def test_each_batch_has_an_identity_and_a_place():
    registry = BatchRegistry()
    seen = []
    for _ in range(2):
        seen += [registry.current for _ in registry.iterate(numbers(3))]
        assert registry.current is None
    assert [(b.epoch, b.index) for b in seen] == [(e, i) for e in (0, 1) for i in range(3)]
    assert [b.identity for b in seen[:3]] == [b.identity for b in seen[3:]]
    assert len({b.identity for b in seen}) == 3
    assert {b.samples for b in seen} == {()}


def test_a_rewind_replays_the_good_ones_and_the_loader_goes_on():
    registry = BatchRegistry()
    marks, out = [], []
    for batch in registry.iterate(iter(numbers(8)), lambda: marks.append(registry.mark())):
        out.append(int(batch[0]))
        if len(out) == 5:
            registry.leave_out(registry.current.identity)
            assert registry.replayable(marks[2])
            assert registry.rewind(marks[2]) == 2
    assert out == [0, 1, 2, 3, 4, 2, 3, 5, 6, 7]
    assert registry.left_out == 1


def test_a_rewind_over_the_start_of_an_epoch():
    registry = BatchRegistry()
    mark = None
    for _ in registry.iterate(numbers(4)):
        if registry.current.index == 1:
            mark = registry.mark()  # in front of batch 2
    out, places = [], []
    for batch in registry.iterate(numbers(4, 10)):
        out.append(int(batch[0]))
        places.append((registry.current.epoch, registry.current.index))
        if len(out) == 2:
            assert registry.rewind(mark) == 4
            state = through_json(registry.state_dict())
    assert out == [10, 11, 2, 3, 10, 11, 12, 13]
    assert places[2:5] == [(0, 2), (0, 3), (1, 0)]
    # A restart while the run is back in the epoch before goes on there.
    again = BatchRegistry()
    again.load_state_dict(state)
    assert again.next_epoch == 0
    assert values(again.iterate(numbers(4))) == [2, 3]
    assert again.next_epoch == 1
    assert values(again.iterate(numbers(4, 10))) == [10, 11, 12, 13]


def test_a_rewind_at_the_last_batch_and_after_the_loop():
    registry = BatchRegistry()
    out = []
    for batch in registry.iterate(numbers(3)):
        if not out:
            mark = registry.mark()
        out.append(int(batch[0]))
        if len(out) == 3:
            registry.rewind(mark)
    assert out == [0, 1, 2, 1, 2]
    registry.rewind(mark)
    assert values(registry.iterate(numbers(2, 20))) == [1, 2, 20, 21]


def test_a_rewind_at_the_boundary_comes_before_the_batch_at_hand():
    registry = BatchRegistry()
    marks = []

    def boundary():
        marks.append(registry.mark())
        if len(marks) == 3:
            assert registry.rewind(marks[1]) == 2

    assert values(registry.iterate(numbers(4), boundary)) == [0, 1, 1, 2, 3]


def test_memory_is_bounded_and_says_what_it_lacks():
    registry = BatchRegistry(replay_bytes=3 * 800)
    marks, out = [], []
    loader = [np.full(100, float(i)) for i in range(10)]
    for batch in registry.iterate(loader, lambda: marks.append(registry.mark())):
        out.append(int(batch[0]))
        if len(out) == 6:
            assert [registry.replayable(m) for m in marks] == [False] * 3 + [True] * 3
            assert [b.index for b, _ in registry.recent(9)] == [3, 4, 5]
            assert registry.rewind(marks[1]) == 3
    assert out == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9]
    registry.forget_before(registry.mark())
    assert registry.recent(9) == []
    # One that does not fit at all.
    none = BatchRegistry(replay_bytes=10)
    mark = none.mark()
    for _ in none.iterate(loader[:2]):
        assert not none.replayable(mark)
        assert none.rewind(mark) == 0


def test_without_a_mark_nothing_is_held():
    registry = BatchRegistry()
    list(registry.iterate(numbers(5)))
    assert registry.recent(5) == []


def test_a_batch_changed_in_place_is_told_and_not_replayed(caplog):
    registry = BatchRegistry()
    mark = registry.mark()
    out = []
    with caplog.at_level(logging.WARNING, "gyrostat"):
        for batch in registry.iterate(numbers(4)):
            out.append(int(batch[0]))
            if len(out) == 2:
                np.multiply(batch, 2, out=batch)
            if len(out) == 3:
                assert [b.index for b, _ in registry.recent(3)] == [0, 2]
                assert registry.rewind(mark) == 2
    assert out == [0, 1, 2, 0, 2, 3]
    (record,) = caplog.records
    assert "(epoch 0, index 1) was changed in place" in record.getMessage()


def test_a_loader_that_fills_one_buffer_again_and_again(caplog):
    buffer = np.zeros(1)

    def loader():
        for i in range(4):
            buffer[0] = i
            yield buffer

    registry = BatchRegistry()
    mark = registry.mark()
    out = []
    for batch in registry.iterate(loader()):
        out.append(int(batch[0]))
        if len(out) == 3:
            registry.rewind(mark)
    assert out == [0, 1, 2, 2, 3]
    assert len(caplog.records) == 2


def test_a_pop_in_the_loop_does_not_reach_the_replay():
    Pair = namedtuple("Pair", "x y")  # noqa: PYI024
    loader = [{"x": np.ones(2), "y": [Pair(np.zeros(1), i)], "z": UserDict(a=i)} for i in range(3)]
    registry = BatchRegistry()
    mark = registry.mark()
    out = []
    for batch in registry.iterate(loader):
        out.append((batch.pop("y")[0].y, batch["z"].data.pop("a")))
        if len(out) in (2, 4):
            assert registry.rewind(mark) == 2
    assert out == [(i, i) for i in (0, 1, 0, 1, 0, 1, 2)]
    kept = object()
    assert rebuilt([kept])[0] is kept


def test_what_was_left_out_too_early_comes_back():
    registry = BatchRegistry()
    mark = registry.mark()
    out = []
    identity = None
    for batch in registry.iterate([*numbers(3), *numbers(2)]):
        out.append(int(batch[0]))
        if out == [0, 1]:
            identity = registry.current.identity
            registry.leave_out(identity)
        if len(out) == 4:  # 0 1 2 0, the second 1 is left out after it
            registry.forgive(identity)
            registry.rewind(mark)
    assert out == [0, 1, 2, 0, 0, 1, 2, 0, 1]
    assert registry.left_out == 0


def test_a_stop_in_the_loop_and_a_second_iteration():
    registry = BatchRegistry()
    for _ in registry.iterate(numbers(5)):
        break
    assert registry.state_dict()["under_way"] is False
    one = registry.iterate(numbers(5))
    next(one)
    two = registry.iterate(numbers(5))
    next(two)
    with pytest.raises(RuntimeError, match="another iteration"):
        next(one)
    assert values(two) == [1, 2, 3, 4]


def test_an_error_at_the_boundary_loses_no_batch():
    registry = BatchRegistry()
    registry.mark()

    def boundary():
        if registry.index == 2:
            raise OSError("disk full")

    out = []
    with pytest.raises(OSError, match="disk full"):
        out.extend(values([b]) for b in registry.iterate(iter(numbers(4)), boundary))
    assert values(registry.iterate(numbers(1, 9))) == [1, 9]


# Restart


@pytest.mark.parametrize("saved_in", ["body", "boundary"])
@pytest.mark.parametrize("stop", [0, 1, 5, 9])
def test_a_restart_goes_on_with_the_same_batches_and_random_numbers(stop, saved_in):
    """Shuffling, augmentation and dropout draw from the same generator."""

    def loader(random):
        order = random.generator.permutation(10)
        for i in order:
            yield np.array([i, random.generator.normal()])

    def run(random, registry, epochs, states):
        out = []

        def boundary():
            if saved_in == "boundary":
                states.append(through_json(registry.state_dict()))

        for _ in range(registry.next_epoch, epochs):
            for batch in registry.iterate(loader(random), boundary):
                out.append((*batch.tolist(), random.generator.normal()))
                if saved_in == "body":
                    states.append(through_json(registry.state_dict()))
        return out

    states = []
    random = NumpyRandom()
    whole = run(random, BatchRegistry(random_state=random), 2, states)
    for where in (stop, 10 + stop):
        random = NumpyRandom(seed=99)
        registry = BatchRegistry(random_state=random)
        registry.load_state_dict(states[where])
        assert registry.state_dict() == states[where]
        rest = run(random, registry, 2, [])
        done = where + 1 if saved_in == "body" else where
        assert rest == whole[done:]


def test_a_restart_counts_what_was_left_out():
    registry = BatchRegistry()
    for batch in registry.iterate(numbers(3)):
        if batch[0] == 1:
            registry.leave_out(registry.current.identity)
    for batch in registry.iterate(numbers(6)):
        if batch[0] == 3:
            state = through_json(registry.state_dict())
    again = BatchRegistry()
    again.load_state_dict(state)
    assert (again.epoch, again.index, again.bad) == (1, 4, registry.bad)
    assert values(again.iterate(numbers(6))) == [4, 5]
    assert again.epoch == 1


def test_a_loader_shorter_than_before_is_told(caplog):
    registry = BatchRegistry()
    for _ in registry.iterate(numbers(6)):
        state = registry.state_dict()
    again = BatchRegistry()
    again.load_state_dict(state)
    assert list(again.iterate(numbers(2))) == []
    assert "gave 2 batches where 6" in caplog.text


class Counting:
    """A loader that keeps its own position."""

    def __init__(self):
        self.at = 0
        self.loads = 0

    def __iter__(self):
        while self.at < 6:
            self.at += 1
            self.loads += 1
            yield np.array([self.at - 1])
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, d):
        self.at = d["at"]


@pytest.mark.parametrize("saved_in", ["body", "boundary"])
def test_a_loader_with_a_position_of_its_own_passes_nothing_over(saved_in):
    registry = BatchRegistry()
    states = []

    def save(where):
        if where == saved_in:
            states.append(through_json(registry.state_dict()))

    for _ in registry.iterate(Counting(), lambda: save("boundary")):
        save("body")
    loader = Counting()
    again = BatchRegistry()
    again.load_state_dict(states[3])
    assert values(again.iterate(loader)) == ([4, 5] if saved_in == "body" else [3, 4, 5])
    assert loader.loads == (2 if saved_in == "body" else 3)


def test_a_foreign_state_is_named_and_changes_nothing():
    registry = BatchRegistry()
    for _ in registry.iterate(numbers(3)):
        good = registry.state_dict()
    bad = [None, {}, {**good, "version": 2}, {**good, "epoch": "1"}, {**good, "index": True}]
    bad += [{**good, "bad_batches": None}, {**good, "random": {"start": 1}}]
    bad += [{**good, "bad_batches": [[]]}, {**good, "bad_samples": ["1"]}, {**good, "index": -1}]
    for state in bad:
        with pytest.raises(ValueError, match="state: "):
            registry.load_state_dict(state)
    assert registry.epoch == 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="replay_bytes: expected"):
        BatchRegistry(replay_bytes=-1)
    for mark in (1, -1, "a"):
        with pytest.raises(ValueError, match="mark: expected"):
            BatchRegistry().rewind(mark)
    with pytest.raises(TypeError, match="identities: expected text"):
        BatchRegistry().leave_out(5)
    with pytest.raises(TypeError, match="samples: expected integers"):
        BatchRegistry().forgive(samples=["5"])


# The registry file


def test_the_file_leaves_the_same_out_after_a_restart(tmp_path):
    path = tmp_path / "deep" / "left-out.jsonl"
    registry = BatchRegistry(path=path)
    for batch in registry.iterate(numbers(5)):
        if batch[0] in (1, 3):
            registry.leave_out(registry.current.identity, samples=[7], reason="spike")
    assert values(BatchRegistry(path=path).iterate(numbers(5))) == [0, 2, 4]
    again = leave_out(numbers(5), path)
    assert values(again) == [0, 2, 4]
    assert read_left_out(path) == LeftOut(frozenset(registry.bad), frozenset({7}))
    old = registry.state_dict()
    one = min(registry.bad)
    registry.forgive(one, samples=[7])
    assert len(values(again)) == 4
    # A state saved before does not bring it back.
    restarted = BatchRegistry(path=path)
    restarted.load_state_dict(old)
    assert one not in restarted.bad
    assert restarted.bad_samples == set()
    assert read_left_out(tmp_path / "none.jsonl") == LeftOut()


def test_a_file_cut_at_any_byte_keeps_every_whole_line(tmp_path):
    path = tmp_path / "left-out.jsonl"
    registry = BatchRegistry(path=path)
    for i in range(3):
        registry.leave_out(f"{i:016x}", samples=[i])
    whole = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(0, len(whole) + 1, 5):
        path.write_bytes(whole[:cut])
        again = BatchRegistry(path=path)
        kept = sum(end <= cut for end in ends)
        assert again.bad_samples == set(range(kept))
        again.leave_out(samples=[99])
        assert read_left_out(path).samples == {*range(kept), 99}


@settings(max_examples=50)
@given(st.one_of(st.binary(max_size=200), st.text().map(lambda t: json.dumps([t]).encode())))
def test_a_file_of_any_bytes_can_be_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("registry") / "left-out.jsonl"
    path.write_bytes(data)
    assert BatchRegistry(path=path).bad == set()


# Against a simple model


class Model:
    """Everything that was ever fetched, in a list."""

    def __init__(self, n):
        self.n = n
        self.fetched = []
        self.next = 0
        self.bad = set()
        self.position = 0

    def step(self):
        """The next value, or None at the end of the epoch."""
        while True:
            if self.next == len(self.fetched):
                if self.position == self.n:
                    self.position = 0
                    return None
                self.fetched.append(self.position)
                self.position += 1
            self.next += 1
            if self.fetched[self.next - 1] not in self.bad:
                return self.fetched[self.next - 1]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["step"] * 6 + ["mark", "rewind", "bad", "forgive", "forget", "restart"]),
        st.integers(0, 30),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(OPERATIONS, st.integers(1, 7))
def test_any_sequence_of_calls_agrees_with_a_simple_model(operations, n):  # noqa: C901
    registry, model = BatchRegistry(), Model(n)
    known = BatchRegistry()
    identities = [known.current.identity for _ in known.iterate(numbers(n))]
    stream = registry.iterate(numbers(n))
    running = False
    marks = []
    for what, which in operations:
        if what == "step":
            value = next(stream, None)
            running = value is not None
            assert (None if value is None else int(value[0])) == model.step()
            if not running:
                stream = registry.iterate(numbers(n))
        elif what == "mark":
            marks.append(registry.mark())
            assert marks[-1] == model.next
        elif what == "rewind" and marks:
            mark = marks[which % len(marks)]
            assert registry.replayable(mark)
            ahead = [v for v in model.fetched[mark:] if v not in model.bad]
            assert registry.rewind(mark) == len(ahead)
            model.next = mark
        elif what == "bad":
            registry.leave_out(identities[which % n])
            model.bad.add(which % n)
        elif what == "forgive":
            registry.forgive(identities[which % n])
            model.bad.discard(which % n)
        elif what == "forget" and marks:
            oldest = sorted(marks)[which % len(marks)]
            registry.forget_before(oldest)
            marks = [m for m in marks if m >= oldest]
        elif what == "restart":
            ahead = [v for v in model.fetched[model.next :] if v not in model.bad]
            if ahead:
                model.position = ahead[0]
            elif not running:
                continue
            state = through_json(registry.state_dict())
            registry = BatchRegistry()
            registry.load_state_dict(state)
            stream = registry.iterate(numbers(n))
            marks = []
            model.fetched, model.next = [], 0
