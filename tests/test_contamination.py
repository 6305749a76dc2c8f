"""Questions of a benchmark inside training texts."""

import csv
import gzip
import json
import math
import random
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyrostat.leakage import BenchmarkPack, check_contamination

QUESTIONS = [
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total?",
    "Kylar went to the store to buy glasses for his new apartment; one glass costs $5.",
    "Which mountain range separates the Iberian Peninsula from the rest of Europe?",
    "Who discovered radium?",
    "Why?",
]
ANSWERS = ["3 bolts", "64 dollars", "The Pyrenees", "Marie Curie", None]
FILLER = "the quick brown fox jumps over the lazy dog and runs away from all of the hunters here "


def table(data):
    return pa.table(data).to_pylist()


def pairs(report):
    return {(m.corpus_row, m.benchmark_row) for m in report.matches if m.part == "question"}


def test_questions_are_found_where_they_stand():
    text = FILLER + QUESTIONS[0].upper().replace(" ", "\n") + " 3 bolts, that is. " + FILLER
    report = check_contamination(QUESTIONS, [FILLER, None, text], answer=ANSWERS)
    (match,) = report.matches
    assert (match.corpus_row, match.benchmark_row, match.part) == (2, 0, "question")
    assert text[match.corpus_start : match.corpus_end] == QUESTIONS[0][:-1].upper().replace(
        " ", "\n"
    )
    assert (match.benchmark_start, match.benchmark_end) == (0, len(QUESTIONS[0]) - 1)
    assert (match.containment, match.edits, match.with_answer) == (1.0, 0, True)
    assert match.words == match.longest_run == len(re.findall(r"\w+", QUESTIONS[0]))
    assert report.clean_rows("corpus").tolist() == [0, 1]
    assert report.clean_rows("benchmark").tolist() == [1, 2, 3, 4]
    assert report.summary["missing texts"] == 1
    assert [f.code for f in report.findings] == ["leakage-benchmark-question"]
    assert report.exit_code == 1
    assert "bolts" in report.to_html().lower()


def test_places_are_characters_not_bytes():
    text = "Ünïcödé “quotes” 日本語 — " + QUESTIONS[2] + " ¡Olé!"
    (match,) = check_contamination(QUESTIONS, [text]).matches
    assert text[match.corpus_start : match.corpus_end] == QUESTIONS[2][:-1]
    question = "¿Qué océano baña la costa oeste de África, según los mapas más antiguos?"
    (match,) = check_contamination([question], [text + question]).matches
    assert (match.benchmark_start, match.benchmark_end) == (1, len(question) - 1)


def test_an_answer_is_found_on_its_own_and_marks_its_row():
    solution = "Half of two bolts is one bolt, so the robe takes 2 + 1 = 3 bolts of fiber in total."
    answers = [solution, *ANSWERS[1:]]
    report = check_contamination(QUESTIONS, [FILLER + solution], answer=answers)
    assert [(m.part, m.with_answer) for m in report.matches] == [("answer", None)]
    assert [f.code for f in report.findings] == ["leakage-benchmark-answer"]
    assert report.clean_rows("benchmark").tolist() == [1, 2, 3, 4]
    both = check_contamination(QUESTIONS, [QUESTIONS[0] + solution], answer=answers)
    assert [(m.part, m.with_answer) for m in both.matches] == [("question", True), ("answer", None)]
    assert len(both.findings) == 1


def test_an_answer_far_from_its_question_is_not_with_it():
    near, far = QUESTIONS[2] + " The Pyrenees.", QUESTIONS[2] + 4 * FILLER + "The Pyrenees."
    report = check_contamination(QUESTIONS, [near, far, QUESTIONS[2]], answer=ANSWERS)
    assert [m.with_answer for m in report.matches] == [True, False, False]


def test_short_questions_match_as_a_whole_and_very_short_ones_never():
    many = ["Who discovered radium?", "Why?", "", None, "Was it?"]
    many += [f"What is the size of n{i}?" for i in range(5_000)]
    texts = ["So who discovered radium, then?", "Who discovered pure radium? Why? Was it?"]
    report = check_contamination(many, texts)
    assert pairs(report) == {(0, 0)}
    rows = table(report.questions)[:5]
    assert [row["checkable"] for row in rows] == [True, False, False, False, False]
    assert [row["texts"] for row in rows] == [1, 0, 0, 0, 0]
    assert [row["words"] for row in rows] == [3, 1, 0, 0, 2]
    # Among four questions three words say too little to tell.
    few = check_contamination(many[:5], texts)
    assert len(few.matches) == 0
    assert few.summary["questions too short or too common to tell"] == 3


