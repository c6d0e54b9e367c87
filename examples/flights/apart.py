"""The flights, with their stages in several processes, one of which is killed again and again."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from history import history

from penstock.app.home import Home
from penstock.app.parts import Parts
from penstock.app.pipeline import load
from penstock.app.processes.turn import Others
from penstock.app.replay import Played, replay
from penstock.app.system import deploy
from penstock.cli import show

PIPELINE = Path(__file__).with_name("pipeline.py")
KINDS = ("predict", "outcome", "monitor", "train", "gate", "release")


class Processes:
    """Processes that run the stages: on Kafka each in a home of its own, as on a machine of its own; on
    the embedded log all in the one home. `stages` are the arguments of each process of a machine."""

    def __init__(self, home: Home, log: tuple[str, str], n: int, stages: list[list[str]]) -> None:
        self.notes = (home.path / "notes.txt").open("ab")
        self.commands = [
            [
                *(sys.executable, "-m", "penstock.cli", "run", *names, "--file", str(PIPELINE), "--in-turn"),
                *("--home", str(home.path / f"home{i + 1}" if log[0] else home.path)),
                *(("--log", log[0], "--blobs", str(home.path / "blobs")) if log[0] else ()),
                *(("--log-settings", log[1]) if log[1] else ()),
            ]
            for i in range(n)
            for names in stages
        ]
        self.running = [self._start(i) for i in range(len(self.commands))]
        self.kills = 0

    def _start(self, i: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.commands[i], stdout=self.notes, stderr=self.notes)

    def kill_one(self, chance: random.Random) -> None:
        """End a process as a power switch does, and start it again."""
        i = chance.randrange(len(self.running))
        self.running[i].kill()
        self.running[i].wait()
        self.running[i] = self._start(i)
        self.kills += 1

    def check(self) -> None:
        """Raise when a process has ended by itself."""
        for process in self.running:
            if process.poll() is not None and process.returncode != -9:
                raise RuntimeError(f"a process ended with {process.returncode}; see {self.notes.name}")

    def stop(self) -> None:
        """Ask all of them to end."""
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait(60)
        self.notes.close()


@contextlib.contextmanager
def killing(processes: Processes, every_s: float, seed: int) -> Iterator[None]:
    """Kill one of them, at random, every so many seconds."""
    stop, chance = threading.Event(), random.Random(seed)

    def loop() -> None:
        while not stop.wait(every_s):
            processes.kill_one(chance)

    thread = threading.Thread(target=loop, daemon=True)
    if every_s:
        thread.start()
    yield
    stop.set()
    if every_s:
        thread.join()


def play(
    home: Home, data: Path, months: int, processes: Processes, shares: int, *, kill_every_s: float, seed: int
) -> tuple[Played, float, float]:
    """Replay the first months to stages that run elsewhere; how far it came, the seconds, the longest wait."""
    file, events = load(PIPELINE), history(data, months)
    began = last = time.perf_counter()
    longest = 0.0

    def told(now: Played) -> None:
        nonlocal last, longest
        this = time.perf_counter()
        longest, last = max(longest, this - last), this
        processes.check()
        progress(now.events, len(events))

    posts = Parts(file, home.log, home.blobs, time.perf_counter).posts(shares)
    others = Others(file, home.log, [one for stages in posts.values() for one in stages], sync=False)
    with killing(processes, kill_every_s, seed), show.bar("replay", quiet=False) as progress:
        played = replay(others, events, told=told)
    return played, time.perf_counter() - began, longest


def begin(home: Home, data: Path, months: int, shares: int) -> None:
    """Say which code is up, at the time of the first event, and in how many shares."""
    deploy(load(PIPELINE), home.log, history(data, months)[0][0], shares)
