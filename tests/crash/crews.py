"""crash: stages of the small pipeline in processes of their own, and the driver that plays a history to them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from penstock.app.home import Home, open_home
from penstock.app.parts import Parts
from penstock.app.pipeline import load
from penstock.app.processes.turn import Others
from penstock.app.replay import Played, replay
from penstock.app.system import System, deploy
from penstock.app.worker import Ahead
from penstock.record.codec import millis
from penstock.record.record import START
from tests.crash.player import START_AT, history

PIPELINE = Path(__file__).with_name("pipeline.py")


def events(hours: int) -> Iterator[Any]:
    """The first hours of the history."""
    end_ms = millis(START_AT + timedelta(hours=hours))
    return itertools.takewhile(lambda event: event[0] < end_ms, history(11))


def crew(
    home: Path,
    *arguments: str,
    stages: str = "all",
    path: Path = PIPELINE,
    module: str = "penstock.cli",
    in_turn: bool = True,
) -> subprocess.Popen[bytes]:
    """`penstock run` in a process of its own."""
    command = [sys.executable, "-m", module, "run", *stages.split(), "--file", str(path)]
    return subprocess.Popen(
        [*command, "--home", str(home), *(["--in-turn"] if in_turn else []), *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
    )


def embedded(folder: Path, hours: int, shares: int, path: Path = PIPELINE) -> Home:
    """The history played in this process."""
    home, trainer = open_home(folder, create=True), Ahead(str(path))
    system = System(
        load(path), home.log, home.blobs, home.path, time.perf_counter, trainer, sync=False, shares=shares
    )
    system.deploy(millis(START_AT))
    replay(system, events(hours))
    system.save()
    trainer.close()
    return home


def driver(home: Home, shares: int, path: Path = PIPELINE) -> Others:
    """Who plays to stages that run elsewhere; to be there before them, since it says how many shares there are."""
    file = load(path)
    posts = Parts(file, home.log, home.blobs, time.perf_counter).posts(shares)
    if not home.log.topics():
        deploy(file, home.log, millis(START_AT), shares)
    return Others(file, home.log, [one for stages in posts.values() for one in stages], sync=False)


def drive(others: Others, hours: int, told: Callable[[Played], None]) -> None:
    """Play the history to them."""
    replay(others, events(hours), told=told)


def everything(home: Home) -> list[tuple[str, str, int]]:
    """Every record's topic, id and position."""
    found = home.log.read(home.log.topics(), START, limit=10**6)[0]
    return [(one.topic, one.id, one.position) for one in found]
