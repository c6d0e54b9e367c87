"""What every server is asked: fitted models, rows with their scores, and homes where ours has them as champion."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np

WIDTH = 30
ROWS = 500
LABELLED = 400
TOLERANCE = 2e-6  # what a faithful form of the model may be off
WHO = 50
SPANS = ("1d", "2d", "7d", "14d", "30d")
KINDS = ("count", "sum", "mean", "max")

PIPELINE = '''"""Score rows of thirty numbers by a model that was fitted before."""
from datetime import datetime
import time

import joblib

from penstock import Event, Pipeline, better, every, key, source, steps{more}


class Ask(Event):
    ask_id: str{whose}
    at: datetime
{columns}

class Truth(Event):
    ask_id: str = key()
    at: datetime
    y: bool

{events}
ask = source(Ask, id="ask_id", time="at")
truth = source(Truth, time="at")
{features}

class Slow:
    """A model that takes its time."""
    def __init__(self, model, delay_s): self.model, self.delay_s = model, delay_s
    def predict_proba(self, x):
        time.sleep(self.delay_s)
        {hang}
        return self.model.predict_proba(x)


def fit(data):
    model = joblib.load({model!r})
    return Slow(model, {delay_s}) if {delay_s} else model


bench = Pipeline(request=ask, label=truth.y, wait="30d", features=[{names}], fit=fit,
    train=every("3650d", at_least=100_000_000), gate=better("log_loss"), release=steps())
'''


PAY = """class Pay(Event):
    who: str = key()
    at: datetime
    amount: float

pay = source(Pay, time="at")
"""


class Case(msgspec.Struct, frozen=True):
    """A model, the rows that it is asked about, and what it must say."""

    name: str
    model: Path
    rows: list[list[float]]
    scores: list[float]
    pipeline: Path
    home: Path


def requests_file(
    path: Path,
    marker: str,
    where: str,
    bodies: Sequence[Any],
    expected: Sequence[float],
    waits_ms: Sequence[int] = (),
) -> Path:
    """What load.c reads. `waits_ms`: how long callers wait, in turn."""
    waits = itertools.cycle(waits_ms)
    with path.open("wb") as file:
        file.write(struct.pack("=I", len(marker)) + marker.encode() + struct.pack("=d", TOLERANCE))
        for body, score in zip(bodies, expected, strict=True):
            data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
            lines = [f"POST {where} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
            lines += [f"timeout-ms: {ms}" for ms in itertools.islice(waits, 1)]
            sent = "\r\n".join([*lines, f"content-length: {len(data)}", "", ""]).encode() + data
            file.write(struct.pack("=I", len(sent)) + sent + struct.pack("=d", score))
    return path


def fitted(folder: Path) -> dict[str, Path]:
    """The two models, fitted on made-up rows."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=(2000, WIDTH)).round(3), rng.normal(size=WIDTH) / 3
    y = x @ weights + rng.normal(size=2000) > 0
    models = {
        "linear": LogisticRegression(max_iter=500),
        "trees": GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=1),
    }
    paths = {name: folder / f"{name}.joblib" for name in models}
    for name, model in models.items():
        joblib.dump(model.fit(x, y), paths[name])
    return paths


