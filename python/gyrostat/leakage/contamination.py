"""Benchmark contamination: questions of a benchmark inside training texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self, overload

import numpy as np
from numpy.typing import NDArray

from gyrostat import _core
from gyrostat.findings import CATALOGUE, Finding
from gyrostat.leakage.packs import (
    BenchmarkPack,
    column_of,
    open_side,
    read_benchmark,
    renamed,
)
from gyrostat.report import Report, Table

__all__ = [
    "ContaminationReport",
    "Match",
    "Matches",
    "Questions",
    "check_contamination",
]

RULES = tuple(_core.Contamination.RULES)
"""The rules by name; ours is the first."""

_MEANINGS = {
    "gyrostat": "weighted containment net of edits",
    "gpt3": "a run of 13 equal words (GPT-3, lm-eval)",
    "palm": "70 % of the runs of 8 words (PaLM)",
    "llama3": "half of the words in runs of 8 words (Llama 3)",
    "gpt4": "one of three samples of 50 letters (GPT-4)",
    "longest-run": "a run of 12 equal words (after ConTAM)",
}

_EXAMPLES = 5


def check_contamination(
    benchmark: Any,
    corpus: Any,
    *,
    question: str | None = None,
    answer: str | Sequence[str | None] | None = None,
    text: str | None = None,
    rule: Literal["gyrostat", "gpt3", "palm", "llama3", "gpt4", "longest-run"] = "gyrostat",
    threshold: float = 0.4,
) -> ContaminationReport:
    """Finds questions of a benchmark inside the texts of a corpus.

    The question is how much of a test question stands in a training text, however long the text
    is. Texts are compared word by word, lower-cased, without punctuation. A run of 8 equal words is
    a seed; at each seed the text is aligned with the question, so that words that were replaced,
    left out or put in do not end the match.

    Each word of a question weighs ``ln((100 + n) / (2 + m))`` nats, where ``m`` of the ``n``
    questions hold it (inverse document frequency), so that the instructions that many questions
    share weigh little; when a question uses it again, a half, a third and so on. The **score** of
    a match is the weight of the words that agree, less 1.5 nats for each word that was edited,
    divided by the weight of the whole question, taken as 50 nats at least and 120 at most: a
    fragment of few common words is chance, and a dozen rare words in a row are a copy however long
    the question is. Where a text agrees with several questions in the same words, those count that
    agree best, or nearly so. A match of a score of ``threshold`` or more is contamination.

    Questions of 3 to 7 words are found if they stand there as a whole. Those of fewer words, and
    those whose score could not reach ``threshold``, cannot be told from chance: they are counted in
    the summary and marked in ``report.questions``. A run of 8 words that stands at more than 256
    places of the benchmark is a template and no seed.

    Other rules decide in place of the score where ``rule`` says so, and are reported beside it in
    any case. They are those of the papers, applied to words: ``gpt3``, a run of 13 equal words (of
    the whole question if it is shorter, but of 8 at least; Brown et al., 2020); ``palm``, 70 % of
    its runs of 8 words (Chowdhery et al., 2022); ``llama3``, half of its words within equal runs of
    8 (Dubey et al., 2024, who choose the share anew for each benchmark); ``gpt4``, one of three
    random samples of 50 letters (OpenAI, 2023), looked for around equal runs of 8 words;
    ``longest-run``, a run of 12 equal words (after Singh et al., "Evaluation data contamination in
    LLMs", 2024). ``palm`` and ``llama3`` take the corpus as a whole for a verdict on a question,
    and each text for itself for a verdict on the text.

    Answers of 8 words or more are looked for like questions, apart from them. Shorter ones count as
    found if they follow their question within 50 words.

    Args:
        benchmark: Questions: texts (a list of str, an array or column of text), a table of pandas,
            polars, pyarrow or Hugging Face datasets, or a :class:`BenchmarkPack`.
        corpus: Training texts in the same forms; or an iterator of them, which is read one by one,
            so that the corpus need not fit into memory. Rows are then counted through.
        question: Column of the questions; by default ``"question"``.
        answer: Column of the answers, or answers row by row. None looks for none.
        text: Column of the texts; by default ``"text"``.
        rule: The rule that decides.
        threshold: Least score, in (0, 1], of the rule ``"gyrostat"``.

    Returns:
        The report. ``report.matches`` are the matches, ``report.questions`` a verdict on each
        question, ``report.clean_rows("corpus")`` and ``report.clean_rows("benchmark")`` the rows
        to keep.

    Raises:
        TypeError: If the benchmark, the answers or the corpus is nothing of the above.
        ValueError: If a column is missing, there is not one answer a question, ``rule`` or
            ``threshold`` is out of range, or a str holds lone surrogates.
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected a number in (0, 1], got {threshold!r}")
    if isinstance(benchmark, BenchmarkPack):
        if question is not None or answer is not None:
            raise ValueError("benchmark: expected no question or answer beside a pack, got one")
        pack = benchmark
    else:
        pack = BenchmarkPack(read_benchmark(benchmark, question, answer), "")
    found = _core.Contamination(pack.benchmark, RULES.index(rule), threshold)
    parts = corpus if isinstance(corpus, Iterator) else iter([corpus])
    with _Bar() as bar:
        for part in parts:
            texts = column_of("text", open_side("corpus", part), text)
            try:
                found.read(texts, bar.of(len(texts)))
            except (TypeError, ValueError) as error:
                raise type(error)(renamed(error, "corpus")) from None
    return ContaminationReport(found, pack, rule)


class Match(NamedTuple):
    """A question, or an answer, found in a text.

    Attributes:
        corpus_row: Number of the text, from 0.
        benchmark_row: Number of the row; of rows with equal words the first.
        part: ``"question"`` or ``"answer"``.
        score: What :func:`check_contamination` decides by.
        containment: Share of the question that agrees, words counted by their weights.
        words: Number of words that agree.
        edits: Words replaced, left out or put in between them.
        longest_run: Words in the longest run of equal words.
        corpus_start: First character of the text that agrees.
        corpus_end: Character of the text behind the last that agrees.
        benchmark_start: First character of the question that agrees; None from a pack.
        benchmark_end: Character of the question behind the last that agrees; None from a pack.
        with_answer: Whether the text has the answer as well; None if there is none to look for.
    """

    corpus_row: int
    benchmark_row: int
    part: str
    score: float
    containment: float
    words: int
    edits: int
    longest_run: int
    corpus_start: int
    corpus_end: int
    benchmark_start: int | None
    benchmark_end: int | None
    with_answer: bool | None


class Matches(Sequence[Match]):
    """All matches by text, those of the rule that decides.

    Speaks the Arrow PyCapsule protocol (``pyarrow.table(matches)``, ``polars.DataFrame(matches)``),
    with four columns more than :class:`Match` has: ``evidence``, the weight of the words that agree
    less what edits cost, in nats; ``ngram_share``, the share of the question's runs of 8 words in
    the text; ``token_share``, the share of its words within those; and the verdict of each rule.
    """

    def __init__(self, found: _core.Contamination) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, index: int) -> Match: ...
    @overload
    def __getitem__(self, index: slice) -> list[Match]: ...
    def __getitem__(self, index: int | slice) -> Match | list[Match]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        measures, place, origin, with_answer = self._found.get(range(len(self))[index])
        start, end = origin or (None, None)
        return Match(*measures, *place, start, end, with_answer)

    def __iter__(self) -> Iterator[Match]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self):,} matches>"

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The matches as a stream of Arrow record batches."""
        return self._found.matches()


class Questions:
    """A verdict on each row of the benchmark, as an Arrow table (``pyarrow.table(questions)``).

    Columns: ``benchmark_row``; ``words`` of the question; ``checkable``, whether a whole copy would
    be found by the rule ``gyrostat``; ``texts`` that hold the question and ``answer_texts`` that
    hold the answer; ``with_answer``, whether one of the texts has both; the largest ``score``,
    ``containment`` and ``longest_run`` in any text; ``ngram_share`` and ``token_share`` of the
    question in all texts together; and the verdict of each rule.
    """

    def __init__(self, found: _core.Contamination, rows: int) -> None:
        self._found = found
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"<verdicts on {len(self):,} questions>"

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The verdicts as a stream of Arrow record batches."""
        return self._found.rows()


