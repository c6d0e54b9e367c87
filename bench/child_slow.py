"""Parts of `bench/slow.py` that need a process of their own: `child_slow.py PART HOME ...`, answers in JSON.

Only the log, the stage and the bounds are imported, so that the memory of such a process is theirs.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.child_log import KEYS, POOL, TOPIC, peak_mb, values
from penstock.app.pressure import Bounds, Disk, Pressure, lags, patiently
from penstock.log.sqlite import SqliteLog
from penstock.record.record import Draft, Record
from penstock.stage import Emitted, Running, stage

STAGE = "slow"
BATCH = 100
SLOW_S = 0.0005  # what the stage sleeps for a record until it is told to hurry: 2,000 a second
HURRY = "hurry"  # the file that tells it
LOOK_S = 0.05


class Seen(msgspec.Struct):
    """The stage's state: how many records, and the CRC of all their values in order."""

    count: int = 0
    crc: int = 0


def produce(home: Path, backlog: int, bounded: int, hold_s: float) -> dict[str, Any]:
    """Append at full speed until the stage is `backlog` records behind. Where that is a declared bound,
    go on against it for a while: the bound is what holds this process back."""
    log, pool = SqliteLog(home), values(POOL)
    inputs = {STAGE: [TOPIC]}
    pressure = Pressure(
        Bounds(backlog if bounded else 0, 0), lambda names: lags(log, inputs), lambda: Disk(10**12, 0)
    )

    def admitted(drafts: Sequence[Draft]) -> None:
        with pressure.admit(len(drafts)):
            log.append(drafts, sync=False)

    at = crc = most = 0
    waits: list[str] = []
    began = looked = time.monotonic()
    until = met = 0.0
    while not until or time.monotonic() < until:
        span = [pool[i % POOL] for i in range(at, at + BATCH)]
        drafts = [Draft(TOPIC, f"k{i % KEYS}", i, value) for i, value in enumerate(span, at)]
        patiently(partial(admitted, drafts), "wait", waits.append, sleep=lambda pause_s: time.sleep(0.01))
        crc = zlib.crc32(b"".join(span), crc)
        at += BATCH
        if (now := time.monotonic()) > looked + LOOK_S:
            looked, lag = now, lags(log, inputs)[STAGE]
            most = max(most, lag)
            if not until and (waits if bounded else lag >= backlog):
                met, until = now - began, now + (hold_s if bounded else 0)
    log.append([Draft(TOPIC, "", 0, b"")])  # the end
    log.close()
    return {
        "appended": at, "crc": crc, "per_s": at / met if met else 0.0, "most": most, "waits": len(waits),
        "peak_mb": peak_mb(),
    }  # fmt: skip


def consume(home: Path, patience_s: float) -> dict[str, Any]:
    """Own the stage, slowly until told to hurry, up to the end. `backlog_mb`: the peak until then."""
    log, hurry = SqliteLog(home), home / HURRY
    backlog_mb = 0.0
    hurried = began = time.monotonic()
    before, ended = 0, False

    def step_many(state: Seen, records: Sequence[Record]) -> tuple[Seen, list[Emitted]]:
        nonlocal backlog_mb, hurried, before, ended
        if not hurry.exists():
            time.sleep(SLOW_S * len(records))
        elif not backlog_mb:
            backlog_mb, hurried, before = peak_mb(), time.monotonic(), state.count
        ended = bool(records) and not records[-1].value
        crc = zlib.crc32(b"".join(record.value for record in records), state.crc)
        return Seen(state.count + len(records) - ended, crc), []

    slow = msgspec.structs.replace(
        stage(STAGE, [TOPIC], Seen, lambda state, record: (state, [])), step_many=step_many
    )
    running = Running(slow, log, batch=256)
    print("ready", flush=True)
    while not ended and time.monotonic() < began + patience_s:
        if running.advance() is None:
            log.wait(running.position, 0.25)
    took = time.monotonic() - hurried
    log.close()
    return {
        "seen": running.state.count, "crc": running.state.crc, "backlog_mb": backlog_mb, "peak_mb": peak_mb(),
        "per_s": (running.state.count - before) / took,
    }  # fmt: skip


def main() -> None:
    """Run one part and print what it found."""
    part, home, *given = sys.argv[1:]
    rest = [float(one) if "." in one else int(one) for one in given]
    parts: dict[str, Any] = {"produce": produce, "consume": consume}
    print(msgspec.json.encode(parts[part](Path(home), *rest)).decode(), flush=True)


if __name__ == "__main__":
    main()
