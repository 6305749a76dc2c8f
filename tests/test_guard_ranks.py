"""Which ranks are to blame."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyrostat.guard.ranks import standing_out
from gyrostat.rules import ReplicaRule

ALIKE = {"w": (), "b": ()}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ()),
        ({0: 1.0, 1: 1.1}, ()),
        ({0: 1.0, 1: 4.0}, (1,)),
        ({0: math.nan, 1: 4.0, 2: math.inf}, (0, 2)),
        ({0: math.nan, 1: math.nan}, ()),
        ({0: 0.0, 1: 0.0, 2: -3.0}, (2,)),
        ({4: 1.0, 5: 1e9, 6: 1.0, 7: 2.0}, (5,)),
    ],
)
def test_ranks_that_stand_out(values, expected):
    assert standing_out(values) == expected


@given(st.dictionaries(st.integers(0, 99), st.floats()))
def test_never_all_of_them(values):
    blamed = standing_out(values)
    assert set(blamed) < set(values) or not values
    assert blamed == tuple(sorted(blamed))


def test_replicas_that_part_are_told():
    rule = ReplicaRule()
    assert rule.update(ALIKE, 0) == ()
    (finding,) = rule.update({**ALIKE, "w": [{0: "x", 1: "x", 2: "y"}]}, 1)
    assert (finding.code, finding.step) == ("replica-mismatch", 1)
    assert (finding.culprit.layer, finding.culprit.ranks) == ("w", (2,))
    assert finding.evidence["of"] == 2


def test_what_never_was_alike_is_none_of_its_business():
    rule = ReplicaRule()
    apart = {**ALIKE, "w": [{0: "x", 1: "y"}]}
    assert [rule.update(apart, step) for step in range(3)] == [()] * 3


def test_its_state_goes_round():
    rule, twin = ReplicaRule(), ReplicaRule()
    rule.update(ALIKE, 0)
    twin.load_state_dict(rule.state_dict())
    apart = {"b": [{0: "x", 1: "y"}]}
    assert twin.update(apart, 1) == rule.update(apart, 1) != ()
    for bad in ({}, {"version": 1}, {"version": 2, "alike": []}, None):
        with pytest.raises(ValueError, match=r"state: "):
            twin.load_state_dict(bad)