def test_what_questions_have_in_common_is_no_contamination():
    template = "Which of the following statements about this matter is the only one that is true?"
    subjects = [f"{template} Subject{i} alpha{i} beta{i} gamma{i} delta{i}" for i in range(600)]
    report = check_contamination(subjects, [template, FILLER + template])
    assert len(report.matches) == 0
    assert pairs(check_contamination(subjects, [subjects[7]])) == {(0, 7)}
    # The same words are no template where one question alone has them.
    assert len(check_contamination([template], [FILLER + template]).matches) == 1


def test_equal_questions_are_one_and_share_their_verdict():
    report = check_contamination([QUESTIONS[0], QUESTIONS[1], QUESTIONS[0].lower()], QUESTIONS[:1])
    assert pairs(report) == {(0, 0)}
    assert [row["texts"] for row in table(report.questions)] == [1, 0, 1]
    assert report.clean_rows("benchmark").tolist() == [1]


def test_words_count_for_the_question_that_they_agree_with_best():
    one = "A farmer has 17 sheep, 4 goats and 12 geese; all but 9 of the sheep run away at night."
    other = one.replace("17", "31").replace("geese", "llamas").replace("night", "dawn")
    assert pairs(check_contamination([one, other], [one])) == {(0, 0)}
    assert pairs(check_contamination([one, other], [one, other])) == {(0, 0), (1, 1)}
    assert pairs(check_contamination([one, other], [one + " " + other])) == {(0, 0), (0, 1)}


def words(n, seed):
    rng = random.Random(seed)  # noqa: S311 - no secret
    return ["".join(rng.choices("abcdefghij", k=6)) for _ in range(n)]


@pytest.mark.parametrize(
    ("kept", "rules"),
    [
        (slice(0, 11), set()),
        (slice(0, 12), {"longest-run"}),
        (slice(0, 13), {"longest-run", "gpt3"}),
        # 20 of 40 words are half of the words, and 13 of 33 runs of 8.
        (slice(0, 19), {"longest-run", "gpt3"}),
        (slice(0, 20), {"longest-run", "gpt3", "llama3"}),
        # 24 of 33 runs are 72 %.
        (slice(0, 31), {"longest-run", "gpt3", "llama3", "palm"}),
        (slice(0, 30), {"longest-run", "gpt3", "llama3"}),
    ],
)
def test_named_rules_are_what_they_say(kept, rules):
    question = words(40, 1)
    text = words(20, 2) + question[kept] + words(20, 3)
    report = check_contamination([" ".join(question)], [" ".join(text)])
    (row,) = table(report.questions)
    named = {rule for rule in ("gpt3", "palm", "llama3", "longest-run") if row[rule]}
    assert named == rules
    for rule in rules:
        decided = check_contamination([" ".join(question)], [" ".join(text)], rule=rule)
        assert len(decided.matches) == 1
        assert decided.clean_rows("corpus").tolist() == []


def test_gpt4_looks_for_letters_whatever_the_spaces():
    question = " ".join(words(40, 4))
    whole = check_contamination([question], [question], rule="gpt4")
    assert len(whole.matches) == 1
    # No 50 letters in a row are left when each eighth word is another, but runs of 8 words are.
    broken = words(40, 4)
    broken[8::9] = words(4, 5)
    assert len(check_contamination([question], [" ".join(broken)], rule="gpt4").matches) == 0


def test_shares_add_up_over_the_corpus():
    question = words(40, 6)
    halves = [" ".join(question[:24]), " ".join(question[17:])]
    (row,) = table(check_contamination([" ".join(question)], halves).questions)
    assert (row["ngram_share"], row["token_share"], row["palm"]) == (1.0, 1.0, True)


def edited(question, share, rng):
    """The research's edits: half of them leave a word out, half put another in its place."""
    kept = []
    for word in question.split():
        draw = rng.random()
        if draw >= share:
            kept.append(word)
        elif draw >= share / 2:
            kept.append(rng.choice(question.split()))
    return " ".join(kept)


