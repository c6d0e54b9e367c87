"""chart: boxes and arrows in layers: who passes what to whom, as one self-contained SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

INK, QUIET, LINE, BACK = "#1d2329", "#646c75", "#9aa3ad", "#c47a3d"
FILLS = {"outside": "#e8f1f8", "topic": "#f5f6f7", "work": "#fff", "feature": "#eef7f3"}
EDGES = {"outside": "#0b62a4", "topic": "#c4c9cf", "work": "#4b535c", "feature": "#00734f"}
CHAR, STRONG, ROW, PAD, GAP, MARGIN = 6.5, 7.3, 15, 9, 16, 14
"""Pixels: of a character, of a strong one, a line of text, inside a box, between boxes, around all."""
BEND = 14
"""The width of a line that passes a layer."""
LOOP = 14
"""How far a line goes out between two boxes of one layer."""
SWEEPS = 24
Edge = tuple[str, str]


class Box(NamedTuple):
    """A box: its name, the lines in it (the first one is strong), and what it is (a key of FILLS)."""

    id: str
    lines: tuple[str, ...]
    kind: str = "topic"


class _Item(NamedTuple):
    """What stands in a layer: a box, or a bend of a line that goes on."""

    id: str
    along: float
    across: float


def flow(boxes: Sequence[Box], edges: Sequence[Edge], *, title: str, sideways: bool = False) -> str:
    """Boxes in layers, downwards or `sideways`, in the order given: an edge to an earlier box leads back,
    and is drawn in another colour."""
    order = {box.id: i for i, box in enumerate(boxes)}
    ranks = layered(list(order), edges)
    sizes = {box.id: _size(box, sideways) for box in boxes}
    layers, chains = _bent(ranks, edges, sizes)
    _untangle(layers, chains)
    places = _placed(layers, chains)
    depths = _depths(layers, sideways)
    width = (
        max(place + item.along / 2 for layer in layers for item in layer for place in [places[item.id]])
        + MARGIN
    )
    height = depths[-1][1] + MARGIN
    parts = [
        _arrow(chain, edge, ranks, places, depths, layers, sideways=sideways)
        for edge, chain in sorted(chains.items(), key=lambda pair: order[pair[0][0]] < order[pair[0][1]])
    ]
    for box in boxes:
        begin, end = depths[ranks[box.id]]
        along, across = places[box.id], (begin + end) / 2
        x, y = (across, along) if sideways else (along, across)
        parts.append(_box(box, x, y, sideways=sideways))
    w, h = (height, width) if sideways else (width, height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def layered(ids: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """The layer of each box: after everything before it in the order that leads to it; what nothing leads to
    stands just before the first that it leads to."""
    order = {id: i for i, id in enumerate(ids)}
    before: dict[str, list[str]] = {id: [] for id in ids}
    after: dict[str, list[str]] = {id: [] for id in ids}
    for a, b in edges:
        if order[a] < order[b]:
            before[b].append(a)
            after[a].append(b)
    ranks: dict[str, int] = {}
    for id in ids:
        ranks[id] = max((ranks[a] + 1 for a in before[id]), default=0)
    for id in ids:
        if not before[id] and after[id]:
            ranks[id] = min(ranks[b] for b in after[id]) - 1
    least = min(ranks.values(), default=0)
    return {id: rank - least for id, rank in ranks.items()}


def _size(box: Box, sideways: bool) -> tuple[float, float]:
    """A box's size along its layer, and across it."""
    first = len(box.lines[0]) * (STRONG if len(box.lines) > 1 else CHAR)
    width = max(first, *(len(line) * CHAR for line in box.lines)) + 2 * PAD
    height = ROW * len(box.lines) + 2 * PAD - 4
    return (height, width) if sideways else (width, height)


