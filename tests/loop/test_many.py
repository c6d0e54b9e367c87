"""loop: many models in one file: what nobody asks takes no thread and is not even taken over, and all are answered."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.many import CHILD
from penstock.app.home import Books, open_home
from penstock.app.live import THREADS, Live
from penstock.app.pipeline import load
from penstock.app.system import Serving, System
from penstock.app.turns import FEW

N = 24


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of many models and a home where each is champion."""
    folder = tmp_path_factory.mktemp("many")
    subprocess.run(
        [sys.executable, str(CHILD), str(folder / "many.py"), str(folder / "home"), str(N)], check=True
    )
    return folder


def test_whom_nobody_asks_costs_nothing(prepared: Path) -> None:
    """After a start few stages are owned and no model is loaded; each is when it is asked, answers, and a small budget
    holds for all."""
    home, file = open_home(prepared / "home"), load(prepared / "many.py")
    before = {name: one.epoch for name, one in home.log.stages().items()}
    system = System(
        file, home.log, home.blobs, home.path, lambda: 0.0, None, sync=False,  # nobody's turn comes round
        serving=Serving(apart=True, models_bytes=1000),
    )  # fmt: skip
    assert len(system.stages) > FEW and not system.running
    assert {name: one.epoch for name, one in home.log.stages().items()} == before
    models, threads = system.parts.models, threading.active_count()
    live = Live(system, lambda: time.time_ns() // 10**6, tick_s=60.0)
    live.start()
    try:
        assert threading.active_count() - threads <= THREADS + 6
        time.sleep(0.5)
        assert set(system.running) <= set(system.answers.names) and not models.loaded

        async def ask_all() -> list[tuple[str, int, bool]]:
            row = {"who": "w", "x": 0.5, "z": 0.1}
            said = [(await live.ask(name, [row], 10.0))[0] for name in file.plans]
            return [(one.model, one.version, one.score is not None) for one in said]

        assert asyncio.run(ask_all()) == [(name, 1, True) for name in file.plans]
        assert 0 < len(models.loaded) < N and all(f"predict.{name}" in system.running for name in file.plans)
    finally:
        live.stop()
    assert not live.broken
    books = Books(file, home.log, home.blobs)
    for name in ("m0", "m7", f"m{N - 1}"):
        found = books.verify(name)
        assert (found.predictions, found.unequal) == (1, [])
    home.log.close()
