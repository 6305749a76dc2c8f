"""Stretch: which batches are suspected while the loss is up."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat.guard.stretch import Stretch

CALM = np.random.default_rng(0).normal(1.0, 0.1, 400).tolist()


def follow(losses, alarms, stretch=None, start=0):
    stretch = stretch or Stretch()
    for i, loss in enumerate(losses[start:], start):
        stretch.update([f"b{i}"], loss)
        if i in alarms:
            stretch.alarm()
    return stretch


def places(stretch):
    return [int(identity[1:]) for identity in stretch.batches()]


def raised(first, last, by=3.0, n=400):
    return [loss + by * (first <= i < last) for i, loss in enumerate(CALM[:n])]


def test_the_stretch_begins_before_its_alarm_and_ends_where_the_loss_falls():
    assert places(follow(raised(200, 215), {204})) == list(range(200, 215))


def test_without_an_alarm_nobody_is_suspected():
    assert places(follow(raised(200, 215), set())) == []


def test_while_the_loss_is_not_back_all_are_suspected():
    relearned = [
        loss + 4 * math.exp(-(i - 200) / 80) * (i >= 200) for i, loss in enumerate(CALM[:350])
    ]
    assert places(follow(relearned, {201})) == list(range(200, 350))


def test_the_loss_of_a_model_that_had_learned_wrong_labels_comes_back_slowly():
    # 15 bad batches, of which the model needs 30 good ones to recover.
    losses = raised(200, 215)
    for i in range(215, 245):
        losses[i] += 1.2 * (245 - i) / 30
    found = places(follow(losses, {202}))
    assert found[0] == 200
    assert 214 <= found[-1] <= 216


def test_a_single_bad_batch_and_values_that_are_not_finite():
    losses = list(CALM)
    losses[200] = math.inf
    assert places(follow(losses, {200})) == [200]
    losses[200] = math.nan
    losses[201] = 5.0
    assert places(follow(losses, {200})) == [200, 201]


def test_stretches_add_up_and_memory_is_bounded():
    losses = [a + b - 1 for a, b in zip(raised(100, 110), raised(300, 320), strict=True)]
    losses = [loss + 1 - calm for loss, calm in zip(losses, CALM, strict=True)]
    found = places(follow(losses, {101, 301}))
    assert found == [*range(100, 110), *range(300, 320)]
    stretch = follow([1.0] * 100 + [5.0] * 5000, {100})
    assert len(json.dumps(stretch.state_dict())) < 100_000
    assert places(stretch)[0] == 100


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 399), st.integers(60, 380), st.integers(1, 60))
def test_a_resume_changes_nothing(cut, first, length):
    losses = raised(first, first + length)
    whole = follow(losses, {first + 1})
    part = follow(losses[:cut], {first + 1})
    resumed = Stretch()
    resumed.load_state_dict(json.loads(json.dumps(part.state_dict())))
    follow(losses, {first + 1}, resumed, start=cut)
    assert resumed.batches() == whole.batches()
    assert resumed.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    "change", [{"version": 9}, {"steps": 3}, {"alarm": 1000}, {"alarm": "x"}, {"closed": None}]
)
def test_a_broken_state_is_refused(change):
    stretch = follow(raised(200, 215), {204})
    state = stretch.state_dict()
    with pytest.raises(ValueError, match="state"):
        Stretch().load_state_dict(state | change)
    with pytest.raises(ValueError, match="state"):
        Stretch().load_state_dict(None)
