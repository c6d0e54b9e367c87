"""client: the real door on a real port, behind a front that fails as it is told to."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.append import append
from penstock.app.pipeline import load
from penstock.app.servers.listening import Listening, bind
from penstock.log.memory import MemoryLog
from penstock.record.record import START
from penstock.serve import door as serve
from penstock.serve.http import create
from penstock.serve.identity import Keys
from tests.unit.serve.test_http import DESK

FILE = load(str(Path(__file__).parents[2] / "crash" / "pipeline.py"))


class Door:
    """The real door over a desk of the tests, with real appends to `log`, on a port."""

    def __init__(self, keys: Keys | None = None) -> None:
        self.log = MemoryLog()
        desk = msgspec.structs.replace(DESK, append=self._append)
        app = create(desk, None, lambda error: None)
        listens = bind("127.0.0.1", 0)
        self._door = Listening(lambda: serve.Door(desk, app, keys, (), lambda error: None), listens)
        self.port: int = listens.getsockname()[1]
        self._door.start()

    async def _append(
        self, topic: str, rows: Sequence[Mapping[str, Any] | bytes], numbered: tuple[str, int]
    ) -> dict[str, Any]:
        report = append(FILE, self.log, topic, rows, now_ms=0, numbered=numbered)
        return {n: getattr(report, n) for n in ("appended", "duplicates", "refused", "notes")}

    def close(self) -> None:
        """Let the requests under way finish, then end."""
        self._door.stop()


class Planted:
    """A front. `faults` are met by the requests that come, one each; with none left, all is well.

    A fault is "drop" (no answer, nothing done), "lose" (done, no answer), "half" (half an answer), "garbage",
    "close" (an answer, then the end), a status with headers, a number of seconds to be late, or an answer's bytes.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.port, self.faults, self.heads = port, list[Any](), list[dict[str, str]]()
        self.connections, self._context = 0, context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self._context:
            try:
                connection = self._context.wrap_socket(connection, server_side=True)
            except OSError:  # it does not trust us
                return connection.close()
        with suppress(OSError), connection, connection.makefile("rb") as file:  # the client may go
            while line := file.readline():
                method, path, _ = line.decode().split(" ")
                head = dict(
                    text.split(": ", 1) for text in iter(lambda: file.readline().decode().strip(), "")
                )
                head = {name.lower(): value for name, value in head.items()}
                body = file.read(int(head.get("content-length", "0")))
                self.heads.append({**head, ":path": path})
                fault = self.faults.pop(0) if self.faults else ""
                answer = self._answer(fault, method, path, body, head)
                connection.sendall(answer)
                if fault and not isinstance(fault, tuple | float | bytes):
                    return None

    def _answer(self, fault: Any, method: str, path: str, body: bytes, head: dict[str, str]) -> bytes:
        if fault == "drop":
            return b""
        if isinstance(fault, bytes):
            return fault
        if fault == "garbage":
            return b"SSH-2.0-nothing of HTTP\r\n\r\n"
        if isinstance(fault, tuple):
            status, headers = fault
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            return f"HTTP/1.1 {status} Said\r\n{lines}content-length: 0\r\n\r\n".encode()
        if isinstance(fault, float):
            time.sleep(fault)
        asked = http.client.HTTPConnection("127.0.0.1", self.port)
        asked.request(
            method, path, body, {n: v for n, v in head.items() if n not in ("host", "content-length")}
        )
        reply = asked.getresponse()
        data = reply.read()
        asked.close()
        lines = "".join(f"{name}: {value}\r\n" for name, value in reply.getheaders())
        whole = f"HTTP/1.1 {reply.status} Said\r\n{lines}\r\n".encode() + data
        return {"lose": b"", "half": whole[: len(whole) // 2]}.get(str(fault), whole)

    def close(self) -> None:
        """Let nobody in any more."""
        with suppress(OSError):  # it is closed
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def count(log: MemoryLog, topic: str) -> int:
    """How many records a topic has."""
    return len(log.read([topic], START)[0])
