"""app: a process behind pipes that scores: begun, asked within a time, ended where it does not keep it."""

from __future__ import annotations

import contextlib
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.app.scoring.loaded import Forked, Loaded
from penstock.app.scoring.order import HEAD_BYTES, Fell, Limits, Row, Rows, Scores, Scoring
from penstock.record.codec import pack, unpack

Process = subprocess.Popen[bytes] | Forked
T = TypeVar("T")
WORDS_BYTES = 2048
"""So much of the last that a process wrote on its standard error is told when it falls."""


class Breach(ValueError):
    """What a process said is not of the protocol."""


class Speech(msgspec.Struct, frozen=True):
    """How a process is begun and talked to. `hello` goes first; `greeted` reads its answer: "" or a code. `asked`
    are the bytes of a batch, `answered` reads the answer to n rows; both readers raise Breach or msgspec's errors.
    `wanted` says how many bytes an answer lacks at least, 0 when it is whole. `close`: nothing is begun any more.
    `memory`: what is held besides the processes that were begun, in bytes."""

    begin: Callable[[], Process]
    hello: bytes
    greeted: Callable[[bytes], str]
    asked: Callable[[Sequence[Row]], bytes]
    answered: Callable[[bytes, int], Scores]
    wanted: Callable[[bytearray], int]
    close: Callable[[], None] = lambda: None
    memory: Callable[[], int] = lambda: 0


class Piped:
    """A process that speaks so. `process` is there while it lives. One thread at a time has it; any may `kill`."""

    def __init__(self, speech: Speech, clock: Callable[[], float] = time.monotonic) -> None:
        self.speech, self.clock = speech, clock
        self.process: Process | None = None
        self._words = bytearray()
        self._unsent, self._heard, self._until_s, self._rows = memoryview(b""), bytearray(), 0.0, 0

    def start(self, limits: Limits) -> None:
        """Have it run and greeted; raises Fell."""
        if self.process is not None and self.process.poll() is None:
            return
        self.end()
        self._words.clear()
        self.process = _nursery.submit(self.speech.begin).result()
        self._say(self.speech.hello, limits.start_s)
        if code := self._hear(self.speech.greeted, self._until_s):
            self._fall(code)

    def put(self, rows: Sequence[Row], limits: Limits) -> None:
        """Begin to ask about a batch; raises Fell where there is no process to be had."""
        self.start(limits)
        self._say(self.speech.asked(rows), limits.batch_s)
        self._rows = len(rows)

    def hear(self, within_s: float = math.inf) -> Scores | None:
        """The answer; None where it is not here so soon. Raises Fell, with the process ended, where none comes by
        the batch's deadline."""
        until_s = min(self.clock() + within_s, self._until_s)
        return self._hear(lambda data: self.speech.answered(data, self._rows), until_s)

    def memory(self) -> int:
        """The memory that it holds now, in bytes; 0 where it cannot be told."""
        process = self.process  # another thread may end it meanwhile
        return memory_of(process.pid) if process else 0

    def end(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stderr is not None:
            self._overhear(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def resident(self) -> int:
        """The same, with all that it shares: told at next to no cost."""
        process = self.process
        return _resident_of(process.pid) if process else 0

    def kill(self) -> None:
        """Have the process end, whatever it does; who has it finds out."""
        process = self.process
        if process is not None:
            process.kill()

    def _say(self, data: bytes, within_s: float) -> None:
        self._unsent, self._heard = memoryview(data), bytearray()
        self._until_s = self.clock() + within_s

    def _hear(self, read: Callable[[bytes], T], until_s: float) -> T | None:
        """Send what is left to send, and read what comes; raises Fell."""
        try:
            self._send(until_s)
            return read(self._read(until_s))
        except TimeoutError:
            if until_s < self._until_s:
                return None
            self._fall("model_late")
        except (Breach, msgspec.MsgspecError):
            self._fall("model_protocol")
        except (OSError, EOFError):
            self._fall("model_died")
        raise AssertionError

    def _send(self, until_s: float) -> None:
        assert self.process is not None and self.process.stdin is not None
        pipe = self.process.stdin.fileno()
        os.set_blocking(pipe, False)
        while self._unsent:
            self._ready(self.process, pipe, select.POLLOUT, until_s)
            self._unsent = self._unsent[os.write(pipe, self._unsent[: 1 << 16]) :]

    def _read(self, until_s: float) -> bytes:
        assert self.process is not None and self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        while n := self.speech.wanted(self._heard):
            self._ready(self.process, pipe, select.POLLIN, until_s)
            part = os.read(pipe, n)
            if not part:
                raise EOFError
            self._heard += part
        return bytes(self._heard)

    def _ready(self, process: Process, pipe: int, for_: int, until_s: float) -> None:
        """Wait for a pipe; what stands on standard error is read meanwhile, so that nobody is held by it. It is looked
        at once at least: who was kept from running himself blames nobody."""
        while True:
            left_s = until_s - self.clock()
            waits = select.poll()
            waits.register(pipe, for_)
            if process.stderr is not None:
                waits.register(process.stderr, select.POLLIN)
            ready = {found for found, _ in waits.poll(max(0, math.ceil(left_s * 1000)))}
            if ready - {pipe}:
                self._overhear(process)
            if pipe in ready:
                return
            if left_s <= 0:
                raise TimeoutError

    def _overhear(self, process: Process) -> None:
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            said = os.read(process.stderr.fileno(), 1 << 16)
            self._words = (self._words + said)[-WORDS_BYTES:]
            if not said:
                process.stderr.close()
                process.stderr = None

    def _fall(self, code: str) -> None:
        self.end()
        words, self._words = self._words.decode(errors="replace").strip(), bytearray()
        if words:  # to whoever runs us; never to who asks
            print(f"penstock: {code}; the model's program said last:\n{words}", file=sys.stderr, flush=True)
        raise Fell(code)


def house(order: Scoring) -> Speech:
    """How a model of Python's is scored: this house's own processes, messages behind their lengths."""
    made: list[Loaded] = []

    def begin() -> Forked:
        for one in [one for one in made if one.process.poll() is not None]:
            one.end()
            made.remove(one)
        if not made or not made[-1].forks:
            made.append(Loaded(msgspec.json.encode(order)))
        return made[-1].fork()

    def asked(rows: Sequence[Row]) -> bytes:
        data = pack(Rows([list(row) for row in rows]))
        return len(data).to_bytes(HEAD_BYTES) + data

    def wanted(parts: bytearray) -> int:
        if len(parts) < HEAD_BYTES:
            return HEAD_BYTES - len(parts)
        return HEAD_BYTES + int.from_bytes(parts[:HEAD_BYTES]) - len(parts)

    def said(data: bytes) -> Scores:
        return unpack(data[HEAD_BYTES:], Scores)

    def memory() -> int:
        return sum(memory_of(one.process.pid) for one in made if one.process.poll() is None and not one.alone)

    def close() -> None:
        for one in made:
            one.end()

    return Speech(
        begin, b"", lambda data: said(data).code, asked, lambda data, n: said(data), wanted, close, memory
    )


_nursery = ThreadPoolExecutor(1, "penstock-apart")
"""Processes are begun on one thread, which lives as long as this process: they end when the thread does that began
them, as Linux has it."""


def _resident_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError):
        return 0


def memory_of(pid: int) -> int:
    """The memory that a process holds, in bytes: of what it shares with others its part (on Linux; 0 elsewhere)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
