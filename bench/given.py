"""Two models in one ask, one given the other's answer, beside two asks of models that know nothing of each other.

`make bench-given`, or with `ARGS=--json`: one client over HTTP on loopback, both servers up, in turn; milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.append import append
from penstock.app.home import open_home
from penstock.app.pipeline import load
from penstock.app.system import System, decide
from penstock.app.train import carry_out
from penstock.cli import show
from penstock.record.codec import moment
from penstock.record.decisions import Decision

ROUNDS, ASKS = 20, 100
HOUR_MS = 3_600_000
TEXT = """
from datetime import datetime

from sklearn.linear_model import LogisticRegression

from penstock import Event, Pipeline, better, count, every, key, scored, source, steps


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float


ask = source(Ask, id="ask_id", time="at")
more = source(Ask, id="ask_id", time="at", topic="more")
yes = source("yes", key="ask_id", time="at")
first_1h, second_1h = count(ask, window="1h"), count(more, window="1h")


def fit(data):
    return LogisticRegression().fit(data.x, data.y)


common = dict(
    label=yes, wait="12h", fit=fit, train=every("3650d", at_least=100), gate=better("log_loss"),
    release=steps(flips=1.0),
)
one = Pipeline(request=ask, features=[ask.x, first_1h], **common)
"""
APART = "two = Pipeline(request=more, features=[more.x, second_1h], **common)"
GIVEN = 'judged = scored(ask, "one")\ntwo = Pipeline(request=judged, features=[judged.one_score, first_1h], **common)'


class Line(msgspec.Struct):
    """What some asks took, in milliseconds."""

    what: str
    p50: float
    p99: float
    mean: float


def prepare(folder: Path, second: str) -> tuple[Path, Path]:
    """A file and its home, both models champions."""
    path = folder / "pipeline.py"
    folder.mkdir()
    path.write_text(f"{TEXT}{second}\n")
    home, file = open_home(folder / "home", create=True), load(path)

    def train(order: Any) -> Any:
        return carry_out(order, home.log, home.blobs, time.perf_counter, read_file=lambda text, path: file)

    system = System(file, home.log, home.blobs, home.path, time.perf_counter, train, sync=False)
    chance, now_ms = random.Random(3), time.time_ns() // 10**6 - 200 * HOUR_MS
    for name in ("one", "two"):
        for i in range(160):
            now_ms += 600_000
            at, x = moment(now_ms), chance.gauss(0, 1)
            for topic in sorted(set(file.sources) - {"yes"}):
                row = {"ask_id": f"{name}{i}", "who": f"w{i % 5}", "at": at, "x": x}
                append(file, home.log, topic, [row], now_ms=now_ms, sync=False)
            if x > chance.gauss(0, 1):
                append(file, home.log, "yes", [{"ask_id": f"{name}{i}", "at": at}], now_ms=now_ms, sync=False)
        system.drain()
        now_ms += 13 * HOUR_MS
        for _ in range(3):  # outcomes, then an intent, then its version
            now_ms += 1
            system.tick(now_ms)
            system.drain()
        decide(home.log, Decision(name, "promote", "bench", "", now_ms, 1))
        system.drain()
        assert system.champion(name) is not None
    system.save()
    home.log.close()
    return path, home.path


@contextlib.contextmanager
def up(path: Path, home: Path) -> Iterator[http.client.HTTPConnection]:
    """The file up in a process of its own, and a connection to it."""
    command = [sys.executable, "-m", "penstock.cli", "up", str(path), "--home", str(home), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "it did not come up"
    found = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
    assert found is not None
    yield http.client.HTTPConnection(found[1], int(found[2]), timeout=10)
    process.terminate()
    process.communicate()


def ask(connection: http.client.HTTPConnection, model: str) -> None:
    """One infer call, answered."""
    inputs = [("who", "BYTES", "w1"), ("x", "FP64", 0.5)]
    body = {
        "inputs": [{"name": n, "datatype": kind, "shape": [1], "data": [value]} for n, kind, value in inputs]
    }
    connection.request(
        "POST", f"/v2/models/{model}/infer", json.dumps(body), {"content-type": "application/json"}
    )
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        apart, other = prepare(Path(name) / "apart", APART), prepare(Path(name) / "given", GIVEN)
        with up(*apart) as first, up(*other) as second:
            ways = {
                "one model": (first, ["one"]),
                "two models, two asks": (first, ["one", "two"]),
                "two models, one ask": (second, ["two"]),
            }
            took: dict[str, list[float]] = {what: [] for what in ways}
            for n in range(ROUNDS + 1):
                for what, (connection, models) in ways.items():
                    for _ in range(ASKS):
                        began = time.perf_counter()
                        for model in models:
                            ask(connection, model)
                        took[what] += (
                            [1000 * (time.perf_counter() - began)] if n else []
                        )  # the first round warms up
    lines = []
    for what, each in took.items():
        cuts = statistics.quantiles(each, n=100)
        lines.append(Line(what, cuts[49], cuts[98], statistics.mean(each)))
    if given.json:
        return show.as_json([msgspec.structs.asdict(line) for line in lines])
    rows = [[one.what, f"{one.p50:.2f}", f"{one.p99:.2f}", f"{one.mean:.2f}"] for one in lines]
    show.table("an ask, in ms", ["", "p50", "p99", "mean"], rows)


if __name__ == "__main__":
    main()
