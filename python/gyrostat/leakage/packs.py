"""Benchmark packs: hashes that a corpus can be checked with where the text must not go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from gyrostat import _core
from gyrostat.leakage.splits import Column, Split, open_split

__all__ = ["BenchmarkPack", "column_of", "open_side", "read_benchmark", "renamed"]


class BenchmarkPack:
    """A benchmark as hashes.

    A pack holds, of each question and of each answer of 8 words or more, the 64-bit hash of each
    run of 8 words, the weight of each word and 8 bits of its hash; of shorter answers, one hash. It
    finds what the text finds, but it cannot compare words: by chance two words agree one time in
    256 where a copy was edited, and matches have no place in the question.

    Hashes keep a benchmark out of crawls and search indices. They are no encryption: whoever has a
    guess at a question can tell whether it is right.

    Attributes:
        name: Name of the benchmark.
        ids: Names of its rows, or an empty tuple.
    """

    def __init__(self, benchmark: _core.Benchmark, name: str, ids: Sequence[str] = ()) -> None:
        self.benchmark = benchmark
        self.name = name
        self.ids = tuple(ids)

    @classmethod
    def build(
        cls,
        benchmark: Any,
        *,
        question: str | None = None,
        answer: str | Sequence[str | None] | None = None,
        name: str = "",
        ids: Sequence[object] | None = None,
    ) -> Self:
        """Hashes a benchmark.

        Args:
            benchmark: As for :func:`~gyrostat.leakage.check_contamination`.
            question: As there.
            answer: As there.
            name: Name of the benchmark, for reports.
            ids: A name for each row, such as ``"gsm8k/test/17"``.

        Raises:
            TypeError: If ``benchmark`` is nothing that holds text.
            ValueError: If a column is missing, or there is not one id a row.
        """
        index = read_benchmark(benchmark, question, answer)
        names = [] if ids is None else [str(one) for one in ids]
        # Through the bytes of the file, so that a pack says the same before it is saved and after.
        return cls(*_core.Benchmark.unpack(index.pack(name, names)))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the pack into one file, whole or not at all.

        Returns:
            The path written.

        Raises:
            OSError: If the file cannot be written.
        """
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(self.benchmark.pack(self.name, list(self.ids)))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a pack, written on any platform.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is no pack, one that a newer version wrote, cut short or damaged.
        """
        return cls(*_core.Benchmark.unpack(Path(path).read_bytes()))

    def __len__(self) -> int:
        return len(self.benchmark)

    def __repr__(self) -> str:
        return f"<BenchmarkPack {self.name or 'without a name'}: {len(self):,} questions>"


def open_side(parameter: str, data: Any) -> Split:
    """Takes ``data`` apart as :func:`open_split` does; errors name ``parameter``."""
    try:
        return open_split(parameter, data)
    except (TypeError, ValueError) as error:
        raise type(error)(renamed(error, parameter)) from None


def renamed(error: Exception, parameter: str) -> str:
    """The message of ``error`` about splits, as one about ``parameter``."""
    return str(error).replace("splits:", f"{parameter}:", 1)


def column_of(parameter: str, side: Split, name: str | None) -> Column:
    """The column ``name``, or what stands for it: texts alone, or the column called ``parameter``.

    Raises:
        ValueError: If there is none.
    """
    if name is None and side.is_text:
        return side.columns[""]
    if (name or parameter) in side.columns:
        return side.columns[name or parameter]
    known = ", ".join(map(repr, side.columns)) if "" not in side.columns else "no named column"
    raise ValueError(
        f"{parameter}: expected a column of {side.name} ({known}), got {name or parameter!r}"
    )


def read_benchmark(
    data: Any, question: str | None, answer: str | Sequence[str | None] | None
) -> _core.Benchmark:
    """The questions and answers of ``data``, read by the core."""
    side = open_side("benchmark", data)
    questions = column_of("question", side, question)
    answers = None if answer is None else _answers(side, answer)
    try:
        return _core.Benchmark(questions, answers)
    except (TypeError, ValueError) as error:
        parameter = "answer" if "the answers" in str(error) else "benchmark"
        raise type(error)(renamed(error, parameter)) from None


def _answers(side: Split, answer: str | Sequence[str | None]) -> Column:
    if isinstance(answer, str):
        return column_of("answer", side, answer)
    own = open_side("answer", answer)
    if not own.is_text:
        raise TypeError("answer: expected the name of a column or texts, got something else")
    return own.columns[""]