def case(name: str, folder: Path, model: Path, *, delay_s: float = 0.0) -> Case:
    """A case with a prepared home: labelled events appended, trained, champion, by the product's own verbs."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(ROWS, WIDTH)).round(3)
    scores = joblib.load(model).predict_proba(rows)[:, 1]
    pipeline, home = folder / f"{name}.py", folder / f"{name}.home"
    columns = "".join(f"    x{j}: float\n" for j in range(WIDTH))
    names = ", ".join(f"ask.x{j}" for j in range(WIDTH))
    hang = "[time.sleep(3600) for row in x if row[0] == 666.0]" if delay_s else ""
    text = PIPELINE.format(
        more="", whose=" = key()", columns=columns, events="", features="", model=str(model), delay_s=delay_s,
        hang=hang, names=names,
    )  # fmt: skip
    pipeline.write_text(text)
    asks = rng.normal(size=(LABELLED, WIDTH)).round(3)
    prepare(pipeline, home, [{f"x{j}": v for j, v in enumerate(row)} for row in asks.tolist()], rng)
    return Case(name, model, rows.tolist(), scores.tolist(), pipeline, home)


def lookup_case(folder: Path, model: Path) -> Case:
    """A case whose requests bring an entity only: 20 window features are looked up. The model is of 20 columns."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(9)
    pipeline, home, path = folder / "lookup.py", folder / "lookup.home", folder / "lookup.joblib"
    now = datetime.now(UTC)
    # No event lies within hours of a window's edge, so that the values stand while we measure.
    days = [0.5, 1.5, 4.0, 10.0, 20.0]
    events = [
        (f"w{who}", now - timedelta(days=day, minutes=i), round(float(rng.exponential()), 3))
        for who in range(WHO) for day in days for i in range(20)
    ]  # fmt: skip
    values = np.array([_windows(events, f"w{who}", now) for who in range(WHO)])
    fitted_model = LogisticRegression(max_iter=2000).fit(values, np.arange(WHO) % 2 == 0)
    joblib.dump(fitted_model, path)
    names = [f"{kind}_{span}" for span in SPANS for kind in KINDS]
    over = {kind: "pay" if kind == "count" else "pay.amount" for kind in KINDS}
    features = "".join(
        f'{kind}_{span} = {kind}({over[kind]}, window="{span}", entity="who")\n'
        for span in SPANS
        for kind in KINDS
    )
    text = PIPELINE.format(
        more=", count, max, mean, sum", whose="\n    who: str = key()", columns="", features=features,
        events=PAY,
        model=str(path), delay_s=0.0, hang="", names=", ".join(names),
    )  # fmt: skip
    pipeline.write_text(text)
    pays = [{"who": who, "at": at.isoformat(), "amount": amount} for who, at, amount in events]
    prepare(pipeline, home, [{"who": f"w{i % WHO}"} for i in range(LABELLED)], rng, pay=pays)
    asked = [[float(i % WHO)] for i in range(ROWS)]
    scores = fitted_model.predict_proba(values)[:, 1]
    return Case("lookup", path, asked, [float(scores[i % WHO]) for i in range(ROWS)], pipeline, home)


def _windows(events: list[tuple[str, datetime, float]], who: str, now: datetime) -> list[float]:
    found: list[float] = []
    for span in SPANS:
        inside = [
            amount for one, at, amount in events if one == who and at > now - timedelta(days=int(span[:-1]))
        ]
        found += [len(inside), sum(inside), sum(inside) / len(inside), max(inside)]
    return found


def penstock(*words: str) -> str:
    """A verb of ours, run to its end."""
    command = [sys.executable, "-m", "penstock.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise SystemExit(f"bench: penstock {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def prepare(
    pipeline: Path,
    home: Path,
    asks: list[dict[str, Any]],
    rng: np.random.Generator,
    **more: list[dict[str, Any]],
) -> None:
    """A home whose champion is what the file's fit gives: the file is up for it, as a user would have it."""
    up = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", "up", str(pipeline), "--home", str(home), "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert up.stdout is not None
        url = up.stdout.readline().split(" is up at ")[1].split(" ")[0]
        now = datetime.now(UTC)
        ids = [{"ask_id": f"a{i}"} for i in range(len(asks))]
        asked = [{**id, "at": (now - timedelta(seconds=7200 - i)).isoformat(), **row}
                 for i, (id, row) in enumerate(zip(ids, asks, strict=True))]  # fmt: skip
        truths = [
            {**id, "at": (now - timedelta(seconds=3600)).isoformat(), "y": bool(rng.integers(2))}
            for id in ids
        ]
        for topic, rows in {**more, "ask": asked, "truth": truths}.items():
            file = home.with_suffix(f".{topic}.ndjson")
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            penstock("append", topic, str(file), "--home", str(home))

        def outcomes() -> bool:
            with urllib.request.urlopen(f"{url}/status", timeout=10) as answer:
                topics: dict[str, int] = json.load(answer)["topics"]
            return topics.get("bench.outcomes", 0) >= len(asks)

        def champion() -> bool:
            models = json.loads(penstock("models", "--json", "--home", str(home)))
            if models and models[-1]["standing"] != "champion":  # whatever the gate thinks of made-up labels
                penstock("promote", models[-1]["version"], "--home", str(home), "--reason", "a benchmark")
            return bool(models) and models[-1]["standing"] == "champion"

        until(outcomes, "the outcomes")
        penstock("train", "bench", "--home", str(home))
        until(champion, "the champion")
    finally:
        up.terminate()
        up.communicate(timeout=60)


def until(true: Callable[[], bool], what: str, within_s: float = 90.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {what} did not come")
        time.sleep(0.2)
