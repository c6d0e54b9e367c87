"""client: the same calls from asyncio. For one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from penstock.client import calls
from penstock.client.calls import Answer, Answers, Appended, Call, Health, Inference, Looked, Queued, Tensor
from penstock.client.numbering import Numbering, with_ids
from penstock.client.tries import Budget, Outcome, Policy, Send, tries
from penstock.client.wire import Address, Exchange, Lost, Reply, Request, address
from penstock.record.errors import PenstockError

T = TypeVar("T")
IDLE = 256
"""Connections that are kept for the next call."""


class Link:
    """One connection."""

    def __init__(self, at: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._exchange, self._reader, self._writer = Exchange(at), reader, writer

    @classmethod
    async def open(cls, at: Address, timeout_s: float, context: ssl.SSLContext | None) -> Link:
        """Make it; raises Lost when it cannot be made within the time."""
        tls = (context or ssl.create_default_context()) if at.tls else None
        try:
            async with asyncio.timeout(timeout_s):
                patience_s = 1.0 if tls else None  # for the other side's goodbye
                return cls(
                    at,
                    *await asyncio.open_connection(
                        at.host, at.port, ssl=tls, ssl_shutdown_timeout=patience_s
                    ),
                )
        except TimeoutError:
            raise Lost(sent=False, late=True) from None
        except OSError:
            raise Lost(sent=False) from None

    async def ask(self, request: Request, headers: Sequence[tuple[str, str]], timeout_s: float) -> Reply:
        """One request and its reply, within the time. Raises Lost."""
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(self._exchange.ask(request, *headers))
                await self._writer.drain()
                while True:
                    reply = self._exchange.take(await self._reader.read(1 << 16))
                    if reply is not None:
                        return reply
        except TimeoutError:
            raise Lost(sent=True, late=True) from None
        except OSError:
            raise Lost(sent=True) from None

    @property
    def usable(self) -> bool:
        """Whether another request may go over it: the server has not closed it."""
        return self._exchange.reusable and not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        """End it, soon."""
        self._writer.close()

    async def closed(self) -> None:
        """End it, and wait until it has ended."""
        self._writer.close()
        with contextlib.suppress(OSError):  # so it has ended
            await self._writer.wait_closed()


class AsyncClient:
    """A Penstock server, as coroutines; see `Client`, which has the same calls."""

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        timeout_s: float = 10.0,
        policy: Policy | None = None,
        context: ssl.SSLContext | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._at, self._timeout_s, self._context = address(url), timeout_s, context
        self._policy = policy or Policy()
        self._budget, self._clock, self._sleep = Budget(self._policy), clock, sleep
        self._rng = rng or random.SystemRandom()
        self._headers = (("authorization", f"Bearer {key}"),) if key else ()
        self._idle: list[Link] = []
        self._appending, self._numbering = asyncio.Lock(), Numbering(self._rng)

    async def health(self) -> Health:
        """Whether the server lives and answers."""
        return await self.do(calls.health(), None)

    async def metadata(self, model: str) -> dict[str, Any]:
        """What the server tells of a model: its versions, inputs and outputs."""
        return await self.do(calls.metadata(model), None)

    async def predict(
        self, model: str, row: Mapping[str, Any], *, id: str = "", timeout_s: float | None = None
    ) -> Answer:
        """Ask about one row of plain columns; see `Client.predict`."""
        (answer,) = await self.predict_many(model, [row], id=id, timeout_s=timeout_s)
        return answer

    async def predict_many(
        self, model: str, rows: Sequence[Mapping[str, Any]], *, id: str = "", timeout_s: float | None = None
    ) -> list[Answer]:
        """The same for several rows with the same columns, in one call."""
        return await self.do(calls.predict(model, with_ids(rows, id, self._rng), safe=bool(id)), timeout_s)

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        *,
        outputs: Sequence[str] = (),
        version: str = "",
        safe: bool = False,
        timeout_s: float | None = None,
    ) -> Inference:
        """Ask in the Open Inference Protocol's own words; see `Client.infer`."""
        return await self.do(calls.infer(model, inputs, outputs, version, safe=safe), timeout_s)

    async def append(
        self,
        topic: str,
        events: Sequence[Mapping[str, Any]],
        *,
        number: tuple[str, int] | None = None,
        timeout_s: float | None = None,
    ) -> Appended:
        """Append events, numbered, so that a repeat changes nothing; see `Client.append`."""
        if not events:
            return Appended()
        if number is not None:
            return await self.do(calls.append(topic, events, number), timeout_s)
        async with self._appending:  # the server takes a producer's numbers one after the other
            try:
                done = await self.do(calls.append(topic, events, self._numbering.next(topic)), timeout_s)
            except PenstockError as error:
                self._numbering.failed(error)
                raise
            except BaseException:  # cancelled in the middle: nobody knows
                self._numbering.renew()
                raise
            self._numbering.taken(topic)
            return done

    async def answers(
        self,
        model: str,
        after: int = 0,
        *,
        most: int = 1000,
        wait_s: float = 0.0,
        timeout_s: float | None = None,
    ) -> Answers:
        """A model's answers after a place; see `Client.answers`."""
        return await self.do(calls.answers(model, after, most, wait_s), timeout_s)

    async def answer_to(self, model: str, id: str, *, timeout_s: float | None = None) -> Queued:
        """The answer to a request by its id; see `Client.answer_to`."""
        return await self.do(calls.answer_to(model, id), timeout_s)

    async def look(
        self,
        features: str,
        entities: Sequence[str | Mapping[str, Any]],
        *,
        t: datetime | int | None = None,
        o: int | None = None,
        names: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Looked:
        """Features of entities; see `Client.look`."""
        return await self.do(calls.look(features, entities, t, o, names), timeout_s)

    async def close(self) -> None:
        """End the connections."""
        while self._idle:
            await self._idle.pop().closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def do(self, call: Call[T], timeout_s: float | None = None) -> T:
        """Carry out a call, with what repeats are safe."""
        within = self._timeout_s if timeout_s is None else timeout_s
        walk = tries(call.request, within, self._policy, self._budget, self._clock, self._rng.random)
        outcome: Outcome | None = None
        while True:
            try:
                step = walk.send(outcome)
            except StopIteration as done:
                return calls.settled(call, done.value)
            if isinstance(step, Send):
                outcome = await self._send(step)
            else:
                await self._sleep(step.seconds)
                outcome = None

    async def _send(self, step: Send) -> Outcome:
        until = self._clock() + step.timeout_s
        headers = (*self._headers, calls.deadline(step.timeout_s))
        link: Link | None = None
        try:
            link = self._kept() or await Link.open(self._at, step.timeout_s, self._context)
            reply = await link.ask(step.request, headers, until - self._clock())
        except BaseException as error:
            if link:
                link.close()
            if isinstance(error, Lost):
                return error
            raise
        if link.usable and len(self._idle) < IDLE:
            self._idle.append(link)
        else:
            link.close()
        return reply

    def _kept(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if link.usable:
                return link
            link.close()
        return None
