"""serve: a connection: bytes in, calls out, answers in order; every phase has its bound in bytes and in time."""

from __future__ import annotations

import abc
import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools
import msgspec

from penstock.record.errors import PenstockError, Refused, Unavailable
from penstock.serve.front.call import Answer, Call, Head, Headers, refused, top

Guard = Callable[[bytes, Headers], PenstockError | None]
"""Whether a call may come in, by its path and headers: the error that it is refused with. It never changes its mind."""
Serve = Callable[[Call], None]
Route = Callable[[Head], Serve]
"""Who serves the calls that begin so. It never changes its mind."""
_KNOWN = 1024
"""So many heads are known by their bytes."""


class Limits(msgspec.Struct, frozen=True):
    """What a connection may take: bytes of a head, of one that is kept to be known again, of a body and of all bodies
    together, seconds for each to arrive, between two calls, and for an answer to be read; seconds after which who was
    refused is not listened to, and who sends nothing while the server ends is let go; connections at once; calls sent
    ahead on one, or under way at once where they may be."""

    head_bytes: int = 64 << 10
    known_bytes: int = 1 << 10
    body_bytes: int = 16 << 20
    bodies_bytes: int = 128 << 20
    head_s: float = 10.0
    body_s: float = 60.0
    idle_s: float = 75.0
    read_s: float = 30.0
    linger_s: float = 2.0
    quiet_s: float = 0.5
    connections: int = 4096
    ahead: int = 64


LIMITS = Limits()


class TooLarge(Refused):
    """The body is larger than this server takes."""

    code = "too_large"
    status = 413


class Malformed(Refused):
    """This is not HTTP as this server understands it."""

    code = "http"
    status = 400


class LongHead(Refused):
    """The address and headers of the request are too long."""

    code = "head"
    status = 431


class Slow(Refused):
    """The request did not arrive in time."""

    code = "slow"
    status = 408


class Known(msgspec.Struct, frozen=True):
    """What the bytes of a head mean: who serves the calls that begin with it, and the bytes of their bodies."""

    head: Head
    serve: Serve
    length: int


class Front:
    """All connections to a port, on one event loop. `route` says who gets a call, once it is here and let in; `count`
    is told of every refusal (status, code), `took` of every answer and the seconds from the call to it; `speaks` makes
    what a client is spoken with, HTTP/1.1 if nothing else."""

    def __init__(
        self,
        route: Route,
        guard: Guard,
        count: Callable[[str, str], None],
        limits: Limits = LIMITS,
        took: Callable[[Call, int, float], None] = lambda call, status, seconds: None,
        speaks: Callable[[Front], Client] | None = None,
    ) -> None:
        self.route, self.guard, self.count, self.limits, self.took = route, guard, count, limits, took
        self.speaks = speaks or Connection
        self.open: set[Client] = set()
        self.known: dict[bytes, Known] = {}
        self.room = limits.bodies_bytes
        self.closing = False

    def __call__(self) -> Client:
        """A connection's protocol: what asyncio asks for."""
        return self.speaks(self)

    def sweep(self, now_s: float) -> None:
        """End what takes too long; to be called every so often."""
        for one in list(self.open):
            one.sweep(now_s)

    def close(self) -> None:
        """Come to an end: each connection gets one more answer, which says that it is the last. Who sends nothing
        for a while is let go; to do so at once would cut off a call that is on its way."""
        self.closing = True

    @property
    def patience_s(self) -> float:
        """How long who sends nothing is kept."""
        return self.limits.quiet_s if self.closing else self.limits.idle_s

    def abort(self) -> None:
        """End every connection, whatever it is at."""
        for one in list(self.open):
            one.transport.abort()


IDLE, HEAD, BODY, LINGER = "idle", "head", "body", "linger"


class Client(asyncio.Protocol, abc.ABC):
    """A connection, whatever is spoken over it."""

    transport: asyncio.Transport

    def __init__(self, front: Front) -> None:
        self.front = front
        self.phase, self.since_s, self.unread_s = IDLE, 0.0, 0.0
        self.clock: Callable[[], float] = lambda: 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self.clock = asyncio.get_running_loop().time
        self.since_s = self.clock()
        self.front.open.add(self)
        if len(self.front.open) > self.front.limits.connections or self.front.closing:
            self.refuse(Unavailable("Too many connections are open.", code="busy", hint="Come back later."))

    def pause_writing(self) -> None:
        """The client reads slowly."""
        self.unread_s = self.clock()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.unread_s = 0.0
        self.transport.resume_reading()

    @abc.abstractmethod
    def refuse(self, error: PenstockError) -> None:
        """Say what is wrong with what is coming in, and end."""

    @abc.abstractmethod
    def sweep(self, now_s: float) -> None:
        """End what takes too long."""


