"""How texts are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["TextOptions"]

_UNITS = ("word", "spaced", "char", "code")


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How texts are compared by :func:`gyrostat.check_leakage`.

    Two texts are *normalised* duplicates if all their tokens are equal in order, and *near*
    duplicates by the Jaccard similarity of their sets of ``ngram`` tokens in a row.

    Attributes:
        unit: What a token is.

            - ``"word"``: a run of letters and digits; punctuation does not matter. Each letter of
              a script without spaces (Han, kana, Thai, Lao, Khmer, Myanmar) is one.
            - ``"spaced"``: whatever stands between white space, with its punctuation, as most tools
              for near duplicates cut text.
            - ``"char"``: a letter or digit, whatever stands between two of them.
            - ``"code"``: what a compiler sees of a program in any of the usual languages: the parts
              of identifiers (``parse_http``, ``parseHTTP``), numbers and each other sign. Comments
              (``//``, ``/* */``, ``#``) and white space do not matter.
        ngram: Tokens in one shingle, at least 1. A text of fewer is one shingle.
        nfkc: Whether compatible characters are equal (Unicode's form NFKC): full-width letters,
            ligatures, superscripts. In any case composed and decomposed accents are.
        fold_case: Whether letters are lower-cased. None means for all units but ``"code"``.

    Raises:
        TypeError: If ``ngram`` is no integer.
        ValueError: If ``unit`` is none of the above, or ``ngram`` is below 1.
    """

    unit: Literal["word", "spaced", "char", "code"] = "word"
    ngram: int = 5
    nfkc: bool = False
    fold_case: bool | None = None

    def __post_init__(self) -> None:
        if self.unit not in _UNITS:
            raise ValueError(f"unit: expected one of {', '.join(_UNITS)}, got {self.unit!r}")
        if not isinstance(self.ngram, int) or isinstance(self.ngram, bool):
            raise TypeError(f"ngram: expected an integer, got {type(self.ngram).__name__}")
        if not 1 <= self.ngram < 1 << 32:
            raise ValueError(f"ngram: expected at least 1 token, got {self.ngram}")

    def fields(self) -> tuple[str, int, bool, bool]:
        """What the core reads: unit, n-gram, NFKC, case folding."""
        fold = self.unit != "code" if self.fold_case is None else self.fold_case
        return (self.unit, self.ngram, bool(self.nfkc), bool(fold))
