"""serve: a connection keeps its bounds, its order and its word, whatever comes over it."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.serve.front.call import Answer, Call, Head
from penstock.serve.front.wire import Front, Limits

GOOD = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"
SMALL = Limits(
    head_bytes=500, body_bytes=1000, head_s=0.2, body_s=0.3, idle_s=0.4, linger_s=0.2, read_s=0.3, ahead=3
)


def talk(
    sends: list[bytes | float],
    limits: Limits = SMALL,
    serve: Callable[[Call], None] | None = None,
    hold: float = 0.0,
) -> tuple[bytes, Front]:
    """All that a server answers to bytes and pauses (seconds), until it closes or nothing comes for a while."""
    asked: list[Call] = []

    def echo(call: Call) -> None:
        asked.append(call)
        answer = Answer(200, call.head.path + b"|" + call.body)
        asyncio.get_running_loop().call_later(hold, call.reply, answer) if hold else call.reply(answer)

    async def run() -> tuple[bytes, Front]:
        loop = asyncio.get_running_loop()
        front = Front(
            lambda head: serve or echo, lambda path, headers: None, lambda status, code: None, limits
        )
        server = await loop.create_server(front, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])

        async def sweep() -> None:
            while True:
                await asyncio.sleep(0.02)
                front.sweep(loop.time())

        sweeping = loop.create_task(sweep())
        for one in sends:
            if isinstance(one, float):
                await asyncio.sleep(one)
            else:
                writer.write(one)
        got = b""
        try:
            async with asyncio.timeout(1.2):
                while part := await reader.read(65536):
                    got += part
        except (TimeoutError, ConnectionResetError):
            pass
        writer.close()
        sweeping.cancel()
        server.close()
        await asyncio.sleep(0.02)
        return got, front

    return asyncio.run(run())


def statuses(got: bytes) -> list[int]:
    """The statuses of answers, in order."""
    return [int(one) for one in re.findall(rb"HTTP/1\.1 (\d\d\d) [A-Z]", got)]


def post(body: bytes, path: bytes = b"/p", **headers: str) -> bytes:
    """A request with a body."""
    lines = [b"POST %b HTTP/1.1" % path, b"host: x", b"content-length: %d" % len(body)]
    lines += [f"{name}: {value}".encode() for name, value in headers.items()]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_calls_sent_ahead_are_answered_in_order() -> None:
    """However they are cut into packets, and however long each takes."""
    sent = b"".join(post(b"%d" % n, b"/%d" % n) for n in range(8))
    got, _ = talk([sent[:30], 0.01, sent[30:200], 0.01, sent[200:]], hold=0.01)
    assert [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [
        b"/%d|%d" % (n, n) for n in range(8)
    ]


@given(st.lists(st.integers(1, 400), max_size=12))
@settings(max_examples=25, deadline=None)
def test_packets_tell_nothing(cuts: list[int]) -> None:
    """The same bytes give the same calls, wherever they are cut."""
    sent = (
        post(b"abc")
        + GOOD
        + post(b"", b"/q")
        + b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    sent += b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n" + b"GET /end HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    parts, at = [], 0
    for cut in cuts:
        parts.append(sent[at : at + cut])
        at += cut
    got, front = talk([*parts, sent[at:]])
    assert [one.partition(b"\r\n\r\n")[2] for one in got.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [
        b"/p|abc", b"/a|", b"/q|", b"/c|abcde", b"/end|",
    ]  # fmt: skip
    assert front.room == SMALL.bodies_bytes and not front.open


PIECES = (
    *(post(b"abc"), post(b"xyz"), post(b"abcd"), post(b""), post(b"\r\n\r\n"), post(b"abc", b"/a?b=c"), GOOD),
    *(post(b"abc", expect="100-continue"), post(b"abc", connection="close"), b"HEAD /h HTTP/1.1\r\nhost: x\r\n\r\n"),
    b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    *(b"GET /o HTTP/1.0\r\nhost: x\r\n\r\n", b"GET /up HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
    *(b"\r\n", b"\r\n\r\n", b"no HTTP\r\n\r\n", b"GET /a HTTP/1.1\n\n", post(b"x" * 1001), post(b"", a="y" * 600)),
)  # fmt: skip


def through(packets: list[bytes], fronts: list[Front]) -> bytes:
    """What is written to a client that sends packets."""
    written = bytearray()
    transport = Mock(write=written.extend, close=lambda: written.extend(b"[close]"))

    async def run() -> None:
        one = fronts[0]()
        one.connection_made(transport)
        for packet in packets:
            one.data_received(packet)
        one.connection_lost(None)

    asyncio.run(run())
    return bytes(written)


def remembering(most: int, guarded: list[Head]) -> Front:
    """A front that knows heads of so many bytes again, and what it was asked to route."""
    limits = msgspec.structs.replace(SMALL, known_bytes=most)

    def echo(call: Call) -> None:
        call.reply(Answer(200, repr(msgspec.structs.astuple(call.head)).encode() + call.body))

    def route(head: Head) -> Callable[[Call], None]:
        guarded.append(head)
        return echo

    return Front(route, lambda path, headers: None, lambda status, code: None, limits)


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), st.integers(0, 90)), max_size=9
    )
)
@example([([GOOD], 0), ([b"\r\n\r\n"], 0)])  # no head at all
@example([([GOOD], 0), ([post(GOOD)], len(post(GOOD)) - len(GOOD))])  # a body that reads like one
@settings(max_examples=300, deadline=None)
def test_a_head_that_came_before_means_what_it_meant(packets: list[tuple[list[bytes], int]]) -> None:
    """Whatever came between, and however it is cut: calls, answers and what a client is refused are the same."""
    sent = []
    for pieces, cut in packets:
        whole = b"".join(pieces)
        sent += [whole[:cut], whole[cut:]] if 0 < cut < len(whole) else [whole]
    asked: list[Head] = []
    knowing, forgetful = remembering(1024, asked), remembering(0, [])
    for _ in range(2):  # the second client says what the first one said
        assert through(sent, [knowing]) == through(sent, [forgetful])
    assert knowing.room == forgetful.room == SMALL.bodies_bytes


def test_a_head_is_read_once() -> None:
    """The second call of the same head asks nobody who serves it."""
    asked: list[Head] = []
    front = remembering(1024, asked)
    said = through([post(b"abc"), post(b"abc"), post(b"xyz"), post(b"abcd")], [front])
    assert statuses(said) == [200] * 4 and b"xyz" in said and len(asked) == 2


CHUNKED = b"POST /p HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
REFUSED: dict[str, tuple[list[bytes | float], int]] = {
    "a length that is too long": ([b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n"], 413),
    "a length beyond all": (
        [b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n"],
        400,
    ),
    "chunks that are too many": ([CHUNKED, *[b"64\r\n" + b"x" * 100 + b"\r\n"] * 11], 413),
    "a long header": ([b"GET /p HTTP/1.1\r\nhost: x\r\na: " + b"x" * 600], 431),
    "many headers": ([b"GET /p HTTP/1.1\r\n", *[b"a: bcdefghij\r\n"] * 60], 431),
    "a long address": ([b"GET /" + b"x" * 900 + b" HTTP/1.1\r\n\r\n"], 431),
    "no HTTP": ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], 400),
    "two lengths": (
        [b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"],
        400,
    ),
    "a length and chunks": ([CHUNKED[:-2] + b"content-length: 3\r\n\r\n0\r\n\r\n"], 400),
    "a bad chunk": ([CHUNKED + b"zz\r\n"], 400),
    "a slow head": ([b"GET /p HT", 0.5], 408),
    "a slow body": ([b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab", 0.6], 408),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_passes_a_bound_is_refused_once_and_the_connection_ends(case: str) -> None:
    """With a status and a code, at once, and no room is kept."""
    sends, status = REFUSED[case]
    got, front = talk(sends)
    assert statuses(got) == [status], got
    assert b"connection: close" in got and b'"code":' in got
    assert not front.open and front.room == SMALL.bodies_bytes


def test_an_offer_of_another_protocol_is_not_taken() -> None:
    """As some clients make with every first call."""
    offer = {
        "connection": "upgrade, http2-settings",
        "upgrade": "h2c",
        "http2-settings": "AAMAAABkAARAAAAAAAIAAAAA",
    }
    got, _ = talk([post(b"", b"/q", **offer) + post(b"abc", **offer) + GOOD])
    assert [one.partition(b"\r\n\r\n")[2] for one in got.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [
        b"/q|",
        b"/p|abc",
        b"/a|",
    ]


def test_what_came_before_a_bad_call_is_answered() -> None:
    """And nothing that comes after it."""
    got, _ = talk([post(b"one") + b"NONSENSE\r\n\r\n" + post(b"two")], hold=0.05)
    assert statuses(got)[0] == 200 and b"one" in got and b"two" not in got


def test_who_sends_nothing_is_let_go() -> None:
    """Before the first call and between two."""
    got, front = talk([GOOD, 0.8])
    assert statuses(got) == [200] and not front.open
    assert talk([0.8])[0] == b""


def test_a_body_may_be_waited_for() -> None:
    """Who asks whether to send it is told so, unless it is too long."""
    head = b"POST /p HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: "
    assert statuses(talk([head + b"3\r\n\r\n", 0.05, b"abc"])[0]) == [100, 200]
    assert statuses(talk([head + b"3000\r\n\r\n"])[0]) == [413]


def test_a_head_has_no_body() -> None:
    """Its answer tells the length all the same; an older client is let go after it."""
    got, front = talk([b"HEAD /a HTTP/1.0\r\n\r\n"])
    assert got.endswith(b"\r\n\r\n") and b"content-length: 3\r\n" in got and not front.open


def test_so_many_connections_and_no_more() -> None:
    """One more is told to come back."""
    got, _ = talk([], limits=Limits(connections=0))
    assert statuses(got) == [429] and b"retry-after: 1" in got


def test_a_client_that_does_not_read_is_let_go() -> None:
    """Its answers would fill the memory."""

    def much(call: Call) -> None:
        call.reply(Answer(200, b"x" * 50_000_000))

    async def run() -> Front:
        loop = asyncio.get_running_loop()
        front = Front(lambda head: much, lambda path, headers: None, lambda status, code: None, SMALL)
        server = await loop.create_server(front, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(GOOD * 20)
        for _ in range(50):
            await asyncio.sleep(0.02)
            front.sweep(loop.time())
        server.close()
        writer.transport.abort()
        return front

    assert not asyncio.run(run()).open


def test_closing_answers_what_is_under_way_and_what_is_on_its_way() -> None:
    """Each connection gets one more answer, which says that it is the last; who sends nothing is let go."""

    async def run() -> list[bytes]:
        loop = asyncio.get_running_loop()
        calls: list[Call] = []
        limits = msgspec.structs.replace(SMALL, quiet_s=0.1)
        front = Front(
            lambda head: calls.append, lambda path, headers: None, lambda status, code: None, limits
        )
        server = await loop.create_server(front, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()[:2]
        busy, coming, idle = [await asyncio.open_connection(*address) for _ in range(3)]
        busy[1].write(GOOD)
        await asyncio.sleep(0.05)
        front.close()
        coming[1].write(GOOD)
        await asyncio.sleep(0.05)
        for call in calls:
            call.reply(Answer(200, b"done"))
        await asyncio.sleep(0.15)
        front.sweep(loop.time())
        answers = [await reader.read() for reader, _ in (busy, coming, idle)]
        for _, writer in (busy, coming, idle):
            writer.close()
        server.close()
        await asyncio.sleep(0.02)
        return answers

    first, second, nothing = asyncio.run(run())
    assert (
        all(b"connection: close" in one and one.endswith(b"done") for one in (first, second))
        and nothing == b""
    )


def test_who_has_left_is_not_answered() -> None:
    """The call knows it, whatever serves it is told, and its room is given back."""
    told: list[str] = []

    async def run() -> Any:
        loop = asyncio.get_running_loop()
        calls: list[Call] = []

        def serve(call: Call) -> None:
            call.left = lambda: told.append("left")
            calls.append(call)

        front = Front(
            lambda head: serve, lambda path, headers: None, lambda status, code: told.append(code), SMALL
        )
        server = await loop.create_server(front, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(post(b"abc") + post(b"de"))
        await asyncio.sleep(0.05)
        writer.close()
        await asyncio.sleep(0.05)
        calls[0].reply(Answer(200, b""))
        server.close()
        return calls[0].gone, front.room

    assert asyncio.run(run()) == (True, SMALL.bodies_bytes) and told == ["left", "left"]


def test_nothing_done_with_is_left_to_pythons_collector() -> None:
    """It may look rarely, then: calls and whole connections go as soon as nobody needs them."""

    def left() -> int:
        return sum(
            type(kept).__name__ in ("Connection", "Call", "HttpRequestParser") for kept in gc.get_objects()
        )

    async def run() -> int:
        def echo(call: Call) -> None:
            call.reply(Answer(200, call.body))

        front = Front(lambda head: echo, lambda *one: None, lambda *one: None)
        gc.collect()
        gc.disable()
        before = left()
        try:
            for _ in range(10):
                one, transport = front(), Mock(spec=asyncio.Transport)
                one.connection_made(transport)
                one.data_received(GOOD + GOOD)
                assert transport.write.call_count == 2
                one.connection_lost(None)
            del one, transport
            return left() - before
        finally:
            gc.enable()

    assert asyncio.run(run()) == 0


def test_spaces_around_a_header_are_no_part_of_it() -> None:
    """RFC 9110, 5.5. A time that is written into as many places as it may need ends in spaces."""
    seen: list[Head] = []

    def look(call: Call) -> None:
        seen.append(call.head)
        call.reply(Answer(200, b""))

    talk(
        [b"GET /a HTTP/1.1\r\nhost: x\r\ntimeout-ms: \t 42 \t \r\nnothing:  \r\na: b c \r\n\r\n"], serve=look
    )
    (head,) = seen
    assert [head.header(name) for name in (b"timeout-ms", b"nothing", b"a")] == [b"42", b"", b"b c"]
