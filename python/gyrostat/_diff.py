"""Two texts side by side: which words of each are not in the other."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from html import escape

__all__ = ["marked"]

_PIECES = re.compile(r"\w+|\s+|.", re.DOTALL)


def marked(left: str, right: str) -> tuple[str, str]:
    """Both texts as HTML, with ``<del>`` around what only the left has, ``<ins>`` the right."""
    a, b = _PIECES.findall(left), _PIECES.findall(right)
    sides: tuple[list[str], list[str]] = [], []
    for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for side, tag, piece in zip(sides, ("del", "ins"), (a[i:j], b[k:m]), strict=True):
            if piece:
                text = escape("".join(piece))
                side.append(text if kind == "equal" else f"<{tag}>{text}</{tag}>")
    return "".join(sides[0]), "".join(sides[1])
