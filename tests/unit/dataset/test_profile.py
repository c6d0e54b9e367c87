"""dataset: profiles say what columns look like, and drift how far others are from that."""

from __future__ import annotations

import math
import random

from penstock.dataset.profile import cell, drift, profile
from penstock.record.decisions import ColumnProfile


def counted(column: ColumnProfile, values: list[object]) -> tuple[dict[int, int], int]:
    """The counts of values by cell, and the missing ones."""
    counts: dict[int, int] = {}
    cells = [cell(column, value) for value in values]  # type: ignore[arg-type]
    for one in cells:
        if one is not None:
            counts[one] = counts.get(one, 0) + 1
    return counts, cells.count(None)


def test_a_profile_is_of_its_rows() -> None:
    """Shares, missing values and means are those of the rows, and cells count the same."""
    chance = random.Random(1)
    rows = [
        [chance.gauss(0, 1) if i % 4 else None, chance.choice("abc"), chance.random() < 0.3]
        for i in range(1000)
    ]
    found = profile(["number", "text", "flag"], rows)  # type: ignore[arg-type]
    number, text = found.columns["number"], found.columns["text"]
    assert found.rows == 1000 and number.missing == 0.25 and text.categories and text.missing == 0
    assert found.columns["flag"].categories == ["false", "true"]
    counts, gone = counted(number, [row[0] for row in rows])
    assert gone == 250 and [round(counts.get(i, 0) / 750, 9) for i in range(len(number.shares))] == [
        round(share, 9) for share in number.shares
    ]
    assert cell(text, "never seen") == len(text.categories) and cell(number, math.nan) is None


def test_drift_sees_a_shift_and_not_chance() -> None:
    """Rows of the same kind score near zero; a shift, a new category and missing values score high."""
    chance = random.Random(2)
    numbers = profile(["x"], [[chance.gauss(0, 1)] for _ in range(3000)]).columns["x"]
    texts = profile(["x"], [[chance.choice("ab")] for _ in range(3000)]).columns["x"]
    same = [drift(numbers, *counted(numbers, [chance.gauss(0, 1) for _ in range(300)])) for _ in range(50)]
    assert sum(same) / 50 < 0.03 and max(same) < 0.12
    assert drift(numbers, *counted(numbers, [chance.gauss(1, 1) for _ in range(300)])) > 0.5
    assert (
        drift(numbers, *counted(numbers, [None if i % 5 == 0 else chance.gauss(0, 1) for i in range(300)]))
        > 0.3
    )
    assert drift(texts, *counted(texts, [chance.choice("abz") for _ in range(300)])) > 0.5


def test_nothing_is_no_drift() -> None:
    """No rows, or a column that was always missing, score zero."""
    assert drift(ColumnProfile("number", 1.0), {}, 10) == 0.0
    assert drift(profile(["x"], [[1.0]]).columns["x"], {}, 0) == 0.0
    assert profile(["x"], []).rows == 0
