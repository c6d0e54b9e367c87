"""client: calls from plain functions, over sockets. Safe to use from several threads."""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
IDLE = 32
"""Connections that are kept for the next call."""


class Link:
    """One connection; raises Lost when it cannot be made within the time."""

    def __init__(self, at: Address, timeout_s: float, context: ssl.SSLContext | None) -> None:
        self._exchange = Exchange(at)
        try:
            self._socket = socket.create_connection((at.host, at.port), max(timeout_s, 0.001))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if at.tls:
                wrap = (context or ssl.create_default_context()).wrap_socket
                self._socket = wrap(self._socket, server_hostname=at.host)
        except TimeoutError:
            raise Lost(sent=False, late=True) from None
        except OSError:
            raise Lost(sent=False) from None

    def ask(self, request: Request, headers: Sequence[tuple[str, str]], left: Callable[[], float]) -> Reply:
        """One request and its reply; `left` says how many seconds there are. Raises Lost."""
        try:
            self._socket.settimeout(max(left(), 0.001))
            self._socket.sendall(self._exchange.ask(request, *headers))
            while True:
                self._socket.settimeout(max(left(), 0.001))
                reply = self._exchange.take(self._socket.recv(1 << 16))
                if reply is not None:
                    return reply
        except TimeoutError:
            raise Lost(sent=True, late=True) from None
        except OSError:
            raise Lost(sent=True) from None

    @property
    def usable(self) -> bool:
        """Whether another request may go over it: the server has neither closed it nor said anything."""
        if not self._exchange.reusable or self._socket.fileno() < 0:
            return False
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return not waiting.poll(0)

    def close(self) -> None:
        """End it."""
        self._socket.close()


class Client:
    """A Penstock server, as functions. Raises the house's errors: Refused (mend the request), Unavailable (try
    again later; what is safe to repeat has been), Failed (the server could not).

    `timeout_s` is each call's deadline with all its repeats; the server is told of it. `rng`, `clock` (seconds)
    and `sleep` are where chance and time come from."""

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
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._at, self._timeout_s, self._context = address(url), timeout_s, context
        self._policy = policy or Policy()
        self._budget, self._clock, self._sleep = Budget(self._policy), clock, sleep
        self._rng = rng or random.SystemRandom()
        self._headers = (("authorization", f"Bearer {key}"),) if key else ()
        self._idle: list[Link] = []
        self._appending, self._numbering = threading.Lock(), Numbering(self._rng)

    def health(self) -> Health:
        """Whether the server lives and answers."""
        return self.do(calls.health(), None)

    def metadata(self, model: str) -> dict[str, Any]:
        """What the server tells of a model: its versions, inputs and outputs."""
        return self.do(calls.metadata(model), None)

    def predict(
        self, model: str, row: Mapping[str, Any], *, id: str = "", timeout_s: float | None = None
    ) -> Answer:
        """Ask about one row of plain columns. `id` names the column of the request's own id, which is drawn where
        the row has none: then a repeat is the same request and gets the same answer. Without it, a call that
        may have reached the server is not repeated."""
        (answer,) = self.predict_many(model, [row], id=id, timeout_s=timeout_s)
        return answer

    def predict_many(
        self, model: str, rows: Sequence[Mapping[str, Any]], *, id: str = "", timeout_s: float | None = None
    ) -> list[Answer]:
        """The same for several rows with the same columns, in one call."""
        return self.do(calls.predict(model, with_ids(rows, id, self._rng), safe=bool(id)), timeout_s)

    def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        *,
        outputs: Sequence[str] = (),
        version: str = "",
        safe: bool = False,
        timeout_s: float | None = None,
    ) -> Inference:
        """Ask in the Open Inference Protocol's own words. `safe`: the inputs carry the requests' ids, so
        that the call may be repeated."""
        return self.do(calls.infer(model, inputs, outputs, version, safe=safe), timeout_s)

    def append(
        self,
        topic: str,
        events: Sequence[Mapping[str, Any]],
        *,
        number: tuple[str, int] | None = None,
        timeout_s: float | None = None,
    ) -> Appended:
        """Append events; they are numbered, so that a repeat changes nothing. `number` is a producer's name and its
        number for these events, one more than the last, for callers that repeat calls themselves."""
        if not events:
            return Appended()
        if number is not None:
            return self.do(calls.append(topic, events, number), timeout_s)
        with self._appending:  # the server takes a producer's numbers one after the other
            try:
                done = self.do(calls.append(topic, events, self._numbering.next(topic)), timeout_s)
            except PenstockError as error:
                self._numbering.failed(error)
                raise
            except BaseException:  # a key was pressed in the middle: nobody knows
                self._numbering.renew()
                raise
            self._numbering.taken(topic)
            return done

    def answers(
        self,
        model: str,
        after: int = 0,
        *,
        most: int = 1000,
        wait_s: float = 0.0,
        timeout_s: float | None = None,
    ) -> Answers:
        """A model's answers in the log's order, at most `most` of those after a place; where there are none, wait for
        the first one, 10 s at most. Keep the `position` of the last one that you are done with, or the `after` of
        them all: go on there."""
        return self.do(calls.answers(model, after, most, wait_s), timeout_s)

    def answer_to(self, model: str, id: str, *, timeout_s: float | None = None) -> Queued:
        """The answer to a request by its id; raises NotFound (`unanswered`) while there is none."""
        return self.do(calls.answer_to(model, id), timeout_s)

    def look(
        self,
        features: str,
        entities: Sequence[str | Mapping[str, Any]],
        *,
        t: datetime | int | None = None,
        o: int | None = None,
        names: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Looked:
        """Features of entities, now or as of time `t` (a time or UTC milliseconds) and log position `o`.
        `features` is a model's name, or how a set's digest begins."""
        return self.do(calls.look(features, entities, t, o, names), timeout_s)

    def close(self) -> None:
        """End the connections."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def do(self, call: Call[T], timeout_s: float | None = None) -> T:
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
                outcome = self._send(step)
            else:
                self._sleep(step.seconds)
                outcome = None

    def _send(self, step: Send) -> Outcome:
        until = self._clock() + step.timeout_s
        headers = (*self._headers, calls.deadline(step.timeout_s))
        link: Link | None = None
        try:
            link = self._kept() or Link(self._at, step.timeout_s, self._context)
            reply = link.ask(step.request, headers, lambda: until - self._clock())
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
            try:
                link = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if link.usable:
                return link
            link.close()
        return None
