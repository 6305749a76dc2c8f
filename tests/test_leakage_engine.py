"""The engine of the check: exact search, what is compared, clusters, and data made to hurt."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gyrostat
import reference
from gyrostat.leakage import Cluster, TextOptions

WORDS = st.sampled_from(["a", "b", "c", "ab", "é", "日本", "x-y", "B", "C."])
TEXTS = st.lists(st.none() | st.lists(WORDS, max_size=12).map(" ".join), max_size=12)
FOX = "the quick brown fox jumps over the lazy dog and runs far away from here"


def found(report):
    return {tuple(pair)[:6] for pair in report.pairs}


@settings(max_examples=100, deadline=None)
@given(
    splits=st.fixed_dictionaries({"train": TEXTS, "test": TEXTS}),
    near=st.floats(0.3, 1.0),
    within=st.booleans(),
)
def test_the_exact_search_agrees_with_its_slow_twin(splits, near, within):
    report = gyrostat.check_leakage(splits, near=near, within=within, exact=True)
    assert found(report) == reference.leakage_pairs(splits, near, within=within)
    assert report.summary["recall at the threshold"] == 1.0


def test_the_exact_search_finds_what_bands_of_a_low_threshold_miss():
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(0, 3, 12))) for _ in range(300)]
    exact = gyrostat.check_leakage({"all": texts}, near=0.3, exact=True)
    banded = gyrostat.check_leakage({"all": texts}, near=0.3)
    assert found(banded) <= found(exact)
    assert found(exact) == reference.leakage_pairs({"all": texts}, 0.3, within=True)
    assert "of 300 texts drawn at random" in banded.summary["recall measured"]
    assert "recall measured" not in exact.summary


def test_a_family_made_from_one_template_is_listed_in_full():
    family = [f"{FOX} and the number {i} of this very page" for i in range(1_700)]
    report = gyrostat.check_leakage({"all": family}, near=0.5)
    assert len(report.pairs) == 1_700 * 1_699 // 2
    assert "sets of look-alikes too large to compare all" not in report.summary
    (cluster,) = report.clusters
    assert len(cluster.rows) == 1_700
    assert cluster.pairs == len(report.pairs)
    assert cluster.similarity == min(pair.similarity for pair in report.pairs[:100])


def test_a_family_beyond_all_bounds_is_cut_and_said_to_be():
    # 72 million pairs, most of which meet in every band.
    template = " ".join(f"word{i}" for i in range(300))
    family = [f"{template} {i}" for i in range(12_000)]
    report = gyrostat.check_leakage({"all": family})
    assert report.summary["sets of look-alikes too large to compare all"] > 0
    assert 11_999 <= len(report.pairs) < 1_000_000
    assert {row for cluster in report.clusters for _, row in cluster.rows} == set(range(12_000))
    assert report.clean_rows("all").tolist() == [0]


def test_a_million_copies_are_linear():
    texts = pa.chunked_array([pa.array(["The same text, again."])] * 1).combine_chunks()
    texts = texts.take(pa.array(np.zeros(1_000_000, np.int64)))
    report = gyrostat.check_leakage({"train": texts[:600_000], "test": texts[600_000:]})
    assert len(report.pairs) == 999_999
    assert len(report.clean_rows("train")) == 0
    assert len(report.clean_rows("test")) == 400_000


def test_one_document_of_a_hundred_megabytes():
    text = "".join(f"line {i} of a log that goes on and on\n" for i in range(25_000)) * 102
    assert len(text) > 100_000_000
    pairs = gyrostat.check_leakage({"train": [text], "test": [text.upper(), "another"]}).pairs
    assert [pair.kind for pair in pairs] == ["normalised"]


def test_units_say_what_tokens_are():
    def kinds(left, right, **options):
        splits = {"a": [left], "b": [right]}
        report = gyrostat.check_leakage(splits, near=1.0, options=TextOptions(**options))
        return [pair.kind for pair in report.pairs]

    assert kinds("A b, c", "a b c") == ["normalised"]
    assert kinds("A b, c", "a b c", unit="spaced") == []
    assert kinds("A b, c", "a\tb,\nC", unit="spaced") == ["normalised"]
    assert kinds("今日は", "今 日は。", unit="char") == ["normalised"]
    assert kinds("i = 1  # one", "i=1 // eins", unit="code") == ["normalised"]
    assert kinds("i = I", "i = i", unit="code") == []
    assert kinds("i = I", "i = i", unit="code", fold_case=True) == ["normalised"]
    assert kinds("A b", "a b", fold_case=False) == []
    assert kinds("ﬁne", "fine") == []
    assert kinds("ﬁne", "fine", nfkc=True) == ["normalised"]


def test_shingles_have_as_many_tokens_as_asked_for():
    splits = {"a": ["one two three four"], "b": ["one two three five"]}
    similarity = {
        n: [p.similarity for p in gyrostat.check_leakage(splits, near=0.1, options=options).pairs]
        for n in (1, 2, 3, 5)
        for options in [TextOptions(ngram=n)]
    }
    assert similarity == {1: [3 / 5], 2: [2 / 4], 3: [1 / 3], 5: []}


def test_clusters_are_a_sequence_and_speak_arrow():
    train, test = [FOX, "one of a kind", FOX + " today"], ["One of a kind!", FOX]
    report = gyrostat.check_leakage({"train": train, "test": test})
    rows = [("train", 0), ("train", 2), ("test", 1)]
    assert list(report.clusters) == [
        Cluster(rows, 2, 11 / 12),
        Cluster([("train", 1), ("test", 0)], 1, 1.0),
    ]
    assert report.clusters[-1:] == [report.clusters[1]]
    assert repr(report.clusters) == "<2 clusters>"
    table = pl.DataFrame(report.clusters)
    assert table.columns == ["cluster", "split", "row", "size", "pairs", "similarity"]
    assert table["row"].to_list() == [0, 2, 1, 1, 0]
    assert pa.table(report.clusters)["size"].to_pylist() == [3, 3, 3, 2, 2]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"unit": "sentence"}, ValueError, r"^unit: .*'sentence'"),
        ({"ngram": 0}, ValueError, r"^ngram: .*0"),
        ({"ngram": 2.5}, TypeError, r"^ngram: .*float"),
    ],
)
def test_bad_options_are_named(options, error, match):
    with pytest.raises(error, match=match):
        TextOptions(**options)


def test_what_is_no_text_is_refused():
    with pytest.raises(TypeError, match=r"^options: .*dict"):
        gyrostat.check_leakage({"a": ["x"]}, options={"unit": "word"})
    data = pa.table({"t": pa.array([b"fine", b"\xff\xfe"])})
    with pytest.raises(TypeError, match=r"^text: .*binary"):
        gyrostat.check_leakage({"a": data}, text="t")
    with pytest.raises(TypeError, match=r"^splits: .*int in row 1"):
        gyrostat.check_leakage({"a": ["x", 1]})
