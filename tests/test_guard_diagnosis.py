"""Diagnosis: how clues are weighed, added up and ranked."""

import copy
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyrostat.findings import CATALOGUE, Culprit, Finding, Severity
from gyrostat.guard.diagnosis import Diagnosis, Incidence
from gyrostat.guard.outliers import BatchFacts

CAUSES = sorted(code for code in CATALOGUE if code.startswith("cause-"))
USUAL = BatchFacts()
ODD = BatchFacts(ratio=100.0, samples=(3,))


def finding(code, step=7, **kwargs):
    return Finding(code, Severity.CRITICAL, step=step, message=f"saw {code}", **kwargs)


def after(*codes, **kwargs):
    diagnosis = Diagnosis()
    diagnosis.incident(Incidence(7, [finding(code) for code in codes], **kwargs))
    return diagnosis


def scores(diagnosis):
    return {f.code: f.score for f in diagnosis.hypotheses()}


def first(diagnosis):
    return diagnosis.hypotheses()[0].code


@pytest.mark.parametrize(
    ("codes", "seen", "cause"),
    [
        (["loss-spike", "outlier-batch"], {"batch": ODD}, "cause-bad-batch"),
        (["optimizer-state-damage"], {}, "cause-optimizer-state"),
        (["stale-gradient", "loss-spike"], {}, "cause-missing-zero-grad"),
        (["lr-jump"], {}, "cause-lr-too-high"),
        (["weight-jump", "loss-spike"], {}, "cause-weights-damaged"),
        (["weight-jump"], {"momentum_rise": 1e6}, "cause-optimizer-state"),
        (["weight-jump"], {"rate_raised": True}, "cause-lr-too-high"),
        (["loss-spike"], {"batch": USUAL}, "cause-label-noise"),
        (["loss-divergence"], {"rate_raised": True}, "cause-lr-too-high"),
        (["loss-spike"], {}, "cause-bad-batch"),
        (["loss-not-finite"], {"batch": USUAL, "finite_weights": True}, "cause-precision-overflow"),
        (["gradient-spike"], {"rises": dict.fromkeys("abcd", 64.0)}, "cause-loss-scale"),
        (["gradient-spike"], {"rises": {"a": 1, "b": 99, "c": 1}}, "cause-silent-corruption"),
        (["gradient-spike"], {"rises": {"a": 40, "b": 3, "c": 900}}, "cause-bad-batch"),
    ],
)
def test_a_bad_step_speaks_first_for(codes, seen, cause):
    diagnosis = after(*codes, **seen)
    assert first(diagnosis) == cause
    assert all(0 < score < 1 for score in scores(diagnosis).values())
    assert all(f.severity is Severity.INFO for f in diagnosis.hypotheses())


def test_one_gradient_that_is_not_finite_alone_is_corruption():
    diagnosis = Diagnosis()
    sick = finding(
        "gradient-not-finite", culprit=Culprit(layer="b"), evidence={"tensors": ["b"], "of": 3}
    )
    diagnosis.incident(Incidence(7, [sick], batch=USUAL))
    assert first(diagnosis) == "cause-silent-corruption"
    assert diagnosis.hypotheses()[0].culprit.layer == "b"
    with_loss = Diagnosis()
    with_loss.incident(Incidence(7, [sick, finding("loss-not-finite")], batch=USUAL))
    assert first(with_loss) == "cause-precision-overflow"


def test_the_lone_layer_is_named():
    diagnosis = after("gradient-spike", rises={"a": 1.0, "b": 99.0, "c": 2.0})
    (cause,) = diagnosis.hypotheses()
    assert (cause.culprit.layer, cause.step) == ("b", 7)


def test_what_is_only_told_is_weighed_and_what_nothing_follows_from_is_not():
    diagnosis = Diagnosis()
    for code in CATALOGUE:
        diagnosis.told(finding(code))
    assert {"cause-dead-layer", "cause-data-order", "cause-padding"} <= scores(diagnosis).keys()
    assert "cause-optimizer-state" not in scores(diagnosis)
    nothing = Diagnosis()
    nothing.told(finding("hard-batch"))
    nothing.incident(Incidence(1, [finding("hard-batch")]))
    nothing.incident(Incidence(1, []))
    assert nothing.hypotheses() == ()


@pytest.mark.parametrize(
    ("healthy", "batch", "cause"),
    [
        (False, None, "cause-weights-damaged"),
        (True, ODD, "cause-bad-batch"),
        (True, USUAL, "cause-label-noise"),
        (True, None, "cause-label-noise"),
    ],
)
def test_an_earlier_batch_tells_data_from_weights(healthy, batch, cause):
    diagnosis = Diagnosis()
    diagnosis.probe(healthy=healthy, seen=Incidence(3, [finding("loss-spike")], batch=batch))
    assert list(scores(diagnosis)) == [cause]


