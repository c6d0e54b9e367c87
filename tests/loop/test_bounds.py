"""loop: growth beyond its bound on a file that is up: who asks is told at once, who looks finds why."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from penstock.app import sizes
from penstock.app.up import Settings
from penstock.app.up import up as bring_up
from penstock.feature.state import table
from tests.loop.test_up import PIPELINE, infer, output, penstock, until

MOST = 40


@pytest.fixture
def door(played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A file that is up in this process, where an entity may have few events."""
    monkeypatch.setattr(table, "MOST_EVENTS", MOST)
    monkeypatch.setattr(sizes, "LOOK_S", 0.1)
    shutil.copytree(played, tmp_path / "home")
    said: list[str] = []
    stop = threading.Event()
    asked = str(PIPELINE), tmp_path / "home", Settings(port=0), said.append, stop
    one = threading.Thread(target=bring_up, args=asked)
    one.start()
    address = until(lambda: said and said[0])
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client
    stop.set()
    one.join(30)
    assert not one.is_alive()


def test_a_hot_entity_is_refused_and_nothing_else(door: httpx.Client, tmp_path: Path) -> None:
    """The asker gets the sentence that says what to declare; dead letters, overview and metrics tell of it."""
    for i in range(MOST):
        infer(door, "hot", 1.0, f"hot-{i}")
    refused = infer(door, "hot", 1.0, "hot-more")
    assert refused.status_code == 422 and refused.json()["code"] == "too_many"
    assert "declare hop= or cap=" in refused.json()["error"]
    assert infer(door, "hot", 1.0, "hot-more").json() == refused.json()  # the same id again
    assert output(infer(door, "cold", 1.0), "score") > 0
    until(
        lambda: 'penstock_dead_letters{stage="predict.agree",code="too_many"} 1' in door.get("/metrics").text
    )
    assert "too_many" in door.get("/").text
    listed = penstock("dead", "--home", str(tmp_path / "home"))
    assert listed.returncode == 1 and "declare hop= or cap=" in listed.stdout and "ask@" in listed.stdout
    largest = rf'penstock_state_largest{{model="agree",set="\w{{12}}",series="ask by who"}} {MOST}\n'
    until(lambda: re.search(largest, door.get("/metrics").text))
    look = door.post("/v2/features/agree", json={"entities": ["hot"], "features": ["asks_1d"]}).json()
    assert look["values"] == [[MOST]]
