"""Report: text, HTML, JSON, pandas, exit code."""

import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gyrostat.findings import Culprit, Finding, Severity
from gyrostat.report import Chart, Report, Table

HOSTILE = "<script>alert('x')</script>&\"'"
SPIKE = Finding(
    "loss-spike",
    Severity.WARNING,
    step=50,
    value=math.inf,
    message=HOSTILE,
    culprit=Culprit(layer=HOSTILE),
)


def example() -> Report:
    x = np.arange(100.0)
    return Report(
        HOSTILE,
        [SPIKE],
        summary={HOSTILE: HOSTILE},
        sections=[
            Chart(HOSTILE, x, {HOSTILE: x, "b": x[::-1]}, [SPIKE], x_label=HOSTILE),
            Table(HOSTILE, [HOSTILE], [[HOSTILE], [None]]),
        ],
    )


class Balanced(HTMLParser):
    """Fails on a tag that is not closed, and collects what would load or run something."""

    void = frozenset({"meta", "path", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.active = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)
        names = {name for name, _ in attrs}
        if tag in ("script", "link", "img", "iframe") or names & {"src", "href", "onload"}:
            self.active.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_balanced_self_contained_and_escaped():
    page = example().to_html()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.active == []
    assert "<script" not in page


def test_json_is_strict_and_whole():
    d = json.loads(example().to_json())
    assert d["findings"][0]["value"] == "inf"
    assert d["sections"][1]["rows"] == [[HOSTILE], [None]]
    assert d["exit_code"] == 1


def test_exit_code_counts_warnings_and_worse():
    assert Report("r").exit_code == 0
    assert Report("r", [Finding("loss-spike", Severity.INFO)]).exit_code == 0
    assert Report("r", [Finding("loss-spike", Severity.CRITICAL)]).exit_code == 1


def test_text_and_repr_say_what_was_found():
    report = example()
    assert "\n" not in repr(report)
    assert "1 loss-spike" in repr(report)
    assert "▲ warning loss-spike at step 50" in str(report)
    assert "no findings" in str(Report("quiet"))


def test_to_pandas_has_a_row_for_each_finding():
    frame = example().to_pandas()
    assert frame["code"].tolist() == ["loss-spike"]
    assert frame["step"].tolist() == [50]


def test_save_writes_html_and_json_and_rejects_the_rest(tmp_path):
    report = example()
    assert report.save(tmp_path / "r.html").read_text(encoding="utf-8") == report.to_html()
    assert json.loads(report.save(tmp_path / "r.json").read_text())["title"] == HOSTILE
    with pytest.raises(ValueError, match=r"path: .*\.pdf"):
        report.save(tmp_path / "r.pdf")


@given(
    hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats()),
    st.booleans(),
)
def test_a_chart_draws_any_floats(values, log_y):
    html = Chart("c", np.arange(len(values)), {"y": values}, log_y=log_y).to_html()
    assert html.endswith("</svg>")
    assert "nan" not in html.lower().replace("nan</text>", "")


def test_a_long_chart_is_thinned_but_keeps_its_peaks_and_gaps():
    y = np.zeros(100_000)
    y[54_321] = 7.0
    y[70_000] = np.nan
    html = Chart("c", np.arange(len(y)), {"y": y}).to_html()
    assert len(html) < 60_000
    peak = html.split(' d="M')[-1].split('"')[0]
    heights = [float(point.split(" ")[1]) for point in peak.replace("M", "L").split("L")]
    assert min(heights) < 60  # the peak is at the top of the picture
    assert peak.count("M") == 1  # and the pen was lifted once, at the gap