def test_small_edits_do_not_end_a_match(shared):
    rng = random.Random(0)  # noqa: S311 - no secret
    test = read(shared / "data/text_gsm8k/test.jsonl.gz")
    questions = [row["question"] for row in test if len(row["question"].split()) >= 25]
    texts = [f"{FILLER} {edited(question, 0.1, rng)} {FILLER}" for question in questions]
    found = pairs(check_contamination(questions, texts))
    right = {(i, i) for i in range(len(questions))}
    assert len(found & right) >= 0.97 * len(right)
    assert len(found - right) <= 0.005 * len(right)


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_gsm8k_mixture_is_taken_apart(shared):
    folder = shared / "data/text_gsm8k"
    mix, test = read(folder / "mix_train.jsonl.gz"), read(folder / "test.jsonl.gz")
    report = check_contamination(pd.DataFrame(test), pd.DataFrame(mix), answer="answer")
    found = {(mix[a]["id"], test[b]["id"]) for a, b in pairs(report)}
    with (folder / "mix_truth.csv").open(encoding="utf-8") as lines:
        planted = {(row["mix_id"], row["test_id"]): row["kind"] for row in csv.DictReader(lines)}
    for kind in ("exact", "case_space", "punct", "embedded", "truncated", "typo"):
        known = {pair for pair, its in planted.items() if its == kind}
        assert len(known & found) >= 0.99 * len(known), kind
    assert len(found & planted.keys()) >= 0.995 * len(found)


def test_rephrased_and_translated_questions_of_mmlu_are_mostly_beyond_reach(shared):
    folder = shared / "data/text_mmlu"
    test = [row["question"] for row in read(folder / "sociology_test.jsonl.gz")]
    for name, most in (("rephrased_en", 0.2), ("translated_zh", 0.0)):
        other = [row["text"] for row in read(folder / f"sociology_{name}.jsonl.gz")]
        report = check_contamination(test, other)
        assert len(report.matches) <= most * len(test)
    report = check_contamination(test, test)
    unfound = [row for row in table(report.questions) if row["texts"] == 0]
    assert all(not row["checkable"] for row in unfound)


# A slow twin of the score -----------------------------------------------------------------------

EDIT, UNIT = 1.5, 16


def tokens(text):
    return re.findall("[a-z0-9]+", text.lower())


def weights(questions):
    """Of each word of each question, in nats."""
    distinct = list({tuple(words) for words in questions if words})
    out = {}
    for question in distinct:
        nats, seen = [], {}
        for word in question:
            seen[word] = seen.get(word, 0) + 1
            holding = sum(word in other for other in distinct)
            raw = math.log((100 + len(distinct)) / (2 + holding)) / seen[word]
            nats.append(min(math.floor(raw * UNIT + 0.5), 255) / UNIT)
        out[question] = nats
    return out


def best_local(question, nats, text):
    """The best sum over all alignments (Smith and Waterman, 1981) through a run of 8 words."""
    size = (len(question) + 1, len(text) + 1)
    best = {False: np.zeros(size), True: np.full(size, -np.inf)}
    runs = np.zeros(size, dtype=int)
    for i in range(1, size[0]):
        for j in range(1, size[1]):
            equal = question[i - 1] == text[j - 1]
            runs[i, j] = runs[i - 1, j - 1] + 1 if equal else 0
            for through in (False, True):
                table = best[through]
                gain = nats[i - 1] if equal else -EDIT
                ways = [table[i - 1, j - 1] + gain, table[i - 1, j] - EDIT, table[i, j - 1] - EDIT]
                if through and runs[i, j] >= 8:
                    ways.append(best[False][i, j])
                table[i, j] = max([*ways, *([] if through else [0.0])])
    return max(best[True].max(), 0.0)


word = st.sampled_from(
    ["red", "green", "blue", "one", "two", "three", "four", "cat", "dog", "cow", "sun", "moon"]
)


