"""app: a door open on a socket, on an event loop and a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import resource
import socket
import threading
from collections.abc import Callable

import uvloop

from penstock.record.errors import Unavailable
from penstock.serve.door import Door

SWEEP_S = 0.5
"""Between two looks at the connections for what takes too long."""
GRACE_S = 5.0
"""How long requests under way may take once the server is to stop."""
PORTS = range(1 << 16)
BACKLOG = 2048
FILES = 4096
"""So many open files have room from the start."""


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket that listens; raises Unavailable when the port is taken, or is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if port not in PORTS:
            raise OSError
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError:
        raise Unavailable(
            f"Port {port} cannot be opened.", code="port", hint=f"Take another: {option}."
        ) from None


def address(listens: socket.socket) -> str:
    """Where a socket listens, for people."""
    host, port = listens.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Listening:
    """A door that is open. `make` makes it, on the event loop; `remote` is gRPC's socket, if there is one."""

    def __init__(
        self, make: Callable[[], Door], listens: socket.socket, remote: socket.socket | None = None
    ) -> None:
        self._make, self._socket, self._remote = make, listens, remote
        self._ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._loop = uvloop.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-http", daemon=True)

    def start(self, within_s: float = 10.0) -> None:
        """Open it."""
        _make_room(self._socket.fileno())
        self._thread.start()
        error = self._ready.get(timeout=within_s)
        if error is not None:
            raise error

    def stop(self) -> None:
        """Take no further request, let those under way finish, then close."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(GRACE_S + 5)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # told to whoever starts it
            self._ready.put(error)
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        door = self._make()
        if self._socket.family == socket.AF_UNIX:
            server = await self._loop.create_unix_server(door.front, sock=self._socket)
        else:
            server = await self._loop.create_server(door.front, sock=self._socket, backlog=BACKLOG)
        servers = [(server, self._socket)]
        if self._remote is not None:
            remote = await self._loop.create_server(door.remote, sock=self._remote, backlog=BACKLOG)
            servers.append((remote, self._remote))
        self._ready.put(None)
        while not self._stopping.is_set():
            door.turn()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), SWEEP_S)
        for (server, listens), front in zip(servers, door.fronts, strict=False):
            for one in _closed(server, listens):
                await self._loop.connect_accepted_socket(front, one)
            front.close()
        until_s = self._loop.time() + GRACE_S
        while any(front.open for front in door.fronts) and self._loop.time() < until_s:
            for front in door.fronts:
                front.sweep(self._loop.time())
            await asyncio.sleep(0.02)
        for front in door.fronts:
            front.abort()
        door.turn()
        for task in list(door.tasks):
            task.cancel()
        await asyncio.sleep(0)


def _make_room(handle: int) -> None:
    """Let the process's table of open files be as long as its connections will need: to grow it later, while other
    threads look things up in it, takes Linux some 15 ms, in which the thread that accepts stands still."""
    most = min(FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with contextlib.suppress(OSError):
        os.close(fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, most - 1))


def _closed(server: asyncio.AbstractServer, listens: socket.socket) -> list[socket.socket]:
    """Close a server; the connections that nobody has taken from its queue, which would be cut off else: they are made
    before anybody here hears of them."""
    found: list[socket.socket] = []
    with listens.dup() as queued, contextlib.suppress(OSError):
        server.close()
        queued.setblocking(False)
        while True:
            found.append(queued.accept()[0])
    return found
