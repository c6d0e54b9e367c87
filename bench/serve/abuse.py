"""Our server and its peers under abuse, in one run: what each does, a row a server. `make bench-abuse`.

The model takes 20 ms. In turn, for each server, on one core:

- overload: ten times as many requests as it manages, due at a rate, each with a deadline of 2 s (`timeout-ms`).
- hang: one row makes the model hang for good; eight other clients go on.
- big: 200 MB of JSON, with its length given, in chunks, and compressed; how soon it is refused, and the memory.
- slow: 200 connections that send a byte a second; eight other clients go on.
- odd: bodies that are no JSON, or JSON of the wrong kind; NaN and numbers beyond floats.
- end: SIGTERM with 16 clients under way: requests that were sent and never answered.
- worker: kill -9 of its busiest process below the first; how soon the next answer comes.

At the end one line a figure of ours, `name value target ok|short`; the exit code is 1 when one is short.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import json
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.log import Figure, note
from bench.serve.data import Case, case, fitted, requests_file
from bench.serve.process import (
    CORES,
    Gone,
    Running,
    compiled,
    cpu_s,
    load,
    memory_mb,
    result,
    running,
    start_load,
    tree,
)
from bench.serve.servers import OURS, PEERS, Server
from penstock.cli import show

DELAY_S = 0.02
DEADLINE_S = 2.0
BIG = 200_000_000
LIMIT_MB = 16.0  # of a body, ours
PATIENCE_S = 20.0
CLIENTS = (32, 256)  # what it manages is the better of what it does for so many
EXAMPLES = """examples:
  make bench-abuse                                    everything; about ten minutes
  make bench-abuse ARGS='--only us,fastapi'           two of them
  make bench-abuse ARGS='--parts overload,big --json' two parts, our figures as one JSON object
"""

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
            f"timeout-ms: {DEADLINE_S * 1000:.0f}",
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
    """One row hangs; the others' rate, as a share of what it was, and whether health tells of it."""
    with stand.up() as one:
        row = [666.0, *one.place.case.rows[0][1:]]
        stuck: list[tuple[int, float]] = []

        def wait() -> None:
            began = time.monotonic()
            status, _ = one.ask(one.server.where, json.dumps(one.server.body(row)), PATIENCE_S)
            stuck.append((status, time.monotonic() - began))

        before = load(stand.client, one, 8, 1.5)["in_window"] / 1.5
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.5)
        said = load(stand.client, one, 8, 3.0, timeout_s=3.0)
        status, _ = health(one, 3.0)
        one.kill()
        thread.join()
    return {
        "share": said["in_window"] / 3.0 / before if before else 0.0,
        "health": status,
        "stuck": stuck[0][0],
    }


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


def figures(found: dict[str, Found]) -> list[Figure]:
    """What ours must do, of the parts that ran."""
    over, stuck, large = (found.get(name, {}) for name in ("overload", "hang", "big"))
    variants = ("length", "chunked", "packed")
    refused = large and all(large[f"{name}_status"] in (400, 411, 413, 415) for name in variants)
    made = {
        "overload": [
            Figure("abuse_overload_goodput", over.get("goodput"), ">=0.8"),
            Figure(
                "abuse_overload_accepted_p99_ms", over.get("accepted_p99_ms"), f"<={DEADLINE_S * 1000:.0f}"
            ),
            Figure("abuse_overload_refusal_p99_ms", over.get("refusal_p99_ms"), "<50"),
            Figure("abuse_overload_health_s", over.get("health_s"), "<1"),
            Figure("abuse_overload_back_s", over.get("back_s"), "<5"),
        ],
        "hang": [Figure("abuse_hang_share", stuck.get("share"), ">=0.8")],
        "big": [
            Figure("abuse_big_refused_s", max(large[f"{n}_s"] for n in variants) if refused else None, "<1"),
            Figure(
                "abuse_big_mb",
                max(large[f"{n}_mb"] for n in variants) if large else None,
                f"<{2 * LIMIT_MB:g}",
            ),
            Figure("abuse_big_health_s", large.get("health_s"), "<1"),
        ],
        "slow": [
            Figure("abuse_slow_share", found.get("slow", {}).get("share"), ">=0.8"),
            Figure("abuse_slow_closed", found.get("slow", {}).get("closed"), ">=200"),
        ],
        "odd": [
            Figure("abuse_odd_bodies", found.get("odd", {}).get("bad"), "<=0"),
            Figure("abuse_odd_numbers", found.get("odd", {}).get("numbers"), "<=0"),
        ],
        "end": [Figure("abuse_end_lost", found.get("end", {}).get("lost"), "<=0")],
        "worker": [Figure("abuse_worker_again_s", found.get("worker", {}).get("again_s"), "<2")],
    }
    return [one for name, some in made.items() if name in found for one in some]