@settings(max_examples=60)
@given(
    st.lists(st.lists(word, min_size=8, max_size=24), min_size=1, max_size=4),
    st.lists(word, max_size=12),
    st.data(),
)
def test_scores_are_those_of_the_slow_twin(questions, other, data):
    copied = list(data.draw(st.sampled_from(questions)))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(copied)))
        copied[at : at + data.draw(st.integers(0, 1))] = data.draw(st.lists(word, max_size=2))
    text = other + copied
    report = check_contamination([" ".join(q) for q in questions], [" ".join(text)], threshold=1e-9)
    by_row = {m.benchmark_row: m for m in report.matches}
    for question, nats in weights(questions).items():
        row = next(i for i, q in enumerate(questions) if tuple(q) == question)
        net = best_local(question, nats, text)
        score = net / min(max(sum(nats), 50), 120)
        if row in by_row:
            # The run that is extended first is the heaviest, which need not be the best.
            assert by_row[row].score <= score + 1e-9
            assert by_row[row].score >= 0.7 * score
        elif net > 0:
            # Its words agree better with another question.
            assert by_row


@given(st.lists(word, min_size=12, max_size=30), st.lists(word, max_size=40), st.integers(0, 40))
def test_a_whole_copy_is_always_found(question, text, at):
    # Weights of distinct words only: others of the benchmark make no difference to that.
    text = [*text[:at], *question, *text[at:]]
    (match, *_) = check_contamination(
        [" ".join(question)], [" ".join(text)], threshold=0.05
    ).matches
    assert (match.containment, match.edits) == (1.0, 0)


# What comes in ----------------------------------------------------------------------------------


def test_every_container_gives_the_same():
    texts = [FILLER, QUESTIONS[1] + " 64 dollars", QUESTIONS[0]]
    benchmark = {"question": QUESTIONS, "answer": ANSWERS}
    expected = list(check_contamination(QUESTIONS, texts, answer=ANSWERS).matches)
    assert [(m.corpus_row, m.with_answer) for m in expected] == [(1, True), (2, False)]
    for build in (pa.table, pd.DataFrame, pl.DataFrame):
        report = check_contamination(build(benchmark), build({"text": texts}), answer="answer")
        assert list(report.matches) == expected
    renamed = pa.table({"q": QUESTIONS, "a": ANSWERS}), pa.table({"body": texts, "n": [1, 2, 3]})
    report = check_contamination(*renamed, question="q", answer="a", text="body")
    assert list(report.matches) == expected
    streamed = check_contamination(
        QUESTIONS, iter([texts[:1], [], pa.array(texts[1:])]), answer=ANSWERS
    )
    assert list(streamed.matches) == expected
    assert table(streamed.questions) == table(report.questions)
    assert streamed.clean_rows("corpus").tolist() == [0]


def test_matches_speak_arrow():
    report = check_contamination(QUESTIONS, [QUESTIONS[0], FILLER + QUESTIONS[1]], answer=ANSWERS)
    rows = table(report.matches)
    for match, row in zip(report.matches, rows, strict=True):
        assert match._asdict().items() <= row.items()
        assert row["gyrostat"]
    assert pl.DataFrame(report.matches).height == len(report.matches) == 2
    assert report.matches[:1] == [report.matches[0]]
    assert len(report.questions) == 5


@pytest.mark.parametrize(
    ("error", "start", "call"),
    [
        (ValueError, "rule:", lambda: check_contamination(QUESTIONS, [], rule="any")),
        (ValueError, "threshold:", lambda: check_contamination(QUESTIONS, [], threshold=0)),
        (ValueError, "threshold:", lambda: check_contamination(QUESTIONS, [], threshold=math.nan)),
        (TypeError, "benchmark:", lambda: check_contamination(3, [])),
        (TypeError, "benchmark:", lambda: check_contamination([1, 2], [])),
        (TypeError, "corpus:", lambda: check_contamination(QUESTIONS, "text")),
        (TypeError, "corpus:", lambda: check_contamination(QUESTIONS, [b"text"])),
        (ValueError, "corpus:", lambda: check_contamination(QUESTIONS, ["\ud800"])),
        (ValueError, "text:", lambda: check_contamination(QUESTIONS, pa.table({"t": ["x"]}))),
        (
            ValueError,
            "question:",
            lambda: check_contamination(pa.table({"q": ["x"]}), [], question="question"),
        ),
        (ValueError, "answer:", lambda: check_contamination(QUESTIONS, [], answer=["a"])),
        (ValueError, "answer:", lambda: check_contamination(QUESTIONS, [], answer="answer")),
        (TypeError, "answer:", lambda: check_contamination(QUESTIONS, [], answer=[1] * 5)),
        (TypeError, "corpus:", lambda: check_contamination(QUESTIONS, pa.table({"text": [1.5]}))),
    ],
)
def test_errors_name_the_parameter(error, start, call):
    with pytest.raises(error, match="^" + start):
        call()


