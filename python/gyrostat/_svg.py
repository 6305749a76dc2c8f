"""Line charts as inline SVG: no script, no font, no link, readable in light, dark and grey."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mark", "line_chart", "thinned"]

_WIDTH, _HEIGHT = 860, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 28, 34
_MAX_POINTS = 1800  # some two a pixel column: more cannot be seen
_DASHES = ("", "6 3", "2 3", "9 3 2 3")  # lines differ in dash as well as in colour
_GLYPHS = {"info": "○", "warning": "▲", "critical": "✖"}
_MAX_MARKS = 60
_TINY = 1e-290  # an axis no longer than this would need subnormal ticks

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on the x axis with something to say.

    Attributes:
        x: Where.
        severity: ``"info"``, ``"warning"`` or ``"critical"``.
        text: What, shown when the pointer rests on it.
    """

    x: float
    severity: str
    text: str


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    length: float
    log: bool = False

    def place(self, values: Floats) -> Floats:
        low, high = self.low, self.high
        # What overflows or has no logarithm is outside the picture, and leaves a gap.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.log:
                values = np.log10(values)
                low, high = math.log10(low), math.log10(high)
            return self.start + (values - low) / (high - low) * self.length

    def place_one(self, value: float) -> float:
        return float(self.place(np.array([value]))[0])

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            if last - first >= 1:
                stride = 1 + (last - first) // 6
                return [10.0**e for e in range(first, last + 1, stride)]
        raw = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if raw <= m * power)
        first = math.ceil(self.low / step)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [(first + i) * step for i in range(count)]


def line_chart(
    title: str,
    x: Floats,
    series: Mapping[str, Floats],
    marks: Sequence[Mark] = (),
    *,
    x_label: str = "step",
    log_y: bool = False,
) -> str:
    """Draws lines over a common x axis.

    Points that are not finite leave a gap. A long line is thinned to the extremes of each pixel
    column, so no peak is lost.

    Args:
        title: Shown above the chart, and to screen readers.
        x: Shape ``(n,)``.
        series: Lines by name, each of shape ``(n,)``.
        marks: Events, drawn as upright lines with a glyph for their severity.
        x_label: What x is.
        log_y: Whether the y axis is logarithmic (kept linear if a value is not positive).

    Returns:
        One ``<svg>`` element.
    """
    finite = [v[np.isfinite(v)] for v in series.values()]
    values = np.concatenate(finite) if finite else np.empty(0)
    log_y = log_y and values.size > 0 and bool(values.min() > 0)
    across = _Axis(*_span(x[np.isfinite(x)], 0.0), _LEFT, _WIDTH - _LEFT - _RIGHT)
    low, high = _log_span(values) if log_y else _span(values, 0.05)
    up = _Axis(low, high, _HEIGHT - _BOTTOM, -(_HEIGHT - _TOP - _BOTTOM), log_y)
    body = [
        f'<svg class="g-chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"',
        f' aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">',
        f'<text x="{_LEFT}" y="16" class="g-title">{escape(title)}</text>',
        *_grid(across, up, x_label),
        *_draw_marks(across, marks),
    ]
    legend = _WIDTH - _RIGHT
    for i, (name, y) in reversed(list(enumerate(series.items()))):
        style = f'class="g-line g-line{i % 4}" stroke-dasharray="{_DASHES[i % 4]}"'
        body.append(f'<path {style} d="{_path(across.place(x), up.place(y))}"/>')
        if len(series) > 1:
            body.append(f'<text x="{legend}" y="16" text-anchor="end">{escape(name)}</text>')
            legend -= 7 * len(name) + 6
            body.append(f'<path {style} d="M{legend - 24} 12H{legend}"/>')
            legend -= 40
    body.append("</svg>")
    return "".join(body)


def _span(values: Floats, margin: float) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 1.0
    # A quarter of the range of float64 keeps every difference below finite.
    edge = np.finfo(np.float64).max / 4
    low, high = max(float(values.min()), -edge), min(float(values.max()), edge)
    pad = (high - low) * margin if low < high else abs(low) * 0.1 or 1.0
    return low - max(pad, _TINY), high + max(pad, _TINY)


def _log_span(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    low = max(low / 1.1, _TINY)
    return low, max(min(high * 1.1, np.finfo(np.float64).max), 2 * low)


def _grid(across: _Axis, up: _Axis, x_label: str) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    out = []
    for tick in up.ticks():
        y = up.place_one(tick)
        out.append(f'<path class="g-grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in across.ticks():
        place = across.place_one(tick)
        out.append(
            f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.6g}</text>'
        )
    out.append(f'<path class="g-axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    out.append(
        f'<text x="{right}" y="{_HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>',
    )
    return out


def _draw_marks(across: _Axis, marks: Sequence[Mark]) -> list[str]:
    worst_first = sorted(marks, key=lambda m: tuple(_GLYPHS).index(m.severity), reverse=True)
    out = []
    for mark in worst_first[:_MAX_MARKS]:
        place = across.place_one(mark.x)
        if not _LEFT - 1 <= place <= _WIDTH - _RIGHT + 1:
            continue
        out.append(
            f'<g class="g-{mark.severity}"><title>{escape(mark.text)}</title>'
            f'<path class="g-mark" d="M{place:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
            f'<text x="{place:.1f}" y="{_TOP + 10}" text-anchor="middle">'
            f"{_GLYPHS[mark.severity]}</text></g>"
        )
    return out


def _path(px: Floats, py: Floats) -> str:
    px, py = thinned(px, py, _MAX_POINTS)
    out, pen_up = [], True
    for a, b in zip(px.tolist(), py.tolist(), strict=True):
        if not (math.isfinite(a) and math.isfinite(b)):
            pen_up = True
            continue
        out.append(f"{'M' if pen_up else 'L'}{a:.1f} {b:.1f}")
        pen_up = False
    return "".join(out)


def thinned(x: Floats, y: Floats, most: int) -> tuple[Floats, Floats]:
    """A curve of some ``most`` points that looks the same.

    Args:
        x: Shape ``(n,)``.
        y: Shape ``(n,)``.
        most: A curve of no more points is returned as it is.

    Returns:
        The lowest and the highest point of each of ``most / 3`` runs of points, and every gap.
    """
    n = len(x)
    if n <= most:
        return x, y
    keep = {0, n - 1}
    for run in np.array_split(np.arange(n), most // 3):
        known = np.isfinite(y[run])
        if not known.all():
            keep.add(int(run[np.argmin(known)]))
        if known.any():
            keep.add(int(run[np.argmin(np.where(known, y[run], np.inf))]))
            keep.add(int(run[np.argmax(np.where(known, y[run], -np.inf))]))
    index = np.array(sorted(keep))
    return x[index], y[index]
