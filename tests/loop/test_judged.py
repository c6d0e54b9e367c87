"""loop: a model that is given another's answer to the same request: asked in one go, answered once, the same again."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.app.home import Books, open_home, wall_ms
from penstock.app.live import Live
from penstock.app.pipeline import load
from penstock.app.system import Serving, System
from penstock.dataset.rows import rows
from penstock.predict.trace import told
from penstock.record.codec import moment
from penstock.record.decisions import Prediction
from penstock.record.errors import Unavailable
from penstock.record.record import Draft
from penstock.stage import every
from tests.loop.judged import MODELS, PIPELINE, prepare, served, system
from tests.loop.test_up import Up

JUDGED = "ask.scored.fraud"
ROW = {"who": "w1", "x": 0.4}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which all are champions."""
    return prepare(tmp_path_factory.mktemp("judged"))


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(prepared, tmp_path / "home"))


def asked(id: str, x: float = 0.4) -> list[Draft]:
    """The record of a request, as a door makes it; the same whenever it is made."""
    source = load(PIPELINE).source("ask")
    return [source.draft(source.parse({"ask_id": id, "who": "w1", "at": moment(2_000_000_000_000), "x": x}))]


def values(one: Prediction) -> Any:
    """What is to be the same of a prediction wherever it is made, and to the bit."""
    return one.model, one.digest, one.values, one.score, one.positive


def test_what_was_served_is_what_is_given(prepared: Path) -> None:
    """To the bit, in the features of whoever is given it, in a training's rows, and when all is made again."""
    home = open_home(prepared)
    said = {model: served(home, model) for model in MODELS}
    assert len(said["review"]) > 100 and len(said["fraud"]) > 200
    for id, one in said["review"].items():
        assert one.values[1] == said["fraud"][id].score and one.position > said["fraud"][id].position
    file = load(PIPELINE)
    features = file.plan("final").features
    learned = rows(home.log, features, "final", o=home.log.end(), from_ms=-sys.maxsize)
    assert len(learned) > 100
    for row in learned:
        assert row.values == [said[model][row.request].score for model in ("fraud", "other", "review")]
    books = Books(file, home.log, home.blobs)
    for model in ("fraud", "other", "review"):
        assert books.verify(model).unequal == []
        (compared,) = books.consistency(model).state.sets.values()
        assert all(one.unequal == 0 for one in compared.features.values())
        assert compared.vectors == len(said[model]) and compared.lengths == 0
    home.log.close()


def test_one_ask_goes_through_all_once(folder: Path) -> None:
    """Whoever was asked before under the id is not asked again; the stage that joins finds it done, to the byte."""
    home = open_home(folder)
    one = system(home)
    before = home.log.count("ask")
    (fraud,) = one.answer("fraud", asked("a")) or []
    said = one.answer("review", asked("a")) or []
    assert [draft.key for draft in said] == ["a"] and served(home, "fraud")["a"].position < served(
        home, "review"
    )["a"].position
    assert fraud.id == f"predict.fraud:ask:{served(home, 'fraud')['a'].position}:0"
    assert one.answer("review", asked("a", x=-5.0)) == []  # as it was then
    assert one.answer("review", asked("b")) and home.log.count("ask") == before + 2
    mine = list(every(home.log, [JUDGED]))[-2:]
    one.drain()
    again = list(every(home.log, [JUDGED]))
    assert again[-2:] == mine and home.log.count("ask") == before + 2
    (joining,) = [running for running in one.folding if running.stage.name == f"join.{JUDGED}"]
    assert joining.repeated == 2
    home.log.close()


def test_many_rows_some_asked_before(folder: Path) -> None:
    """In one call: those whose parent was asked under another row's value are given what it said then."""
    home = open_home(folder)
    one = system(home)
    assert one.answer("fraud", asked("r1", x=9.0))
    outputs = one.answer("review", [draft for id in ("r0", "r1", "r2") for draft in asked(id)]) or []
    assert [draft.key for draft in outputs] == ["r0", "r1", "r2"]
    review, fraud = served(home, "review"), served(home, "fraud")
    assert review["r1"].values[:2] == [9.0, fraud["r1"].score] != review["r0"].values[:2]
    home.log.close()


