"""serve: gRPC's calls over HTTP/2: frames in, calls out, answers as they come; every phase has its bound.

Source: RFC 9113 and gRPC's protocol over it, as far as a server of single calls needs them: no pushes, no priorities,
one message a call and one an answer. Headers are unpacked by `hpack`.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Callable

from hpack import Decoder, HPACKError

from penstock.record.errors import PenstockError, Refused, Unavailable
from penstock.serve.front import frames
from penstock.serve.front.call import Answer, Call, Head, Headers, status_of
from penstock.serve.front.wire import HEAD, IDLE, LINGER, Client, Front, Slow, TooLarge

PATIENCE = 1000
"""Frames that bring nothing (pings, settings, calls taken back), beyond two for each call that was answered, before a
client is taken for one that floods. Half of them are forgotten each second."""
_KNOWN = 64
"""Blocks of headers that are remembered of a connection."""
_TIME = re.compile(rb"([0-9]{1,8})([HMSmun])")
_USUAL = frozenset([b"te", b"content-type", b"user-agent"])
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class NotGrpc(Refused):
    """This port takes calls by gRPC only: POST, with the content type application/grpc."""

    code = "content_type"
    status = 415


class BadCall(Refused):
    """This is no call as gRPC sends one."""

    code = "malformed"
    status = 400


class Opening(Head, frozen=True):
    """What the headers of a call say. `headers`: those that are the caller's own; `coding`: how its message is packed,
    if it is."""

    timeout_s: float = float("inf")
    coding: str = "identity"
    refusal: PenstockError | None = None


class Stream:
    """A call over a connection: what came of its message, of which size it is to be (0: not known yet), and what room
    that takes; then what is still to be sent of its answer, and how much of that its client takes beyond the usual."""

    __slots__ = ("asked", "came", "credit", "head", "id", "rest", "room", "since_s", "wanted")

    def __init__(self, id: int, head: Opening, since_s: float) -> None:
        self.id, self.head, self.since_s = id, head, since_s
        self.asked: Asked | None = None
        self.came: bytes | bytearray = b""
        self.wanted = self.room = self.credit = 0
        self.rest = memoryview(b"")


class Asked(Call):
    """A call whose message is here. `timeout_s`: how long the caller waits; `coding`: how the message is packed."""

    __slots__ = ("coding", "stream", "timeout_s")

    def __init__(
        self, stream: Stream, body: bytes, coding: str, reply: Callable[[Call, Answer], None]
    ) -> None:
        head = stream.head
        super().__init__(head, body, reply, stream.since_s)
        self.stream, self.coding, self.timeout_s = stream, coding, head.timeout_s

    def refuse(self, error: PenstockError) -> None:
        """Answer with an error of the house: its text, alone."""
        self.reply(Answer(status_of(error), str(error).encode()))


def head_of(headers: Headers, front: Front) -> Opening:
    """What headers say, and whether such a call may come in."""
    found = dict(reversed(headers))  # the first of several
    path = found.get(b":path", b"").partition(b"?")[0]
    error: PenstockError | None = None
    timeout_s, text = float("inf"), found.get(b"grpc-timeout", b"")
    kind = found.get(b"content-type", b"")
    if found.get(b":method") != b"POST" or not kind.startswith(b"application/grpc"):
        error = NotGrpc()
    elif text:
        said = _TIME.fullmatch(text)
        if said is None:
            error = BadCall("The time that the call may take is none.", where="grpc-timeout")
        else:
            timeout_s = int(said[1]) * _UNITS_S[said[2]]
    coding = found.get(b"grpc-encoding", b"identity").decode("latin-1")
    own = tuple(one for one in headers if not one[0].startswith((b":", b"grpc-")) and one[0] not in _USUAL)
    return Opening(b"POST", path, b"", own, timeout_s, coding, error or front.guard(path, headers))


class Calls(Client):
    """A client by gRPC: many calls at once, each answered when it can be."""

    def __init__(self, front: Front) -> None:
        super().__init__(front)
        limits = front.limits
        self.decoder = Decoder(min(frames.HEAD_BYTES, limits.head_bytes))
        self.known: dict[bytes, Opening] = {}  # by their block, as long as it means the same
        self.streams: dict[int, Stream] = {}
        self.rest, self.begun, self.saying_goodbye = b"", False, False
        self.last = 0  # the newest call
        self.block: tuple[int, int, list[bytes]] | None = None  # headers whose end is not here
        self.window = limits.body_bytes + (1 << 20)  # so much may come: one message always fits
        self.owed = 0
        self.room = self.first_room = frames.START  # so much may be sent of all calls, and of each at first
        self.unsent = 0  # so much is not
        self.idle_frames, self.counted_s = 0, 0.0
        self.phase = HEAD

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came: it is told the bounds."""
        super().connection_made(transport)
        self.counted_s = self.since_s
        if self.phase != LINGER:
            self.transport.write(self.bounds())

    def bounds(self) -> bytes:
        """What we say first."""
        settings = (
            (frames.STREAMS, self.front.limits.ahead),
            (frames.WINDOW, self.window),
            (frames.HEADER_LIST, frames.HEAD_BYTES),
        )
        said = frames.frame(frames.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *one) for one in settings))
        return said + frames.frame(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", self.window - frames.START))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or was sent away."""
        self.front.open.discard(self)
        for stream in list(self.streams.values()):
            self.drop(stream, left=True)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self.rest:
            data = self.rest + data
        at, end = 0, len(data)
        try:
            if not self.begun:
                if data[:24] != frames.PREFACE[:end]:
                    raise frames.Ended(frames.PROTOCOL)
                if end < 24:
                    self.rest = data
                    return
                at, self.begun = 24, True
            while end - at >= 9:
                high, low, kind, flags, id = frames.FRAME_HEAD.unpack_from(data, at)
                size = high << 16 | low
                if size > frames.FRAME_BYTES:
                    raise frames.Ended(frames.FRAME_SIZE)
                if end - at < 9 + size:
                    break
                at += 9 + size
                self.take(kind, flags, id & frames.MOST_WINDOW, data[at - size : at])
        except frames.Ended as ended:
            self.front.count("400", "http2")
            self.goodbye(ended.reason)
        self.rest = data[at:] if self.phase != LINGER else b""

    # What comes.

    def take(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        """One frame."""
        if self.phase == LINGER:
            return
        if self.phase == HEAD and kind != frames.SETTINGS:
            raise frames.Ended(frames.PROTOCOL)
        if (self.block is not None) != (kind == frames.CONTINUATION):
            raise frames.Ended(frames.PROTOCOL)
        if kind == frames.DATA:
            self.data(flags, id, payload)
        elif kind == frames.HEADERS:
            self.headers(flags, id, payload)
        elif kind == frames.CONTINUATION:
            self.more_headers(flags, id, payload)
        elif kind == frames.WINDOW_UPDATE:
            self.widen(id, payload)
        else:
            self.idle()
            if kind == frames.SETTINGS:
                self.settle(flags, id, payload)
            elif kind == frames.PING:
                if len(payload) != 8 or id:
                    raise frames.Ended(frames.FRAME_SIZE if not id else frames.PROTOCOL)
                if not flags & frames.ACK:
                    self.transport.write(frames.frame(frames.PING, frames.ACK, 0, payload))
            elif kind == frames.RST_STREAM:
                self.taken_back(id, payload)
            elif kind == frames.PUSH_PROMISE:
                raise frames.Ended(frames.PROTOCOL)

    def idle(self) -> None:
        """A frame came that brings no call on."""
        self.idle_frames += 1
        if self.idle_frames > PATIENCE:
            raise frames.Ended(frames.CALM)

    def headers(self, flags: int, id: int, payload: bytes) -> None:
        """The headers of a call, or what stands behind its message."""
        if not id & 1:
            raise frames.Ended(frames.PROTOCOL)
        if flags & frames.PADDED:
            payload = frames.unpadded(payload)
        if flags & frames.PRIORITISED:
            if len(payload) < 5:
                raise frames.Ended(frames.FRAME_SIZE)
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            return self.open(flags, id, payload)
        self.block, self.since_s = (flags, id, [payload]), self.clock()

    def more_headers(self, flags: int, id: int, payload: bytes) -> None:
        """The headers go on."""
        assert self.block is not None
        self.idle()
        first, begun, parts = self.block
        parts.append(payload)
        if id != begun:
            raise frames.Ended(frames.PROTOCOL)
        if sum(map(len, parts)) > frames.HEAD_BYTES:
            raise frames.Ended(frames.CALM)
        if flags & frames.END_HEADERS:
            self.block = None
            self.open(first, id, b"".join(parts))

    def head(self, block: bytes) -> Opening:
        """What a block of headers says. One of references alone changes nothing that later ones refer to: it says the
        same again until another kind comes."""
        found = self.known.get(block)
        if found is not None:
            return found
        try:
            headers = tuple(
                (bytes(name), bytes(value)) for name, value in self.decoder.decode(block, raw=True)
            )
        except HPACKError:
            raise frames.Ended(frames.COMPRESSION) from None
        found = head_of(headers, self.front)
        if (block and min(block) < 128) or len(self.known) >= _KNOWN:
            self.known.clear()
        if block and min(block) >= 128:
            self.known[block] = found
        return found

    def open(self, flags: int, id: int, block: bytes) -> None:
        """The headers are here: whoever may not come in is told before a message is read."""
        head, stream = self.head(block), self.streams.get(id)
        if stream is not None:  # what stands behind a message says nothing to us
            if stream.asked is not None or not flags & frames.END_STREAM:
                raise frames.Ended(frames.PROTOCOL)
            return self.complete(stream)
        if id <= self.last:
            return self.idle()  # of a call that was refused, or taken back
        if self.saying_goodbye:
            return None  # it was told, and asks elsewhere
        self.last = id
        if len(self.streams) >= self.front.limits.ahead:
            self.idle()
            self.transport.write(frames.frame(frames.RST_STREAM, 0, id, struct.pack(">I", frames.REFUSED)))
            return None
        stream = self.streams[id] = Stream(id, head, self.clock())
        if head.refusal is not None:
            self.turn_away(stream, head.refusal)
        elif flags & frames.END_STREAM:
            self.turn_away(stream, BadCall("The call has no message."))
        return None

    def data(self, flags: int, id: int, payload: bytes) -> None:
        """A part of a message."""
        self.owed += len(payload)
        if self.owed > self.window >> 1:
            self.transport.write(frames.frame(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", self.owed)))
            self.owed = 0
        if flags & frames.PADDED:
            payload = frames.unpadded(payload)
        stream = self.streams.get(id)
        if stream is None or stream.asked is not None:
            if stream is not None:
                raise frames.Ended(frames.PROTOCOL)
            return self.must_be_over(id)
        if payload:
            if len(payload) > self.front.room:
                return self.turn_away(
                    stream, Unavailable("Too much is sent at once.", code="busy", hint="Send more slowly.")
                )
            self.front.room -= len(payload)
            stream.room += len(payload)
            if (
                stream.came
            ):  # joined as it comes: a list of small parts would take more than the room they are given
                stream.came = stream.came if isinstance(stream.came, bytearray) else bytearray(stream.came)
                stream.came += payload
            else:
                stream.came = payload
            if not stream.wanted and len(stream.came) >= 5:
                stream.wanted = 5 + int.from_bytes(stream.came[1:5])
            if stream.wanted - 5 > self.front.limits.body_bytes:
                return self.turn_away(stream, TooLarge())
            if stream.wanted and len(stream.came) > stream.wanted:
                return self.turn_away(stream, BadCall("A call has one message."))
        elif not flags & frames.END_STREAM:
            self.idle()
        if flags & frames.END_STREAM:
            self.complete(stream)

    def complete(self, stream: Stream) -> None:
        """A message is here."""
        came, stream.came = stream.came, b""
        if len(came) != stream.wanted or not came or came[0] > 1:
            return self.turn_away(stream, BadCall("The message is cut off, or none."))
        stream.asked = Asked(
            stream, bytes(came[5:]), stream.head.coding if came[0] else "identity", self.reply
        )
        self.front.route(stream.head)(stream.asked)

    def taken_back(self, id: int, payload: bytes) -> None:
        """The client wants no answer any more."""
        if len(payload) != 4:
            raise frames.Ended(frames.FRAME_SIZE)
        stream = self.streams.get(id)
        if stream is not None:
            self.drop(stream, left=True)
        else:
            self.must_be_over(id)

    def must_be_over(self, id: int) -> None:
        """A call that is not known was refused, or taken back, or came after our goodbye; else it was never begun."""
        if not id & 1 or (id > self.last and not self.saying_goodbye):
            raise frames.Ended(frames.PROTOCOL)

    def settle(self, flags: int, id: int, payload: bytes) -> None:
        """What the client says of itself."""
        if id:
            raise frames.Ended(frames.PROTOCOL)
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise frames.Ended(frames.FRAME_SIZE)
        if self.phase == HEAD:
            self.phase, self.since_s = IDLE, self.clock()
        if flags & frames.ACK:
            return
        for number, value in struct.iter_unpack(">HI", payload):
            if number == frames.WINDOW:
                if value > frames.MOST_WINDOW:
                    raise frames.Ended(frames.FLOW)
                self.first_room = value
            elif number == frames.FRAME and not frames.FRAME_BYTES <= value < 1 << 24:
                raise frames.Ended(frames.PROTOCOL)
        self.transport.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.go_on()

    def widen(self, id: int, payload: bytes) -> None:
        """More may be sent."""
        self.idle()
        if len(payload) != 4:
            raise frames.Ended(frames.FRAME_SIZE)
        more = int.from_bytes(payload) & frames.MOST_WINDOW
        stream = self.streams.get(id)
        had = self.room if not id else self.first_room + (stream.credit if stream else 0)
        if not more or had + more > frames.MOST_WINDOW:
            raise frames.Ended(frames.FLOW if more else frames.PROTOCOL)
        if not id:
            self.room += more
            self.go_on()
        elif stream is not None:
            stream.credit += more
            self.send(stream)
        else:
            self.must_be_over(id)

    # What goes.

    def reply(self, call: Call, answer: Answer) -> None:
        """Write an answer, as far as the client takes it."""
        assert isinstance(call, Asked)
        stream = call.stream
        if self.streams.get(stream.id) is not stream:  # the client has left
            return None
        now_s = self.clock()
        self.front.took(call, answer.status, now_s - stream.since_s)
        if answer.status != 200:
            return self.turn_down(stream, answer.status, answer.body)
        self.idle_frames, self.since_s = max(0, self.idle_frames - 2), now_s
        body = answer.body
        size = 5 + len(body)
        room = min(frames.FRAME_BYTES, self.room, self.first_room + stream.credit)
        if size <= room and not self.unsent:
            self.room -= size
            self.transport.write(frames.answered(stream.id, body))
            return self.drop(stream)
        if self.unsent + size > self.front.limits.body_bytes:
            return self.turn_away(
                stream, Unavailable("Too many answers are not read.", code="busy", hint="Read them.")
            )
        self.transport.write(frames.begins(stream.id))
        stream.rest, stream.since_s = memoryview(b"\0" + len(body).to_bytes(4) + body), now_s
        self.unsent += size
        return self.send(stream)

    def go_on(self) -> None:
        """More may be sent of whatever waits for that."""
        for stream in list(self.streams.values()):
            self.send(stream)

    def send(self, stream: Stream) -> None:
        """As much of an answer as may be sent."""
        at, rest = 0, stream.rest
        while at < len(rest):
            size = min(len(rest) - at, frames.FRAME_BYTES, self.room, self.first_room + stream.credit)
            if size <= 0:
                break
            self.room -= size
            stream.credit -= size
            if size == frames.FRAME_BYTES:
                self.idle_frames = max(0, self.idle_frames - 2)
            self.transport.write(frames.frame(frames.DATA, 0, stream.id, rest[at : at + size]))
            at += size
        if at:
            self.unsent -= at
            stream.rest = rest[at:]
            if not stream.rest:
                self.transport.write(frames.ends(stream.id))
                self.drop(stream)

    def turn_away(self, stream: Stream, error: PenstockError) -> None:
        """Refuse a call whose message is not here, or whose answer cannot be sent."""
        self.front.count(str(status_of(error)), error.code)
        self.turn_down(stream, status_of(error), str(error).encode())

    def turn_down(self, stream: Stream, status: int, text: bytes) -> None:
        """End a call with an error."""
        block = frames.refusal(status, text)
        said = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream.id, block)
        if stream.asked is None:  # what else of its message comes is not read
            said += frames.frame(frames.RST_STREAM, 0, stream.id, struct.pack(">I", frames.NO_ERROR))
        self.transport.write(said)
        self.since_s = self.clock()
        self.drop(stream)

    def drop(self, stream: Stream, *, left: bool = False) -> None:
        """A call is over."""
        del self.streams[stream.id]
        self.front.room += stream.room
        self.unsent -= len(stream.rest)
        if left:
            self.front.count("499", "left")
            if stream.asked is not None:
                stream.asked.gone = True
                if stream.asked.left is not None:
                    stream.asked.left()
        stream.asked = None  # each knows the other: so neither waits for a collection

    # Its end.

    def refuse(self, error: PenstockError) -> None:
        """Say that there is no more to be had here, and end."""
        self.front.count(str(status_of(error)), error.code)
        self.goodbye(frames.CALM)

    def goodbye(self, reason: int) -> None:
        """Say that no other call is taken. Where that is for a reason, nothing else is read, either."""
        if not self.saying_goodbye or reason:
            self.transport.write(frames.frame(frames.GOAWAY, 0, 0, struct.pack(">II", self.last, reason)))
        self.saying_goodbye, self.since_s = True, self.clock()
        if reason or not self.streams:
            self.phase = LINGER
            for stream in list(self.streams.values()):
                self.drop(stream, left=True)

    def sweep(self, now_s: float) -> None:
        """End what takes too long."""
        limits, waited_s = self.front.limits, now_s - self.since_s
        if now_s - self.counted_s > 1.0:
            self.counted_s, self.idle_frames = now_s, self.idle_frames >> 1
        if self.unread_s and now_s - self.unread_s > limits.read_s:
            return self.transport.abort()
        if self.phase == LINGER:
            if waited_s > (limits.quiet_s if self.front.closing else limits.linger_s):
                self.transport.close()
            return None
        if (self.phase == HEAD or self.block is not None) and waited_s > limits.head_s:
            return self.refuse(Slow())
        for stream in list(self.streams.values()):
            late_s = now_s - stream.since_s
            if stream.asked is None and late_s > limits.body_s:
                self.turn_away(stream, Slow())
            elif stream.rest and late_s > limits.read_s:
                self.transport.write(
                    frames.frame(frames.RST_STREAM, 0, stream.id, struct.pack(">I", frames.CANCEL))
                )
                self.drop(stream, left=True)
        if self.front.closing or (not self.streams and waited_s > self.front.patience_s):
            self.goodbye(frames.NO_ERROR)
        return None
