"""faults: serving processes killed under load: whoever was answered stands on the log once, and as it was answered."""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from penstock.app.append import append
from penstock.app.home import Books, open_home
from penstock.app.pipeline import load
from penstock.app.system import System, decide
from penstock.app.train import carry_out
from penstock.record.codec import moment
from penstock.record.decisions import Decision, Prediction, predictions, read
from penstock.stage import every
from tests.faults.finding import Finding, Plan

PIPELINE = Path(__file__).parent / "served_pipeline.py"
MODEL = "served"
KILLS, WORKERS, CLIENTS = 50, 2, 4
BETWEEN_S = 0.5
HOUR_MS = 3_600_000


def prepare(folder: Path) -> Path:
    """A home whose model is champion."""
    home = open_home(folder / "home", create=True)
    file = load(PIPELINE)

    def train(order: Any) -> Any:
        return carry_out(order, home.log, home.blobs, time.perf_counter, read_file=lambda text, path: file)

    system = System(file, home.log, home.blobs, home.path, time.perf_counter, train, sync=False)
    chance, start_ms = random.Random(5), time.time_ns() // 10**6 - 60 * HOUR_MS
    for i in range(160):
        at_ms = start_ms + i * 600_000
        row = {"ask_id": f"h{i}", "who": f"w{i % 5}", "at": moment(at_ms), "x": chance.gauss(0, 1)}
        append(file, home.log, "ask", [row], now_ms=at_ms, sync=False)
        if row["x"] > 0:
            label = {"ask_id": f"h{i}", "at": moment(at_ms + 1000)}
            append(file, home.log, "yes", [label], now_ms=at_ms, sync=False)
    end_ms = start_ms + 160 * 600_000 + 13 * HOUR_MS
    for t_ms in (end_ms, end_ms + 1, end_ms + 2):  # outcomes, then an intent, then its version
        system.tick(t_ms)
        system.drain()
    decide(home.log, Decision(MODEL, "promote", "test", "", end_ms, 1))
    system.drain()
    assert system.champion(MODEL) is not None
    assert system.parts.models.is_quick(system.champion(MODEL).digest)  # type: ignore[union-attr]
    system.save()
    home.log.close()
    return home.path


