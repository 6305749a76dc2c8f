"""Findings: catalogue, order of severities, round trip."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gyrostat
from gyrostat.findings import CATALOGUE, Culprit, Finding, Severity, plain, worst

numbers = st.none() | st.floats()
names = st.none() | st.text(max_size=20)
found = st.builds(
    Finding,
    code=st.sampled_from(sorted(CATALOGUE)),
    severity=st.sampled_from(Severity),
    step=st.none() | st.integers(0, 10**9),
    signal=names,
    value=numbers,
    expected=numbers,
    score=numbers,
    message=st.text(max_size=50),
    culprit=st.builds(
        Culprit,
        layer=names,
        batch=names,
        samples=st.tuples(st.integers() | st.text(max_size=5)),
        ranks=st.tuples(st.integers(0, 10**6)),
    ),
    evidence=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)),
)


def test_catalogue_slugs_are_kebab_case_and_match_their_keys():
    for slug, code in CATALOGUE.items():
        assert slug == code.slug
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", slug)
        assert code.title
        assert code.advice.endswith(".")


def test_severities_are_ordered():
    assert Severity.INFO < Severity.WARNING < Severity.CRITICAL
    assert Severity.CRITICAL >= Severity.CRITICAL > Severity.WARNING
    assert max(Severity) is Severity.CRITICAL
    assert Severity.CRITICAL > "warning" > Severity.INFO
    with pytest.raises(ValueError, match="loud"):
        _ = Severity.INFO < "loud"


@given(found)
def test_a_finding_survives_strict_json(finding):
    text = json.dumps(finding.to_dict(), allow_nan=False)
    back = Finding.from_dict(json.loads(text))
    assert repr(back) == repr(finding)  # repr, since NaN is not equal to itself


def test_a_finding_is_frozen_and_public():
    finding = gyrostat.Finding("loss-spike", gyrostat.Severity.WARNING, step=3, message="up")
    with pytest.raises(dataclasses.FrozenInstanceError):
        finding.step = 4
    assert str(finding) == "warning loss-spike at step 3: up"


@pytest.mark.parametrize(
    ("d", "match"),
    [
        ({"code": "loss-spike"}, "severity"),
        ({"code": "loss-spike", "severity": "bad"}, "bad"),
        ({"code": "no-such-code", "severity": "info"}, "no-such-code"),
        ({"code": "loss-spike", "severity": "info", "extra": 1}, "extra"),
    ],
)
def test_from_dict_names_what_is_wrong(d, match):
    with pytest.raises(ValueError, match=match):
        Finding.from_dict(d)


def test_plain_turns_everything_into_json_values():
    value = {"a": np.float32(1.5), "b": (math.nan, math.inf), 3: np.arange(2), "s": Severity.INFO}
    assert plain(value) == {"a": 1.5, "b": ["nan", "inf"], "3": [0, 1], "s": "info"}


def test_worst_of_nothing_is_none():
    assert worst([]) is None
    assert worst([Finding("loss-spike", Severity.INFO)]) is Severity.INFO
