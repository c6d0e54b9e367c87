"""dataset: a profile's cells: distinct edges, frequent texts, and an index that chance leaves near zero."""

from __future__ import annotations

import math
import random
from collections import Counter

from penstock.dataset.profile import CATEGORIES, cell, drift, profile
from penstock.record.decisions import ColumnProfile, Value


def column(values: list[Value]) -> ColumnProfile:
    """The profile of one column."""
    return profile(["x"], [[value] for value in values]).columns["x"]


def test_few_values_have_few_edges() -> None:
    """Edges are distinct, even where nearly all rows are one number; a value at an edge lies below it."""
    one = column([0] * 95 + [7] * 5)
    assert one.edges == [0.0] and one.shares == [0.95, 0.05] and cell(one, 0) == 0


def test_rare_categories_share_a_cell() -> None:
    """The most frequent texts have a cell each, ties by name; the rest have one."""
    one = column([*(f"c{i:02}" for i in range(CATEGORIES + 5) for _ in range(2)), "c34"])
    assert len(one.categories) == CATEGORIES and one.categories[:2] == ["c34", "c00"]
    assert cell(one, "c33") == CATEGORIES and one.shares[-1] == 10 / 71


def test_order_of_rows_changes_nothing() -> None:
    """A profile is of a set of rows."""
    values: list[Value] = [3.0, 1.0, None, 2.0, 8.0] * 7
    assert column(values) == column(values[::-1])


def test_what_chance_gives_is_taken_off() -> None:
    """The plain index of n unchanged rows over k + 1 cells is k / n on average; what is told is near zero."""
    rng, n = random.Random(5), 400

    def sample(size: int) -> list[Value]:
        return [rng.gauss(0, 1) if rng.random() < 0.9 else None for _ in range(size)]

    one, plain, told = column(sample(20_000)), [], []
    for _ in range(200):
        cells = Counter(cell(one, value) for value in sample(n))
        expected = {i: share * (1 - one.missing) for i, share in enumerate(one.shares)} | {None: one.missing}
        plain.append(sum((cells[i] / n - p) * math.log(cells[i] / n / p) for i, p in expected.items()))
        told.append(drift(one, {i: k for i, k in cells.items() if i is not None}, cells[None]))
    assert math.isclose(sum(plain) / 200, len(one.shares) / n, rel_tol=0.15)
    assert sum(told) / 200 < 0.01 and max(told) < 0.1


def test_all_missing_is_a_change() -> None:
    """A column that has emptied altogether has drifted."""
    one = column([float(i) for i in range(1000)])
    assert drift(one, {}, 500) > 1.0
