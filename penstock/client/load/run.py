"""client: send requests when they are due, over several connections, and check each answer.

In the open loop the n-th request is due at n / rate, whatever became of those before. One that finds every
connection busy waits, and its latency counts from when it was due: a server that stalls is charged for all
that would have come meanwhile (Tene, "How NOT to Measure Latency", 2013).
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Sequence

import msgspec

from penstock.client import calls
from penstock.client.aio import Link
from penstock.client.calls import Inference
from penstock.client.load.measure import Report, Samples
from penstock.client.load.rows import Asked
from penstock.client.wire import Address, Lost, Reply
from penstock.record.errors import Refused

MOST_CONNECTIONS = 900
"""More than these `select`, the one wait that is exact to microseconds, does not take."""


class Plan(msgspec.Struct, frozen=True):
    """How to load. `rate` in requests a second; 0 is the closed loop: each connection sends when it is answered.
    An answer that takes longer than `timeout_s` since it was due is none."""

    seconds: float
    rate: float = 0.0
    connections: int = 32
    timeout_s: float = 10.0
    tolerance: float = 0.0
    key: str = ""


def loop() -> asyncio.AbstractEventLoop:
    """An event loop that wakes when it should: the usual one wakes up to a millisecond late."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def run(
    at: Address, asked: Sequence[Asked], plan: Plan, progress: Callable[[int, int], None]
) -> Report:
    """Load a server with these requests, in turn; `progress` is told milliseconds done and in all."""
    if not 0 < plan.connections <= MOST_CONNECTIONS:
        raise Refused(f"It takes 1 to {MOST_CONNECTIONS} connections.", code="arguments")
    one = _Load(at, asked, plan)
    telling = asyncio.create_task(_tell(plan.seconds, progress))
    cpu, began = time.process_time(), time.monotonic()
    try:
        await asyncio.gather(*(one.connection() for _ in range(plan.connections)))
    finally:
        telling.cancel()
    own_cpu = (time.process_time() - cpu) / (time.monotonic() - began)
    return one.samples.report(plan.seconds, one.taken, own_cpu)


async def _tell(seconds: float, progress: Callable[[int, int], None]) -> None:
    began = time.monotonic()
    while True:
        progress(min(int((time.monotonic() - began) * 1000), int(seconds * 1000)), int(seconds * 1000))
        await asyncio.sleep(0.2)


class _Load:
    """What all connections share: which request is next, and what was measured."""

    def __init__(self, at: Address, asked: Sequence[Asked], plan: Plan) -> None:
        self.at, self.asked, self.plan, self.samples = at, asked, plan, Samples()
        self.begin, self.taken = time.monotonic(), 0
        self.headers = [calls.deadline(plan.timeout_s)]
        if plan.key:
            self.headers.append(("authorization", f"Bearer {plan.key}"))

    def next(self, now: float) -> float | None:
        """When the next request is due; None when there is no more."""
        rate, end = self.plan.rate, self.begin + self.plan.seconds
        due = self.begin + self.taken / rate if rate else now
        if due >= end or (rate and self.taken >= self.plan.seconds * rate):
            return None
        self.taken += 1
        return due

    async def connection(self) -> None:
        """Send what is next, one after the other, until the time is over."""
        link: Link | None = None
        while (due := self.next(free := time.monotonic())) is not None:
            i = self.taken - 1
            if due > free:
                await asyncio.sleep(due - free)
            now = time.monotonic()
            if now >= due + self.plan.timeout_s:  # its deadline went by while every connection was busy
                self.samples.other(self.samples.failed, "unsent", due - self.begin)
                continue
            self.samples.own_late_ms.append((now - max(due, free)) * 1000)
            link = await self._ask(link, self.asked[i % len(self.asked)], due)
        if link:
            link.close()

    async def _ask(self, link: Link | None, asked: Asked, due: float) -> Link | None:
        """One request and what came of it; the connection, if it can be used again."""
        left, at_s = due + self.plan.timeout_s - time.monotonic(), due - self.begin
        try:
            link = link or await Link.open(self.at, left, None)
            reply = await link.ask(asked.request, self.headers, left)
        except Lost as lost:
            self.samples.other(self.samples.failed, "late" if lost.late else "lost", at_s)
            if link:
                link.close()
            return None
        took = time.monotonic() - due
        if reply.status != 200:
            error = calls.error_of(reply)
            self.samples.other(self.samples.refused, f"{reply.status} {error.code}", at_s)
            self.samples.refusal_ms.append(took * 1000)
        elif why := wrong(reply, asked, self.plan.tolerance):
            self.samples.other(self.samples.wrong, why, at_s)
        else:
            self.samples.right(at_s, took)
        if link.usable:
            return link
        link.close()
        return None


def wrong(reply: Reply, asked: Asked, tolerance: float) -> str:
    """What is wrong with an answer of one row; "" when nothing is."""
    try:
        said = msgspec.json.decode(reply.body, type=Inference)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "no inference"
    if not said.outputs or any(one.shape != [1] or len(one.data) != 1 for one in said.outputs):
        return "shape"
    score = next((one.data[0] for one in said.outputs if one.name == "score"), None)
    if not isinstance(score, int | float):
        return "no score"
    if asked.expected is not None and not abs(score - asked.expected) <= tolerance:
        return "score"
    return ""
