"""Many models on one host, each released: `make bench-many`, or with `ARGS=--json`.

A file that declares a thousand models is brought up in a fresh process, as it would be again after a stop: the time
from there to the first answer of one of them; what all its processes take while nobody asks (each shared page once);
what the processor does then; then each model is asked, with a budget of memory for loaded models, and once more. At
last one of them is asked all the time, over 32 connections by the client of `make bench-serve`, and in turn with it the
one of a file that declares no other: what it costs to have neighbours.

At the end one line a figure, `name value target ok|short`; the exit code is 1 when one is short.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.log import Figure, note, place
from bench.serve.data import requests_file
from bench.serve.process import compiled, cpu_s, memory_mb
from bench.serve.servers import OURS
from penstock.cli import show

MODELS = 1000
BUDGET = "200MB"
IDLE_S = 10.0
CONNECTIONS, TIMEOUT_S = 32, 10.0
BUSY_S, BUSY_ROUNDS = 4.0, 3
CHILD = Path(__file__).with_name("child_many.py")
COLUMNS = [("who", "BYTES", "w1"), ("x", "FP64", 0.5), ("z", "FP64", 0.1)]
BODY = json.dumps({
    "inputs": [{"name": name, "datatype": kind, "shape": [1], "data": [value]} for name, kind, value in COLUMNS]
})  # fmt: skip


class Up:
    """The file, up."""

    def __init__(self, pipeline: Path, home: Path, *more: str) -> None:
        command = [
            sys.executable,
            "-m",
            "penstock.cli",
            "up",
            str(pipeline),
            "--home",
            str(home),
            "--port",
            "0",
        ]
        self.began_s = time.monotonic()
        self.process = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if " is up at " not in line:
            raise SystemExit("bench: the file did not come up")
        self.url = line.split(" is up at ")[1].split(" ")[0]
        where = urlsplit(self.url)
        self.connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=30)

    def ask(self, model: str) -> int:
        """The status of an answer to one row."""
        headers = {"content-type": "application/json"}
        self.connection.request("POST", f"/v2/models/{model}/infer", BODY, headers)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status

    def rows(self, model: str, folder: Path) -> Path:
        """A file with one request to a model, and the answer that it is right to give, for the client."""
        where = f"/v2/models/{model}/infer"
        self.connection.request("POST", where, BODY, {"content-type": "application/json"})
        score = json.loads(self.connection.getresponse().read())["outputs"][0]["data"][0]
        return requests_file(folder / f"{model}.req", OURS.marker, where, [BODY.encode()], [score])

    def since_s(self) -> float:
        """Seconds since it was begun."""
        return time.monotonic() - self.began_s

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.communicate(timeout=60)


def load(client: Path, port: int | None, rows: Path, seconds: float, rate: float = 0.0) -> dict[str, Any]:
    """A load on a model, from a process of its own, on every core that there is; see load.c."""
    words = (client, port, rows, CONNECTIONS, seconds, rate, TIMEOUT_S)
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def beside(folder: Path, pipeline: Path, home: Path) -> dict[str, Any]:
    """Answers a second of the first model of the file, and of one that has no neighbours; medians."""
    only, client = folder / "one.py", compiled(folder)
    subprocess.run([sys.executable, str(CHILD), str(only), str(folder / "one"), "1"], check=True)
    rates: dict[str, list[float]] = {"busy_per_s": [], "alone_per_s": []}
    wrong = 0
    for _ in range(BUSY_ROUNDS):
        for name, words in zip(rates, ((pipeline, home), (only, folder / "one")), strict=True):
            up = Up(*words, "--workers", "1")
            try:
                rows = up.rows("m0", folder)
                load(client, up.connection.port, rows, 1.0)
                found = load(client, up.connection.port, rows, BUSY_S)
            finally:
                up.close()
            rates[name].append(found["in_window"] / BUSY_S)
            wrong += found["due"] - found["right"]
    return {name: statistics.median(some) for name, some in rates.items()} | {"busy_wrong": wrong}


def all_asked(up: Up, names: list[str]) -> dict[str, float]:
    """Each model asked once, one after the other."""
    took, wrong = [], 0
    for name in names:
        began = time.monotonic()
        wrong += up.ask(name) != 200
        took.append(time.monotonic() - began)
    return {
        "median_ms": 1000 * statistics.median(took), "most_ms": 1000 * max(took), "wrong": wrong,
        "mb": memory_mb(up.process.pid),
    }  # fmt: skip


def measure(folder: Path, n: int) -> dict[str, Any]:
    """All of it."""
    pipeline, home, names = folder / "many.py", folder / "home", [f"m{i}" for i in range(n)]
    note(f"{n:,} models are fitted and released")
    subprocess.run([sys.executable, str(CHILD), str(pipeline), str(home), str(n)], check=True)
    note("it is brought up")
    up = Up(pipeline, home, "--models-memory", BUDGET)
    try:
        found: dict[str, Any] = {"open_s": up.since_s()}
        if up.ask(names[n // 2]) != 200:
            raise SystemExit("bench: the first request was not answered")
        found["first_s"] = up.since_s()
        time.sleep(IDLE_S / 2)
        before = cpu_s(up.process.pid)
        time.sleep(IDLE_S)
        found |= {"idle_mb": memory_mb(up.process.pid), "idle_cpu": (cpu_s(up.process.pid) - before) / IDLE_S}
        note("each model is asked, twice")
        found |= {"asked": all_asked(up, names), "again": all_asked(up, names)}
    finally:
        up.close()
    note("one of them is asked all the time")
    return found | beside(folder, pipeline, home)


def figures(found: dict[str, Any]) -> list[Figure]:
    """What must hold."""
    return [
        Figure("many_first_answer_s", found["first_s"], "<2"),
        Figure("many_idle_mb", found["idle_mb"], "<200"),
        Figure("many_idle_cpu", found["idle_cpu"], "<0.15"),
        Figure("many_asked_mb", max(found["asked"]["mb"], found["again"]["mb"]), "<400"),
        Figure("many_busy_ratio", found["busy_per_s"] / found["alone_per_s"], ">=0.7"),
        Figure("many_wrong", found["asked"]["wrong"] + found["again"]["wrong"] + found["busy_wrong"], "<=0"),
    ]


def main() -> int:
    """Measure, print the table and the figures."""
    parser = argparse.ArgumentParser(
        prog="bench/many.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  make bench-many                        a thousand models; about five minutes\n"
        "  make bench-many ARGS='--models 100'    fewer\n  make bench-many ARGS=--json",
    )  # fmt: skip
    parser.add_argument("--models", type=int, default=MODELS, metavar="N")
    parser.add_argument(
        "--folder", type=Path, help="where the data lies while it runs (default: for temporary files)"
    )
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object, no table")
    given = parser.parse_args()
    base = place(given.folder)
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-many-", dir=base) as folder:
        found = measure(Path(folder), given.models)
    said = figures(found)
    if given.json:
        show.as_json({one.name: {"value": one.value, "target": one.target, "ok": one.ok} for one in said})
    else:
        head = ["round", "median ms", "slowest ms", "MB after"]
        rows = [
            [name, round(one["median_ms"], 1), round(one["most_ms"]), round(one["mb"])]
            for name, one in (("first", found["asked"]), ("again", found["again"]))
        ]
        show.table(
            f"{given.models:,} models, each asked in turn; open after {found['open_s']:.2f} s", head, rows
        )
        busy, alone = found["busy_per_s"], found["alone_per_s"]
        print(
            f"one is asked all the time: {busy:,.0f} answers a second, {alone:,.0f} where it is the only one"
        )
        for one in said:
            print(one)
    return 0 if all(one.ok for one in said) else 1


if __name__ == "__main__":
    raise SystemExit(main())
