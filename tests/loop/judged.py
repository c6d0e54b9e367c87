"""loop: a home in which models are given each other's answers, one generation after the other made champion."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from penstock.app.append import append
from penstock.app.home import Home, open_home
from penstock.app.pipeline import load
from penstock.app.system import System, decide
from penstock.app.train import carry_out
from penstock.record.codec import moment
from penstock.record.decisions import Decision, Prediction, predictions, read
from penstock.stage import every

PIPELINE = Path(__file__).parent / "judged_pipeline.py"
MODELS = ("fraud", "other", "review", "slow", "final")
GENERATIONS = (("fraud", "other"), ("review", "slow"), ("final",))
HOUR_MS = 3_600_000
ROWS = 130


def system(home: Home, trainer: Any = None) -> System:
    """The file at work on a home."""
    made = System(load(PIPELINE), home.log, home.blobs, home.path, time.perf_counter, trainer, sync=False)
    made.warm()
    return made


def prepare(folder: Path, generations: Any = GENERATIONS) -> Path:
    """A home whose models are champions, so many generations of them."""
    home = open_home(folder / "home", create=True)
    file = load(PIPELINE)

    def train(order: Any) -> Any:
        return carry_out(order, home.log, home.blobs, time.perf_counter, read_file=lambda text, path: file)

    works = System(file, home.log, home.blobs, home.path, time.perf_counter, train, sync=False)
    now_ms, chance = time.time_ns() // 10**6 - 200 * HOUR_MS, random.Random(5)
    works.deploy(now_ms)
    for n, names in enumerate(generations):
        for i in range(ROWS):
            now_ms += 600_000
            row = {"ask_id": f"h{n}-{i}", "who": f"w{i % 5}", "at": moment(now_ms), "x": chance.gauss(0, 1)}
            append(file, home.log, "ask", [row], now_ms=now_ms, sync=False)
            if row["x"] + chance.gauss(0, 0.3) > 0:
                label = {"ask_id": row["ask_id"], "at": moment(now_ms + 1000)}
                append(file, home.log, "yes", [label], now_ms=now_ms, sync=False)
        works.drain()
        now_ms += 13 * HOUR_MS
        for _ in range(3):  # outcomes, then intents, then their versions
            works.tick(now_ms := now_ms + 1)
            works.drain()
        for name in names:
            decide(home.log, Decision(name, "promote", "test", "", now_ms, 1))
        works.drain()
        assert all(works.champion(name) for name in names)
    works.save()
    home.log.close()
    return home.path


def served(home: Home, model: str) -> dict[str, Prediction]:
    """What was served by request; each of them once."""
    said = [read(record, Prediction) for record in every(home.log, [predictions(model)])]
    found = [one for one in said if one.served]
    assert max(Counter(one.request for one in found).values(), default=0) <= 1
    return {one.request: one for one in found}