class ContaminationReport(Report):
    """What of a benchmark is in a corpus.

    Attributes:
        matches: All matches of the rule that decides.
        questions: A verdict on each question by all rules.
        rule: The rule that decides.
    """

    def __init__(self, found: _core.Contamination, pack: BenchmarkPack, rule: str) -> None:
        self.matches = Matches(found)
        self.questions = Questions(found, len(pack))
        self.rule = rule
        self._found = found
        statistics = found.statistics()
        sections = [_rules_table(statistics, len(pack))]
        if self.matches:
            sections.append(self._examples(pack.ids))
        super().__init__(
            f"Contamination of {pack.name or 'the benchmark'}",
            _findings(statistics, len(pack), RULES.index(rule)),
            summary=_summary(statistics, pack, rule),
            sections=sections,
        )

    def clean_rows(self, side: Literal["corpus", "benchmark"]) -> NDArray[np.int64]:
        """The rows of one side to keep.

        Of the corpus, the texts without a match; of the benchmark, the rows of which neither the
        question nor the answer was found.

        Returns:
            Row numbers, int64, ascending.

        Raises:
            ValueError: If ``side`` is neither ``"corpus"`` nor ``"benchmark"``.
        """
        if side == "corpus":
            return self._found.clean_texts()
        if side == "benchmark":
            return self._found.clean_rows()
        raise ValueError(f"side: expected 'corpus' or 'benchmark', got {side!r}")

    def _examples(self, ids: Sequence[str]) -> Table:
        rows = []
        for i, match in enumerate(self.matches[:_EXAMPLES]):
            name = ids[match.benchmark_row] if ids else match.benchmark_row
            where = f"{match.corpus_row}, from character {match.corpus_start}"
            shown = self._found.shown(i)
            rows.append((match.part, name, where, f"{match.score:.3f}", match.edits, shown))
        head = ("part", "benchmark row", "corpus row", "score", "edits", "text")
        return Table("Examples", head, rows)


