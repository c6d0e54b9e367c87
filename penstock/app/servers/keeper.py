"""app: the serving processes, started, watched, replaced and ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from penstock.app.counters import Count, Labels, labelled
from penstock.app.servers.order import Serve, Word
from penstock.record.errors import Unavailable

WATCH_S = 0.1
"""How soon a process that ended is replaced."""
START_S = 30.0
END_S = 12.0
SOON_S, LONGEST_PAUSE_S = 0.5, 5.0
"""A process that ends sooner than this has not served; how long it is left alone then, at most."""

COMMAND = (sys.executable, "-m", "penstock.app.servers.process")
_QUIET = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Keeper:
    """`n` serving processes on one socket: each that ends is replaced."""

    def __init__(self, order: Serve, listens: socket.socket, n: int, told: Callable[[str], None]) -> None:
        self.orders = [msgspec.structs.replace(order, socket=listens.fileno(), k=k, n=n) for k in range(n)]
        self.told = told
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * n
        self.replaced = 0
        self._counts: list[list[Count]] = [[] for _ in range(n)]
        self._gone: Counter[tuple[str, Labels]] = Counter()  # what those that ended had counted
        self._begun_s, self._pause_s = [0.0] * n, [0.0] * n
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="penstock-servers", daemon=True)

    def start(self) -> None:
        """Start all and wait until they serve; raises Unavailable where one cannot."""
        for k in range(len(self.orders)):
            self.processes[k] = self._begin(k)
        for k, process in enumerate(self.processes):
            assert process is not None
            word = self._word(process) or Word()
            if not word.serves:
                self.stop()
                raise Unavailable(
                    word.note or "A serving process ended as it began.", code=word.code or "worker"
                )
            self._listen(k, process)
        self._thread.start()

    def counts(self) -> list[Count]:
        """What all serving processes have counted, those that ended among them, and how often one was replaced."""
        total = Counter(self._gone)
        for counts in self._counts:
            total.update({labelled(one): one.value for one in counts})
        made = [Count(name, dict(labels), n) for (name, labels), n in sorted(total.items())]
        return [*made, Count("workers_replaced", {}, self.replaced)]

    def stop(self) -> None:
        """Let each answer what it has begun, and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for process in self.processes:
            if process is not None and process.stdin is not None:
                process.stdin.close()
        until_s = time.monotonic() + END_S
        for process in self.processes:
            if process is None:
                continue
            try:
                process.wait(max(0.1, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _begin(self, k: int) -> subprocess.Popen[bytes]:
        order = self.orders[k]
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=order.sockets, env={**os.environ, **_QUIET},
        )  # fmt: skip
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()
        return process

    def _word(self, process: subprocess.Popen[bytes]) -> Word | None:
        assert process.stdout is not None
        line = process.stdout.readline()
        return msgspec.json.decode(line, type=Word) if line else None

    def _listen(self, k: int, process: subprocess.Popen[bytes]) -> None:
        """Keep what a process says it has counted, on a thread that ends with it."""

        def listen() -> None:
            with contextlib.suppress(ValueError):  # the pipe was closed
                while (word := self._word(process)) is not None:
                    self._counts[k] = word.counts
            self._gone.update({labelled(one): one.value for one in self._counts[k]})
            self._counts[k] = []

        threading.Thread(target=listen, name="penstock-counts", daemon=True).start()

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            for k, process in enumerate(self.processes):
                if process is None or process.poll() is None:
                    continue
                self._replace(k, process)

    def _replace(self, k: int, process: subprocess.Popen[bytes]) -> None:
        """Start another; after a pause that grows, where it ended as soon as it began."""
        now_s = time.monotonic()
        if now_s < self._begun_s[k] + self._pause_s[k]:
            return
        lived = now_s - self._begun_s[k] > SOON_S + self._pause_s[k]
        self._pause_s[k] = 0.0 if lived else min(2 * self._pause_s[k] + 0.2, LONGEST_PAUSE_S)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        self.told(f"serving process {k + 1} ended with {process.returncode}; it is replaced.")
        self.replaced += 1
        self._begun_s[k] = now_s
        self.processes[k] = another = self._begin(k)
        self._listen(k, another)


@contextlib.contextmanager
def passage() -> Iterator[tuple[str, socket.socket]]:
    """A socket that only this user's processes reach, and its path."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:  # of mode 0700
        path = f"{folder}/elsewhere"
        listens = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listens.bind(path)
        listens.listen(256)
        yield path, listens
        listens.close()
