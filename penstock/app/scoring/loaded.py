"""app: a process that has loaded a model of Python's, and forks those that score it.

One begins in the time of a fork, and they share the memory of what was loaded. Where a library has begun threads, or
opened a file, nothing may be forked: that process scores by itself then, and the next one is begun afresh.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading

COMMAND = (sys.executable, "-m", "penstock.app.scoring.process")
WORD_BYTES = 64
_QUIET = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Loaded:
    """Such a process. It says of each process that it was asked for, in turn, its number, with a descriptor that
    stands for it; or, with none, that it scores by itself."""

    def __init__(self, order: bytes) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                COMMAND, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=quiet(), bufsize=0
            )
        self.lock = threading.Lock()
        self.wanted, self.alone = 0, False
        self._came: list[tuple[int, int]] = []
        with contextlib.suppress(OSError):  # who has ended hears nothing, and is found to have ended
            self.control.sendall(order)

    def fork(self) -> Forked:
        """Have a process that scores."""
        ours, its = socket.socketpair()
        with its, contextlib.suppress(OSError):
            socket.send_fds(self.control, [b"fork"], [its.fileno()])
        self.wanted += 1
        return Forked(self, self.wanted - 1, ours)

    @property
    def forks(self) -> bool:
        """Whether it lives, and has forked what it was asked for."""
        known = not self.wanted or self.came(self.wanted - 1) is not None
        return self.process.poll() is None and known and not self.alone

    def came(self, place: int) -> tuple[int, int] | None:
        """The number and the descriptor of a process that it has forked."""
        with self.lock, contextlib.suppress(OSError):
            while place >= len(self._came) and not self.alone:
                word, fds, _, _ = socket.recv_fds(self.control, WORD_BYTES, 1, socket.MSG_DONTWAIT)
                self.alone = not fds
                self._came += [(int(word), fd) for fd in fds]
        return self._came[place] if place < len(self._came) else None

    def end(self) -> None:
        """End it, and with it all that it has forked."""
        self.process.kill()
        self.process.wait()
        self.control.close()


class Forked:
    """A process that scores. Until it is known, its parent stands for it."""

    stderr = None

    def __init__(self, loaded: Loaded, place: int, channel: socket.socket) -> None:
        self.loaded, self.place = loaded, place
        self.stdin = self.stdout = channel
        self._ended = False

    @property
    def pid(self) -> int:
        """Its number."""
        known = self.loaded.came(self.place)
        return known[0] if known is not None else self.loaded.process.pid

    def poll(self) -> int | None:
        """None while it lives."""
        return None if not self._ended and self._wait(0) else 0

    def kill(self) -> None:
        """End it, whatever it does."""
        known = self.loaded.came(self.place)
        if known is None:
            self.loaded.process.kill()
            return
        with self.loaded.lock, contextlib.suppress(ProcessLookupError):
            if not self._ended:
                signal.pidfd_send_signal(known[1], signal.SIGKILL)

    def wait(self) -> None:
        """Until it has ended; its descriptor goes with it."""
        if self._ended:
            return
        self._wait(None)
        known = self.loaded.came(self.place)
        with self.loaded.lock:
            self._ended = True
            if known is not None:
                os.close(known[1])
        if known is None:
            self.loaded.end()

    def _wait(self, timeout_s: int | None) -> bool:
        """Whether it still lives then."""
        known = self.loaded.came(self.place)
        if known is None:
            if timeout_s is None:
                self.loaded.process.wait()
            return self.loaded.process.poll() is None
        ends = select.poll()
        ends.register(known[1], select.POLLIN)
        return not ends.poll(timeout_s)


def quiet() -> dict[str, str]:
    """The environment of a scoring process: ours, and one thread for each library of linear algebra."""
    return {**os.environ, **_QUIET}
