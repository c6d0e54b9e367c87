"""dataset: profiles: what columns look like in a set of rows, and how far other rows are from that."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from penstock.record.decisions import ColumnProfile, Profile, Value

EDGES = 9
CATEGORIES = 30
_PARTS = np.linspace(0, 1, EDGES + 2)[1:-1]


def profile(names: Sequence[str], rows: Sequence[Sequence[Value]]) -> Profile:
    """The profile of rows of values, one column a name."""
    columns = {name: _column([row[i] for row in rows]) for i, name in enumerate(names)}
    return Profile(len(rows), columns)


def absent(value: Value) -> bool:
    """Whether a value says nothing: null, or not a number."""
    return value is None or value != value


def cell(column: ColumnProfile, value: Value) -> int | None:
    """The cell of a value in a column's profile; None where it is missing."""
    if value is None or value != value:
        return None
    if column.kind == "category":
        text = _text(value)
        return column.categories.index(text) if text in column.categories else len(column.categories)
    return bisect_left(column.edges, value) if isinstance(value, (int, float)) else len(column.edges)


def drift(reference: ColumnProfile, counts: Mapping[int, int], missing: int) -> float:
    """The population stability index of counts by cell against a reference, missing values as one more cell.

    Half a row is added to every cell, so that an empty one does not make it infinite. Under no change
    the index of n rows over k cells is about (k - 1) / n (it is chi-square over n); that is taken off,
    and what is left below zero is zero.
    """
    rows = sum(counts.values()) + missing
    cells = len(reference.shares)
    if not rows or not cells:
        return 0.0
    expected = [share * (1 - reference.missing) for share in reference.shares] + [reference.missing]
    seen = [counts.get(i, 0) for i in range(cells)] + [missing]
    total = rows + 0.5 * (cells + 1)
    index = 0.0
    for p, n in zip(expected, seen, strict=True):
        a, b = (n + 0.5) / total, (p * rows + 0.5) / total
        index += (a - b) * math.log(a / b)
    return max(0.0, index - cells / rows)


def _column(values: Sequence[Value]) -> ColumnProfile:
    known = [value for value in values if value is not None and value == value]
    missing = 1 - len(known) / len(values) if values else 0.0
    if not known:
        return ColumnProfile("number", missing)
    if not {str, bool}.isdisjoint(map(type, known)):
        return _categories(known, missing)
    numbers = np.array(known, dtype=np.float64)
    ordered = np.sort(numbers)
    inner = ordered[
        np.maximum(np.ceil(len(known) * _PARTS - 1), 0).astype(np.intp)
    ]  # by the inverse of their CDF
    edges = list(dict.fromkeys(inner.tolist()))
    ends = [0, *ordered.searchsorted(edges, side="right").tolist(), len(known)]
    shares = [(end - start) / len(known) for start, end in pairwise(ends)]
    return ColumnProfile("number", missing, edges, [], shares, float(numbers.mean()))


def _categories(known: Sequence[Value], missing: float) -> ColumnProfile:
    counts = Counter(_text(value) for value in known)
    chosen = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:CATEGORIES]
    shares = [n / len(known) for _, n in chosen]
    rest = (len(known) - sum(n for _, n in chosen)) / len(known)
    return ColumnProfile("category", missing, [], [name for name, _ in chosen], [*shares, rest])


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
