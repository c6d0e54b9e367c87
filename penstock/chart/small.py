"""chart: word-sized pictures for a table's cells: a line over time, and how values are spread, now and before."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from penstock.chart.draw import COLOURS, Points

W, H, PAD = 168, 40, 3
NOW, BEFORE = "#7fb0d4", "#b5651d"


def spark(points: Points, *, title: str, percent: bool = False, colour: str = COLOURS[0]) -> str:
    """A line over time without axes; its least and greatest value stand beside it."""
    known = [(x, float(y)) for x, y in points if y is not None]
    if not known:
        return _svg(title, '<text x="3" y="24" fill="#8a929a">no data yet</text>')
    xs, ys = [x for x, _ in known], [y for _, y in known]
    low, high = min(ys), max(ys)
    wide = W - 60 - 2 * PAD
    to_x = [PAD + (x - xs[0]) / max(xs[-1] - xs[0], 1) * wide for x in xs]
    to_y = [H - PAD - (y - low) / ((high - low) or 1) * (H - 2 * PAD) if high > low else H / 2 for y in ys]
    path = "".join(
        f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(zip(to_x, to_y, strict=True))
    )
    beside = W - 56
    parts = [
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>',
        f'<circle cx="{to_x[-1]:.1f}" cy="{to_y[-1]:.1f}" r="2.2" fill="{colour}"/>',
        f'<text x="{beside}" y="12" fill="#646c75">{number(high, percent)}</text>',
    ]
    if high > low:
        parts.append(f'<text x="{beside}" y="{H - 4}" fill="#646c75">{number(low, percent)}</text>')
    return _svg(title, "".join(parts))


def spread(now: Sequence[float], before: Sequence[float], names: Sequence[str], *, title: str) -> str:
    """The share of values in each cell: bars now, a line before. A cell's name shows where the mouse rests."""
    if not now and not before:
        return _svg(title, '<text x="3" y="24" fill="#8a929a">no data yet</text>')
    n = max(len(now), len(before))
    step, top = (W - 2 * PAD) / n, max(*now, *before, 1e-9)
    bars: list[str] = []
    line: list[str] = []
    for i in range(n):
        share = now[i] if i < len(now) else 0.0
        x, y = PAD + i * step, H - PAD - share / top * (H - 2 * PAD)
        told = f"{names[i]}: {share:.1%}" + (f", in training {before[i]:.1%}" if i < len(before) else "")
        bars.append(
            f'<rect x="{x + 0.8:.1f}" y="{y:.1f}" width="{step - 1.6:.1f}" height="{H - PAD - y:.1f}" '
            f'fill="{NOW}"/><rect x="{x:.1f}" y="0" width="{step:.1f}" height="{H}" fill="#fff" '
            f'fill-opacity="0"><title>{escape(told)}</title></rect>'
        )
        if i < len(before):
            at = H - PAD - before[i] / top * (H - 2 * PAD)
            line.append(f"{'L' if line else 'M'}{x:.1f} {at:.1f}L{x + step:.1f} {at:.1f}")
    old = f'<path d="{"".join(line)}" fill="none" stroke="{BEFORE}" stroke-width="1.3"/>' if line else ""
    base = f'<path d="M{PAD} {H - PAD + 0.5}L{W - PAD} {H - PAD + 0.5}" stroke="#d9d9d9"/>'
    return _svg(title, base + "".join(bars) + old)


def number(value: float, percent: bool = False) -> str:
    """A number in few characters."""
    if percent:
        return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def _svg(title: str, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" width="{W}" height="{H}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="10.5"><title>{escape(title)}</title>{body}</svg>'
    )
