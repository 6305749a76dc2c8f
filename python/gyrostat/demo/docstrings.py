"""A corpus that every Python carries: the docstrings of its standard library."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Corpus", "load_docstrings"]

_SHORTEST = 40
_NODES = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Corpus:
    """Texts with the kind of thing each documents: module, class or function.

    Attributes:
        texts: The docstrings.
        labels: The kinds.
    """

    texts: list[str]
    labels: list[str]

    def split(self, test_share: float, seed: int) -> tuple[Corpus, Corpus]:
        """A random split into train and test, as is so often made."""
        test = np.random.default_rng(seed).random(len(self.texts)) < test_share
        return self._take(~test), self._take(test)

    def _take(self, rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Corpus:
        index = np.flatnonzero(rows)
        return Corpus([self.texts[i] for i in index], [self.labels[i] for i in index])


def load_docstrings() -> Corpus:
    """Reads the docstrings of the standard library's top-level modules from their source.

    Falls back on the built-in types where the library's source is not installed.
    """
    found = [pair for path in sorted(_sources()) for pair in _docstrings_of(path)]
    found = found or list(_docstrings_of_builtins())
    found = [(text, label) for text, label in found if len(text) >= _SHORTEST]
    return Corpus([text for text, _ in found], [label for _, label in found])


def _sources() -> Iterator[Path]:
    folder = Path(sysconfig.get_path("stdlib"))
    yield from folder.glob("*.py")
    for package in ("asyncio", "collections", "email", "http", "json", "logging", "unittest"):
        yield from (folder / package).glob("*.py")


def _docstrings_of(path: Path) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, _NODES) and (text := ast.get_docstring(node)):
            yield text, type(node).__name__.removesuffix("Def").removeprefix("Async").lower()


def _docstrings_of_builtins() -> Iterator[tuple[str, str]]:
    for kind in (str, bytes, bytearray, list, tuple, dict, set, frozenset, int, float, complex):
        for name in dir(kind):
            if text := getattr(kind, name).__doc__:
                yield text, "function"
