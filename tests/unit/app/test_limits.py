"""app: a model's limits: rows a second, rows that wait; who meets one is told 429, and another model's are his own."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from penstock.app.home import Books, Views, open_home
from penstock.app.limits import Limits, Rates, limits
from penstock.app.live import Live
from penstock.app.looks import Looks
from penstock.app.pipeline import File, load
from penstock.app.servers.desk import desk
from penstock.app.system import System
from penstock.app.waiting import Answers
from penstock.record.errors import DefinitionError, Unavailable
from penstock.serve.metrics import exposition
from tests.faults.served import MODEL, PIPELINE, prepare
from tests.unit.serve.wire import opened


class Clock:
    """Seconds to set."""

    now_s = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


def taken(rates: Rates, model: str, *counts: int) -> list[bool]:
    """Which calls of so many rows are let in."""
    found = []
    for n in counts:
        try:
            rates.take(model, n)
            found.append(True)
        except Unavailable as error:
            found.append(error.code != "rate")
    return found


def test_rows_a_second() -> None:
    """A second's rows may come at once, no more are saved up; each model has its own; what was not asked comes back."""
    clock = Clock()
    rates = Rates({"a": Limits(rate=4.0), "b": Limits(rate=1.0), "c": Limits()}, 1, clock)
    assert taken(rates, "a", 1, 1, 1, 1, 1) == [True] * 4 + [False]
    assert taken(rates, "b", 1, 1) == [True, False] and taken(rates, "c", *[1000] * 5) == [True] * 5
    clock.now_s = 0.5
    assert taken(rates, "a", 1, 1, 1) == [True, True, False]
    clock.now_s = 100.0
    assert taken(rates, "a", 3, -3, 4, 1) == [True, True, True, False]


def test_a_call_of_many_rows_is_let_in_and_paid_for() -> None:
    """What it was lent, those after it wait for; processes share a limit alike."""
    clock = Clock()
    rates = Rates({"a": Limits(rate=20.0)}, 2, clock)
    assert taken(rates, "a", 30, 1) == [True, False]
    clock.now_s = 2.0
    assert taken(rates, "a", 1) == [False]
    clock.now_s = 2.2
    assert taken(rates, "a", 1) == [True]


def test_a_limit_is_a_number() -> None:
    """Below zero is told when the file is read."""
    assert limits(rate=2, queue=3, processes=1, gather="5ms") == Limits(2.0, 3, 1, 5)
    more = ({"processes": 0}, {"gather": "5"}, {"gather": "2s"}, {"gather": "-1ms"})
    for wrong in ({"rate": -1.0}, {"queue": -1}, *more):
        with pytest.raises(DefinitionError):
            limits(**wrong)  # type: ignore[arg-type]


def test_rows_that_wait() -> None:
    """A model's line has its own length."""

    async def fill() -> list[str]:
        answers, found = Answers(of_model={"a": 2}), []
        for model, id in (("a", "1"), ("a", "2"), ("a", "3"), ("b", "4"), ("b", "5"), ("b", "6")):
            if answers.room(model):
                answers.expect(model, id)
            else:
                found.append(f"{model}{id} {answers.full(model).code}")
        return found

    assert asyncio.run(fill()) == ["a3 queue"]


def limited(found: Limits) -> File:
    """The file, with limits."""
    file = load(PIPELINE)
    plan = file.plans[MODEL]
    pipeline = msgspec.structs.replace(plan.pipeline, limits=found)
    return msgspec.structs.replace(file, plans={MODEL: msgspec.structs.replace(plan, pipeline=pipeline)})


def test_whoever_meets_a_limit_is_told_so_on_every_way(tmp_path: Path) -> None:
    """The hurried way, the application's and a batch: 429, when to come again, and it is counted."""
    home, file = open_home(prepare(tmp_path)), limited(Limits(rate=0.5, queue=300))
    system = System(file, home.log, home.blobs, home.path, time.perf_counter, None, sync=False)
    live = Live(system, lambda: time.time_ns() // 10**6)
    clock = Clock()
    live.rates = Rates({MODEL: Limits(rate=1.0)}, 1, clock)
    looks = Looks(Books(file, home.log, home.blobs).all_sets(), file, home.log)
    door = desk(live, file, Views(file, home.log, home.blobs), looks, {})
    columns: list[tuple[str, str, Any]] = [("who", "BYTES", "w1"), ("x", "FP64", 0.5)]
    inputs = [
        {"name": name, "datatype": kind, "shape": [1], "data": [value]} for name, kind, value in columns
    ]

    async def talk() -> list[tuple[int, str]]:
        async with (
            opened(door, lambda error: None) as (_, port),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            told = []
            ways: list[tuple[str, Any]] = [
                (f"/v2/models/{MODEL}/infer", {"inputs": inputs}),
                (f"/models/{MODEL}", {"who": "w1", "x": 0.5}),
                (f"/v1/models/{MODEL}:predict", {"instances": [{"who": "w1", "x": 0.5}] * 301}),
            ]
            for where, body in (*ways, *ways[:2]):
                answer = await client.post(where, json=body)
                told.append((answer.status_code, answer.json().get("code", "")))
                assert (answer.headers.get("retry-after") == "1") is (answer.status_code == 429)
                if len(told) in (2, 4):
                    clock.now_s += 1000.0
            return told

    live.start()
    try:
        assert asyncio.run(talk()) == [(200, ""), (429, "rate"), (429, "queue"), (429, "rate"), (200, "")]
        counted = exposition(door.status())
        assert f'requests_limited{{code="rate",model="{MODEL}"}} 2' in counted
        assert f'requests_limited{{code="queue",model="{MODEL}"}} 1' in counted
    finally:
        looks.stop()
        live.stop()
        home.log.close()