def _nobody(call: Call) -> None:
    """Serves what has no head yet."""


_NONE = Head(b"", b"")
_ONCE = {b"transfer-encoding", b"expect", b"traceparent"}
"""A head with one of these does not come again, or says how its body comes."""


class Connection(Client):
    """A client by HTTP/1.1. Its calls are served one at a time, in the order in which they came."""

    def __init__(self, front: Front) -> None:
        super().__init__(front)
        self.parser = httptools.HttpRequestParser(self)
        self.current: Call | None = None
        self.closes = False  # with the current answer
        self.ahead: deque[tuple[Call, Serve, bool]] = deque()
        self.head = _NONE
        self.serve: Serve = _nobody
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: bytes | bytearray = b""
        self.head_bytes = 0
        self.whole: int | None = None  # the bytes of the body that ended with what was read

    # asyncio's side.

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or was sent away."""
        self.front.open.discard(self)
        if self.phase == BODY or self.current is not None:
            self.front.count("499", "left")
        for call in [self.current, *(call for call, _, _ in self.ahead)]:
            if call is not None:
                call.gone = True
                if call.left is not None:
                    call.left()
        self.give_back()
        self.front.room += sum(len(call.body) for call, _, _ in self.ahead)
        if self.current is not None:
            self.front.room += len(self.current.body)
        self.current = None
        self.ahead.clear()
        del self.parser  # it knows this connection: nothing done with is left to Python's collector

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self.phase == LINGER or (self.phase == IDLE and self.is_known(data)):
            return
        try:
            begun, self.whole = self.phase, None
            self.parser.feed_data(data)
            if self.phase == HEAD:  # a header that does not end is told by nobody else
                self.grow(len(data))
            elif self.phase == begun == IDLE:
                self.learn(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.data_received(self.without_offer() + data[upgrade.args[0] :])
        except PenstockError as error:
            self.refuse(error)
        except httptools.HttpParserError as error:
            if self.phase != LINGER:
                why = error.__context__
                self.refuse(why if isinstance(why, PenstockError) else Malformed())

    def is_known(self, data: bytes) -> bool:
        """Take a call whose head came before, to the byte, and whose body is here, as the parser did then. It is
        between two calls, and knows nothing of those before."""
        end = data.find(b"\r\n\r\n") + 4
        known = self.front.known.get(data[:end])
        if known is None or len(data) != end + known.length or known.length > self.front.room:
            return False
        self.front.room -= known.length
        self.since_s = self.clock()
        self.take(Call(known.head, data[end:], self.reply, self.since_s), known.serve, closes=False)
        return True

    def learn(self, data: bytes) -> None:
        """Know a head by its bytes, where they and a body were all that came. Two calls are not taken for one: what
        follows the first head would be the second's body alone."""
        end = data.find(b"\r\n\r\n") + 4
        length = len(data) - end
        if self.whole != length or end > self.front.limits.known_bytes or not self.parser.should_keep_alive():
            return
        if any(name in _ONCE for name, _ in self.headers):
            return
        if len(self.front.known) >= _KNOWN:
            self.front.known.clear()
        self.front.known[data[:end]] = Known(self.head, self.serve, length)

    def without_offer(self) -> bytes:
        """The head of a call that offers another protocol, without the offer, for a new parser: the one that met
        it takes what follows for that protocol."""
        lines = [
            b"%b %b HTTP/%b"
            % (self.parser.get_method(), self.target, self.parser.get_http_version().encode())
        ]
        lines += [b"%b: %b" % one for one in self.headers if one[0] not in (b"upgrade", b"connection")]
        self.parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([*lines, b"", b""])

    # The parser's side.

    def on_message_begin(self) -> None:
        """A head begins."""
        self.phase, self.since_s = HEAD, self.clock()
        self.give_back()
        self.target, self.headers, self.head_bytes = b"", [], 0

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self.target += url
        self.grow(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. The parser leaves out the spaces before its value, not those behind it."""
        self.headers.append((name.lower(), value.rstrip(b" \t")))
        self.grow(len(name) + len(value) + 4)

    def grow(self, n: int) -> None:
        """The head is longer by so much."""
        self.head_bytes += n
        if self.head_bytes > self.front.limits.head_bytes:
            raise LongHead

    def on_headers_complete(self) -> None:
        """The head is here: whoever may not come in is told before the body is read."""
        path, _, query = self.target.partition(b"?")
        error = self.front.guard(path, self.headers)
        if error is not None:
            raise error
        self.head = Head(self.parser.get_method(), path, query, tuple(self.headers))
        self.serve = self.front.route(self.head)
        expects = False
        for name, value in self.headers:
            if name == b"content-length":
                if int(value) > self.front.limits.body_bytes:
                    raise TooLarge
            elif name == b"expect":
                expects = value.lower() == b"100-continue"
        if expects and self.current is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.phase = BODY

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self.phase == LINGER:
            return
        if len(self.body) + len(body) > self.front.limits.body_bytes:
            raise TooLarge
        if len(body) > self.front.room:
            raise Unavailable("Too much is sent at once.", code="busy", hint="Send more slowly.")
        self.front.room -= len(body)
        if self.body and isinstance(self.body, bytes):  # the first part is mostly all of it
            self.body = bytearray(self.body)  # it grows: many parts would leave holes in memory
        self.body += body

    def on_message_complete(self) -> None:
        """A call is here."""
        if self.phase == LINGER or self.parser.should_upgrade():
            return
        body = bytes(self.body)
        self.phase, self.since_s, self.body, self.whole = IDLE, self.clock(), b"", len(body)
        call = Call(self.head, body, self.reply, self.since_s)
        self.take(call, self.serve, closes=not self.parser.should_keep_alive())

    def take(self, call: Call, serve: Serve, *, closes: bool) -> None:
        """A call is let in: served at once, or when those before it are answered."""
        if self.current is None:
            return self.begin(call, serve, closes)
        self.ahead.append((call, serve, closes))
        if len(self.ahead) >= self.front.limits.ahead:
            self.transport.pause_reading()
        return None

    # Answers.

    def begin(self, call: Call, serve: Serve, closes: bool) -> None:
        """Let a call be served."""
        self.current, self.closes = call, closes
        serve(call)

    def reply(self, call: Call, answer: Answer) -> None:
        """Write an answer, and go on with what was sent ahead."""
        if call is not self.current:  # the client has left
            return
        self.front.room += len(call.body)
        closes = self.closes or self.front.closing
        body = answer.body
        said = top(answer, len(body), close=closes)
        self.transport.write(said if call.head.method == b"HEAD" else said + body)
        self.current, self.since_s = None, self.clock()
        self.front.took(call, answer.status, self.since_s - call.began_s)
        if closes:
            self.transport.close()
        elif self.ahead:
            if len(self.ahead) == self.front.limits.ahead:
                self.transport.resume_reading()
            self.begin(*self.ahead.popleft())

    def refuse(self, error: PenstockError) -> None:
        """Say what is wrong with what is coming in, and end: what else the client sends is not read."""
        answer = refused(error)
        self.front.count(str(answer.status), error.code)
        self.give_back()
        self.phase, self.since_s = LINGER, self.clock()
        if self.current is None and not self.ahead:
            self.transport.write(top(answer, len(answer.body), close=True) + answer.body)
            if self.transport.can_write_eof():
                self.transport.write_eof()
        else:  # what came before is still to be answered; then the connection ends
            self.closes = True
            self.ahead.clear()

    def give_back(self) -> None:
        """The body under way takes no room any more."""
        self.front.room += len(self.body)
        self.body = b""

    # Time.

    def sweep(self, now_s: float) -> None:
        """End what takes too long."""
        limits, waited_s = self.front.limits, now_s - self.since_s
        if self.unread_s and now_s - self.unread_s > limits.read_s:
            self.transport.abort()
        elif self.phase == LINGER:
            if self.current is None and waited_s > limits.linger_s:
                self.transport.abort()
        elif (self.phase == HEAD and waited_s > limits.head_s) or (
            self.phase == BODY and waited_s > limits.body_s
        ):
            self.refuse(Slow())
        elif self.phase == IDLE and self.current is None and waited_s > self.front.patience_s:
            self.transport.close()