def children(pid: int) -> list[int]:
    """The processes that a process started, the oldest first."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in found.split()]


class Up:
    """`penstock up` with serving processes, whose code may be spoiled."""

    def __init__(self, home: Path, workers: int, planted: str = "") -> None:
        command = [sys.executable, "-m", "tests.faults.served_up", planted or "-", "up", str(PIPELINE)]
        self.process = subprocess.Popen(
            [*command, "--home", str(home), "--port", "0", "--workers", str(workers), "--max-lag", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], "it did not come up"
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found is not None
        self.url = found.group()

    def workers(self) -> list[int]:
        """The serving processes: the children of the one that forks them."""
        nursery, *_ = children(self.process.pid)
        return children(nursery)

    def close(self) -> int:
        """Ask it to end; its status."""
        self.process.terminate()
        self.process.communicate(timeout=40)
        return self.process.returncode


class Client(threading.Thread):
    """One client: each request under an id of its own, kept with its answer; asked again where nobody answered."""

    def __init__(self, url: str, name: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.url, self.name, self.stop = url, name, stop  # `lost`: sent, and cut off before the answer
        self.answered: dict[str, tuple[float, int]] = {}
        self.sent = self.cut = self.lost = 0
        self.odd: Counter[int] = Counter()
        self.waits: list[float] = []

    def run(self) -> None:
        """Ask until told to stop."""
        chance = random.Random(self.name)
        with httpx.Client(base_url=self.url, timeout=10) as client:
            while not self.stop.is_set():
                self.sent += 1
                id = f"{self.name}-{self.sent}"
                self.ask(client, id, chance)

    def ask(self, client: httpx.Client, id: str, chance: random.Random) -> None:
        """One request, until it is answered or the test is over."""
        columns = [
            ("ask_id", "BYTES", id),
            ("who", "BYTES", f"w{chance.randrange(5)}"),
            ("x", "FP64", chance.gauss(0, 1)),
        ]
        inputs = [{"name": n, "datatype": kind, "shape": [1], "data": [value]} for n, kind, value in columns]
        body = json.dumps({"inputs": inputs}).encode()
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                answer = client.post(
                    f"/v2/models/{MODEL}/infer", content=body, headers={"content-type": "application/json"}
                )
            except httpx.ConnectError:
                self.cut += 1
                time.sleep(0.01)
                continue
            except httpx.TransportError:
                self.lost += 1
                continue
            self.waits.append(time.monotonic() - began)
            if answer.status_code == 200:
                outputs = {one["name"]: one["data"][0] for one in answer.json()["outputs"]}
                self.answered[id] = outputs["score"], outputs["version"]
                return
            self.odd[answer.status_code] += 1
            time.sleep(0.02)


def life(seed: int, kills: int, planted: str, note: Any) -> Finding:
    """Load and kills, then everything compared."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-served-") as folder:
        home = prepare(Path(folder))
        up, stop = Up(home, WORKERS, planted), threading.Event()
        clients = [Client(up.url, f"c{seed}-{n}", stop) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        killed, back = strike(up, random.Random(seed), kills)
        time.sleep(1.0)
        stop.set()
        for client in clients:
            client.join()
        status = up.close()
        wrong = compare(home, clients, status)
    answered = sum(len(one.answered) for one in clients)
    cut, odd = sum(one.lost for one in clients), sum((one.odd for one in clients), Counter[int]())
    longest_s = max(back, default=0.0)
    told = (
        f"{answered} answered, {cut} cut off, other answers {dict(odd)}; back after {longest_s:.2f} s at most"
    )
    for one in wrong[:5]:
        note(one)
    return Finding("served: kill -9", killed, len(wrong), seconds=time.monotonic() - began, note=told)


def strike(up: Up, chance: random.Random, kills: int) -> tuple[int, list[float]]:
    """Kill workers, and see how long each takes to be replaced."""
    killed, back = 0, []
    while killed < kills:
        time.sleep(BETWEEN_S * (0.5 + chance.random()))
        workers = up.workers()
        if not workers:
            continue
        os.kill(chance.choice(workers), signal.SIGKILL)
        killed, at = killed + 1, time.monotonic()
        while len(up.workers()) < len(workers) and time.monotonic() < at + 10:
            time.sleep(0.01)
        back.append(time.monotonic() - at)
    return killed, back


def compare(path: Path, clients: Sequence[Client], status: int) -> list[str]:
    """What is wrong: an answer that is not on the log once, and as it was given; a prediction that comes out
    otherwise when it is made again."""
    wrong = [f"it ended with {status}"] if status else []
    home = open_home(path)
    file = load(PIPELINE)
    served: dict[str, list[Prediction]] = {}
    for record in every(home.log, [predictions(MODEL)]):
        said = read(record, Prediction)
        if said.served:
            served.setdefault(said.request, []).append(said)
    for client in clients:
        for id, (score, version) in client.answered.items():
            found = [(one.score, one.version) for one in served.get(id, [])]
            if found != [(score, version)]:
                wrong.append(f"{id} was answered {score} by v{version}; the log has {found}")
    wrong += [f"{id} stands {len(one)} times" for id, one in served.items() if len(one) > 1]
    verified = Books(file, home.log, home.blobs).verify(MODEL)
    wrong += [f"{one.id} comes out otherwise: {one.what}" for one in verified.unequal]
    home.log.close()
    return wrong


PLANTED = ("answered before it is kept", "answered as if asked by the first")


def findings(plan: Plan) -> Iterator[Finding]:
    """Lives under kills, and two bugs that must be noticed."""
    found = life(plan.seed, plan.times(KILLS, 3), "", plan.note)
    caught = [planted for planted in PLANTED if life(plan.seed, 2, planted, lambda text: None).differences]
    yield Finding(
        found.name, found.provoked, found.differences, "; ".join(PLANTED), len(caught), len(PLANTED), found.seconds,
        found.note,
    )  # fmt: skip