def _findings(statistics: _core._Survey, rows: int, rule: int) -> list[Finding]:
    questions = statistics["questions_by_rule"][rule]
    texts, answers = statistics["texts_by_rule"][rule], statistics["answers_alone"]
    messages = {
        "leakage-benchmark-question": (
            f"{questions:,} of {rows:,} questions are in the corpus "
            f"({texts:,} of {statistics['texts']:,} texts hold some of the benchmark)"
        ),
        "leakage-benchmark-answer": (
            f"the answers to {answers:,} of {rows:,} questions are in the corpus without these"
        ),
    }
    return [
        Finding(
            slug,
            CATALOGUE[slug].severity,
            value=float(count),
            message=messages[slug],
            evidence={"rule": RULES[rule], "rows": count, "of": rows, "texts": texts},
        )
        for slug, count in zip(messages, (questions, answers), strict=True)
        if count
    ]


def _summary(statistics: _core._Survey, pack: BenchmarkPack, rule: str) -> dict[str, object]:
    summary: dict[str, object] = {
        "questions": len(pack),
        "texts": statistics["texts"],
        "megabytes": statistics["bytes"] / 1e6,
        "rule": f"{rule}, {_MEANINGS[rule]}",
    }
    if statistics["missing"]:
        summary["missing texts"] = statistics["missing"]
    if statistics["uncheckable"]:
        summary["questions too short or too common to tell"] = statistics["uncheckable"]
    return summary


def _rules_table(statistics: _core._Survey, rows: int) -> Table:
    counts = zip(RULES, statistics["questions_by_rule"], statistics["texts_by_rule"], strict=True)
    body = [
        (rule, _MEANINGS[rule], questions, f"{questions / max(rows, 1):.2%}", texts)
        for rule, questions, texts in counts
    ]
    return Table("Rules side by side", ("rule", "finds", "questions", "share", "texts"), body)


class _Bar:
    """One progress bar over all texts; silent where the output is no terminal or notebook."""

    def __init__(self) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(desc="texts", disable=None, leave=False, delay=0.5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._bar.close()

    def of(self, texts: int) -> Callable[[int], None]:
        """What tells the bar how many of the next ``texts`` texts are done."""
        before = self._bar.n
        self._bar.total = before + texts

        def progress(done: int) -> None:
            self._bar.update(before + done - self._bar.n)

        return progress
