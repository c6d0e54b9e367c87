"""serve: a connection of gRPC's keeps its bounds and its word, whatever frames come over it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import msgspec
import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.record.errors import PenstockError
from penstock.serve.front.call import Answer, Call
from penstock.serve.front.frames import (
    ACK,
    CALM,
    COMPRESSION,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW,
    FRAME_SIZE,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PROTOCOL,
    PUSH_PROMISE,
    REFUSED,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    WINDOW_UPDATE,
    frame,
)  # fmt: skip
from penstock.serve.front.http2 import PATIENCE, Asked, Calls
from penstock.serve.front.wire import Front, Limits
from penstock.serve.identity import Unauthorised

T = TypeVar("T")
SMALL = Limits(
    head_bytes=2000,
    body_bytes=40_000,
    head_s=0.2,
    body_s=0.3,
    idle_s=0.4,
    linger_s=0.1,
    read_s=0.3,
    quiet_s=0.1,
)
HEAD = {
    ":method": "POST", ":scheme": "http", ":path": "/a", ":authority": "x", "te": "trailers",
    "content-type": "application/grpc",
}  # fmt: skip
OPENING = PREFACE + frame(SETTINGS, 0, 0)


class Line(msgspec.Struct):
    """A client's end of a connection, and the server's front with the calls that it took."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    front: Front
    asked: list[Call]

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def heard(self, for_s: float = 0.1) -> bytes:
        """All that comes until nothing does for a while."""
        got = b""
        try:
            while True:
                async with asyncio.timeout(for_s):
                    part = await self.reader.read(1 << 16)
                if not part:
                    break
                got += part
        except (TimeoutError, ConnectionResetError):
            pass
        return got


Talk = Callable[[Line], Awaitable[T]]


def headers(id: int, *, encoder: Encoder | None = None, flags: int = END_HEADERS, **more: str) -> bytes:
    """The headers of a call; underscores for dashes, `_` before a pseudo-header."""
    said = HEAD | {name.replace("_", "-"): value for name, value in more.items()}
    return frame(HEADERS, flags, id, (encoder or Encoder()).encode(list(said.items())))


def message(body: bytes) -> bytes:
    """A body as gRPC frames it."""
    return b"\0" + len(body).to_bytes(4) + body


def call(id: int, body: bytes, **more: Any) -> bytes:
    """A whole call."""
    return headers(id, **more) + frame(DATA, END_STREAM, id, message(body))


def frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each whole frame."""
    at = 0
    while len(data) - at >= 9:
        size, kind, flags = int.from_bytes(data[at : at + 3]), data[at + 3], data[at + 4]
        yield kind, flags, int.from_bytes(data[at + 5 : at + 9]), data[at + 9 : at + 9 + size]
        at += 9 + size


def answers(data: bytes) -> dict[int, tuple[bytes, str, str]]:
    """What each call came to: its message, gRPC's status and text."""
    decoder, found = Decoder(), dict[int, tuple[bytes, str, str]]()
    for kind, _, id, payload in frames(data):
        body, status, text = found.get(id, (b"", "", ""))
        if kind == HEADERS:
            said = {str(name): str(value) for name, value in decoder.decode(payload)}
            status, text = said.get("grpc-status", status), said.get("grpc-message", text)
            if said.get(":status", "200") != "200":
                status = said[":status"]
        elif kind == DATA:
            body += payload
        if kind in (HEADERS, DATA):
            found[id] = body, status, text
    return found


def goaway(data: bytes) -> int | None:
    """The reason that the connection ended for."""
    said = [struct.unpack(">II", payload)[1] for kind, _, _, payload in frames(data) if kind == GOAWAY]
    return said[-1] if said else None


def spoken(
    talk: Talk[T], limits: Limits = SMALL, *, hold: bool = False, guard: Any = None
) -> tuple[T, Front]:
    """What a client finds that speaks frames; calls are echoed, or with `hold` kept for it."""
    asked: list[Call] = []

    def serve(one: Call) -> None:
        asked.append(one)
        if not hold:
            one.reply(Answer(200, one.head.path + b"|" + one.body))

    async def run() -> tuple[T, Front]:
        loop = asyncio.get_running_loop()
        front = Front(
            lambda head: serve,
            guard or (lambda path, headers: None),
            lambda status, code: None,
            limits,
            speaks=Calls,
        )
        server = await loop.create_server(front, "127.0.0.1", 0)

        async def sweep() -> None:
            while True:
                await asyncio.sleep(0.02)
                front.sweep(loop.time())

        sweeping = loop.create_task(sweep())
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        try:
            return await talk(Line(reader, writer, front, asked)), front
        finally:
            writer.close()
            sweeping.cancel()
            server.close()
            await asyncio.sleep(0.02)

    return asyncio.run(run())


