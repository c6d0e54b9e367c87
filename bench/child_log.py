"""The parts of `bench/log.py` that need a process of their own: `child_log.py PART HOME ...`, answers in JSON.

Only the log and what it needs is imported, so that the memory of such a process is that of the log.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.columns import columns
from penstock.log.upkeep.seal import seal, sealed_below
from penstock.log.upkeep.sweep import shrink
from penstock.record.codec import pack
from penstock.record.record import START, Draft, Position

TOPIC = "paid"
EVENT_BYTES = 200
POOL, KEYS = 20_000, 1_000
BATCH = 100  # what the costs are asked at
LEAST_COSTS, MOST_COSTS = 60, 500  # so many appends of 100 that they do not lengthen a log by much
STAMPS = 16  # the first bytes of a stamped value: when it was due, when it was appended


def values(n: int) -> list[bytes]:
    """Values of 200 bytes that a codec would have written: no two alike."""
    chance = random.Random(1)
    made = []
    for i in range(n):
        row = {
            "amount": chance.uniform(1, 99),
            "at": 1_704_067_200_000 + i,
            "card": chance.randrange(KEYS),
            "id": i,
        }
        left = EVENT_BYTES - len(pack({**row, "note": "x" * 99})) + 99
        made.append(pack({**row, "note": f"{chance.getrandbits(4 * left):0{left}x}"}))
    assert all(len(value) == EVENT_BYTES for value in made)
    return made


def fill(home: Path, upto: int, batch: int) -> dict[str, Any]:
    """Append until the log holds so many records."""
    log, pool = SqliteLog(home), values(POOL)
    keys = [f"k{i % KEYS}" for i in range(POOL)]
    begun = at = log.end().n
    began = told = time.monotonic()
    while at < upto:
        n = min(batch, upto - at)
        drafts = [Draft(TOPIC, keys[i % POOL], i, pool[i % POOL]) for i in range(at, at + n)]
        at = log.append(drafts, sync=False).end.n
        if sys.stderr.isatty() and time.monotonic() > told + 1:
            told = time.monotonic()
            print(f"\r{at:,} of {upto:,} records", end="", file=sys.stderr, flush=True)
    took = time.monotonic() - began
    log.close()
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return {"per_s": (at - begun) / took if took else 0.0}


def costs(home: Path, short: Path, seconds: float) -> dict[str, Any]:
    """What a record costs at the end of a log and of a shorter one, in turn: a disk's mood changes by the minute.

    Asked of a synced append of 100, and of a wait and read of the newest 100. The reading handle is another
    one: it knows no more of the writer than another process would.
    """
    drafts = [Draft(TOPIC, f"k{i % KEYS}", 1, value) for i, value in enumerate(values(BATCH))]
    pairs = [(SqliteLog(one), SqliteLog(one)) for one in (home, short)]
    ends = [writer.end() for writer, _ in pairs]
    taken: list[list[tuple[float, float]]] = [[], []]
    until = time.monotonic() + seconds
    while (time.monotonic() < until and len(taken[1]) < MOST_COSTS) or len(taken[1]) < LEAST_COSTS:
        for i in (0, 1) if len(taken[1]) % 2 else (1, 0):  # neither always syncs after the other
            writer, reader = pairs[i]
            began = time.perf_counter()
            end = writer.append(drafts).end
            wrote = time.perf_counter()
            assert reader.wait(ends[i], 1.0)
            found, ends[i] = reader.read([TOPIC], ends[i])
            taken[i].append((wrote - began, time.perf_counter() - wrote))
            assert ends[i] == end and len(found) == BATCH
    for pair in pairs:
        for log in pair:
            log.close()
    warm = len(taken[0]) // 10
    at, base = (
        [1e6 / BATCH * statistics.median(part) for part in zip(*of[warm:], strict=True)] for of in taken
    )
    return {"append_us": at[0], "tail_us": at[1], "short_append_us": base[0], "short_tail_us": base[1]}


def walk(home: Path) -> dict[str, Any]:
    """The most memory that a process has held which tails a log, appends to it, and replays all of it."""
    log = SqliteLog(home)
    drafts = [Draft(TOPIC, "k", 1, value) for value in values(BATCH)]
    position = log.end()
    for _ in range(50):
        log.append(drafts)
        assert log.wait(position, 1.0)
        found, position = log.read([TOPIC], position)
        assert len(found) == BATCH
    seen, at = 0, START
    began = time.monotonic()
    while at.n < position.n:
        found, at = log.read([TOPIC], at)
        seen += len(found)
    took = time.monotonic() - began
    assert seen == position.n
    log.close()
    return {"peak_mb": peak_mb(), "per_s": seen / took}


def put_away(home: Path) -> dict[str, Any]:
    """Seal what lies behind the tail, and give back the room, as upkeep does in a process of its own."""
    log = SqliteLog(home)
    began = time.monotonic()
    sealed = seal(log)
    took = time.monotonic() - began
    shrink(log)
    log.close()
    return {"sealed": sealed, "per_s": sealed / took if sealed else 0.0, "peak_mb": peak_mb()}


def read_columns(home: Path, fields: str, rounds: int) -> dict[str, Any]:
    """Rows a second of what is sealed into columns, and the most memory that it took."""
    log = SqliteLog(home)
    stop = Position(n=sealed_below(log, TOPIC))
    rates = []
    for _ in range(rounds + 1):  # the first one warms up
        began = time.perf_counter()
        rows = sum(len(part) for part in columns(log, TOPIC, START, stop, fields.split(",")))
        rates.append(rows / (time.perf_counter() - began))
        assert rows == stop.n
    log.close()
    return {"per_s": statistics.median(rates[1:]) if stop.n else None, "rows": stop.n, "peak_mb": peak_mb()}


def write(home: Path, seconds: float, rate: int, sync: bool) -> dict[str, Any]:
    """Append events as they fall due, `rate` a second, each stamped just before; the last one is empty.

    An event that falls due while an append is under way goes with the next; so no event is ever skipped.
    """
    log, rest = SqliteLog(home), bytes(EVENT_BYTES - STAMPS)
    sent, appends, total = 0, 0, int(seconds * rate)
    began = time.time_ns()
    while sent < total:
        due = min(total, (time.time_ns() - began) * rate // 1_000_000_000)
        if due - sent < min(rate // 1000, total - sent):  # a batch each millisecond
            time.sleep(0.0001)
            continue
        dues = [began + i * 1_000_000_000 // rate for i in range(sent, due)]
        now = time.time_ns().to_bytes(8)
        log.append([Draft(TOPIC, "k", 1, at.to_bytes(8) + now + rest) for at in dues], sync=sync)
        sent, appends = due, appends + 1
    took = (time.time_ns() - began) / 1e9
    log.append([Draft(TOPIC, "k", 1, b"")])
    log.close()
    return {"per_s": sent / took, "batch": sent / appends}


def read(home: Path, patience_s: float) -> dict[str, Any]:
    """Follow the log's end until the empty event; how long after its stamps each event was here, in ms."""
    log, position = SqliteLog(home), START
    print("ready", flush=True)
    appended, due = [], []
    until = time.monotonic() + patience_s
    for value, now in _followed(log, position, until):
        if not value:
            break
        due.append((now - int.from_bytes(value[:8])) / 1e6)
        appended.append((now - int.from_bytes(value[8:STAMPS])) / 1e6)
    log.close()
    warm = len(appended) // 10
    return {"n": len(appended), "since_append": _marks(appended[warm:]), "since_due": _marks(due[warm:])}