@pytest.mark.parametrize("after", ["fraud", "other", "review"])
def test_killed_on_the_way(folder: Path, tmp_path: Path, after: str) -> None:
    """Between two commits: who starts next answers the rest, each once, as one that was not killed does."""
    whole, cut = open_home(folder), open_home(Path(shutil.copytree(folder, tmp_path / "cut")))
    one = system(whole)
    assert one.answer("final", asked("k"))
    one.drain()

    class Killed(BaseException):
        pass

    dying = system(cut)
    put = dying._put

    def until_then(model: str, drafts: Any) -> Any:
        done = put(model, drafts)
        if model == after:
            raise Killed
        return done

    dying._put = until_then  # type: ignore[method-assign]
    with pytest.raises(Killed):
        dying.answer("final", asked("k"))
    left = [model for model in ("fraud", "other", "review", "final") if "k" in served(cut, model)]
    assert (
        left
        == {"fraud": ["fraud"], "other": ["fraud", "other"], "review": ["fraud", "other", "review"]}[after]
    )
    system(cut).drain()
    for model in MODELS:
        assert values(served(cut, model)["k"]) == values(served(whole, model)["k"])
        assert Books(load(PIPELINE), cut.log, cut.blobs).verify(model).unequal == []
    assert {r.id: r.value for r in every(cut.log, [JUDGED])} == {
        r.id: r.value for r in every(whole.log, [JUDGED])
    }
    for home in (whole, cut):
        home.log.close()


def test_it_is_traced_and_told(folder: Path) -> None:
    """The trace of an answer names every answer that was given on the way."""
    home = open_home(folder)
    one = system(home)
    one.answer("fraud", asked("t"))
    one.drain()
    books = Books(load(PIPELINE), home.log, home.blobs)
    said = {model: served(home, model)["t"] for model in MODELS}
    found = books.trace(f"predict.final:{said['final'].source}:{said['final'].position}:0")
    assert [(id.partition(":")[0], given) for id, given in found.given.items()] == [
        (f"predict.{model}", said[model]) for model in ("fraud", "other", "review")
    ]
    assert f"fraud v1 said {said['fraud'].score:.6g}" in told(found)
    assert found.request["fraud_score"] == said["fraud"].score and found.request["who"] != "w1"
    home.log.close()


def test_a_parent_without_a_champion(tmp_path: Path) -> None:
    """Is named, at once, and nothing is put on the log; whoever brings every feature is not kept from it."""
    home = open_home(prepare(tmp_path, generations=()))
    live = Live(system(home), wall_ms)

    async def ask() -> None:
        await live.ask("review", [ROW], 5.0)

    with pytest.raises(Unavailable, match="fraud, whose answer review is given, has no champion") as caught:
        asyncio.run(ask())
    assert caught.value.code == "no_champion" and home.log.count("ask") == 0
    home.log.close()


PROTOCOLS = {
    "plain": ("/models/{}", ROW, lambda body: body["score"]),
    "v2": (
        "/v2/models/{}/infer",
        {"inputs": [
            {"name": "who", "datatype": "BYTES", "shape": [1], "data": ["w1"]},
            {"name": "x", "datatype": "FP64", "shape": [1], "data": [0.4]},
        ]},
        lambda body: body["outputs"][0]["data"][0],
    ),
    "tensorflow": ("/v1/models/{}:predict", {"instances": [ROW]}, lambda body: body["predictions"][0]),
    "mlflow": ("/models/{}/invocations", {"dataframe_records": [ROW]}, lambda body: body["predictions"][0]),
}  # fmt: skip


