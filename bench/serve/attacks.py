"""The parts of the abuse: each brings a server up afresh, does something to it, and says what it did."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.serve.data import requests_file
from bench.serve.process import Running, cpu_s, load, memory_mb, result, start_load, tree

DEADLINE_S, HASTE_S, PATIENT = 2.0, 0.1, 9
"""So long a caller of the overload waits, and so long one after so many of them: he is told at once where that is in
vain."""
BIG = 200_000_000
PATIENCE_S = 20.0
OFTEN, HANGS_S = 2, 10.0
"""So many more rows hang, one in so many seconds."""

Found = dict[str, Any]


class Stand(msgspec.Struct, frozen=True):
    """What a part needs: the client, how to bring the server up afresh, and how many requests it manages."""

    client: Path
    up: Callable[[], contextlib.AbstractContextManager[Running]]
    capacity: float


def health(one: Running, timeout_s: float = 10.0) -> tuple[int, float]:
    """The status of its health, and how long it took."""
    began = time.monotonic()
    status, _ = one.ask(one.server.health, None, timeout_s)
    return status, time.monotonic() - began


@contextlib.contextmanager
def watched(one: Running) -> Iterator[Found]:
    """Meanwhile: the longest wait for its health, statuses of it, and the most memory that it grew by."""
    found: Found = {"health_s": 0.0, "statuses": Counter(), "grown_mb": 0.0}
    before, stop = memory_mb(one.process.pid), threading.Event()

    def look() -> None:
        while not stop.wait(0.1):
            status, took = health(one)
            found["statuses"][status] += 1
            found["health_s"] = max(found["health_s"], took)

    def weigh() -> None:
        while not stop.wait(0.1):
            found["grown_mb"] = max(found["grown_mb"], memory_mb(one.process.pid) - before)

    threads = [threading.Thread(target=look), threading.Thread(target=weigh)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        time.sleep(0.2)  # what is short is seen once, too
        stop.set()
        for thread in threads:
            thread.join()


def overload(stand: Stand) -> Found:
    """Ten times its capacity."""
    with stand.up() as one, watched(one) as seen:
        rows = requests_file(
            one.place.folder / "urgent.req", one.server.marker, one.server.where,
            [one.server.body(row) for row in one.place.case.rows], one.server.expected(one.place.case.scores),
            waits_ms=[round(1000 * wait) for wait in (*[DEADLINE_S] * PATIENT, HASTE_S)],
        )  # fmt: skip
        said = load(stand.client, one, 1000, 4.0, 10 * stand.capacity, timeout_s=DEADLINE_S, rows=rows)
        refused = sum(n for status, n in said["status"].items() if status in ("429", "503"))
        began = time.monotonic()
        again, _ = one.ask(one.server.where, json.dumps(one.server.body(one.place.case.rows[0])), PATIENCE_S)
        back = time.monotonic() - began
    return {
        "goodput": said["right"] / said["seconds"] / stand.capacity, "accepted_p99_ms": said["ms"].get("p99"),
        "refused": refused, "refusal_p99_ms": said["refused_ms"].get("p99"), "late": said["late"] + said["unsent"],
        "told_when": said["retry_after"], "health_s": seen["health_s"], "grown_mb": seen["grown_mb"],
        "back_s": back if again == 200 else None,
    }  # fmt: skip


def hang(stand: Stand) -> Found:
    """One row hangs, then another every so often; the others' rate, as a share of what it was, how long they wait,
    and whether health tells of it."""
    with stand.up() as one:
        stuck: list[tuple[int, float]] = []
        threads: list[threading.Thread] = []

        def wait(n: int) -> None:
            row, began = [666.0, float(n), *one.place.case.rows[0][2:]], time.monotonic()
            status, _ = one.ask(one.server.where, json.dumps(one.server.body(row)), PATIENCE_S)
            stuck.append((status, time.monotonic() - began))

        def strike() -> None:
            threads.append(threading.Thread(target=wait, args=(len(threads),)))
            threads[-1].start()

        before = load(stand.client, one, 8, 1.5)["in_window"] / 1.5
        strike()
        time.sleep(0.5)
        said = load(stand.client, one, 8, 3.0, timeout_s=3.0)
        loading = start_load(stand.client, one, 8, OFTEN * HANGS_S, timeout_s=3.0)
        for _ in range(OFTEN):
            time.sleep(HANGS_S / 2)
            strike()
            time.sleep(HANGS_S / 2)
        often = result(loading)
        status, _ = health(one, 3.0)
        one.kill()
        for thread in threads:
            thread.join()
    return {
        "share": said["in_window"] / 3.0 / before if before else 0.0,
        "often": often["in_window"] / (OFTEN * HANGS_S) / before if before else 0.0,
        "often_p99_ms": often["ms"].get("p99"), "often_max_ms": often["ms"].get("max"), "often_late": often["late"],
        "health": status, "stuck": Counter(status for status, _ in stuck),
        "stuck_s": max(took for _, took in stuck),
    }  # fmt: skip


def _begun(one: Running, *headers: str) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", one.place.port), timeout=PATIENCE_S)
    lines = [
        f"POST {one.server.where} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        *headers,
        "",
        "",
    ]
    made.sendall("\r\n".join(lines).encode())
    return made


def _pour(made: socket.socket, parts: Iterator[bytes]) -> None:
    """Send until all is sent, or the server speaks or leaves."""
    with contextlib.suppress(OSError):
        for part in parts:
            if select.select([made], [], [], 0)[0]:
                return
            made.sendall(part)


def _big() -> Iterator[bytes]:
    """200 MB of JSON that could be a request."""
    block = b"1.0," * 16_384
    yield b'{"x":[1.0,'
    for _ in range(BIG // len(block)):
        yield block
    yield b"1.0]}"


def _chunked(parts: Iterator[bytes]) -> Iterator[bytes]:
    for part in parts:
        yield f"{len(part):x}\r\n".encode() + part + b"\r\n"
    yield b"0\r\n\r\n"


def big(stand: Stand) -> Found:
    """The three variants: the status, the seconds to it, and the most memory."""
    packed = gzip.compress(b"".join(_big()), 6)
    size = sum(len(part) for part in _big())
    variants: dict[str, tuple[tuple[str, ...], Callable[[], Iterator[bytes]]]] = {
        "length": ((f"content-length: {size}",), _big),
        "chunked": (("transfer-encoding: chunked",), lambda: _chunked(_big())),
        "packed": (("content-encoding: gzip", f"content-length: {len(packed)}"), lambda: iter([packed])),
    }
    found: Found = {}
    for name, (headers, parts) in variants.items():
        with stand.up() as one, watched(one) as seen:
            began, status = time.monotonic(), 0
            with contextlib.suppress(OSError, http.client.HTTPException):
                made = _begun(one, *headers)
                _pour(made, parts())
                answer = http.client.HTTPResponse(made)
                answer.begin()
                status = answer.status
            took = time.monotonic() - began
        found |= {f"{name}_status": status, f"{name}_s": took, f"{name}_mb": seen["grown_mb"]}
        found["health_s"] = max(found.get("health_s", 0.0), seen["health_s"])
    return found


def slow(stand: Stand) -> Found:
    """200 connections at a byte a second: the rate of others as a share of what it was, and who is still there."""
    with stand.up() as one:
        before = load(stand.client, one, 8, 1.5)["in_window"] / 1.5
        made = [socket.create_connection(("127.0.0.1", one.place.port), timeout=5) for _ in range(200)]
        stop = threading.Event()

        def drip() -> None:
            for letter in f"POST {one.server.where} HTTP/1.1\r\nx-slow: {'a' * 200}".encode():
                for each in made:
                    with contextlib.suppress(OSError):
                        each.send(bytes([letter]))
                if stop.wait(1.0):
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        said = load(stand.client, one, 8, 3.0)
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline and not all(map(_closed, made)):
            time.sleep(0.5)
        closed = sum(map(_closed, made))
        stop.set()
        thread.join()
        for each in made:
            each.close()
    return {"share": said["in_window"] / 3.0 / before if before else 0.0, "closed": closed}


def _closed(made: socket.socket) -> bool:
    """Whether the server has ended it, or said something."""
    return bool(select.select([made], [], [], 0)[0])


ODD: dict[str, bytes] = {
    "nothing": b"", "half": b'{"inputs": [', "text": b"hello", "list": b"[]", "null": b"null", "number": b"7",
    "bad utf-8": b'{"inputs": "\xff\xfe"}', "deep": b"[" * 100_000, "deep object": b'{"a":' * 50_000,
    "surrogate": b'{"inputs": "\\ud800"}', "huge int": b'{"inputs": ' + b"9" * 5000 + b"}",
    "twice": b'{"inputs": [], "inputs": []}', "empty": b"{}", "empty inputs": b'{"inputs": []}',
}  # fmt: skip


def odd(stand: Stand) -> Found:
    """How many odd bodies get a 5xx or no answer; how many odd numbers get one, or a 200 that is no strict JSON."""
    with stand.up() as one:
        statuses = {name: one.ask(one.server.where, body, 5.0)[0] for name, body in ODD.items()}
        whole = json.dumps(one.server.body(one.place.case.rows[0]))
        value = json.dumps(one.place.case.rows[0][3])
        numbers = {}
        for word in ("NaN", "Infinity", "1e999", '"text"', "[1]"):
            status, answer = one.ask(one.server.where, whole.replace(value, word, 1), 5.0)
            numbers[word] = status if status != 200 or _strict(answer) else -1
    bad = [name for name, status in statuses.items() if not 400 <= status < 500]
    worse = [word for word, status in numbers.items() if not (status == 200 or 400 <= status < 500)]
    return {"bad": len(bad), "which": bad, "numbers": len(worse), "words": {w: numbers[w] for w in worse}}


def _strict(answer: bytes) -> bool:
    try:
        msgspec.json.decode(answer)  # takes neither NaN nor Infinity
    except msgspec.DecodeError:
        return False
    return True


def end(stand: Stand) -> Found:
    """SIGTERM in the middle: requests that were sent and not answered, and how long it took to end."""
    with stand.up() as one:
        loading = start_load(stand.client, one, 16, 3.0, timeout_s=5.0)
        time.sleep(1.0)
        took = one.stop()
        said = result(loading)
    unanswered = (
        said["lost"] + said["late"] + sum(n for s, n in said["status"].items() if s >= "500" and s != "503")
    )
    return {"lost": unanswered, "answered": said["right"], "ended_s": took}


def worker(stand: Stand) -> Found:
    """kill -9 of the busiest process below the first."""
    with stand.up() as one:
        load(stand.client, one, 8, 1.0)
        below = tree(one.process.pid)[1:]
        if not below:
            return {"workers": 0, "again_s": None}
        os.kill(max(below, key=cpu_s), signal.SIGKILL)
        body, began = json.dumps(one.server.body(one.place.case.rows[0])), time.monotonic()
        while time.monotonic() < began + PATIENCE_S:
            if one.ask(one.server.where, body, 3.0)[0] == 200:
                return {"workers": len(below), "again_s": time.monotonic() - began}
            time.sleep(0.02)
    return {"workers": len(below), "again_s": None}


PARTS: dict[str, Callable[[Stand], Found]] = {
    "overload": overload, "hang": hang, "big": big, "slow": slow, "odd": odd, "end": end, "worker": worker,
}  # fmt: skip
