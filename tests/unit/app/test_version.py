"""app: a version has an address while it scores: it answers there whoever else is champion, and the log says so."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from penstock.app.home import Books, Home, Views, open_home
from penstock.app.live import Live
from penstock.app.looks import Looks
from penstock.app.pipeline import File, load
from penstock.app.servers.desk import desk
from penstock.app.system import System, decide
from penstock.predict.stage import VERSION
from penstock.record.codec import moment
from penstock.record.decisions import (
    RELEASES,
    VERSIONS,
    Decision,
    Prediction,
    Release,
    draft,
    predictions,
    read,
)
from penstock.record.record import Draft
from penstock.release.registry import registry
from penstock.serve.http import create
from penstock.stage import every
from tests.faults.served import MODEL, PIPELINE, prepare


@pytest.fixture
def home(tmp_path: Path) -> Any:
    """A home whose champion is v1, with a v2 that was registered."""
    opened = open_home(prepare(tmp_path))
    first = registry(opened.log).models[MODEL].versions[1]
    second = msgspec.structs.replace(first, version=2, intent="another")
    opened.log.append([draft(VERSIONS, second, key=MODEL, t_ms=first.t_ms)])
    yield opened
    opened.log.close()


@pytest.fixture
def system(home: Home) -> System:
    """It, at work."""
    return System(load(PIPELINE), home.log, home.blobs, home.path, time.perf_counter, None, sync=False)


def asked(file: File, id: str, now_ms: int, version: str) -> Draft:
    """A request, for a version."""
    source = file.source("ask")
    made = source.draft(source.parse({"ask_id": id, "who": id, "at": moment(now_ms), "x": 0.5}))
    return msgspec.structs.replace(made, headers={VERSION: version} if version else {})


def test_the_version_that_is_asked_for_answers_while_it_scores(home: Home, system: System) -> None:
    """By its place on the log: before the swap, during it, no more when its successor has settled; verified."""
    now_ms, n = time.time_ns() // 10**6, 0

    def served(version: str) -> tuple[int, str, int]:
        nonlocal n
        n += 1
        home.log.append([asked(system.file, f"v{n}", now_ms + n, version)])
        system.drain()
        said = [
            one
            for record in every(home.log, [predictions(MODEL)])
            if (one := read(record, Prediction)).request == f"v{n}"
        ]
        (answer,) = (one for one in said if one.served)
        return answer.version, answer.role, len(said)

    assert served(f"{MODEL}/2")[:2] == (1, "champion")  # registered, but it scores for nobody
    decide(home.log, Decision(MODEL, "promote", "test", "", now_ms, 2))
    system.drain()
    assert served("") == (2, "champion", 2)
    assert served(f"{MODEL}/1") == (1, "previous", 2) and served(f"{MODEL}/2") == (2, "champion", 2)
    assert served("another/1") == served("nonsense") == (2, "champion", 2)
    settled = Release(MODEL, 2, system.champion(MODEL).digest, "settled", 100, "", "test", now_ms)  # type: ignore[union-attr]
    home.log.append([draft(RELEASES, settled, key=MODEL, t_ms=now_ms)])
    assert served(f"{MODEL}/1") == (2, "champion", 1)
    found = Books(system.file, home.log, home.blobs).verify(MODEL)
    assert found.predictions == n + 5 and found.unequal == []


def test_addresses_of_versions(home: Home, system: System) -> None:
    """Of both protocols: each version that scores is ready and answers; one that does not is not found."""
    decide(home.log, Decision(MODEL, "promote", "test", "", 0, 2))
    system.drain()
    live = Live(system, lambda: time.time_ns() // 10**6)
    views = Views(system.file, home.log, home.blobs)
    looks = Looks(Books(system.file, home.log, home.blobs).all_sets(), system.file, home.log)
    app = create(desk(live, system.file, views, looks, {}), None, lambda error: None)
    row = {"who": "w1", "x": 0.5}
    inputs = {
        "inputs": [
            {"name": "who", "datatype": "BYTES", "shape": [1], "data": ["w1"]},
            {"name": "x", "datatype": "FP64", "shape": [1], "data": [0.5]},
        ]
    }

    async def talk() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for version in ("1", "2"):
                where = f"/v2/models/{MODEL}/versions/{version}"
                assert (await client.get(f"{where}/ready")).json()["ready"] is True
                said = (await client.post(f"{where}/infer", json=inputs)).json()
                assert said["model_version"] == version and said["outputs"][2]["data"] == [int(version)]
                there = f"/v1/models/{MODEL}/versions/{version}"
                told = (await client.get(there)).json()["model_version_status"][0]
                assert (told["version"], told["state"]) == (version, "AVAILABLE")
                assert (await client.post(f"{there}:predict", json={"instances": [row]})).status_code == 200
            plain = (await client.post(f"/v2/models/{MODEL}/infer", json=inputs)).json()
            assert plain["model_version"] == "2"
            same = {**row, "ask_id": "once"}
            there = f"/v1/models/{MODEL}/versions"
            assert (await client.post(f"{there}/1:predict", json={"instances": [same]})).status_code == 200
            other = await client.post(
                f"{there}/2:predict", json={"instances": [same]}
            )  # v1 has said it already
            assert (other.status_code, other.json()["code"]) == (404, "not_champion")

    live.start()
    try:
        asyncio.run(talk())
    finally:
        looks.stop()
        live.stop()
    answered = [read(record, Prediction) for record in every(home.log, [predictions(MODEL)])]
    assert [one.version for one in answered if one.served] == [1, 1, 2, 2, 2, 1]