def test_over_http(folder: Path) -> None:
    """By every protocol, a model that is scored here and one that takes its time, from the event's columns alone."""
    up = Up(folder, file=PIPELINE)
    try:
        for model in ("review", "slow", "final"):
            for path, body, score in PROTOCOLS.values():
                answer = up.client.post(path.format(model), json=body)
                assert answer.status_code == 200 and 0 <= score(answer.json()) <= 1, answer.text
            told = up.client.get(f"/v2/models/{model}").json()
            assert [one["name"] for one in told["inputs"]] == ["ask_id", "who", "at", "x"]
            schema = up.client.get("/openapi.json").json()["components"]["schemas"][f"{model}.Request"]
            assert sorted(schema["properties"]) == ["ask_id", "at", "who", "x"]
        many = up.client.post("/models/slow", json=[{**ROW, "ask_id": f"m{i}"} for i in range(300)])
        assert [one["request_id"] for one in many.json()] == [f"m{i}" for i in range(300)]
        vector = {"inputs": [{"name": "v", "datatype": "FP64", "shape": [1, 1], "data": [0.25]}]}
        assert up.client.post("/v2/models/slow/infer", json=vector).json()["outputs"][0]["data"] == [0.25]
        trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
        traced = up.client.post("/models/review", json={**ROW, "ask_id": "traced"}, headers=trace).json()
        assert up.client.post("/models/review", json={**ROW, "ask_id": "traced"}).json() == traced
        page = up.client.get(f"/predictions/{traced['prediction_id']}")
        assert page.status_code == 200 and "fraud v1</a> said" in page.text
        for model in (
            "fraud",
            "review",
            "final",
        ):  # what one model cannot take, it tells; the others are not asked
            buried = up.client.post(f"/models/{model}", json={**ROW, "x": 1e300, "ask_id": "large"})
            assert buried.status_code == 422 and buried.json()["code"] == "too_large", buried.text
        refused = up.client.post("/events/ask.scored.fraud", json={**ROW, "fraud_score": 0.1})
        assert refused.status_code == 404 and refused.json()["code"] == "unknown_topic"
    finally:
        assert up.close() == 0
    home = open_home(folder)
    found = [r for r in every(home.log, [JUDGED, "review.predictions"]) if r.headers.get("traceparent")]
    assert [(r.topic, r.id.startswith("traced") or r.key) for r in found] == [
        (JUDGED, True),
        ("review.predictions", "traced"),
    ]
    home.log.close()


def test_an_answer_that_another_process_gives(folder: Path) -> None:
    """Asked here under an id that a share elsewhere has yet to answer: whoever asks is told once it has."""
    home = open_home(folder)

    def share(k: int) -> System:
        mine = Serving(lambda stage: stage.endswith(f"/{k}of2"))
        return System(
            load(PIPELINE), home.log, home.blobs, home.path, time.perf_counter, None, shares=2, serving=mine
        )

    here, there = share(1), share(2)
    home.log.append(there.owned("fraud", asked("e")))
    live = Live(here, wall_ms)

    async def ask() -> list[Prediction]:
        asking = asyncio.create_task(live.ask("fraud", [{**ROW, "ask_id": "e"}], 5.0))
        await asyncio.sleep(0.2)
        assert not asking.done()
        await asyncio.to_thread(there.drain)
        return await asking

    assert asyncio.run(ask()) == [served(home, "fraud")["e"]]
    home.log.close()


def test_from_several_processes(folder: Path) -> None:
    """The parent asked at one process, the child at another, under one id, at the same moment: both answer it once."""
    up, stop = Up(folder, "--workers", "2", file=PIPELINE), threading.Event()
    answers: dict[str, list[Any]] = {}

    def ask(model: str, who: str) -> None:
        with httpx.Client(base_url=up.client.base_url, timeout=20) as client:
            n = 0
            while not stop.is_set():
                n += 1
                answer = client.post(f"/models/{model}", json={**ROW, "ask_id": f"{who}-{n}"})
                answers.setdefault(f"{model}:{who}-{n}", []).append(
                    (answer.status_code, answer.json().get("score"))
                )

    askers = [
        threading.Thread(target=ask, args=(model, who))
        for who in "ab"
        for model in ("fraud", "review", "slow", "final")
    ]
    for one in askers:
        one.start()
    time.sleep(2.5)
    stop.set()
    for one in askers:
        one.join()
    assert up.close() == 0
    home = open_home(folder)
    said = {model: served(home, model) for model in MODELS}
    wrong = {
        place: told
        for place, told in answers.items()
        for model, _, id in [place.partition(":")]
        if told != [(200, said[model][id].score)]
    }
    assert wrong == {} and len(answers) > 50
    for model in MODELS:
        assert Books(load(PIPELINE), home.log, home.blobs).verify(model).unequal == []
    home.log.close()
