"""loop: a file that is up, more events than its stages or its disk can take: none is lost, none slips in."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.log.sqlite import SqliteLog
from penstock.record.codec import unpack
from penstock.stage import every
from tests.faults import mount
from tests.loop.test_up import PIPELINE, Up, lines, until

ROWS = 100
SLOW = PIPELINE.read_text().replace("import Data,", "import Data, label,").replace(
    "agree = Pipeline(",
    """
@label(yes)
def agreed(ask_id):
    import time

    time.sleep(0.0005)
    return True


agree = Pipeline(""",
).replace("label=yes,", "label=agreed,")  # fmt: skip
"""Its labels are worked out slowly: two thousand a second."""


class Producer:
    """Sends batches of requests and of labels without ids, each under its number, and keeps books.

    What was refused is sent again later, or given up for good; now and then an answer gets lost, and what
    was taken is sent again."""

    def __init__(self, name: str, url: httpx.URL) -> None:
        self.name, self.client = name, httpx.Client(base_url=url, timeout=20)
        self.next = {"ask": 1, "yes": 1}
        self.made = 0
        self.batch: tuple[str, list[str]] | None = None  # made, not taken yet
        self.taken: list[tuple[str, str]] = []  # (topic, request)
        self.given_up: list[tuple[str, str]] = []
        self.tries = self.taken_late = self.repeated = 0
        self.met: Counter[tuple[int, str, str]] = Counter()  # status, code, retry-after

    def send(self) -> bool:
        """Send the batch that waits, or a new one, of a topic in turn; whether it was taken."""
        if self.batch is None:
            topic = ("ask", "yes")[self.made % 2]
            self.batch = topic, [f"{self.name}-{self.made // 2}-{i}" for i in range(ROWS)]
            self.made += 1
        topic, ids = self.batch
        row = {"at": "2024-01-10T00:00:00Z"} | ({"who": "w", "x": 1.0, "z": None} if topic == "ask" else {})
        body = lines([{"ask_id": id, **row} for id in ids])
        taken = self.took(topic, body)
        if taken:
            self.taken_late += self.tries > 0
            self.taken += [(topic, id) for id in ids]
            if self.made % 4 == 0 and self.took(topic, body, again=True):
                self.repeated += ROWS
            self.next[topic] += 1
        elif self.made % 3 == 0:
            self.given_up += [(topic, id) for id in ids]
        self.tries += 1
        if taken or self.made % 3 == 0:
            self.batch, self.tries = None, 0
        return taken

    def took(self, topic: str, body: str, *, again: bool = False) -> bool:
        """Whether a batch was taken; its answer is right in every word."""
        answer = self.client.post(
            f"/events/{topic}", content=body, headers={
                "content-type": "application/x-ndjson",
                "penstock-producer": self.name, "penstock-sequence": str(self.next[topic]),
            },
        )  # fmt: skip
        said = answer.json()
        if answer.status_code == 200:
            assert (said["appended"], said["duplicates"]) == ((0, ROWS) if again else (ROWS, 0))
            return True
        self.met[answer.status_code, said["code"], answer.headers.get("retry-after", "")] += 1
        assert answer.status_code in (429, 503, 507), said
        return False


def metric(client: httpx.Client, name: str, *labels: str) -> int:
    """The sum of a metric's lines that bear the labels."""
    found = re.findall(rf"^{name}\{{(.*)\}} (\d+)$", client.get("/metrics").text, re.MULTILINE)
    return sum(int(n) for text, n in found if all(label in text for label in labels))


def books_balance(log: SqliteLog, producers: Sequence[Producer]) -> None:
    """Every event that was taken stands once, no other one of the producers does."""
    mine = tuple(f"{one.name}-" for one in producers)
    stand = Counter(
        (record.topic, unpack(record.value, dict)["ask_id"]) for record in every(log, ["ask", "yes"])
    )
    found = {at: n for at, n in stand.items() if at[1].startswith(mine)}
    assert found == Counter(at for one in producers for at in one.taken)
    assert not found.keys() & {at for one in producers for at in one.given_up}


def flood(producers: Sequence[Producer], over: Any) -> None:
    """All send as fast as they can until it is over."""

    def work(one: Producer) -> None:
        while not over():
            if not one.send():
                time.sleep(0.05)

    threads = [threading.Thread(target=work, args=(one,)) for one in producers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    """What ends with the test, however that ends."""
    with ExitStack() as stack:
        yield stack


def started(ending: ExitStack, up: Up) -> Up:
    """It is killed if it does not end before."""
    ending.callback(up.kill)
    return up


def producers_of(ending: ExitStack, up: Up) -> list[Producer]:
    """Two that send to it."""
    made = [Producer(name, up.client.base_url) for name in ("p", "q")]
    for one in made:
        ending.callback(one.client.close)
    return made


def test_a_slow_stage_and_a_full_log_hold_producers_back(ending: ExitStack, tmp_path: Path) -> None:
    """429 with a time to try again, taken again once the stage has caught up, 507 when the log has its size;
    health and metrics say so; after a restart with more room it goes on."""
    home, file = tmp_path / "home", tmp_path / "slow.py"
    file.write_text(SLOW)
    bounds = ("--max-lag", "800", "--max-log", "4MB", "--min-free", "0")
    up = started(ending, Up(home, *bounds, file=file))
    producers = producers_of(ending, up)
    held: list[tuple[str, int]] = []

    def over() -> bool:
        return any(code == "log_size" for one in producers for _, code, _ in one.met)

    def look() -> None:
        while not over():
            status = up.client.get("/status").json()
            held.append((status["held"], status["stages"]["outcome.agree"]["lag"]))
            time.sleep(0.05)

    looking = threading.Thread(target=look)
    looking.start()
    flood(producers, over)
    looking.join()
    met = sum((one.met for one in producers), Counter())
    assert met.keys() == {(429, "lag", "1"), (507, "log_size", "10")}
    assert sum(one.taken_late for one in producers) > 1
    most_lag = max(lag for _, lag in held)
    assert {"", "lag"} <= {code for code, _ in held} and 800 < most_lag < 1100
    assert up.client.get("/v2/health/ready").json() == {"live": True, "ready": True, "held": "log_size"}
    assert metric(up.client, "penstock_held", 'code="log_size"') == 1
    for status, code in ((429, "lag"), (507, "log_size")):
        told = metric(up.client, "penstock_since_start_answers_refused", f'"{status}"', f'code="{code}"')
        assert told == sum(n for at, n in met.items() if at[0] == status)
    assert up.close() == 0
    up = started(ending, Up(home, "--min-free", "0", file=file))
    for one in producers:
        one.client.base_url = up.client.base_url
        assert one.send()
    until(lambda: not any(one["lag"] for one in up.client.get("/status").json()["stages"].values()))
    repeated = sum(one.repeated for one in producers)
    assert repeated and metric(up.client, "penstock_refused", 'code="repeated"') == repeated
    assert "<td>repeated</td>" in up.client.get("/").text
    assert up.close() == 0
    log = SqliteLog(home)
    books_balance(log, producers)
    for said, truly in ((one.taken, one.given_up), (one.given_up, one.taken)):
        said.append(truly[0])  # a producer that believes what is not so is found out
        with pytest.raises(AssertionError):
            books_balance(log, producers)
        said.pop()
    log.close()


def snapshot(up: Up, home: Path, into: Path) -> SqliteLog:
    """The log as a kill at this moment would leave it."""
    up.process.send_signal(signal.SIGSTOP)
    into.mkdir()
    for name in ("log.db", "log.db-wal"):
        shutil.copy(mount.seen_by(up.process.pid, home) / name, into / name)
    up.process.send_signal(signal.SIGCONT)
    return SqliteLog(into)


@pytest.mark.skipif(bool(mount.missing()), reason=mount.missing())
def test_a_disk_that_is_full(ending: ExitStack, tmp_path: Path) -> None:
    """On a real file system that fills: 507, health answers, and by itself it goes on once there is room; what
    a kill would leave at the worst moment, and what stands in the end, is what was taken."""
    home = tmp_path / "home"
    home.mkdir()
    bounds = ("--max-lag", "0", "--min-free", "0")
    up = started(ending, Up(home, *bounds, by=mount.on(home, "24m")))
    producers = producers_of(ending, up)
    ballast = mount.seen_by(up.process.pid, home) / "ballast"
    ballast.write_bytes(bytes(19 << 20))

    def full() -> bool:
        return sum(n for one in producers for (status, *_), n in one.met.items() if status == 507) > 20

    flood(producers, full)
    met = sum((one.met for one in producers), Counter())
    assert {at for at in met if at[0] == 507} == {(507, "log_full", "10")}
    began = time.monotonic()
    assert up.client.get("/v2/health/live").status_code == 200 and time.monotonic() - began < 1
    assert metric(up.client, "penstock_since_start_answers_refused", '"507"') >= met[507, "log_full", "10"]
    until(lambda: metric(up.client, "penstock_since_start_turns_failed", 'turn="tick"'))
    left = snapshot(up, home, tmp_path / "left")
    books_balance(left, producers)
    left.close()
    ballast.unlink()
    for one in producers:
        until(one.send)
    until(lambda: not any(one["lag"] for one in up.client.get("/status").json()["stages"].values()))
    after = snapshot(up, home, tmp_path / "after")
    books_balance(after, producers)
    after.close()
    assert up.close() == 0