# Adding up


@given(st.lists(st.floats(0.01, 0.79), min_size=1, max_size=40))
def test_circumstantial_evidence_adds_up_to_three_quarters_at_most(weights):
    diagnosis = Diagnosis()
    doubt = 1.0
    for step, weight in enumerate(weights):
        diagnosis.fact("cause-padding", weight, step, f"clue {step}")
        doubt *= 1.0 - weight
    (cause,) = diagnosis.hypotheses()
    # A single clue that is stronger than that is cut down as well.
    assert cause.score == pytest.approx(min(1.0 - doubt, 0.75))
    assert cause.step == 0


@given(st.lists(st.floats(0.8, 0.99), min_size=1, max_size=5), st.lists(st.floats(0.1, 0.7)))
def test_proof_goes_beyond_and_is_not_taken_back_by_what_only_fits(proof, fits):
    diagnosis = Diagnosis()
    doubt = 1.0
    for weight in proof:
        diagnosis.fact("cause-padding", weight, 0, "proof")
        doubt *= 1.0 - weight
    for weight in fits:
        diagnosis.fact("cause-padding", weight, 0, "fits")
    assert diagnosis.hypotheses()[0].score == pytest.approx(1.0 - doubt)


def test_the_likeliest_is_first_and_of_equals_the_earlier():
    diagnosis = Diagnosis()
    diagnosis.fact("cause-padding", 0.5, 9, "late")
    diagnosis.fact("cause-data-order", 0.5, 2, "early")
    diagnosis.fact("cause-dead-layer", 0.7, 11, "strong")
    order = [f.code for f in diagnosis.hypotheses()]
    assert order == ["cause-dead-layer", "cause-data-order", "cause-padding"]


def test_clues_are_kept_once_each_and_only_some_and_the_first_culprit_stays():
    diagnosis = Diagnosis()
    for i in range(20):
        diagnosis.fact("cause-dead-layer", 0.1, i, f"clue {i // 2}", f"layer{i}")
    (cause,) = diagnosis.hypotheses()
    assert cause.evidence["clues"] == [f"clue {i}" for i in range(8)]
    assert (cause.culprit.layer, cause.message) == ("layer0", "clue 0")


# State


incidences = st.builds(
    Incidence,
    step=st.integers(0, 10**6),
    findings=st.lists(
        st.builds(
            finding,
            st.sampled_from(sorted(CATALOGUE)),
            culprit=st.builds(
                Culprit,
                layer=st.none() | st.just("w"),
                batch=st.none() | st.just("b1"),
                samples=st.sampled_from([(), (1, "x")]),
            ),
        ),
        max_size=4,
    ),
    rises=st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1e12)),
    batch=st.none() | st.sampled_from([USUAL, ODD]),
    momentum_rise=st.floats(0, 1e30),
    rate_raised=st.booleans(),
    finite_weights=st.none() | st.booleans(),
)


@given(st.lists(incidences, max_size=6), st.lists(incidences, max_size=3), st.booleans())
def test_any_incidents_can_be_weighed_and_the_state_survives_json(before, later, healthy):
    diagnosis = Diagnosis()
    for seen in before:
        diagnosis.incident(seen)
        diagnosis.probe(healthy=healthy, seen=seen)
        for one in seen.findings:
            diagnosis.told(one)
    resumed = Diagnosis()
    resumed.load_state_dict(json.loads(json.dumps(diagnosis.state_dict(), allow_nan=False)))
    for seen in later:
        diagnosis.incident(seen)
        resumed.incident(seen)
    assert resumed.hypotheses() == diagnosis.hypotheses()
    assert resumed.state_dict() == diagnosis.state_dict()
    ranked = [f.score for f in resumed.hypotheses()]
    assert ranked == sorted(ranked, reverse=True)
    json.dumps([f.to_dict() for f in resumed.hypotheses()], allow_nan=False)


def test_a_foreign_state_is_refused_and_changes_nothing():
    diagnosis = after("lr-jump")
    good = diagnosis.state_dict()
    spoilt = copy.deepcopy(good)
    del spoilt["causes"]["cause-lr-too-high"]["doubt"]
    for bad in [None, {}, {"version": 1}, {**good, "version": 2}, {**good, "causes": [1]}, spoilt]:
        with pytest.raises(ValueError, match="state"):
            diagnosis.load_state_dict(bad)
        assert diagnosis.state_dict() == good


def test_the_findings_page_has_every_cause_in_its_table():
    page = Path(__file__).resolve().parent.parent / "docs" / "findings.md"
    rows = re.findall(r"^\| (cause-[a-z-]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == CAUSES
