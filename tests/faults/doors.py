"""faults: a broker that asks who comes is killed and started again, and does not know us for a while.

Who holds a log goes on, and who opens one waits, by each door. Where the password is another for a while, an
append is answered with that; once it is the old one again, the same handle appends.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from penstock.log.kafka import KafkaLog, place
from penstock.record.errors import PenstockError
from penstock.record.record import START, Draft
from tests.faults.finding import Finding, Plan
from tools.kafka.broker import Cluster
from tools.kafka.secure import USER, Doors, lines

TIMES = 6


class Held:
    """A broker with its doors, a log that is held open by each, and the ids that were acknowledged."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.homes = folder, iter(range(10_000))
        self.doors = Doors(folder / "doors")
        self.cluster = Cluster(folder / "broker", more=self.doors.more)
        stack.callback(self.cluster.stop)
        self.cluster.start()
        self.doors.admit(self.cluster.address, "log")
        by_password, by_certificate = self.doors.sasl, self.doors.tls
        self.ways = [
            (self.doors.address, by_password),
            (self.doors.address, {**by_password, "sasl.mechanism": "PLAIN"}),
            (self.doors.mutual, by_certificate),
        ]
        self.logs = [stack.enter_context(closing(self.open(way))) for way in range(len(self.ways))]
        self.acked: list[str] = []

    def open(self, way: int) -> KafkaLog:
        """The log in a home of its own, by a door."""
        address, settings = self.ways[way]
        return KafkaLog(
            self.folder / f"home{next(self.homes)}", place(f"kafka://{address}/log", lines(settings))
        )

    def append(self, way: int, id: str) -> str:
        """Append a record; what went wrong."""
        try:
            self.logs[way].append([Draft("in", "k", 1, b"x", id)])
        except PenstockError as error:
            return error.code
        self.acked.append(id)
        return ""

    def restart(self, way: int, name: str, down_s: float) -> list[str]:
        """The broker is away for a time, while each log appends and another is opened; what went wrong."""
        self.cluster.kill(0)
        with ThreadPoolExecutor(1 + len(self.logs)) as threads:
            tried = [threads.submit(self.append, n, f"{name}/{n}") for n in range(len(self.logs))]
            opened: Future[None] = threads.submit(lambda: self.open(way).close())
            time.sleep(down_s)
            self.cluster.start()
            wrong = [f"append by door {n}: {one.result()}" for n, one in enumerate(tried) if one.result()]
        error = opened.exception()
        return [*wrong, *([f"open by door {way}: {error}"] if error else [])]

    def unknown(self, name: str, back: bool) -> list[str]:
        """The password is another over a restart, then the old one again, if it comes back; what went wrong."""
        word = self.doors.passwords[USER]
        self.doors.passwords[USER] = "another"
        self.doors.admit(self.cluster.address, "log")
        self.doors.passwords[USER] = word
        self.cluster.kill(0)
        self.cluster.start()
        first = self.append(0, f"{name}/denied")
        if back:
            self.doors.admit(self.cluster.address, "log")
        code = first
        deadline = time.monotonic() + (20 if back else 1)
        while code and time.monotonic() < deadline:
            code = self.append(0, f"{name}/again")
        wrong = [] if first == "log_denied" else [f"with another password: {first or 'appended'}"]
        return [*wrong, *([f"with its password again: {code}"] if code else [])]

    def judge(self) -> list[str]:
        """Whether what was acknowledged is there, once, for each who reads."""
        wrong = []
        for way, log in enumerate(self.logs):
            deadline = time.monotonic() + 10
            while (found := [one.id for one in log.read(["in"], START, limit=10**6)[0]]) and (
                set(found) < set(self.acked) and time.monotonic() < deadline
            ):
                time.sleep(0.1)
            if sorted(set(found)) != sorted(found) or not set(self.acked) <= set(found):
                wrong.append(f"door {way} reads {len(found)}, {len(self.acked)} were acknowledged")
        return wrong


def findings(plan: Plan) -> Iterator[Finding]:
    """The restarts, then the passwords. Raises Missing without a broker or openssl."""
    chance, began = random.Random(f"{plan.seed}/doors"), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-doors-") as folder, ExitStack() as stack:
        held, wrong = Held(Path(folder), stack), []
        times = plan.times(TIMES, 2)
        for i in range(times):
            wrong += held.restart(i % len(held.ways), f"restart {i}", chance.uniform(0.5, 4))
        wrong += held.judge()
        yield _told(
            plan, Finding("doors: restarts", times, len(wrong), seconds=time.monotonic() - began), wrong
        )
        began, times = time.monotonic(), plan.times(2)
        wrong = [one for i in range(times) for one in held.unknown(f"password {i}", back=True)] + held.judge()
        planted = held.unknown("planted", back=False)
        finding = Finding(
            "doors: another password", times, len(wrong), "password not restored", int(bool(planted)), 1,
            time.monotonic() - began,
        )  # fmt: skip
        yield _told(plan, finding, wrong)


def _told(plan: Plan, finding: Finding, wrong: list[str]) -> Finding:
    for one in wrong:
        plan.note(f"{finding.name}, seed {plan.seed}: {one}")
    return finding
