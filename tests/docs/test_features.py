"""docs: the page on features is a pipeline file, and tells of every word of the language."""

from __future__ import annotations

import random
import re
import time
import typing
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.app.append import append
from penstock.app.pipeline import load_text
from penstock.app.sample import START_AT, made_row
from penstock.app.system import System
from penstock.dataset.rows import past
from penstock.feature import Expression
from penstock.feature.definition import language
from penstock.log.memory import MemoryBlob, MemoryLog
from penstock.stage import every

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
TEXT = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))


def test_the_blocks_are_a_pipeline_file() -> None:
    """It loads, with every definition of the page in use, and its features have values of made-up events."""
    pytest.importorskip("sklearn")
    file = load_text(TEXT.encode(), "features.py")
    names = file.plan("review").features.names
    assert {"spent_7d", "by_country_other", "recent_3", "note_15", "surprising", "doubt_7d"} <= set(names)
    assert set(file.sources) == {"payment", "refund", "shop"} and len(file.derived) == 1
    log, chance, pools = MemoryLog(), random.Random(3), {}
    for i in range(200):
        for topic, source in file.sources.items():
            when = START_AT + timedelta(minutes=20 * i)
            append(file, log, topic, [made_row(source, when, i, chance, pools)], now_ms=0)
    System(file, log, MemoryBlob(), Path(), time.perf_counter, len).drain()
    features = file.plan("review").features
    found = [values for _, values in past(log, "predict.review", features, list(every(log, ["payment"])))]
    varied = sum(len(set(column)) > 1 for column in zip(*found, strict=True))
    assert len(found) == 200 and varied > len(names) * 0.8


@pytest.mark.parametrize("kind", typing.get_args(language.Kind))
def test_every_aggregate_is_told_of(kind: str) -> None:
    """With an example, and in the table."""
    assert re.search(rf"= {kind}\(|, {kind}\(", TEXT) and re.search(rf"^\|.*`{kind}`", PAGE, re.MULTILINE)


METHODS = [
    name for name in vars(Expression) if not name.startswith("_") and callable(getattr(Expression, name))
]


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"described"}))
def test_every_method_is_told_of(method: str) -> None:
    """In the table of methods."""
    assert re.search(rf"^\|.*`{method}`", PAGE, re.MULTILINE)


@pytest.mark.parametrize("option", [*language.Options.__annotations__, *language.Sums.__annotations__])
def test_every_option_is_told_of(option: str) -> None:
    """By its name."""
    assert f"{option}=" in PAGE
