"""chart: lines over time, interval plots, calibration: each a self-contained SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape

COLOURS = ("#0b62a4", "#d55e00", "#009e73", "#8b5fbf", "#7f7f7f", "#c44e8a")
"""Told apart by most colour-blind eyes, and in grey."""
INK, FAINT = "#333", "#d9d9d9"
W, H = 560, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 24

Points = Sequence[tuple[int, float | None]]
Scale = Callable[[float], float]


def line(
    series: Mapping[str, Points],
    *,
    title: str,
    percent: bool = False,
    bound: float | None = None,
    marks: Sequence[tuple[int, str]] = (),
) -> str:
    """Lines over time (x: UTC ms). A null interrupts its line. `bound`: a dashed level; `marks`: moments."""
    points = [point for one in series.values() for point in one if point[1] is not None]
    if not points:
        return _svg(title, [_text(LEFT, H / 2, "no data yet", fill="#777")])
    xs = [x for x, _ in points]
    ys = [float(y) for _, y in points if y is not None] + ([bound] if bound is not None else [])
    low_x, high_x = min(xs), max(*xs, min(xs) + 1)
    ticks = _ticks(min(0.0, *ys), max(ys))
    to_x = _scale(low_x, high_x, LEFT, W - RIGHT)
    to_y = _scale(ticks[0], ticks[-1], H - BOTTOM, TOP)
    parts = [_grid(to_y(t), _number(t, percent)) for t in ticks]
    parts += _dates(low_x, high_x, to_x)
    for at, label in marks:
        if low_x <= at <= high_x:
            parts.append(_stroke(to_x(at), TOP, to_x(at), H - BOTTOM, "#aaa", "2 3", label))
    if bound is not None:
        parts.append(_stroke(LEFT, to_y(bound), W - RIGHT, to_y(bound), "#b00020", "5 4", f"bound {bound:g}"))
    for i, (name, one) in enumerate(series.items()):
        path = _path([(to_x(x), None if y is None else to_y(y)) for x, y in one])
        parts.append(_curve(path, COLOURS[i % len(COLOURS)], name))
    return _svg(title, parts, legend=list(series) if len(series) > 1 else [])


def forest(rows: Sequence[tuple[str, float, float, float]], *, title: str) -> str:
    """Differences with intervals, one row each: (label, difference, low, high). Right of zero is better."""
    height = TOP + 24 * len(rows) + BOTTOM + 6
    reach = max((abs(x) for _, d, low, high in rows for x in (d, low, high)), default=1.0) or 1.0
    left = 150
    to_x = _scale(-reach, reach, left, W - RIGHT)
    parts = [_stroke(to_x(0), TOP, to_x(0), height - BOTTOM, "#888", "", "no difference")]
    for i, (label, difference, low, high) in enumerate(rows):
        y = TOP + 16 + 24 * i
        colour = "#009e73" if low > 0 else "#b00020" if high < 0 else "#666"
        parts.append(_text(left - 10, y + 4, label, anchor="end"))
        parts.append(_stroke(to_x(low), y, to_x(high), y, colour, "", f"{low:+.4f} to {high:+.4f}", 2.5))
        parts.append(_dot(to_x(difference), y, colour, f"{difference:+.4f}"))
    for x, anchor in ((-reach, "start"), (reach, "end")):
        parts.append(_text(to_x(x), height - 8, f"{x:+.3g}", anchor=anchor, fill="#666"))
    parts.append(_text(to_x(0), height - 8, "0", anchor="middle", fill="#666"))
    return _svg(title, parts, height=height)


def calibration(bins: Sequence[tuple[float, float, int]], *, title: str) -> str:
    """Mean score against observed share, by bins: (score, share, rows). On the diagonal is right."""
    size, width = 260, 320
    side = size - TOP - BOTTOM
    to_x = _scale(0, 1, LEFT, LEFT + side)
    to_y = _scale(0, 1, size - BOTTOM, TOP)
    parts = [_stroke(to_x(0), to_y(0), to_x(1), to_y(1), "#aaa", "4 3", "right")]
    for t in (0.0, 0.5, 1.0):
        parts.append(_text(LEFT - 8, to_y(t) + 4, f"{t:.0%}", anchor="end", fill="#666"))
        parts.append(_text(to_x(t), size - 7, f"{t:.0%}", anchor="middle", fill="#666"))
    path = _path([(to_x(x), to_y(y)) for x, y, _ in bins])
    parts.append(_curve(path, COLOURS[0], title))
    for x, y, n in bins:
        parts.append(_dot(to_x(x), to_y(y), COLOURS[0], f"said {x:.1%}, was {y:.1%} ({n} rows)"))
    return _svg(title, parts, width=width, height=size)


def _scale(low: float, high: float, from_px: float, to_px: float) -> Scale:
    """From values to places on the page."""
    return lambda value: from_px + (value - low) / (high - low) * (to_px - from_px)


def _svg(
    title: str, parts: Sequence[str], *, legend: Sequence[str] = (), width: int = W, height: int = H
) -> str:
    head = [_text(LEFT if width != W else 0, 14, title, weight="600", fill=INK)]
    x = width - RIGHT
    for i, name in reversed(list(enumerate(legend))):
        x -= 7 * len(name) + 20
        head.append(f'<rect x="{x}" y="6" width="9" height="9" fill="{COLOURS[i % len(COLOURS)]}"/>')
        head.append(_text(x + 13, 14, name, fill="#555"))
    body = "".join([*head, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="11"><title>{escape(title)}</title>{body}</svg>'
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", fill: str = INK, weight: str = "400"
) -> str:
    style = f'text-anchor="{anchor}" fill="{fill}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _dot(x: float, y: float, colour: str, title: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(title)}</title></circle>'


def _curve(path: str, colour: str, title: str) -> str:
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"><title>{escape(title)}</title></path>'


def _stroke(
    x1: float, y1: float, x2: float, y2: float, colour: str, dash: str, title: str, width: float = 1.0
) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}" '
        f'stroke-dasharray="{dash or "none"}"><title>{escape(title)}</title></line>'
    )


def _grid(y: float, label: str) -> str:
    return _stroke(LEFT, y, W - RIGHT, y, FAINT, "", label) + _text(
        LEFT - 6, y + 4, label, anchor="end", fill="#666"
    )


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    parts, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(parts)


def _ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers that span [low, high]."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    first = math.floor(low / step)
    return (
        [round((first + i) * step, 12) for i in range(math.ceil(high / step) - first + 1)]
        if span > 1e-9
        else [low, low + 1]
    )


def _number(value: float, percent: bool) -> str:
    if percent:
        return f"{value * 100:g} %"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _dates(low: int, high: int, to_x: Scale) -> list[str]:
    """Two to five moments along the x axis."""
    days = (high - low) / 86_400_000
    form = "%b %d" if days > 3 else "%d %H:%M"
    n = 4
    shown = [low + (high - low) * i // n for i in range(n + 1)]
    anchors = ["start"] + ["middle"] * (n - 1) + ["end"]
    return [
        _text(to_x(x), H - 7, datetime.fromtimestamp(x / 1000, UTC).strftime(form), anchor=a, fill="#666")
        for x, a in zip(shown, anchors, strict=True)
    ]