def told(*sends: bytes | float, for_s: float = 0.1, **options: Any) -> tuple[bytes, Front]:
    """All that a server says to bytes and pauses (seconds)."""

    async def talk(line: Line) -> bytes:
        for one in sends:
            if isinstance(one, float):
                await asyncio.sleep(one)
            else:
                line.send(one)
        return await line.heard(for_s)

    return spoken(talk, **options)


def test_many_calls_at_once_are_answered_as_they_can_be() -> None:
    """Over one connection, each under its own number, in any order."""

    async def talk(line: Line) -> bytes:
        encoder = Encoder()
        line.send(OPENING + b"".join(call(id, b"%d" % id, encoder=encoder) for id in (1, 3, 5)))
        await asyncio.sleep(0.05)
        for one in reversed(line.asked):
            one.reply(Answer(200, one.body))
        return await line.heard()

    got, front = spoken(talk, hold=True)
    assert answers(got) == {id: (message(b"%d" % id), "0", "") for id in (5, 3, 1)}
    assert list(answers(got)) == [5, 3, 1] and front.room == SMALL.bodies_bytes


@given(st.lists(st.integers(1, 200), max_size=15))
@settings(max_examples=15, deadline=None)
def test_packets_tell_nothing(cuts: list[int]) -> None:
    """The same bytes give the same calls, wherever they are cut, however headers and messages are."""
    encoder = Encoder()
    block = encoder.encode(list(HEAD.items()))
    sent = (
        OPENING
        + frame(SETTINGS, ACK, 0)
        + frame(HEADERS, 0, 1, block[:9])
        + frame(CONTINUATION, 0, 1, block[9:20])
    )
    sent += frame(CONTINUATION, END_HEADERS, 1, block[20:])
    sent += (
        frame(DATA, 0, 1, message(b"abc")[:3])
        + frame(DATA, 0, 1)
        + frame(DATA, END_STREAM, 1, message(b"abc")[3:])
    )
    block = b"\3" + bytes(5) + encoder.encode(list(HEAD.items())) + bytes(3)
    sent += frame(HEADERS, END_HEADERS | PADDED | PRIORITISED, 3, block)
    sent += frame(DATA, PADDED | END_STREAM, 3, b"\2" + message(b"de") + b"xx")
    sent += call(5, b"", encoder=encoder) + frame(PRIORITY, 0, 5, bytes(5)) + frame(99, 0, 0, b"unknown")
    sent += (
        headers(7, encoder=encoder) + frame(DATA, 0, 7, message(b"f")) + headers(7, encoder=encoder, flags=5)
    )
    parts, at = [], 0
    for cut in cuts:
        parts.append(sent[at : at + cut])
        at += cut
    got, front = told(*parts, sent[at:], for_s=0.1)
    assert {id: body[5:] for id, (body, _, _) in answers(got).items()} == {
        1: b"/a|abc", 3: b"/a|de", 5: b"/a|", 7: b"/a|f",
    }  # fmt: skip
    assert front.room == SMALL.bodies_bytes and goaway(got) is None


def test_headers_that_refer_to_others_follow_them() -> None:
    """The same references mean something else once the table behind them has changed."""
    kind = b"\x5f\x10application/grpc"  # both go into the table, and are the newest two there
    blocks = [b"\x83\x86" + kind + b"\x44\x02/a", b"\x83\x86" + kind + b"\x44\x02/b"]
    again = b"\x83\x86\xbf\xbe"
    said = [blocks[0], again, again, blocks[1], again, blocks[0], again]
    sent = [frame(HEADERS, END_HEADERS, 2 * i + 1, block) for i, block in enumerate(said)]
    sent = [one + frame(DATA, END_STREAM, 2 * i + 1, message(b"")) for i, one in enumerate(sent)]
    got, _ = told(OPENING + b"".join(sent))
    assert [body[5:] for body, _, _ in answers(got).values()] == [
        b"/a|", b"/a|", b"/a|", b"/b|", b"/b|", b"/a|", b"/a|",
    ]  # fmt: skip


