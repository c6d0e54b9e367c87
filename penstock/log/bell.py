"""log: a bell between processes: whoever writes rings, whoever waits wakes.

Each waiting handle binds a datagram socket in a folder that belongs to the log; ringing sends one
byte to every socket there. A lost ring costs a waiter one poll, so nothing here needs to be reliable.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

SELDOM_S = 0.005


class Bell:
    """The bell of one handle on one log. Threads of this process are woken without a socket."""

    def __init__(self, home: Path) -> None:
        name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:16]
        # A socket's path has room for 108 bytes, less than a home may need: hence the hash of it.
        self._folder = Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}-{name}"
        self._changed = threading.Condition()
        self._socket: socket.socket | None = None
        self._path = ""
        self._rang_s, self._owed = 0.0, False
        self.rings = 0

    def ring(self, *, seldom: bool = False) -> None:
        """Wake every waiter, here and in other processes; `seldom`: every few milliseconds at most, and the last time
        when `settle` is called."""
        now_s = time.monotonic() if seldom else 0.0
        self._owed = seldom and now_s < self._rang_s + SELDOM_S
        if not self._owed:
            self._rang_s = now_s
            self._wake()

    def settle(self) -> None:
        """Ring where nobody was told of the newest."""
        if self._owed:
            self._owed = False
            self._wake()

    def _wake(self) -> None:
        self._note()
        with contextlib.suppress(OSError):
            # Mostly nobody listens, and to ask costs less than to be told by an error.
            for name in os.listdir(self._folder) if os.access(self._folder, os.F_OK) else ():
                path = os.path.join(self._folder, name)
                if path != self._path:
                    _send(path)

    def wait(self, rings: int, timeout_s: float) -> None:
        """Sleep until the bell has rung more than `rings` times, or the time is over."""
        self._listen()
        with self._changed:
            self._changed.wait_for(lambda: self.rings != rings, timeout_s)

    def close(self) -> None:
        """Stop listening."""
        with self._changed:
            listening, self._socket = self._socket, None
        if listening is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
                self._folder.rmdir()  # not while another handle listens
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def _note(self) -> None:
        with self._changed:
            self.rings += 1
            self._changed.notify_all()

    def _listen(self) -> None:
        with self._changed:
            if self._socket is not None:
                return
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            with contextlib.suppress(OSError):  # without a socket the waiter polls
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._path = str(self._folder / f"{os.getpid()}-{id(self):x}")
                self._socket.bind(self._path)
                threading.Thread(
                    target=self._hear, args=(self._socket,), name="penstock-bell", daemon=True
                ).start()

    def _hear(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while listening.recv(16) and self._socket is listening:
                self._note()


def _send(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(b"!", path)
        except (ConnectionRefusedError, FileNotFoundError):  # its process is gone
            with contextlib.suppress(OSError):
                os.unlink(path)
        except OSError:
            pass  # its queue is full: it will wake anyway
