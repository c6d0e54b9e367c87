"""faults: a TCP proxy on loopback that rewrites nothing: it delays, goes deaf, and cuts, when it is told to."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time

_CHUNK = 64 << 10


class Proxy:
    """Passes connections on `port` to `target`. `delay_s`: the longest that a piece is held back, at random.
    `deaf`: what the target answers is lost. `cut` ends every connection."""

    def __init__(self, port: int, target: int, seed: int) -> None:
        self.port, self._target = port, target
        self._chance = random.Random(seed)
        self.delay_s = 0.0
        self.deaf = False
        self.passed = 0
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """End every connection; how many there were."""
        with self._lock:
            ended, self._open = self._open, []
        for one in ended:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        return len(ended) // 2

    def close(self) -> None:
        """Take no more connections and end those that are."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open += [client, server]
            for source, sink, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, answers), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if self.delay_s:
                    time.sleep(self._chance.uniform(0, self.delay_s))
                if not (answers and self.deaf):
                    sink.sendall(data)
                    self.passed += len(data)
        with self._lock:
            self._open = [one for one in self._open if one not in (source, sink)]
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if answers:  # one of the two lets go
            time.sleep(0.1)
            for one in (source, sink):
                one.close()