def _followed(log: SqliteLog, position: Position, until: float) -> Iterator[tuple[bytes, int]]:
    while time.monotonic() < until:
        if log.wait(position, 1.0):
            records, position = log.read([TOPIC], position)
            now = time.time_ns()
            yield from ((record.value, now) for record in records)


def disk(home: Path, seconds: float) -> dict[str, Any]:
    """What the disk takes to write and sync five events at the end of a file, in ms: no log is faster."""
    path, data = home / "disk", bytes(5 * EVENT_BYTES)
    taken: list[float] = []
    until = time.monotonic() + seconds
    with path.open("wb", buffering=0) as file:
        while time.monotonic() < until or len(taken) < LEAST_COSTS:
            began = time.perf_counter()
            file.write(data)
            os.fdatasync(file.fileno())
            taken.append(1e3 * (time.perf_counter() - began))
    path.unlink()
    return {"ms": _marks(taken)}


def _marks(taken: list[float]) -> list[float]:
    """The median and the 99th percentile."""
    cuts = statistics.quantiles(taken, n=100)
    return [cuts[49], cuts[98]]


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc tells no peak")


def main() -> None:
    """Run one part and print what it found."""
    part, home, *given = sys.argv[1:]
    rest = [_given(text) for text in given]
    parts: dict[str, Any] = {
        "fill": fill, "costs": costs, "put_away": put_away, "walk": walk, "read_columns": read_columns,
        "write": write, "read": read, "disk": disk,
    }  # fmt: skip
    print(msgspec.json.encode(parts[part](Path(home), *rest)).decode(), flush=True)


def _given(text: str) -> Path | str | float:
    """An argument: a path, names, or a number."""
    if "/" in text:
        return Path(text)
    return text if "," in text else float(text) if "." in text else int(text)


if __name__ == "__main__":
    main()