def test_nothing_gives_nothing():
    for report in (
        check_contamination([], [FILLER]),
        check_contamination(QUESTIONS, []),
        check_contamination([None, "", "…"], ["", "…", None]),
    ):
        assert len(report.matches) == report.exit_code == 0
        assert pa.table(report.matches).num_rows == 0
    assert check_contamination(QUESTIONS, []).clean_rows("benchmark").tolist() == list(range(5))
    with pytest.raises(ValueError, match=r"^side:"):
        report.clean_rows("train")


def test_repetition_stays_linear():
    repeated = ["0 " * 200_000, (QUESTIONS[0] + " ") * 2_000]
    report = check_contamination([*QUESTIONS, "0 " * 60], repeated)
    assert {m.corpus_row for m in report.matches} <= {0, 1}
    assert (1, 0) in pairs(report)


# Packs ------------------------------------------------------------------------------------------


def test_a_pack_finds_what_the_text_finds(shared, tmp_path):
    folder = shared / "data/text_gsm8k"
    mix, test = (
        read(folder / "mix_train.jsonl.gz"),
        pa.table(pa.Table.from_pylist(read(folder / "test.jsonl.gz"))),
    )
    texts = [row["text"] for row in mix]
    plain = check_contamination(test, texts, answer="answer")
    path = BenchmarkPack.build(
        test, answer="answer", name="gsm8k", ids=test["id"].to_pylist()
    ).save(tmp_path / "gsm8k.pack")
    pack = BenchmarkPack.load(path)
    assert (pack.name, pack.ids[3], len(pack)) == ("gsm8k", "test-3", 1319)
    hashed = check_contamination(pack, texts)
    assert "test-" in hashed.to_html()
    assert pairs(hashed) == pairs(plain)
    for a, b in zip(plain.matches, hashed.matches, strict=True):
        # A word of an edit that agrees by chance may move the ends a little.
        assert b.score == pytest.approx(a.score, abs=0.1)
        assert (b.longest_run, b.with_answer) == (a.longest_run, a.with_answer)
        assert (b.benchmark_start, b.benchmark_end) == (None, None)
    for rule in ("gpt3", "palm", "llama3", "longest-run", "gpt4"):
        assert [row[rule] for row in table(hashed.questions)] == [
            row[rule] for row in table(plain.questions)
        ]
    assert b"farmers" not in path.read_bytes()


def test_a_pack_is_the_same_before_and_after_it_is_saved(tmp_path):
    pack = BenchmarkPack.build(QUESTIONS, answer=ANSWERS, ids=range(5))
    again = BenchmarkPack.load(pack.save(tmp_path / "p"))
    texts = [QUESTIONS[0] + " 3 bolts", FILLER, QUESTIONS[3]]
    reports = [check_contamination(one, texts) for one in (pack, again)]
    assert list(reports[0].matches) == list(reports[1].matches)
    assert again.ids == ("0", "1", "2", "3", "4")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert again.save(tmp_path / "q").read_bytes() == (tmp_path / "p").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "damaged"),
        (lambda data: data[:8] + b"\x07" + data[9:], "version 7"),
        (lambda data: b"PAR1" + data, "another kind"),
        (lambda data: b"", "another kind"),
    ],
)
def test_a_broken_pack_is_a_clear_error(damage, message, tmp_path):
    path = BenchmarkPack.build(QUESTIONS).save(tmp_path / "p")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"^path: .*{message}"):
        BenchmarkPack.load(path)


def test_a_pack_takes_no_columns_and_one_id_a_row():
    with pytest.raises(ValueError, match=r"^benchmark:"):
        check_contamination(BenchmarkPack.build(QUESTIONS), [], question="question")
    with pytest.raises(ValueError, match=r"^ids:"):
        BenchmarkPack.build(QUESTIONS, ids=["a"])
    with pytest.raises(OSError, match="nowhere"):
        BenchmarkPack.load("nowhere/to/be/found")