def told(name: str, found: dict[str, Found]) -> list[list[Any]]:
    """The rows of a part: what each server did."""
    return [
        [server, *(_cell(value) for value in parts[name].values())]
        for server, parts in found.items()
        if name in parts
    ]


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return ", ".join(f"{k}: {value[k]}" if isinstance(value, dict) else str(k) for k in value) or "-"
    return "-" if value is None else value


class Abuse:
    """All parts for one server after the other."""

    def __init__(self, folder: Path, one: Case, parts: Sequence[str]) -> None:
        self.folder, self.case, self.parts, self.client = folder, one, parts, compiled(folder)
        self.found: dict[str, dict[str, Found]] = {}
        self.missing: dict[str, str] = {}

    def run(self, server: Server) -> None:
        """One server; a part that it does not survive is noted, and the next begins with a fresh one."""

        def up() -> contextlib.AbstractContextManager[Running]:
            return running(server, self.case, self.folder, DELAY_S)

        try:
            with up() as one:
                load(self.client, one, 32, 1.0)
                capacity = max(load(self.client, one, n, 2.0)["in_window"] / 2.0 for n in CLIENTS)
        except Gone as error:
            self.missing[server.name] = str(error)
            return note(f"{server.name} is left out: {error}")
        note(
            f"{server.name}: {capacity:,.0f} requests a second of a model that takes {DELAY_S * 1000:.0f} ms"
        )
        stand, mine = Stand(self.client, up, max(capacity, 1.0)), self.found.setdefault(server.name, {})
        for name in self.parts:
            note(f"{server.name}: {name}")
            for again in (True, False):  # a start may fail for reasons of its own
                try:
                    mine[name] = PARTS[name](stand)
                    break
                except (Gone, OSError) as error:
                    note(f"{server.name}: {name} could not be tried{', again' if again else ''}: {error}")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="bench/serve/abuse.py", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--only", default="", metavar="NAME,...", help=f"of us, {', '.join(p.name for p in PEERS)}"
    )
    parser.add_argument("--parts", default=",".join(PARTS), metavar="NAME,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", action="store_true", help="our figures as one JSON object, no tables")
    return parser.parse_args(argv)


def main() -> int:
    """Run what was asked for, print tables and figures."""
    given = parse()
    names = [OURS.name if name == "us" else name for name in given.only.split(",") if name]
    if len(CORES) < 2:
        raise SystemExit("bench: it takes two cores, one for the server and one for the client")
    with tempfile.TemporaryDirectory(prefix="bench-abuse-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        slow_case = case("slow", folder, fitted(folder)["linear"], delay_s=DELAY_S)
        abuse = Abuse(folder, slow_case, given.parts.split(","))
        for server in [OURS, *PEERS]:
            if not names or server.name in names:
                abuse.run(server)
    found = figures(abuse.found.get(OURS.name, {}))
    if given.json:
        show.as_json({one.name: {"value": one.value, "target": one.target, "ok": one.ok} for one in found})
        return 0 if all(one.ok for one in found) else 1
    for name in abuse.parts:
        head = next((list(parts[name]) for parts in abuse.found.values() if name in parts), [])
        show.table(
            f"{name}: {(PARTS[name].__doc__ or '').strip()}", ["server", *head], told(name, abuse.found)
        )
    for server, why in abuse.missing.items():
        print(f"{server} could not be had: {why}")
    for one in found:
        print(one)
    return 0 if all(one.ok for one in found) else 1


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
