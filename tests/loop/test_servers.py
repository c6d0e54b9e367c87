"""loop: a file served by several processes: one address, one log, and no answer lost on the way out."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from penstock.app.home import open_home
from penstock.record.decisions import predictions
from penstock.stage import every
from tests.faults.served import MODEL, Client, Up, compare, prepare

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose model is champion."""
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(prepared, tmp_path / "home"))


def test_every_route_is_at_the_one_address(home: Path) -> None:
    """Models in the serving process, the rest passed on; what they counted is told; no library that none needs."""
    up = Up(home, 1)
    with httpx.Client(base_url=up.url, timeout=20) as client:
        row, trace = {"who": "w1", "x": 0.5}, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        said = client.post(f"/models/{MODEL}", json=row, headers={"traceparent": trace}).json()
        assert 0 < said["score"] < 1 and said["prediction_id"].startswith(f"predict.{MODEL}:ask:")
        inputs = [
            {"name": "who", "datatype": "BYTES", "shape": [1], "data": ["w1"]},
            {"name": "x", "datatype": "FP64", "shape": [1], "data": [0.5]},
        ]
        asked = client.post(f"/v2/models/{MODEL}/infer", json={"inputs": inputs}).json()
        assert asked["outputs"][0]["data"][0] != said["score"]  # it has seen the request before
        assert (
            client.post(
                "/events/seen", json={"seen_id": "s1", "who": "w1", "at": "2026-01-01T00:00:00Z", "y": 1}
            ).json()["appended"]
            == 1
        )
        assert client.get("/status").json()["topics"]["seen"] == 1
        assert client.get("/").status_code == 200 and client.get(f"/models/{MODEL}").status_code == 200
        assert (
            client.post(f"/v2/features/{MODEL}", json={"entities": [{"who": "w1", "x": 0.5}]}).status_code
            == 200
        )
        assert client.get("/nowhere").status_code == 404
        labels = 'http_response_status_code="200",http_route="/v2/models"'
        counted, until_s = (
            f"http_server_request_duration_seconds_count{{{labels}}} 1\n",
            time.monotonic() + 10,
        )
        while counted not in client.get("/metrics").text:
            assert time.monotonic() < until_s, "what serving processes count is not told"
            time.sleep(0.1)
        (worker,) = up.workers()
        mapped = Path(f"/proc/{worker}/maps").read_text()
        assert "/numpy/" in mapped and not any(one in mapped for one in ("/sklearn/", "/scipy/", "/pyarrow/"))
    assert up.close() == 0
    log = open_home(home).log
    traced = [
        one.topic
        for one in every(log, ["ask", predictions(MODEL)])
        if one.headers.get("traceparent") == trace
    ]
    log.close()
    assert traced == ["ask", predictions(MODEL)]


def test_who_asks_while_it_ends_is_answered(home: Path) -> None:
    """Asked to end under load it answers what it has taken, and ends well: the clients are cut off nowhere."""
    up, stop = Up(home, 2), threading.Event()
    clients = [Client(up.url, f"t{n}", stop) for n in range(4)]
    for client in clients:
        client.start()
    until_s = time.monotonic() + 30
    while any(len(client.answered) <= 5 for client in clients) and time.monotonic() < until_s:
        time.sleep(0.05)
    up.process.terminate()
    time.sleep(0.5)
    stop.set()
    for client in clients:
        client.join(10)
    up.process.communicate(timeout=40)
    assert compare(home, clients, up.process.returncode) == []
    assert all(len(client.answered) > 5 and client.lost == 0 for client in clients)


def test_a_process_that_is_killed_is_replaced(home: Path) -> None:
    """Within two seconds, and the other goes on meanwhile; the supervisor's end is theirs."""
    up = Up(home, 2)
    before = up.workers()
    os.kill(before[0], signal.SIGKILL)
    at = time.monotonic()
    while len(set(up.workers()) - set(before)) < 1:
        assert time.monotonic() < at + 2
        time.sleep(0.02)
    workers = up.workers()
    assert len(workers) == 2 and before[1] in workers
    up.process.kill()
    up.process.communicate()
    at = time.monotonic()
    while any(Path(f"/proc/{one}").exists() for one in workers):
        assert time.monotonic() < at + 10, "orphans hold the port"
        time.sleep(0.05)
