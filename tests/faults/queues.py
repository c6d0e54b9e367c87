"""faults: two models behind queues, one given the other's answers, on Kafka: two processes of each stage, killed.

The history is played to them in turn: the log must come out as that of one undisturbed process on the embedded one.
"""

from __future__ import annotations

import functools
import random
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

from penstock.app.digest import digests
from penstock.app.home import Home, open_home
from penstock.app.system import JOIN, own
from penstock.cli import main
from penstock.log import Commit, Log
from penstock.stage import AnyStage, Running
from tests.crash.crews import crew, drive, driver, embedded, everything

PIPELINE = Path(__file__).parents[1] / "crash" / "queued.py"
SHARES = 2
HOURS = 96
SESSION = "session.timeout.ms=1500\n"
LONGEST_S = 900.0
END_S = 60.0


class Crews:
    """The two processes, each in a home of its own; `wrong`: which ended though nobody asked it to."""

    def __init__(self, folder: Path, where: list[str], module: str) -> None:
        self.folder, self.where, self.module = folder, where, module
        self.lock, self.wrong = threading.Lock(), list[str]()
        self.running = [self.start(i) for i in range(2)]

    def start(self, i: int) -> subprocess.Popen[bytes]:
        """One of them."""
        return crew(self.folder / f"home{i}", *self.where, path=PIPELINE, module=self.module)

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
        crews = Crews(folder, where, __spec__.name if planted else "penstock.cli")
        player = threading.Thread(target=drive, args=(others, HOURS, told), daemon=True)
        player.start()
        player.join(LONGEST_S)
        for one in kills:
            one.join()
        for i in range(2):
            crews.end(i, signal.SIGTERM)
        wrong = [*crews.wrong, *([f"it stood still at hour {done}"] if player.is_alive() else [])]
        found, wanted = _said(home), _calm()
    wrong += [f"the {what} differ" for what in wanted if found[what] != wanted[what]]
    return wrong, f"{len(kills)} kills in {done} hours, {len(found['records'])} records"


def _said(home: Home) -> dict[str, Any]:
    """What two runs must have alike: digests, and all records in their order."""
    return {
        **digests(home.log, ["first", "second"]), "records": [one[:2] for one in everything(home)]
    }  # fmt: skip


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
