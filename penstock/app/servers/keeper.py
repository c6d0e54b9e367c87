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
from collections.abc import Callable, Iterator

import msgspec

from penstock.app.servers.order import Serve, Word
from penstock.record.errors import Unavailable

WATCH_S = 0.1
"""How soon a process that ended is replaced."""
START_S = 30.0
END_S = 12.0
LONGEST_PAUSE_S = 5.0

COMMAND = (sys.executable, "-m", "penstock.app.servers.process")
_QUIET = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Keeper:
    """`n` serving processes on one socket: each that ends is replaced, at once the first time, then after a
    pause that grows."""

    def __init__(self, order: Serve, listens: socket.socket, n: int, told: Callable[[str], None]) -> None:
        self.orders = [msgspec.structs.replace(order, socket=listens.fileno(), k=k, n=n) for k in range(n)]
        self.told = told
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * n
        self.replaced = 0
        self._tries = [0] * n
        self._next_s = [0.0] * n
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="penstock-servers", daemon=True)

    def start(self) -> None:
        """Start all and wait until they serve; raises Unavailable where one cannot."""
        for k in range(len(self.orders)):
            self.processes[k] = self._begin(k)
        for process in self.processes:
            assert process is not None
            word = self._word(process)
            if not word.serves:
                self.stop()
                raise Unavailable(
                    word.note or "A serving process ended as it began.", code=word.code or "worker"
                )
        self._thread.start()

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
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(order.socket,), env={**os.environ, **_QUIET},
        )  # fmt: skip
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()
        return process

    def _word(self, process: subprocess.Popen[bytes]) -> Word:
        assert process.stdout is not None
        line = process.stdout.readline()
        return msgspec.json.decode(line, type=Word) if line else Word()

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            for k, process in enumerate(self.processes):
                if process is None or process.poll() is None:
                    continue
                self._replace(k, process)

    def _replace(self, k: int, process: subprocess.Popen[bytes]) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s[k]:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.told(f"serving process {k + 1} ended with {process.returncode}; it is replaced.")
        self.replaced += 1
        self._tries[k] += 1
        self._next_s[k] = now_s + min(0.2 * 2 ** self._tries[k], LONGEST_PAUSE_S)
        self.processes[k] = self._begin(k)


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
