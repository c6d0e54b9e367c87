"""serve: answers are read in their order, by place or by id; who waits holds nobody else."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import msgspec
import pytest

from penstock.log.memory import MemoryLog
from penstock.record.codec import pack
from penstock.record.decisions import DEAD, DeadLetter, Prediction, draft, predictions
from penstock.record.record import START, Draft, output_id
from tests.unit.serve.test_http import DESK, noted
from tests.unit.serve.wire import asked


def said(n: int, *, served: bool = True, error: str = "") -> Draft:
    """What a version said to the n-th request."""
    score = None if error else n / 10
    value = Prediction(
        "m", 3, "d", "champion", served, f"r{n}", "w", "ask", n, 0, START, "f", [], n, score, None, error
    )
    id = output_id("predict.m", "ask", n, 0 if served else 1)
    return Draft(predictions("m"), f"r{n}", 0, pack(value), id)


def world(*drafts: Draft) -> tuple[MemoryLog, Any]:
    """A log with ten requests and what follows, and a desk over it."""
    log = MemoryLog()
    log.append([Draft("ask", "w", 0, b"", f"r{n}") for n in range(10)])
    log.append(drafts)
    return log, msgspec.structs.replace(DESK, log=log)


def get(desk: Any, path: str) -> httpx.Response:
    """One call."""
    return asked(desk, noted.append, lambda client: client.get(path))


def test_they_are_read_on_from_a_place() -> None:
    """Served ones and dead letters of this model's answering, in order; what others wrote is passed over."""
    letter = DeadLetter("predict.m", "ask", 2, 2, "r2", "", "wrong_type", "", "", 0)
    others = (
        msgspec.structs.replace(letter, stage="score.m"),
        msgspec.structs.replace(letter, stage="predict.n"),
    )
    dead = [
        draft(DEAD, one, key=one.stage, t_ms=0, id=f"{DEAD}:{one.stage}:ask:2") for one in (letter, *others)
    ]
    _, desk = world(said(0), said(0, served=False), said(1, error="model_died"), *dead, said(3))
    body = get(desk, "/models/m/answers").json()
    assert [(one["request"], one["score"], one["error"]) for one in body["answers"]] == [
        ("r0", 0.0, ""), ("r1", None, "model_died"), ("r2", None, "wrong_type"), ("r3", 0.3, ""),
    ]  # fmt: skip
    first = get(desk, "/models/m/answers?limit=2").json()
    assert first["answers"] == body["answers"][:2]
    assert get(desk, f"/models/m/answers?after={first['after']}").json()["answers"] == body["answers"][2:]
    assert get(desk, f"/models/m/answers?after={body['after']}").json() == {
        "answers": [],
        "after": body["after"],
    }
    assert get(desk, "/models/m/answers/r1").json() == body["answers"][1]
    assert get(desk, "/models/m/answers/r2").json() == body["answers"][2]


def test_who_waits_is_told_at_once_and_holds_nobody() -> None:
    """Forty wait, one asks: it is answered meanwhile; what comes then is told to all."""
    log, desk = world()

    async def ask(client: httpx.AsyncClient) -> tuple[float, list[Any]]:
        waiting = [asyncio.create_task(client.get("/models/m/answers?wait-ms=5000")) for _ in range(40)]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        (await client.get("/models/m/answers")).raise_for_status()
        took = time.monotonic() - began
        log.append([said(4)])
        return took, [answer.json()["answers"] for answer in await asyncio.gather(*waiting)]

    took, told = asked(desk, noted.append, ask)
    assert took < 4 and len(told) == 40 and all([one["request"] for one in some] == ["r4"] for some in told)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/models/n/answers", 404, "not_found"),
        ("/models/m/answers?after=-1", 400, "malformed"),
        ("/models/m/answers?limit=1e3", 400, "malformed"),
        ("/models/m/answers?limit=100001", 400, "malformed"),
        ("/models/m/answers?wait-ms=soon", 400, "malformed"),
        ("/models/m/answers/nobody", 404, "not_found"),
        ("/models/m/answers/r5", 404, "unanswered"),
    ],
)
def test_what_cannot_be_read(path: str, status: int, code: str) -> None:
    """Is told by status and code."""
    answer = get(world()[1], path)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_a_place_that_the_log_does_not_reach() -> None:
    """Whoever kept it is told, instead of waiting for ever."""
    answer = get(world()[1], "/models/m/answers?after=10&wait-ms=5000")
    assert (answer.status_code, answer.json()["code"]) == (422, "no_place"), answer.text
    assert get(world()[1], "/models/m/answers?after=9").json() == {"answers": [], "after": 9}
