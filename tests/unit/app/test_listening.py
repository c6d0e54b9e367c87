"""app: the two ends of serving: who has come to a door that closes is answered, and who never served is ended."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from penstock.app.servers import listening
from penstock.app.servers.listening import bind
from penstock.record.errors import Unavailable
from tests.unit.app.asker import lives
from tests.unit.client.planted import Door

ASK = b"GET /v2/health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
HANGS = """
import sys, threading, time
from penstock.app.servers.keeper import Keeper
from penstock.app.servers.nursery import Nursery
from penstock.app.servers.order import Serve
from penstock.record.errors import Unavailable

def begin(order, listens, channel):
    if order.k:
        time.sleep(99)
    channel.sendall(b'{"serves":true}\\n')
    channel.recv(1)

nursery, stop = Nursery(begin), threading.Event()
keeper = Keeper(nursery, Serve("", "", "", ""), [], 2, print, print)
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
threading.Timer(0.5, lambda: print(*(one.pid for one in keeper.processes), flush=True)).start()
try:
    keeper.start(stop)
except Unavailable as error:
    print(error.code, flush=True)
nursery.close()
"""


def test_who_stands_in_the_queue_when_it_closes_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is made before the server hears of it: closing the socket would cut it off, with what it sent."""
    door, came, closed = Door(), list[socket.socket](), listening._closed

    class Late:
        """A server that was busy until just now; meanwhile somebody came."""

        def __init__(self, server: Any) -> None:
            self.close: Callable[[], None] = lambda: (self.somebody(), server.close())[1]

        def somebody(self) -> None:
            came.append(socket.create_connection(("127.0.0.1", door.port), 5))
            came[0].sendall(ASK)

    monkeypatch.setattr(listening, "_closed", lambda server, listens: closed(Late(server), listens))  # type: ignore[arg-type]
    door.close()
    with came[0] as client:
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_process_that_hangs_before_its_first_word_is_ended() -> None:
    """Its number is known from its fork on; whoever is to stop waits for nothing that it could answer."""
    with subprocess.Popen(
        [sys.executable, "-c", HANGS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as runs:
        assert runs.stdin is not None and runs.stdout is not None
        pids = [int(one) for one in runs.stdout.readline().split()]
        assert len(pids) == 2 and all(map(lives, pids))
        runs.stdin.write("\n")
        runs.stdin.flush()
        began = time.monotonic()
        try:
            assert select.select([runs.stdout], [], [], 5)[0], "it waits for who hangs"
            assert runs.stdout.readline() == "stopped\n" and time.monotonic() - began < 5
            assert not any(map(lives, pids))
        finally:
            for pid in pids:
                if lives(pid):
                    os.kill(pid, 9)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long the table of open files is")
def test_there_is_room_for_connections_from_the_start() -> None:
    """The table of open files is not grown while clients wait."""
    program = """
import socket
from penstock.app.servers.listening import _make_room
def room():
    return int(open("/proc/self/status").read().split("FDSize:")[1].split()[0])
with socket.socket() as one:
    before = room()
    _make_room(one.fileno())
    print(before, room())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 1024 <= after


def test_a_port_that_cannot_be_had_is_told() -> None:
    """One that is taken, and what is no port at all."""
    with bind("127.0.0.1", 0) as one:
        for port in (one.getsockname()[1], 99_999, -5):
            with pytest.raises(Unavailable, match=f"Port {port} cannot be opened") as told:
                bind("127.0.0.1", port, "--grpc-port")
            assert "--grpc-port" in str(told.value) and told.value.code == "port"
