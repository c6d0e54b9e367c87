"""crash: plays a seeded history into a home, and says each period that is done. Made to be killed."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.home import open_home
from penstock.app.pipeline import load
from penstock.app.replay import replay
from penstock.app.system import System
from penstock.app.worker import in_process
from penstock.log import Appended, Commit
from penstock.log.sqlite import SqliteLog
from penstock.record.codec import millis

START_AT = datetime(2024, 1, 1, tzinfo=UTC)
HOURS = 24 * 8


def history(seed: int) -> Iterator[tuple[int, str, Any]]:
    """Asks, some of them agreed to within hours; the world changes in the middle."""
    chance, events = random.Random(seed), []
    for hour in range(HOURS):
        for i in range(6):
            at = START_AT + timedelta(hours=hour + chance.random())
            x, z = chance.gauss(0, 1), chance.choice([None, chance.gauss(0, 1), chance.gauss(0, 1)])
            slope = 2.0 if hour < HOURS * 0.4 else -2.0
            row = {"ask_id": f"{hour}-{i}", "who": f"who-{chance.randrange(20)}", "at": at, "x": x, "z": z}
            events.append((millis(at), "ask", row))
            if chance.random() < 1 / (1 + 2.718 ** (-slope * x)):
                later = at + timedelta(hours=chance.uniform(0.1, 9))
                events.append((millis(later), "yes", {"ask_id": row["ask_id"], "at": later}))
    end_ms = millis(START_AT + timedelta(hours=HOURS))
    return iter(sorted((event for event in events if event[0] < end_ms), key=lambda event: event[0]))


def torn(log: SqliteLog, commit: Commit, *, sync: bool = True) -> Appended:
    """A planted bug: outputs first, under no id of their own, the position in a write after it."""
    plain = [msgspec.structs.replace(draft, id="") for draft in commit.outputs]
    log.append(plain, sync=False)
    time.sleep(0.01)
    return whole(log, msgspec.structs.replace(commit, outputs=[]), sync=sync)


whole = SqliteLog.commit


def main(folder: str, seed: int, planted: bool) -> None:
    """Play from where the home stands to the end."""
    if planted:
        SqliteLog.commit = torn
    home = open_home(Path(folder), create=True)
    file = load(Path(__file__).with_name("pipeline.py"))
    system = System(file, home.log, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    system.deploy(millis(START_AT)) if not home.log.topics() else None
    replay(system, history(seed), told=lambda played: print(played.now_ms, flush=True))
    system.save()
    home.log.close()
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["planted"])
