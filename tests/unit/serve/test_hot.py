"""serve: what takes its time is put on the log together, and each who asks is answered by himself."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from penstock.record.decisions import Prediction
from penstock.record.errors import Refused, Unavailable
from penstock.record.record import START, Draft
from penstock.serve.asking import Shaped
from penstock.serve.desk import Desk
from penstock.serve.front.call import Answer, Call, Head
from penstock.serve.hot import HURRIED_BYTES, Lane, Later, lanes
from tests.unit.serve.test_http import DESK, FACE

PATH = b"/v2/models/m/infer"


def said_of(draft: Draft, score: float) -> Prediction:
    """A prediction for a request."""
    return Prediction(
        "m", 3, "d", "champion", True, draft.id, "", "ask", 7, 0, START, "f", [], 7, score, False
    )


class Log:
    """What was put on it, append by append; `let` lets an append end."""

    def __init__(self) -> None:
        self.puts: list[Sequence[Draft]] = []
        self.futures: dict[str, asyncio.Future[Prediction]] = {}
        self.let, self.error, self.ids = asyncio.Event(), None, 0
        self.refused: list[str] = []

    async def post(self, model: str, drafts: Sequence[Draft]) -> list[asyncio.Future[Prediction]]:
        """An append that takes a while."""
        self.puts.append(drafts)
        await self.let.wait()
        if self.error is not None:
            raise self.error
        made = [asyncio.get_running_loop().create_future() for _ in drafts]
        self.futures |= {draft.id: future for draft, future in zip(drafts, made, strict=True)}
        return made

    def requests(self, model: str, rows: Any) -> list[Draft]:
        """Requests under numbers."""
        self.ids += len(rows)
        return [Draft("ask", "", 0, b"", f"r{self.ids - i}") for i in reversed(range(len(rows)))]

    def desk(self) -> Desk:
        """A desk that answers nothing at once."""

        def count(name: str, labels: Any, n: int) -> None:
            self.refused.append(labels["code"])

        return msgspec.structs.replace(
            DESK, post=self.post, requests=self.requests, at_once=lambda model, drafts: None, count=count
        )


def body(who: str) -> bytes:
    """A plain request."""
    one = {"name": FACE.request.id, "datatype": "BYTES", "shape": [1], "data": [who]}
    return json.dumps({"inputs": [one]}).encode()


def ask(lane: Lane, call: Call, timeout_s: float = 5.0) -> None:
    """Let a lane take a call."""
    lane.take(lane.infer, timeout_s, call)


async def turns(n: int = 4) -> None:
    """Some turns of the event loop."""
    for _ in range(n):
        await asyncio.sleep(0)


def test_many_rows_are_read_once() -> None:
    """A long body is left to the other way, unread; a short one is read."""
    read: list[int] = []

    def shape(found: Any, desk: Desk, name: str) -> Shaped:
        read.append(len(found))
        return Shaped([{FACE.request.id: "w"}], False, lambda said: Answer(200, b""))

    async def run() -> None:
        lane = Lane(Log().desk(), FACE, lambda what: None, lambda call: None, lambda e: None)
        assert lane.shaped(shape, b"[" + b" " * HURRIED_BYTES + b"]") is None and read == []
        assert lane.shaped(shape, b"[1, 2]") is not None and read == [2]

    asyncio.run(run())


def test_requests_are_gathered() -> None:
    """Where a model says for how long: nothing is put before, and then all that came."""

    class Timers:
        """An event loop's two ways to be told later."""

        def __init__(self) -> None:
            self.soon, self.later = list[Callable[[], None]](), list[tuple[float, Callable[[], None]]]()

        def call_soon(self, what: Callable[[], None]) -> None:
            """At the end of the turn."""
            self.soon.append(what)

        def call_later(self, seconds: float, what: Callable[[], None]) -> None:
            """When so much time is over."""
            self.later.append((seconds, what))

    async def run() -> None:
        log, timers = Log(), Timers()
        patient = msgspec.structs.replace(FACE, name="patient", gather_s=0.002)
        desk = msgspec.structs.replace(log.desk(), faces={"m": FACE, "patient": patient})
        made = lanes(desk, cast(asyncio.AbstractEventLoop, timers), lambda call: None, lambda e: None)
        for i in range(3):
            ask(made["patient"], Call(Head(b"POST", PATH), body(f"w{i}"), lambda call, said: None))
            await turns()
        assert log.puts == [] and timers.soon == []
        ((seconds, flush),) = timers.later
        flush()
        await turns()
        assert seconds == 0.002 and [len(one) for one in log.puts] == [3]
        ask(made["m"], Call(Head(b"POST", PATH), body("w"), lambda call, said: None))
        assert len(timers.soon) == 1 and len(timers.later) == 1

    asyncio.run(run())


