"""app: a model behind a pipe: within its time or not at all, started again when it falls, left alone when it keeps on.

A batch that a process died of, or that took too long, is tried row by row, once: the others are answered.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from penstock.app.scoring.order import HEAD_BYTES, Rows, Scores, Scoring
from penstock.record.codec import pack, unpack
from penstock.record.decisions import Value
from penstock.record.errors import Unavailable

COMMAND = (sys.executable, "-m", "penstock.app.scoring.process")
_QUIET = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
Row = Sequence[Value]
Told = tuple[float | None, str]
"""A score, or none and why."""


class Limits(msgspec.Struct, frozen=True):
    """`start_s`: to load; `batch_s`: for one batch; `tries_s`: for a batch tried row by row; `most_bytes`: of
    memory, beyond which the process is replaced; after `strikes` falls in a row nothing is asked for `rest_s`."""

    start_s: float = 60.0
    batch_s: float = 5.0
    tries_s: float = 8.0
    most_bytes: int = 2 << 30
    strikes: int = 3
    rest_s: float = 5.0


LIMITS = Limits()


class Fell(Exception):
    """The process is gone: it died, or was ended because it took too long. `code` says which."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Apart:
    """A model in a process of its own, started when it is first asked. One batch at a time."""

    def __init__(
        self,
        order: Scoring,
        limits: Limits = LIMITS,
        clock: Callable[[], float] = time.monotonic,
        noted: Callable[[str], None] = lambda code: None,
    ) -> None:
        self.order, self.limits, self.clock, self.noted = order, limits, clock, noted
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._falls, self._rests_until_s = 0, float("-inf")

    def start(self) -> None:
        """Have it ready; raises Unavailable where it does not come up."""
        with self._lock:
            try:
                self._started()
            except Fell as why:
                raise Unavailable("A model's process did not come up.", code=why.code) from None

    def __call__(self, rows: Sequence[Row]) -> list[Told]:
        """What the model says of each row; where it says nothing, why: `model_failed`, `model_died`, `model_late`,
        or `model_rests` where it fell too often."""
        with self._lock:
            if self.clock() < self._rests_until_s:
                return [(None, "model_rests")] * len(rows)
            try:
                return self._ask(rows)
            except Fell as why:
                if len(rows) == 1:
                    return [(None, why.code)]
            return self._one_by_one(rows)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _one_by_one(self, rows: Sequence[Row]) -> list[Told]:
        until_s = self.clock() + self.limits.tries_s
        told: list[Told] = []
        for row in rows:
            if self.clock() >= until_s or self.clock() < self._rests_until_s:
                told.append((None, "model_late"))
                continue
            try:
                told += self._ask([row])
            except Fell as why:
                told.append((None, why.code))
        return told

    def _ask(self, rows: Sequence[Row]) -> list[Told]:
        process = self._started()
        said = self._talk(process, pack(Rows([list(row) for row in rows])), self.limits.batch_s)
        self._falls = 0
        if _memory_of(process.pid) > self.limits.most_bytes:
            self.noted("model_grew")
            self._end()
        if said.code:
            return [(None, said.code)] * len(rows)
        return [(score, "" if score is not None else "model_failed") for score in said.scores]

    def _started(self) -> subprocess.Popen[bytes]:
        process = self._process
        if process is not None and process.poll() is None:
            return process
        self._end()
        process = self._process = _nursery.submit(_begin).result()
        said = self._talk(process, b"", self.limits.start_s, msgspec.json.encode(self.order) + b"\n")
        if said.code:
            self._fall(said.code)
        return process

    def _talk(
        self, process: subprocess.Popen[bytes], asked: bytes, within_s: float, line: bytes = b""
    ) -> Scores:
        """Send and wait for the answer; raises Fell, with the process ended, where none comes in time."""
        assert process.stdin is not None and process.stdout is not None
        until_s = self.clock() + within_s
        try:
            data = line or len(asked).to_bytes(HEAD_BYTES) + asked
            self._send(process.stdin.fileno(), data, until_s)
            head = self._read(process.stdout.fileno(), HEAD_BYTES, until_s)
            return unpack(self._read(process.stdout.fileno(), int.from_bytes(head), until_s), Scores)
        except TimeoutError:
            self._fall("model_late")
        except (OSError, EOFError, msgspec.MsgspecError):
            self._fall("model_died")
        raise AssertionError

    def _send(self, pipe: int, data: bytes, until_s: float) -> None:
        os.set_blocking(pipe, False)
        sent = memoryview(data)
        while sent:
            if not select.select([], [pipe], [], max(0.0, until_s - self.clock()))[1]:
                raise TimeoutError
            sent = sent[os.write(pipe, sent[: 1 << 16]) :]

    def _read(self, pipe: int, n: int, until_s: float) -> bytes:
        parts = bytearray()
        while len(parts) < n:
            if not select.select([pipe], [], [], max(0.0, until_s - self.clock()))[0]:
                raise TimeoutError
            part = os.read(pipe, n - len(parts))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def _fall(self, code: str) -> None:
        self._end()
        self._falls += 1
        self.noted(code)
        if self._falls >= self.limits.strikes:
            self._falls, self._rests_until_s = 0, self.clock() + self.limits.rest_s
            self.noted("model_rests")
        raise Fell(code)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


_nursery = ThreadPoolExecutor(1, "penstock-apart")
"""Processes are begun on one thread, which lives as long as this process: they end when the thread does that began
them, as Linux has it."""


def _begin() -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, env={**os.environ, **_QUIET}, bufsize=0)


def _memory_of(pid: int) -> int:
    """The memory that a process holds now, in bytes; 0 where it cannot be told."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError):
        return 0
