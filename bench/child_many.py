"""A home with many models, each champion, each with weights of its own: `child_many.py PIPELINE HOME N [BYTES]`.

With BYTES the first one has no fast form, and holds so much.

The versions are written at once, each with the bytes, the form and the evaluation that a training gives it, and a
person's promotions behind them. All stages then fold them to the end, as they would have while each came in its time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from penstock.app.home import Home, open_home, wall_ms
from penstock.app.pipeline import Plan, load
from penstock.app.system import System
from penstock.dataset.rows import Row
from penstock.model.fit import evaluate, fit_rows
from penstock.model.forms import Form, linear
from penstock.model.pack import dump
from penstock.record.codec import pack
from penstock.record.decisions import (
    DECISIONS,
    VERSIONS,
    Dataset,
    Decision,
    Profile,
    Version,
    draft,
)
from penstock.record.record import START

ROWS = 40
WIDTH = 4

PIPELINE = '''"""Many models of one kind, each with requests of its own; what they look back over is the same."""
from datetime import datetime

from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from penstock import Event, Pipeline, better, count, every, key, mean, source, steps


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float
    z: float


class Truth(Event):
    ask_id: str = key()
    at: datetime
    y: bool


class Seen(Event):
    who: str = key()
    at: datetime
    y: float


truth = source(Truth, time="at")
seen = source(Seen, time="at")
seen_1h = count(seen, window="1h")
usual = mean(seen.y, window="1d")


def fit(data):
    return make_pipeline(SimpleImputer(), LogisticRegression()).fit(data.x, data.y)


class Large:
    """A model that holds much."""

    def __init__(self, model, data):
        self.model, self.data = model, data

    def predict_proba(self, x):
        return self.model.predict_proba(x)


def large(data):
    return Large(fit(data), bytes({size}))


def model(name):
    ask = source(Ask, id="ask_id", time="at", topic=f"{{name}}.ask")
    return Pipeline(
        name=name, request=ask, label=truth.y, wait="1d", train=every("7d"), gate=better("log_loss"),
        fit=large if {size} and name == "m0" else fit, features=[ask.x, ask.z, seen_1h, usual], release=steps(),
    )


globals().update({{name: model(name) for name in (f"m{{i}}" for i in range({n}))}})
'''


def version(home: Home, plan: Plan, code: str, now_ms: int, seed: int) -> Version:
    """A version of a model, fitted on rows of its own and tried as a form."""
    chance = np.random.default_rng(seed)
    x = chance.normal(size=(ROWS, WIDTH)).round(3)
    y = x @ chance.normal(size=WIDTH) > 0
    values = x.tolist()
    rows: list[Any] = [
        Row(f"r{i}", "", now_ms, i, row, float(said), [])
        for i, (row, said) in enumerate(zip(values, y, strict=True))
    ]
    model = fit_rows(plan.pipeline.fit, None, rows, plan.features, "binary", {}, 0)
    data, form = dump(model), linear.make(model.fitted, "binary", WIDTH)
    evaluation = evaluate((model, len(data)), None, rows, [], (), 0.5, lambda: 0.0)
    none = Dataset(plan.pipeline.request.topic, 0, 0, START, 0, 0, "")
    return Version(
        model=plan.name, version=1, digest=home.blobs.put(data), intent="", reason="bench", t_ms=now_ms, training=none,
        holdout=none, features=plan.features.digest, names=list(plan.features.names), code=code, environment="",
        params={}, seed=0, threads=1, metrics={}, profile=Profile(0, {}), form_rows=ROWS,
        evaluation=home.blobs.put(pack(evaluation)), size_bytes=len(data),
        form_kind="linear" if form else "", form=home.blobs.put(pack(Form("linear", form))) if form else "",
    )  # fmt: skip


def fold(system: System) -> None:
    """Let every stage fold what there is."""
    moved = True
    while moved:  # what one says is news of another
        moved = sum(running.advance() is not None for running in [*system.folding, *system.predicting]) > 0


def main(pipeline: str, folder: str, n: str, size: str = "0") -> None:
    """Write the file and the home."""
    Path(pipeline).write_text(PIPELINE.format(n=int(n), size=int(size)))
    home, file, now_ms = open_home(Path(folder), create=True), load(pipeline), wall_ms()
    home.blobs.put(file.text)
    versions = [version(home, plan, file.code, now_ms, i) for i, plan in enumerate(file.plans.values())]
    home.log.append([draft(VERSIONS, one, key=one.model, t_ms=now_ms) for one in versions])
    system = System(file, home.log, home.blobs, home.path, lambda: 0.0, None, sync=False)
    system.deploy(now_ms)
    fold(system)  # the gate has its say first
    asked = [Decision(one.model, "promote", "bench", "", now_ms, 1) for one in versions]
    home.log.append([draft(DECISIONS, one, key=one.model, t_ms=now_ms) for one in asked])
    system.tick(now_ms)
    fold(system)
    system.save()
    home.log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