SAME, MANY = Encoder(), range(1, 2 * PATIENCE + 2, 2)
ENDED: dict[str, tuple[list[bytes | float], int]] = {
    "no HTTP/2": ([b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"], PROTOCOL),
    "no settings": ([PREFACE + frame(PING, 0, 0, bytes(8))], PROTOCOL),
    "nothing at all": ([PREFACE[:10], 0.4], CALM),
    "settings that never come": ([PREFACE, 0.4], CALM),
    "a long frame": ([OPENING + frame(DATA, 0, 1, bytes(17_000))], FRAME_SIZE),
    "headers that are no headers": ([OPENING + frame(HEADERS, END_HEADERS, 1, b"\xff" * 30)], COMPRESSION),
    "headers that unpack to too many": ([OPENING + headers(1, a="x" * 3000)], COMPRESSION),
    "headers that are too long": (
        [OPENING + frame(HEADERS, 0, 1, bytes(9000)) + frame(CONTINUATION, END_HEADERS, 1, bytes(9000))], CALM,
    ),
    "headers in nothings": ([OPENING + frame(HEADERS, 0, 1), *[frame(CONTINUATION, 0, 1)] * (PATIENCE + 1)], CALM),
    "headers that stop": ([OPENING + frame(HEADERS, 0, 1), 0.4], CALM),
    "something between headers": ([OPENING + frame(HEADERS, 0, 1) + frame(PING, 0, 0, bytes(8))], PROTOCOL),
    "headers of another call": ([OPENING + frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 3)], PROTOCOL),
    "an even number": ([OPENING + headers(2)], PROTOCOL),
    "a message of no call": ([OPENING + frame(DATA, 0, 1, b"abc")], PROTOCOL),
    "an end of no call": ([OPENING + frame(RST_STREAM, 0, 9, bytes(4))], PROTOCOL),
    "a push": ([OPENING + frame(PUSH_PROMISE, 0, 1, bytes(4))], PROTOCOL),
    "padding beyond the end": ([OPENING + headers(1) + frame(DATA, PADDED, 1, b"\x09abc")], PROTOCOL),
    "a window of nothing": ([OPENING + frame(WINDOW_UPDATE, 0, 0, bytes(4))], PROTOCOL),
    "a window beyond all": ([OPENING + frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")], FLOW),
    "a first window beyond all": (
        [OPENING + frame(SETTINGS, 0, 0, struct.pack(">HI", WINDOW, 1 << 31))], FLOW,
    ),
    "half a setting": ([OPENING + frame(SETTINGS, 0, 0, b"abc")], FRAME_SIZE),
    "a flood of pings": ([OPENING, *[frame(PING, 0, 0, bytes(8))] * (PATIENCE + 1)], CALM),
    "a flood of settings": ([OPENING, *[frame(SETTINGS, 0, 0)] * (PATIENCE + 1)], CALM),
    "a flood of nothings": ([OPENING + headers(1), *[frame(DATA, 0, 1)] * (PATIENCE + 1)], CALM),
    "a flood of calls taken back": (
        [OPENING, *[headers(id, encoder=SAME) + frame(RST_STREAM, 0, id, bytes(4)) for id in MANY]], CALM,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDED)
def test_what_passes_a_bound_ends_the_connection(case: str) -> None:
    """With the reason that HTTP/2 has for it; no room is kept."""
    sends, reason = ENDED[case]
    got, front = told(*sends, for_s=0.3, limits=msgspec.structs.replace(SMALL, body_s=5.0))
    assert goaway(got) == reason
    assert not front.open and front.room == SMALL.bodies_bytes


TURNED_AWAY: dict[str, tuple[bytes, str, str]] = {
    "too long a message": (headers(1) + frame(DATA, 0, 1, b"\0" + (40_001).to_bytes(4)), "8", "too_large"),
    "two messages": (headers(1) + frame(DATA, 0, 1, message(b"a") + message(b"b")), "3", "malformed"),
    "half a message": (headers(1) + frame(DATA, END_STREAM, 1, message(b"abc")[:-1]), "3", "malformed"),
    "half a length": (headers(1) + frame(DATA, END_STREAM, 1, b"\0\0"), "3", "malformed"),
    "no message": (headers(1, flags=END_HEADERS | END_STREAM), "3", "malformed"),
    "a message that stops": (headers(1) + frame(DATA, 0, 1, message(b"abc")[:6]), "4", "slow"),
    "no time": (call(1, b"", grpc_timeout="soon"), "3", "grpc-timeout"),
    "another type": (call(1, b"", content_type="application/json"), "415", "content_type"),
}  # fmt: skip


@pytest.mark.parametrize("case", TURNED_AWAY)
def test_a_call_that_cannot_be_is_told_so(case: str) -> None:
    """As a status with a code, as soon as that can be seen; the connection stays."""
    sent, status, word = TURNED_AWAY[case]
    got, front = told(OPENING + sent, for_s=0.35, limits=msgspec.structs.replace(SMALL, idle_s=5.0))
    _, said, text = answers(got)[1]
    assert said == status and word in text and goaway(got) is None and front.room == SMALL.bodies_bytes


def test_who_may_not_come_in_is_told_before_the_message() -> None:
    """What of it comes all the same is not kept, and others on the connection are served."""

    def guard(path: bytes, headers: Any) -> PenstockError | None:
        return Unauthorised() if path == b"/shut" else None

    shut = headers(1, **{":path": "/shut"}) + frame(DATA, 0, 1, bytes(10_000)) * 10
    got, front = told(OPENING + shut + call(3, b"x"), guard=guard)
    assert answers(got)[1][1] == "16" and answers(got)[3][:2] == (message(b"/a|x"), "0")
    assert front.room == SMALL.bodies_bytes


def test_all_messages_together_have_a_bound() -> None:
    """One more is told to come back."""
    limits = msgspec.structs.replace(SMALL, bodies_bytes=20_000)
    sent = b"".join(
        headers(id) + frame(DATA, 0, id, b"\0" + (30_000).to_bytes(4) + bytes(9000)) for id in (1, 3, 5)
    )
    got, front = told(OPENING + sent, limits=limits, for_s=0.1)
    assert answers(got)[5][1:] == ("8", "Too much is sent at once. Send more slowly. [busy]")
    assert front.room == limits.bodies_bytes


def test_so_many_calls_at_once_and_no_more() -> None:
    """One more is refused in a way that lets a client ask again."""
    limits = msgspec.structs.replace(SMALL, ahead=3)
    got, _ = told(OPENING + b"".join(headers(id) for id in (1, 3, 5, 7)), limits=limits)
    ends = [(id, payload) for kind, _, id, payload in frames(got) if kind == RST_STREAM]
    assert ends == [(7, REFUSED.to_bytes(4))] and goaway(got) is None


def test_an_answer_waits_for_room() -> None:
    """No more is sent than the client has room for, of a call and of all; then the rest, as it makes room."""

    async def talk(line: Line) -> tuple[list[int], bytes]:
        line.send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", WINDOW, 10)) + headers(1))
        line.send(_sent(1, b"x" * 30_000))
        got, sizes = await line.heard(0.1), []
        first = frame(SETTINGS, 0, 0, struct.pack(">HI", WINDOW, 40_000))
        for more in (frame(WINDOW_UPDATE, 0, 1, (20).to_bytes(4)), first):
            sizes.append(sum(len(payload) for kind, _, _, payload in frames(got) if kind == DATA))
            line.send(more)
            got += await line.heard(0.1)
        return sizes, got

    (sizes, got), _ = spoken(talk, limits=msgspec.structs.replace(SMALL, read_s=5.0))
    assert sizes == [10, 30] and answers(got)[1][:2] == (message(b"/a|" + b"x" * 30_000), "0")


def test_all_answers_together_wait_for_room() -> None:
    """The window of the connection is one for all calls."""

    async def talk(line: Line) -> tuple[int, bytes]:
        line.send(OPENING + b"".join(headers(id) + _sent(id, b"x" * 30_000) for id in (1, 3, 5)))
        got = await line.heard(0.1)
        size = sum(len(payload) for kind, _, _, payload in frames(got) if kind == DATA)
        line.send(frame(WINDOW_UPDATE, 0, 0, (100_000).to_bytes(4)))
        return size, got + await line.heard(0.1)

    (size, got), _ = spoken(talk, limits=msgspec.structs.replace(SMALL, read_s=5.0))
    assert size == 65_535
    assert all(answers(got)[id][:2] == (message(b"/a|" + b"x" * 30_000), "0") for id in (1, 3, 5))


def test_room_for_what_came_is_given_back() -> None:
    """However much comes over one connection, a message more may always be sent."""
    encoder, ids = Encoder(), range(1, 81, 2)
    got, _ = told(
        OPENING + b"".join(headers(id, encoder=encoder) + _sent(id, bytes(30_000)) for id in ids), hold=True
    )
    given = sum(
        int.from_bytes(payload) for kind, _, id, payload in frames(got) if (kind, id) == (WINDOW_UPDATE, 0)
    )
    assert 65_535 + given - len(ids) * 30_005 > SMALL.body_bytes


def _sent(id: int, body: bytes) -> bytes:
    """A long message in frames."""
    data = message(body)
    return frame(DATA, 0, id, data[:16_000]) + frame(DATA, END_STREAM, id, data[16_000:])


def test_who_makes_no_room_is_let_go() -> None:
    """After a while the call ends, and nothing of it is kept; and nothing is kept beyond a bound."""
    begin = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", WINDOW, 0))
    got, front = told(
        begin + headers(1) + _sent(1, bytes(30_000)) + headers(3) + _sent(3, bytes(30_000)), for_s=0.45
    )
    assert [id for kind, _, id, _ in frames(got) if kind == RST_STREAM] == [1]
    assert answers(got)[3][1:] == ("8", "Too many answers are not read. Read them. [busy]")
    assert front.room == SMALL.bodies_bytes


def test_a_call_taken_back_is_not_served_on() -> None:
    """Whatever serves it is told, and what it answers goes nowhere; so it is where the connection breaks."""
    left: list[str] = []

    async def talk(line: Line) -> bytes:
        encoder = Encoder()
        line.send(OPENING + call(1, b"a", encoder=encoder) + call(3, b"b", encoder=encoder))
        await asyncio.sleep(0.05)
        for one in line.asked:
            one.left = lambda: left.append("left")
        line.send(frame(RST_STREAM, 0, 1, bytes(4)))
        await asyncio.sleep(0.05)
        assert [one.gone for one in line.asked] == [True, False] and left == ["left"]
        line.asked[0].reply(Answer(200, b"nobody"))
        got = await line.heard(0.1)
        line.writer.close()
        await asyncio.sleep(0.05)
        assert line.asked[1].gone and left == ["left", "left"]
        line.asked[1].reply(Answer(200, b"nobody"))
        return got

    got, front = spoken(talk, hold=True)
    assert not answers(got) and front.room == SMALL.bodies_bytes and not front.open


def test_who_asks_nothing_is_let_go_gently() -> None:
    """Told which call was the last one served: another one may be asked elsewhere."""
    got, front = told(OPENING + call(1, b"x"), 0.45, call(3, b"y"), for_s=0.3)
    assert goaway(got) == NO_ERROR and set(answers(got)) == {1} and not front.open


def test_closing_answers_what_is_under_way() -> None:
    """What comes after the goodbye is left to another server, its message as well."""

    async def talk(line: Line) -> bytes:
        encoder = Encoder()
        line.send(OPENING + call(1, b"x", encoder=encoder))
        await asyncio.sleep(0.05)
        line.front.close()
        await asyncio.sleep(0.05)
        line.send(call(3, b"y", encoder=encoder))
        await asyncio.sleep(0.05)
        for one in line.asked:
            one.reply(Answer(200, one.body))
        return await line.heard(0.5)

    got, _ = spoken(talk, hold=True)
    assert goaway(got) == NO_ERROR and answers(got) == {1: (message(b"x"), "0", "")}


def test_how_long_a_caller_waits() -> None:
    """As its headers say, in any unit."""
    times = {"10S": 10.0, "250m": 0.25, "2M": 120.0, "1H": 3600.0, "500u": 0.0005, "5n": 5e-9}

    async def talk(line: Line) -> list[float]:
        line.send(OPENING + b"".join(call(1 + 2 * i, b"", grpc_timeout=one) for i, one in enumerate(times)))
        line.send(call(99, b""))
        await asyncio.sleep(0.05)
        return [one.timeout_s for one in line.asked if isinstance(one, Asked)]

    assert spoken(talk, hold=True)[0] == [*times.values(), float("inf")]


def test_so_many_connections_and_no_more() -> None:
    """One more is sent away."""
    assert goaway(told(OPENING, limits=msgspec.structs.replace(SMALL, connections=0))[0]) == CALM


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40)))
)
@settings(max_examples=100, deadline=None)
def test_no_frame_breaks_it(sent: list[tuple[int, int, int, bytes]]) -> None:
    """Any frames in any order are answered or end the connection; none raises, and room comes back."""

    class Written(asyncio.Transport):
        def write(self, data: Any) -> None:
            pass

    async def run() -> None:
        front = Front(
            lambda head: lambda one: one.reply(Answer(200, one.body)),
            lambda path, headers: None, lambda status, code: None, SMALL, speaks=Calls,
        )  # fmt: skip
        client = front()
        client.connection_made(Written())
        client.data_received(OPENING + call(1, b"abc"))
        for one in sent:
            client.data_received(frame(*one))
        client.connection_lost(None)
        assert front.room == SMALL.bodies_bytes and not front.open

    asyncio.run(run())
