"""The report: findings, curves and tables in one object, for terminal, notebook, file and CI."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from gyrostat._diff import marked
from gyrostat._sarif import sarif
from gyrostat._svg import Mark, line_chart
from gyrostat.findings import CATALOGUE, Finding, Severity, plain, worst

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Chart", "Report", "SideBySide", "Table"]

_STYLE = """
.g-report{--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;--paper:#fff;--c0:#0550ae;--c1:#953800;
--c2:#116329;--c3:#6639ba;--warn:#8a4600;--bad:#b3261e;color:var(--ink);background:var(--paper);
font:14px/1.5 system-ui,sans-serif;padding:16px;max-width:900px}
@media(prefers-color-scheme:dark){.g-report{--ink:#e6edf3;--soft:#9da7b1;--line:#3d444d;
--paper:#0d1117;--c0:#79c0ff;--c1:#ffa657;--c2:#7ee787;--c3:#d2a8ff;--warn:#e3a008;--bad:#ff8f87}}
.g-report h2{font-size:18px;margin:0 0 4px}.g-report h3{font-size:15px;margin:20px 0 6px}
.g-report table{border-collapse:collapse;width:100%;margin:6px 0}
.g-report th,.g-report td{border-bottom:1px solid var(--line);padding:4px 8px;text-align:left;
vertical-align:top;background:none;color:var(--ink);overflow-wrap:break-word}
.g-report td.g-warning{color:var(--warn)}.g-report td.g-critical{color:var(--bad)}
.g-report .g-soft{color:var(--soft)}.g-report .g-sides td{width:50%}
.g-report del{color:var(--bad);text-decoration:line-through}
.g-report ins{color:var(--c2);text-decoration:underline;font-weight:600}
.g-chart{width:100%;height:auto;font:11px system-ui,sans-serif;fill:var(--ink)}
.g-chart .g-title{font-size:13px;font-weight:600}
.g-line{fill:none;stroke-width:1.3}.g-line0{stroke:var(--c0)}.g-line1{stroke:var(--c1)}
.g-line2{stroke:var(--c2)}.g-line3{stroke:var(--c3)}
.g-grid{stroke:var(--line);fill:none;stroke-width:.6}.g-axis{stroke:var(--soft);fill:none}
.g-mark{stroke:currentColor;fill:none;stroke-width:1;stroke-dasharray:3 2;opacity:.75}
.g-info{color:var(--soft)}.g-warning{color:var(--warn)}.g-critical{color:var(--bad)}
.g-chart .g-info,.g-chart .g-warning,.g-chart .g-critical{fill:currentColor}
"""
_SIGNS = {Severity.INFO: "○", Severity.WARNING: "▲", Severity.CRITICAL: "✖"}
_SHOWN_FINDINGS = 100


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over a common x axis.

    Attributes:
        title: What is drawn.
        x: Shape ``(n,)``, usually the step.
        series: Curves by name, each of shape ``(n,)``. NaN and Inf leave gaps.
        marks: Findings drawn where they stand; those without a step are left out.
        log_y: Whether the y axis is logarithmic.
        x_label: What x is.
    """

    title: str
    x: ArrayLike
    series: Mapping[str, ArrayLike]
    marks: Sequence[Finding] = ()
    log_y: bool = False
    x_label: str = "step"

    def to_html(self) -> str:
        """One inline ``<svg>`` element."""
        return line_chart(
            self.title,
            np.asarray(self.x, dtype=np.float64),
            {name: np.asarray(y, dtype=np.float64) for name, y in self.series.items()},
            [Mark(f.step, str(f.severity), str(f)) for f in self.marks if f.step is not None],
            x_label=self.x_label,
            log_y=self.log_y,
        )

    def to_dict(self) -> dict[str, Any]:
        """The curves as plain values."""
        series = {name: plain(np.asarray(y).tolist()) for name, y in self.series.items()}
        return {"title": self.title, "x": plain(np.asarray(self.x).tolist()), "series": series}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns.

    Attributes:
        title: What the rows are.
        columns: Names of the columns.
        rows: One sequence of cells a row; cells are shown by ``str``.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def to_html(self) -> str:
        """One ``<table>`` element under a heading."""
        head = "".join(f'<th scope="col">{escape(c)}</th>' for c in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_cell(c))}</td>" for c in row) + "</tr>"
            for row in self.rows
        )
        return (
            f"<h3>{escape(self.title)}</h3>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def to_dict(self) -> dict[str, Any]:
        """The table as plain values."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [plain(list(row)) for row in self.rows],
        }


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Pairs of texts, with the words marked that are not in both.

    Attributes:
        title: What the pairs are.
        pairs: For each a heading, the name and the text of the left, and those of the right.
    """

    title: str
    pairs: Sequence[tuple[str, str, str, str, str]]

    def to_html(self) -> str:
        """One ``<table>`` element under a heading."""
        rows = []
        for heading, left_name, left, right_name, right in self.pairs:
            names = f"<b>{escape(left_name)}</b> and <b>{escape(right_name)}</b>"
            sides = "".join(f"<td>{side}</td>" for side in marked(left, right))
            rows.append(
                f'<tr><th colspan="2" scope="rowgroup">{escape(heading)}: {names}</th></tr>'
                f"<tr>{sides}</tr>"
            )
        body = "".join(rows)
        return f'<h3>{escape(self.title)}</h3><table class="g-sides"><tbody>{body}</tbody></table>'

    def to_dict(self) -> dict[str, Any]:
        """The pairs as plain values."""
        names = ("heading", "left", "left_text", "right", "right_text")
        pairs = [dict(zip(names, pair, strict=True)) for pair in self.pairs]
        return {"title": self.title, "pairs": pairs}


class Report:
    """What Gyrostat found, and the picture of it.

    Args:
        title: One line.
        findings: In the order in which they are shown.
        summary: A few named values that put the findings in proportion.
        sections: Charts, tables and pairs of texts, shown in order after the findings.
    """

    def __init__(
        self,
        title: str,
        findings: Sequence[Finding] = (),
        *,
        summary: Mapping[str, object] | None = None,
        sections: Sequence[Chart | SideBySide | Table] = (),
    ) -> None:
        self.title = title
        self.findings: tuple[Finding, ...] = tuple(findings)
        self.summary: dict[str, object] = dict(summary or {})
        self.sections: tuple[Chart | SideBySide | Table, ...] = tuple(sections)

    @property
    def exit_code(self) -> int:
        """0 if nothing of severity warning or worse was found, else 1 (as linters do)."""
        level = worst(self.findings)
        return int(level is not None and level >= Severity.WARNING)

    def counts(self) -> dict[str, int]:
        """Number of findings by code, in order of first appearance."""
        out: dict[str, int] = {}
        for finding in self.findings:
            out[finding.code] = out.get(finding.code, 0) + 1
        return out

    def __repr__(self) -> str:
        found = ", ".join(f"{n} {code}" for code, n in self.counts().items()) or "no findings"
        return f"<{type(self).__name__} {self.title}: {found}>"

    def __str__(self) -> str:
        lines = [self.title]
        lines += [f"  {name}: {_cell(value)}" for name, value in self.summary.items()]
        if not self.findings:
            return "\n".join([*lines, "no findings"])
        lines += [f"{_SIGNS[f.severity]} {f}" for f in self.findings]
        seen = {f.code: f.severity for f in self.findings if f.severity >= Severity.WARNING}
        lines += [f"  {code}: {CATALOGUE[code].advice}" for code in seen]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain values that strict JSON can hold."""
        return {
            "title": self.title,
            "exit_code": self.exit_code,
            "summary": plain(self.summary),
            "findings": [f.to_dict() for f in self.findings],
            "sections": [s.to_dict() for s in self.sections],
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as strict JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=1)

    def to_sarif(self, places: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The findings in SARIF 2.1.0, which code-review and CI tools show.

        Args:
            places: The file of each split by name, relative to the repository; under "" that of
                what is of no split, such as the log of a run.
        """
        return sarif(self.findings, places or {})

    def to_pandas(self) -> pd.DataFrame:
        """The findings as a table, one row each.

        Raises:
            ImportError: If pandas is not installed (``pip install 'gyrostat[pandas]'``).
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'gyrostat[pandas]'") from error
        columns = ["code", "severity", "step", "signal", "value", "expected", "score", "message"]
        rows = [[getattr(f, c) for c in columns] + [str(f.culprit)] for f in self.findings]
        return pd.DataFrame(rows, columns=[*columns, "culprit"])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report as one self-contained HTML page, or as its name ends JSON or SARIF.

        Returns:
            The path written.

        Raises:
            ValueError: If ``path`` ends in none of ``.html``, ``.htm``, ``.json`` and ``.sarif``.
        """
        path = Path(path)
        match path.suffix.lower():
            case ".html" | ".htm":
                text = self.to_html()
            case ".json":
                text = self.to_json()
            case ".sarif":
                text = json.dumps(self.to_sarif(), allow_nan=False, indent=1)
            case other:
                expected = "a name ending in .html, .json or .sarif"
                raise ValueError(f"path: expected {expected}, got {other!r}")
        path.write_text(text, encoding="utf-8")
        return path

    def to_html(self) -> str:
        """One self-contained page: no script, no link, nothing loaded."""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(self.title)}</title>"
            "<style>body{margin:0 auto;max-width:932px}</style></head>"
            f"<body>{self._repr_html_()}</body></html>"
        )

    def _repr_html_(self) -> str:
        return f'<div class="g-report"><style>{_STYLE}</style>{self._body_html()}</div>'

    def _body_html(self) -> str:
        parts = [f"<h2>{escape(self.title)}</h2>"]
        if self.summary:
            items = (f"{escape(k)}: <b>{escape(_cell(v))}</b>" for k, v in self.summary.items())
            parts.append(f'<p class="g-soft">{" · ".join(items)}</p>')
        parts.append(self._findings_html())
        parts += [section.to_html() for section in self.sections]
        return "".join(parts)

    def _findings_html(self) -> str:
        if not self.findings:
            return "<p>No findings.</p>"
        rows = "".join(
            f'<tr><td class="g-{f.severity}">{_SIGNS[f.severity]}&nbsp;{f.severity}</td>'
            f"<td>{'' if f.step is None else f.step}</td>"
            f'<td title="{escape(CATALOGUE[f.code].advice)}">{escape(f.code)}</td>'
            f"<td>{escape(f.message)}</td><td>{escape(str(f.culprit))}</td></tr>"
            for f in self.findings[:_SHOWN_FINDINGS]
        )
        head = "".join(
            f'<th scope="col">{c}</th>' for c in ("severity", "step", "code", "what", "culprit")
        )
        more = len(self.findings) - _SHOWN_FINDINGS
        note = f'<p class="g-soft">and {more} more.</p>' if more > 0 else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        advice = "".join(
            f"<li><b>{escape(code)}</b>: {escape(CATALOGUE[code].advice)}</li>"
            for code in {f.code: None for f in self.findings if f.severity >= Severity.WARNING}
        )
        todo = f"<h3>What to do</h3><ul>{advice}</ul>" if advice else ""
        return f"<h3>Findings</h3>{table}{note}{todo}"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
