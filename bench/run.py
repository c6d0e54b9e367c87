"""Us and a peer in turn, in one run: medians of rounds, and the ratio. `make bench`, or with `ARGS=--json`.

- log: records appended a second, each append synced: against SQLite as one would use it by hand.
- features: values of a training set a second: against DuckDB's range joins on the same events, checked equal.
- answers: one client's infer calls over HTTP on loopback: no peer here, only our own figure.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import httpx
import msgspec

from penstock.app.append import append
from penstock.app.home import open_home
from penstock.app.live import Live
from penstock.app.pipeline import load
from penstock.app.system import System, decide
from penstock.app.up import Server, Settings
from penstock.app.worker import in_process
from penstock.cli import show
from penstock.feature import Fold, compile, count, mean, sum
from penstock.log.sqlite import SqliteLog
from penstock.record.codec import moment
from penstock.record.decisions import Decision
from penstock.record.event import Event, key, source
from penstock.record.record import Draft, Record

ROUNDS = 3
EVENTS, KEYS, REQUESTS = 20_000, 500, 2_000
HOUR_MS = 3_600_000
PIPELINE = Path(__file__).parents[1] / "tests" / "crash" / "pipeline.py"


class Line(msgspec.Struct):
    """One comparison: rates a second."""

    what: str
    ours: float
    peer: str
    peers: float | None

    @property
    def ratio(self) -> float | None:
        """How many times the peer's rate ours is."""
        return self.ours / self.peers if self.peers else None


def timed(work: Callable[[], int]) -> float:
    """Units of work a second."""
    began = time.perf_counter()
    return work() / (time.perf_counter() - began)


