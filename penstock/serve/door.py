"""serve: the door: every call that is let in goes its way, the hurried one or the application's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp

from penstock.record.errors import PenstockError, Refused
from penstock.serve.desk import Desk
from penstock.serve.front.asgi import run
from penstock.serve.front.call import Answer, Call, Headers
from penstock.serve.front.wire import LIMITS, Front, Guard, Limits
from penstock.serve.hot import lanes
from penstock.serve.identity import Keys, Unauthorised, is_loopback
from penstock.serve.times import Times

OPEN = (b"/v2/health/live", b"/v2/health/ready")
_PLAIN = {b"content-encoding", b"traceparent", b"origin", b"timeout-ms", b"inference-header-content-length"}
"""A call with one of these, or with another type of content, takes the other way."""


class WrongHost(Refused):
    """This server does not answer under this host name."""

    code = "host"
    status = 400


def guard(keys: Keys | None, hosts: tuple[str, ...]) -> Guard:
    """Only known host names, so that a page elsewhere cannot reach us by a name that it points at loopback;
    and every address but health asks for a key, once there are keys."""
    known: set[bytes] = set()

    def named(host: bytes) -> bool:
        if host in known:
            return True
        text = host.decode("latin-1")
        name = text.rpartition(":")[0] if text.rpartition(":")[2].isdigit() else text
        name = name.strip("[]")
        if name not in hosts and not is_loopback(name):
            return False
        if len(known) < 64:
            known.add(host)
        return True

    def check(path: bytes, headers: Headers) -> PenstockError | None:
        host = authorization = b""
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"authorization":
                authorization = value
        if not named(host):
            return WrongHost()
        if keys is not None and path not in OPEN and keys.name_of(authorization.decode("latin-1")) is None:
            return Unauthorised()
        return None

    return check


class Door:
    """Everything behind an address: on one event loop. `inner`: what comes in was timed by whoever passed it on."""

    def __init__(
        self,
        desk: Desk,
        app: ASGIApp,
        keys: Keys | None,
        hosts: tuple[str, ...],
        note: Callable[[BaseException], None],
        limits: Limits = LIMITS,
        *,
        inner: bool = False,
    ) -> None:
        self.app, self.note = app, note
        self.tasks: set[asyncio.Task[None]] = set()
        self.loop = asyncio.get_running_loop()
        self.hot = lanes(desk, self.loop.call_soon, self.slow, note)

        def count(status: str, code: str) -> None:
            desk.count("answers_refused", {"status": status, "code": code}, 1)

        self.times = Times()
        self.desk = desk
        took = _untimed if inner else self.times.took
        self.front = Front(self.take, guard(keys, hosts), count, limits, took)

    def turn(self) -> None:
        """What is to be done every so often: end what takes too long, hand over what was counted."""
        self.front.sweep(self.loop.time())
        self.times.tell(self.desk.count)

    def take(self, call: Call) -> None:
        """Serve a call."""
        hot = self.hot.get(call.path) if call.method == b"POST" else None
        if hot is not None and _is_plain(call.headers):
            return hot(call)
        return self.slow(call)

    def slow(self, call: Call) -> None:
        """Let the application serve it."""
        task = self.loop.create_task(self._run(call))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        call.left = task.cancel

    async def _run(self, call: Call) -> None:
        try:
            await run(self.app, call)
        except Exception as error:  # the caller learns nothing of our insides
            self.note(error)
            call.reply(Answer(500, b'{"error":"internal error","code":"internal"}'))


def _untimed(call: Call, status: int, seconds: float) -> None:
    """What another process counts."""


def _is_plain(headers: Headers) -> bool:
    kind = b""
    for name, value in headers:
        if name == b"content-type":
            kind = value
        elif name in _PLAIN:
            return False
    return kind in (b"application/json", b"")