def test_those_who_come_meanwhile_are_put_together() -> None:
    """One append for the calls of one turn, one for all that come while it is written; each has its own answer."""

    async def run() -> None:
        log, answers = Log(), dict[bytes, Answer]()
        lane = Lane(log.desk(), FACE, asyncio.get_running_loop().call_soon, lambda call: None, lambda e: None)
        calls = [
            Call(Head(b"POST", PATH), body(f"w{i}"), lambda call, said: answers.update({call.body: said}))
            for i in range(6)
        ]
        ask(lane, calls[0])
        ask(lane, calls[1])
        await turns()
        for call in calls[2:5]:
            ask(lane, call)
            await turns(2)
        calls[4].gone = True  # before it is put anywhere
        assert [len(one) for one in log.puts] == [2]
        log.let.set()
        await turns()
        assert [len(one) for one in log.puts] == [2, 2]
        for i, id in enumerate(("r1", "r2", "r3")):
            log.futures[id].set_result(said_of(Draft("ask", "", 0, b"", id), i / 4))
        log.futures["r4"].set_exception(Refused("no", code="poison"))
        await turns()
        scores = [json.loads(answers[one.body].body)["outputs"][0]["data"] for one in calls[:3]]
        assert scores == [[0.0], [0.25], [0.5]] and answers[calls[3].body].status == 422
        ask(lane, calls[5])  # and the lane is free again
        await turns()
        assert len(log.puts) == 3 and calls[4].body not in answers

    asyncio.run(run())


def test_who_waits_too_long_is_told_and_who_left_is_forgotten() -> None:
    """The first within the time that he gave; of the other nobody waits for the prediction."""

    async def run() -> None:
        log, answers = Log(), list[Answer]()
        log.let.set()
        lane = Lane(log.desk(), FACE, asyncio.get_running_loop().call_soon, lambda call: None, lambda e: None)
        late, gone = (
            Call(Head(b"POST", PATH), body(who), lambda call, said: answers.append(said)) for who in "ab"
        )
        ask(lane, late, 0.01)
        ask(lane, gone)
        await turns(6)
        gone.gone = True
        assert gone.left is not None
        gone.left()
        await turns()
        assert log.futures["r2"].cancelled() and not answers
        await asyncio.sleep(0.02)
        assert [one.status for one in answers] == [504] and log.futures["r1"].cancelled()
        assert log.refused == ["deadline"]

    asyncio.run(run())


def test_nothing_is_kept_of_who_was_answered_or_told_or_has_left() -> None:
    """A server that takes its time for each is asked for months."""

    def kept() -> int:
        return sum(isinstance(one, Call | Later) for one in gc.get_objects())

    async def run() -> None:
        log = Log()
        log.let.set()
        lane = Lane(log.desk(), FACE, asyncio.get_running_loop().call_soon, lambda call: None, lambda e: None)
        gc.disable()
        before = kept()
        for i in range(30):
            call = Call(Head(b"POST", PATH), body(f"w{i}"), lambda call, said: None)
            ask(lane, call, 0.01 if i % 3 == 0 else 5.0)
            await turns(6)
            if i % 3 == 1:
                log.futures[f"r{i + 1}"].set_result(said_of(log.puts[-1][0], 0.5))
            if i % 3 == 2:
                call.gone = True
                assert call.left is not None
                call.left()
            await asyncio.sleep(0.02)
            del call
        assert all(one.done() for one in log.futures.values()) and len(log.futures) == 30
        assert kept() == before

    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_what_the_log_does_not_take_is_told_to_all() -> None:
    """And what comes later is tried again."""

    async def run() -> None:
        log, answers = Log(), list[Answer]()
        log.let.set()
        log.error = Unavailable("Full.", code="log_full")
        lane = Lane(log.desk(), FACE, asyncio.get_running_loop().call_soon, lambda call: None, lambda e: None)
        for who in "abc":
            ask(lane, Call(Head(b"POST", PATH), body(who), lambda call, said: answers.append(said)))
            await turns(3 if who == "b" else 0)
        await turns()
        assert [one.status for one in answers] == [507] * 3 and [len(one) for one in log.puts] == [2, 1]

    asyncio.run(run())