def in_turn(ours: Callable[[], float], peers: Callable[[], float]) -> tuple[float, float]:
    """Medians of rounds that alternate."""
    pairs = [(ours(), peers()) for _ in range(ROUNDS)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def bench_log(folder: Path, threads: int, batch: int) -> Line:
    """Synced appends from several threads."""
    n = 200
    log = SqliteLog(folder / f"ours-{threads}-{batch}")
    drafts = [Draft("t", "k", 1, b"x" * 200) for _ in range(batch)]
    path = folder / f"peer-{threads}-{batch}.db"
    with sqlite3.connect(path) as made:
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("CREATE TABLE record(position INTEGER PRIMARY KEY, key TEXT, time INTEGER, value BLOB)")
    made.close()

    def by_hand() -> None:
        db = sqlite3.connect(path, timeout=30, isolation_level=None)
        db.execute("PRAGMA synchronous = FULL")
        for _ in range(n // threads):
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO record(key, time, value) VALUES('k', 1, ?)", [(b"x" * 200,)] * batch)
            db.execute("COMMIT")
        db.close()

    def ours() -> None:
        for _ in range(n // threads):
            log.append(drafts)

    def spread(one: Callable[[], None]) -> int:
        workers = [threading.Thread(target=one) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return n // threads * threads * batch

    a, b = in_turn(lambda: timed(lambda: spread(ours)), lambda: timed(lambda: spread(by_hand)))
    log.close()
    return Line(f"log: synced appends of {batch}, {threads} threads (records/s)", a, "sqlite3 by hand", b)


class Paid(Event):
    """An event to aggregate."""

    paid_id: int
    card: int = key()
    at: int
    amount: float


def bench_features() -> Line:
    """A training set of window values, ours by one fold, DuckDB's by a range join a window."""
    paid = source(Paid, id="paid_id", time="at")
    chosen = {
        f"{name}_{hours}h": make(of, window=f"{hours}h")
        for hours in (1, 6, 24)
        for name, make, of in (("n", count, paid), ("total", sum, paid.amount), ("usual", mean, paid.amount))
    }
    features = compile(list(chosen.values()), paid, chosen)
    chance = random.Random(1)
    rows = [(i, chance.randrange(KEYS), i * 4000, round(chance.uniform(1, 99), 2)) for i in range(EVENTS)]
    records = []
    for i, (n, card, at, amount) in enumerate(rows):
        made = paid.draft(Paid(paid_id=n, card=card, at=at, amount=amount))
        records.append(Record(made.topic, i, made.id, made.key, made.time_ms, made.value))
    asked = set(chance.sample(range(EVENTS), REQUESTS))
    found: dict[int, list[Any]] = {}

    def ours() -> int:
        fold = Fold(features)
        for record in records:
            if record.position in asked:
                found[record.position] = fold.read(record)
            fold.add(record)
        return len(asked) * len(chosen)

    db = duckdb.connect()
    db.execute("SET threads = 1")
    db.execute("CREATE TABLE e(o BIGINT, card BIGINT, t BIGINT, units HUGEINT)")
    db.executemany("INSERT INTO e VALUES(?, ?, ?, ?)", [(n, c, t, round(x * 2**20)) for n, c, t, x in rows])
    db.execute("CREATE TABLE r AS SELECT * FROM e WHERE list_contains(?::BIGINT[], o)", [sorted(asked)])
    theirs: dict[int, list[Any]] = {}

    def peers() -> int:
        asks = [
            "SELECT r.o, count(e.o), coalesce(sum(e.units), 0) FROM r LEFT JOIN e ON e.card = r.card "
            f"AND e.o < r.o AND e.t <= r.t AND e.t > r.t - {hours * HOUR_MS} GROUP BY r.o ORDER BY r.o"
            for hours in (1, 6, 24)
        ]
        columns = [db.execute(one).fetchall() for one in asks]
        for lines in zip(*columns, strict=True):
            theirs[lines[0][0]] = [
                value
                for _, n, units in lines
                for value in (n, int(units) * 2.0**-20, int(units) / n * 2.0**-20 if n else None)
            ]
        return len(asked) * len(chosen)

    a, b = in_turn(lambda: timed(ours), lambda: timed(peers))
    assert found == theirs
    return Line(f"features: training values, {len(chosen)} a row (values/s)", a, "DuckDB range joins", b)


def bench_answers(folder: Path) -> list[Line]:
    """Infer calls of one client over HTTP, features looked up by entity, prediction on the log first."""
    home = open_home(folder / "home", create=True)
    system = System(
        load(PIPELINE), home.log, home.blobs, home.path, time.perf_counter, in_process, sync=False
    )
    chance, now_ms = random.Random(2), 1_704_067_200_000
    for i in range(300):
        at_ms = now_ms + i * 600_000
        row = {"ask_id": f"h{i}", "who": f"w{i % 9}", "at": moment(at_ms), "x": chance.gauss(0, 1), "z": None}
        append(system.file, home.log, "ask", [row], now_ms=at_ms, sync=False)
        if row["x"] > 0:
            append(
                system.file,
                home.log,
                "yes",
                [{"ask_id": f"h{i}", "at": moment(at_ms + 1000)}],
                now_ms=at_ms,
                sync=False,
            )
    end_ms = now_ms + 300 * 600_000 + 13 * HOUR_MS
    for t_ms in (end_ms, end_ms + 1, end_ms + 2):
        system.tick(t_ms)
        system.drain()
    if system.champion("agree") is None:
        decide(home.log, Decision("agree", "promote", "bench", "", end_ms, 1))
        system.drain()
    live = Live(system, lambda: end_ms, tick_s=1e6)
    server = Server(live, home, Settings(port=0))
    live.start()
    address = server.start()
    body = {"inputs": [
        {"name": "who", "datatype": "BYTES", "shape": [1], "data": ["w1"]},
        {"name": "x", "datatype": "FP64", "shape": [1], "data": [0.5]},
        {"name": "z", "datatype": "FP64", "shape": [1], "data": [0.1]},
    ]}  # fmt: skip
    taken = []
    with httpx.Client(base_url=address) as client:
        for _ in range(400):
            began = time.perf_counter()
            client.post("/v2/models/agree/infer", json=body).raise_for_status()
            taken.append(time.perf_counter() - began)
    server.stop()
    live.stop()
    home.log.close()
    ordered = sorted(taken[50:])
    return [
        Line("answers: one client, median (ms)", statistics.median(ordered) * 1000, "-", None),
        Line("answers: one client, p99 (ms)", ordered[int(len(ordered) * 0.99)] * 1000, "-", None),
    ]


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def main() -> None:
    """Run all, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        lines = [
            bench_log(Path(folder), 1, 1),
            bench_log(Path(folder), 4, 1),
            bench_log(Path(folder), 1, 100),
        ]
        lines += [bench_features(), *bench_answers(Path(folder))]
    if given.json:
        show.as_json([{**msgspec.to_builtins(line), "ratio": line.ratio} for line in lines])
        return
    rows = [[one.what, _told(one.ours), one.peer, _told(one.peers), _told(one.ratio)] for one in lines]
    show.table("", ["what", "ours", "peer", "peer's", "ratio"], rows)


if __name__ == "__main__":
    main()
