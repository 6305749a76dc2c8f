"""The rule on replicas."""

import json

from gyrostat.findings import CATALOGUE, Finding
from gyrostat.rules import check_replicas


def test_equal_replicas_are_no_finding():
    assert check_replicas({}) == ()
    assert check_replicas({"w": []}) == ()
    assert check_replicas({"w": [{0: "a"}], "v": [{0: "b", 1: "b"}, {2: "c", 3: "c"}]}) == ()


def test_the_majority_is_right():
    (finding,) = check_replicas({"v": [{0: "b"}], "w": [{0: "a", 1: "a", 5: "x"}]}, step=9)
    assert finding.code in CATALOGUE
    assert finding.severity is CATALOGUE[finding.code].severity
    assert finding.step == 9
    assert (finding.culprit.layer, finding.culprit.ranks) == ("w", (5,))
    assert finding.message == "1 of 2 tensors: the copy on rank 5 differs from most others"
    assert str(finding).endswith("[layer w, ranks 5]")


def test_half_is_no_majority():
    (finding,) = check_replicas({"w": [{0: "a", 1: "b", 2: "b", 3: "a"}]})
    assert finding.culprit.ranks == (0, 1, 2, 3)
    assert finding.evidence["alike"] == [[0, 3], [1, 2]]
    (finding,) = check_replicas({"w": [{0: "a", 1: "b", 2: "b", 3: "c"}]})
    assert finding.culprit.ranks == (0, 1, 2, 3)


def test_each_set_of_ranks_is_one_finding():
    shards = [{0: "a", 1: "a", 2: "x"}, {3: "b", 4: "b", 5: "b"}]
    findings = check_replicas(
        {
            "one": shards,
            "two": [{3: "b", 4: "y", 5: "b"}],
            "three": shards,
            "four": [{0: "a", 1: "z"}],
        }
    )
    assert [f.culprit.ranks for f in findings] == [(2,), (4,), (0, 1)]
    assert [f.evidence["tensors"] for f in findings] == [["one", "three"], ["two"], ["four"]]
    assert [f.evidence["majority"] for f in findings] == [True, True, False]


def test_a_finding_travels_as_json():
    (finding,) = check_replicas({"w": [{0: "a", 1: "a", 2: "b"}]})
    assert Finding.from_dict(json.loads(json.dumps(finding.to_dict()))) == finding
