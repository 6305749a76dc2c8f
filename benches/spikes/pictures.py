"""An example as SVG: a loss, and below it a row of alarms for each contestant."""

import math
from html import escape

import numpy as np

from gyrostat._svg import thinned

WIDTH, LEFT, RIGHT, TOP, HEIGHT, ROW = 860, 186, 14, 30, 200, 15
INK, GREY, SHADE, LINE, ALARM = "#1f2933", "#8793a0", "#fde2c5", "#2463a6", "#b3261e"
POINTS = 900


def example(title, loss, alarms, *, marked=(), ticks=5):
    """The picture as text.

    Args:
        title: Stands above it.
        loss: Shape ``(n,)``; drawn on a logarithmic scale if it allows and spans a factor of 4.
        alarms: Indices by contestant.
        marked: Ranges of points to shade, their ends included.
        ticks: About so many numbers along the axis.
    """
    count = len(loss)
    scale = (WIDTH - LEFT - RIGHT) / max(1, count - 1)
    finite = loss[np.isfinite(loss)]
    log = finite.min() > 0 and finite.max() > 4 * finite.min()
    values = np.log10(np.where(loss > 0, loss, np.nan)) if log else loss
    low, high = np.nanmin(values[np.isfinite(loss)]), np.nanmax(values[np.isfinite(loss)])
    bottom = TOP + HEIGHT
    height = bottom + ROW * len(alarms) + 40
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="11" '
        f'fill="{INK}"><rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    )
    out = [head, f'<text x="{LEFT}" y="18" font-size="13">{escape(title)}</text>']
    end = bottom + ROW * len(alarms) + 6
    for first, last in marked:
        left, right = (LEFT + scale * min(max(x, 0), count - 1) for x in (first, last))
        out.append(
            f'<rect x="{left:.1f}" y="{TOP}" width="{max(2, right - left):.1f}" '
            f'height="{end - TOP}" fill="{SHADE}"/>'
        )
    for value in decades(low, high) if log else steps(low, high, 4):
        y = bottom - (value - low) / (high - low or 1) * HEIGHT
        shown = 10**value if log else value
        out.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e4e8ec"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{shown:.3g}</text>'
        )
    places = LEFT + scale * np.arange(count)
    with np.errstate(invalid="ignore"):
        heights = bottom - (values - low) / (high - low or 1) * HEIGHT
    out.append(f'<path d="{path(places, heights)}" fill="none" stroke="{LINE}"/>')
    for i, (name, where) in enumerate(alarms.items()):
        y = bottom + ROW * i + 14
        out.append(
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#eef1f4"/>'
        )
        if len(where):
            out.append(f'<path d="{bars(where, scale, y)}" stroke="{ALARM}" stroke-width="9"/>')
    out.extend(
        f'<text x="{LEFT + scale * value:.1f}" y="{end + 16}" text-anchor="middle" '
        f'fill="{GREY}">{value:g}</text>'
        for value in steps(0, count - 1, ticks)
    )
    out.append(
        f'<text x="{LEFT - 6}" y="{end + 16}" text-anchor="end" fill="{GREY}">logged point</text>'
    )
    return "\n".join([*out, "</svg>"]) + "\n"


def steps(low, high, count):
    """Round numbers between two, about so many."""
    raw = max(high - low, 1e-12) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if raw <= m * power)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def decades(low, high):
    """Logarithms of 1, 2 and 5 times powers of ten between two, or of the powers alone."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2 else (1,)
    places = [power + math.log10(factor) for power in powers for factor in factors]
    inside = [place for place in places if low <= place <= high]
    return inside[:: 1 + len(inside) // 7]


def path(x, y):
    out, up = [], True
    for a, b in zip(*thinned(x, y, POINTS), strict=True):
        if math.isfinite(b):
            out.append(f"{'M' if up else 'L'}{a:.1f} {b:.1f}")
        up = not math.isfinite(b)
    return "".join(out)


def bars(alarms, scale, y):
    """Alarms in a row, those in neighbouring pixels as one bar."""
    pixels = np.unique(np.rint(LEFT + scale * np.asarray(alarms)).astype(int))
    runs = np.split(pixels, np.flatnonzero(np.diff(pixels) > 1) + 1)
    return "".join(f"M{run[0] - 0.5:g} {y}H{run[-1] + 0.5:g}" for run in runs)
