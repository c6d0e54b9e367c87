"""faults: two models behind queues, one given the other's answers, on Kafka: two processes of each stage, killed.

The history is played to them in turn: the log must come out as that of one undisturbed process on the embedded one.
Then more requests come, as fast as they may, and nobody waits for a turn: each is answered once by both, and what
they said verifies.
"""

from __future__ import annotations

import functools
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

from penstock.app.digest import digests
from penstock.app.home import Books, Home, open_home
from penstock.app.pipeline import load
from penstock.app.system import own
from penstock.cli import main
from penstock.feature import JOIN
from penstock.log import Commit, Log
from penstock.record.decisions import Prediction, predictions, read
from penstock.stage import AnyStage, Running, every
from tests.crash.crews import crew, drive, driver, embedded, events, everything

PIPELINE = Path(__file__).parents[1] / "crash" / "queued.py"
MODELS = ("first", "second")
DIGESTS = ("registry", "predictions", "outcomes")
BESIDE = "predict join outcome monitor"
"""What runs side by side: without ticks and trainings, so that who answers stays who answered last."""
SHARES = 2
HOURS, MORE = 96, 48
SESSION = "session.timeout.ms=1500\n"
LONGEST_S = 900.0
END_S = 60.0


class Crews:
    """The two processes, each in a home of its own; `wrong`: which ended though nobody asked it to."""

    def __init__(self, folder: Path, where: list[str], module: str, stages: str, in_turn: bool) -> None:
        self.folder, self.where = folder, where
        self.how: dict[str, Any] = {"path": PIPELINE, "module": module, "stages": stages, "in_turn": in_turn}
        self.lock, self.wrong = threading.Lock(), list[str]()
        self.running = [self.start(i) for i in range(2)]

    def start(self, i: int) -> subprocess.Popen[bytes]:
        """One of them."""
        return crew(self.folder / f"home{i}", *self.where, **self.how)

    def end(self, i: int, how: signal.Signals) -> None:
        """Have one end, and say so if it had already, or does not."""
        one = self.running[i]
        if (code := one.poll()) is not None:
            self.wrong.append(f"process {i} ended by itself with {code}")
        one.send_signal(how)
        try:
            code = one.wait(END_S)
        except subprocess.TimeoutExpired:
            one.kill()
            code = None
        if code not in (0, -how):  # one that has just begun ends by the signal itself
            self.wrong.append(f"process {i} ended with {code} at {how.name}")

    def kill(self, i: int) -> None:
        """As the kernel does; another begins in its home."""
        with self.lock:
            self.end(i, signal.SIGKILL)
            self.running[i] = self.start(i)

    def close(self) -> list[str]:
        """Ask both to end; all that went wrong with them."""
        for i in range(2):
            self.end(i, signal.SIGTERM)
        return self.wrong


def queues(
    folder: Path, url: str, chance: random.Random, times: int, planted: str = ""
) -> tuple[list[str], str]:
    """Kill a process at some moment of so many hours of the history; what differs, and what was told."""
    folder.mkdir()
    (folder / "settings").write_text(SESSION)
    more = {"log": url, "blobs": str(folder / "blobs")}
    home = open_home(folder / "driver", create=True, **more)
    where = ["--log", url, "--log-settings", str(folder / "settings"), "--blobs", more["blobs"]]
    hours, done = {HOURS * i // (times + 1) for i in range(1, times + 1)}, 0
    kills: list[threading.Timer] = []

    def told(_: object) -> None:
        nonlocal done
        done += 1
        if done in hours:
            kills.append(threading.Timer(chance.uniform(0.0, 0.5), crews.kill, [chance.randrange(2)]))
            kills[-1].start()

    with closing(home.log):
        others = driver(home, SHARES, PIPELINE)
        crews = Crews(folder, where, __spec__.name if planted else "penstock.cli", "all", in_turn=True)
        player = threading.Thread(target=drive, args=(others, HOURS, told), daemon=True)
        player.start()
        player.join(LONGEST_S)
        for one in kills:
            one.join()
        wrong = crews.close() + ([f"it stood still at hour {done}"] if player.is_alive() else [])
        found, wanted = _said(home), _calm()
        wrong += [f"the {what} differ" for what in DIGESTS if found[what] != wanted[what]]
        wrong += _unlike(found["records"], wanted["records"])
        if not wrong:
            wrong += _side_by_side(home, Crews(folder, where, "penstock.cli", BESIDE, in_turn=False), chance)
    return wrong, f"{len(kills)} kills in {done} hours, {len(found['records'])} records"


def _side_by_side(home: Home, crews: Crews, chance: random.Random) -> list[str]:
    """Requests after the history, a process killed twice in their midst; what is wrong with their answers."""
    file, before = load(PIPELINE), home.log.end()
    rows = [row for _, topic, row in events(HOURS + MORE) if topic == "ask"][-6 * MORE :]
    drafts = [file.source("ask").draft(file.source("ask").parse(row)) for row in rows]

    def served(model: str) -> list[str]:
        fresh = [one for one in every(home.log, [predictions(model)]) if one.position >= before.n]
        said = [read(one, Prediction) for one in fresh]
        return sorted(one.request for one in said if one.served)

    def wait(n: int) -> None:
        deadline = time.monotonic() + END_S
        while min(len(served(model)) for model in MODELS) < n and time.monotonic() < deadline:
            time.sleep(0.1)

    for i in range(MORE):
        home.log.append(drafts[6 * i : 6 * i + 6])
        if i in (MORE // 3, 2 * MORE // 3):
            wait(3 * i)  # somebody is at work
            crews.kill(chance.randrange(2))
    asked = sorted(one.id for one in drafts)
    wait(len(asked))
    wrong = [f"{model}: {len(served(model))} answers" for model in MODELS if served(model) != asked]
    wrong += crews.close()
    books = Books(file, home.log, home.blobs)
    return wrong + [
        f"{model}: what it said does not verify" for model in MODELS if books.verify(model).unequal
    ]


def _unlike(found: list[Any], wanted: list[Any]) -> list[str]:
    """Where two runs' records first differ, and which only one of them has."""
    if found == wanted:
        return []
    at = next((i for i, two in enumerate(zip(found, wanted, strict=False)) if two[0] != two[1]), len(wanted))
    more, less = Counter(found) - Counter(wanted), Counter(wanted) - Counter(found)
    where = f"{found[at : at + 2]}, not {wanted[at : at + 2]}"
    return [f"the records differ from {at} on: {where}; more: {sorted(more)[:3]}, less: {sorted(less)[:3]}"]


def _said(home: Home) -> dict[str, Any]:
    """What two runs must have alike: digests, and all records in their order."""
    return {**digests(home.log, MODELS), "records": [one[:2] for one in everything(home)]}


@functools.cache
def _calm() -> dict[str, Any]:
    """The same of the history played in this process."""
    with tempfile.TemporaryDirectory() as folder:
        home = embedded(Path(folder) / "home", HOURS, SHARES, PIPELINE)
        with closing(home.log):
            return _said(home)


def forgetful(one: AnyStage, log: Log, *rest: Any, **more: Any) -> Running[Any]:
    """A planted bug: whoever takes a join over begins it where the log ends."""
    if one.name.startswith(f"{JOIN}."):
        epoch = log.load(one.name, claim=True).epoch
        log.commit(Commit(one.name, epoch, log.end(), [], one.dump(one.empty())))
    return own(one, log, *rest, **more)


if __name__ == "__main__":
    with mock.patch("penstock.app.processes.crew.own", forgetful):
        sys.exit(main())