def _bent(
    ranks: Mapping[str, int], edges: Sequence[Edge], sizes: Mapping[str, tuple[float, float]]
) -> tuple[list[list[_Item]], dict[Edge, list[str]]]:
    """The layers, with a bend in each that an edge passes; and each edge as what it leads through, downwards."""
    layers: list[list[_Item]] = [[] for _ in range(max(ranks.values(), default=0) + 1)]
    for id, rank in ranks.items():
        layers[rank].append(_Item(id, *sizes[id]))
    chains: dict[Edge, list[str]] = {}
    for a, b in edges:
        top, low = (a, b) if ranks[a] <= ranks[b] else (b, a)
        bends = [f"{a}\n{b}\n{rank}" for rank in range(ranks[top] + 1, ranks[low])]
        for rank, bend in enumerate(bends, ranks[top] + 1):
            layers[rank].append(_Item(bend, BEND, 0))
        chains[a, b] = [top, *bends, low]
    return layers, chains


def _neighbours(chains: Mapping[Edge, list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    up: dict[str, list[str]] = {}
    down: dict[str, list[str]] = {}
    for chain in chains.values():
        for a, b in pairwise(chain):
            down.setdefault(a, []).append(b)
            up.setdefault(b, []).append(a)
    return up, down


def _untangle(layers: list[list[_Item]], chains: Mapping[Edge, list[str]]) -> None:
    """Order each layer by the mean place of its neighbours, downwards and upwards in turn: few lines cross then."""
    up, down = _neighbours(chains)
    for sweep in range(SWEEPS):
        near, some = (up, layers[1:]) if sweep % 2 == 0 else (down, layers[-2::-1])
        for layer in some:
            places = {item.id: i / len(one) for one in layers for i, item in enumerate(one)}
            layer.sort(key=lambda item: _mean([places[id] for id in near.get(item.id, [])], places[item.id]))


def _mean(numbers: Sequence[float], otherwise: float) -> float:
    return sum(numbers) / len(numbers) if numbers else otherwise


def _placed(layers: Sequence[Sequence[_Item]], chains: Mapping[Edge, list[str]]) -> dict[str, float]:
    """Where the middle of each item lies along its layer: near its neighbours, and none over another."""
    up, down = _neighbours(chains)
    places: dict[str, float] = {}
    for layer in layers:
        places |= _apart(layer, [0.0] * len(layer))
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            wished = [_wished(one, [*up.get(one.id, []), *down.get(one.id, [])], places) for one in layer]
            places |= _apart(layer, wished)
    return _closed([item for layer in layers for item in layer], places)


def _closed(items: Sequence[_Item], places: Mapping[str, float]) -> dict[str, float]:
    """The places without stripes in which nothing stands."""
    found: dict[str, float] = {}
    end = shift = 0.0
    for item in sorted(items, key=lambda one: places[one.id] - one.along / 2):
        begin = places[item.id] - item.along / 2
        if not found:
            end, shift = begin, MARGIN - begin
        shift -= max(0.0, begin - end - GAP)
        end = max(end, begin + item.along)
        found[item.id] = places[item.id] + shift
    return found


def _wished(one: _Item, near: Sequence[str], places: Mapping[str, float]) -> float:
    """The mean of its neighbours; from one bend to the next a line is to be straight."""
    straight = [places[id] for id in near if not one.across and "\n" in id]
    return _mean([*(places[id] for id in near), *straight * 7], places[one.id])


def _apart(layer: Sequence[_Item], wished: Sequence[float]) -> dict[str, float]:
    """The places nearest to the wished ones that keep order and distance: the mean of pushing all to the right
    and of pushing all to the left, which both do."""
    right, left = list(wished), list(wished)
    for i in range(1, len(layer)):
        right[i] = max(right[i], right[i - 1] + (layer[i - 1].along + layer[i].along) / 2 + GAP)
    for i in range(len(layer) - 2, -1, -1):
        left[i] = min(left[i], left[i + 1] - (layer[i + 1].along + layer[i].along) / 2 - GAP)
    return {item.id: (a + b) / 2 for item, a, b in zip(layer, right, left, strict=True)}


def _depths(layers: Sequence[Sequence[_Item]], sideways: bool) -> list[tuple[float, float]]:
    """Where each layer begins and ends, across."""
    found: list[tuple[float, float]] = []
    at = float(MARGIN)
    for layer in layers:
        across = max(item.across for item in layer)
        found.append((at, at + across))
        at += across + (56 if sideways else 34)
    return found


def _arrow(
    chain: Sequence[str],
    edge: Edge,
    ranks: Mapping[str, int],
    places: Mapping[str, float],
    depths: Sequence[tuple[float, float]],
    layers: Sequence[Sequence[_Item]],
    *,
    sideways: bool,
) -> str:
    """An edge through its bends, with a head where it ends."""
    sizes = {item.id: item for layer in layers for item in layer}
    begins = [sum(depths[ranks[id]]) / 2 - sizes[id].across / 2 for id in (chain[0], chain[-1])]
    ends = [sum(depths[ranks[id]]) / 2 + sizes[id].across / 2 for id in (chain[0], chain[-1])]
    level, back = ranks[chain[0]] == ranks[chain[-1]], chain[0] != edge[0]
    points = [(places[chain[0]], ends[0])]
    for rank, id in enumerate(chain[1:-1], ranks[chain[0]] + 1):
        points += [(places[id], depths[rank][0]), (places[id], depths[rank][1])]
    if level:  # along the layer, around its lower side
        points.append(((places[chain[0]] + places[chain[1]]) / 2, max(ends) + LOOP))
    points.append((places[chain[-1]], ends[1] if level else begins[1]))
    if back:
        points.reverse()
    turned = [(across, along) if sideways else (along, across) for along, across in points]
    back = back or level
    colour = BACK if back else LINE
    dash = ' stroke-dasharray="4 3"' if back else ""
    named = f"<title>{escape(edge[0])} to {escape(edge[1])}</title>"
    path = f'<path d="{_curve(turned, sideways)}" fill="none" stroke="{colour}" stroke-width="1.2"{dash}>{named}</path>'
    return path + _head(turned[-1], sideways=sideways, back=back, colour=colour)


def _curve(points: Sequence[tuple[float, float]], sideways: bool) -> str:
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x1, y1), (x2, y2) in pairwise(points):
        if sideways:
            middle = (x1 + x2) / 2
            parts.append(f"C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}")
        else:
            middle = (y1 + y2) / 2
            parts.append(f"C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2:.1f}")
    return "".join(parts)


def _head(at: tuple[float, float], *, sideways: bool, back: bool, colour: str) -> str:
    x, y = at
    away = 6 if back else -6
    if sideways:
        shape = f"{x:.1f},{y:.1f} {x + away:.1f},{y - 3.5:.1f} {x + away:.1f},{y + 3.5:.1f}"
    else:
        shape = f"{x:.1f},{y:.1f} {x - 3.5:.1f},{y + away:.1f} {x + 3.5:.1f},{y + away:.1f}"
    return f'<polygon points="{shape}" fill="{colour}"/>'


def _box(box: Box, x: float, y: float, *, sideways: bool) -> str:
    along, across = _size(box, sideways)
    w, h = (across, along) if sideways else (along, across)
    round_ = h / 2 if box.kind in ("topic", "outside") and len(box.lines) == 1 else 4
    frame = (
        f'<rect x="{x - w / 2:.1f}" y="{y - h / 2:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{round_:.1f}" '
        f'fill="{FILLS[box.kind]}" stroke="{EDGES[box.kind]}"/>'
    )
    parts = [frame]
    top = y - ROW * len(box.lines) / 2 + 11
    for i, line in enumerate(box.lines):
        fill, weight = (INK, "600") if i == 0 and len(box.lines) > 1 else (INK if i == 0 else QUIET, "400")
        parts.append(
            f'<text x="{x:.1f}" y="{top + i * ROW:.1f}" text-anchor="middle" fill="{fill}" '
            f'font-weight="{weight}">{escape(line)}</text>'
        )
    return f"<g>{''.join(parts)}</g>"
