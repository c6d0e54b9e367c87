"""serve: the door: every call that is let in goes its way, the hurried one or the application's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
from starlette.types import ASGIApp

from penstock.record.errors import PenstockError, Refused, Unavailable
from penstock.serve import mlflow, plain, tensorflow
from penstock.serve.answers import TIMEOUT_S
from penstock.serve.carried import carried
from penstock.serve.desk import Desk
from penstock.serve.front.asgi import run
from penstock.serve.front.call import INTERNAL, Answer, Call, Head, Headers, refused, status_of
from penstock.serve.front.http2 import Calls
from penstock.serve.front.wire import LIMITS, Front, Guard, Limits, Serve
from penstock.serve.grpc import service
from penstock.serve.hot import Lane, Read, carrying, lanes
from penstock.serve.identity import Keys, Unauthorised, is_loopback
from penstock.serve.times import Times

OPEN = (b"/v2/health/live", b"/v2/health/ready")
UNBEGUN = 64
"""So many calls may wait to be begun before no other is taken: what each takes adds up to what the last one waits."""
_ODD = {b"content-encoding", b"origin", b"inference-header-content-length"}
"""A call with one of these, or a time that is none, or another type of content, takes the other way."""


class Way(msgspec.Struct, frozen=True):
    """How calls of an address go in a hurry: the lane, who reads their bodies, and the words of a refusal."""

    lane: Lane
    read: Read
    refusal: Callable[[PenstockError], Answer] = refused


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


def with_key(keys: Keys | None) -> Guard:
    """By gRPC every method but health asks for a key, once there are keys; whatever name it is called by, no page can
    call it."""

    def check(path: bytes, headers: Headers) -> PenstockError | None:
        if keys is None or path in service.OPEN:
            return None
        authorization = dict(headers).get(b"authorization", b"")
        return Unauthorised() if keys.name_of(authorization.decode("latin-1")) is None else None

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
        self.app, self.note, self.unbegun = app, note, 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.loop = asyncio.get_running_loop()
        known = lanes(desk, self.loop, self.slow, note)
        self.hot = ways(known)

        def count(status: str, code: str) -> None:
            desk.count("answers_refused", {"status": status, "code": code}, 1)

        self.times = Times()
        self.desk = desk
        took = _untimed if inner else self.times.took
        self.front = Front(self.route, guard(keys, hosts), count, limits, took)
        remote = service.Remote(desk, known, self.slow, note)
        self.remote = Front(lambda head: remote, with_key(keys), count, limits, took, Calls)

    def turn(self) -> None:
        """What is to be done every so often: end what takes too long, hand over what was counted."""
        for front in self.fronts:
            front.sweep(self.loop.time())
        self.times.tell(self.desk.count)

    @property
    def fronts(self) -> tuple[Front, Front]:
        """HTTP's and gRPC's."""
        return self.front, self.remote

    def route(self, head: Head) -> Serve:
        """Who serves a call."""
        way = self.hot.get(head.path) if head.method == b"POST" and not head.query else None
        if way is None:
            return self.slow
        timeout_s, read, carries = _time_for(head), way.read, carried(head.headers)
        if carries:
            read = partial(carrying, read, carries)
        then = partial(way.lane.take, read, timeout_s) if _is_plain(head.headers) else self.slow
        return partial(self.hurry, way, timeout_s, then)

    def hurry(self, way: Way, timeout_s: float, then: Serve, call: Call) -> None:
        """Serve a call, or say that too many wait: before any work is done for it."""
        call.refusal = way.refusal
        error = self.desk.crowd(way.lane.face.name, timeout_s)
        if error is not None:
            return self.refuse(call, error)
        return then(call)

    def refuse(self, call: Call, error: PenstockError) -> None:
        """Say no."""
        self.desk.count("answers_refused", {"status": str(status_of(error)), "code": error.code}, 1)
        call.refuse(error)

    def slow(self, call: Call, run: service.Run | None = None) -> None:
        """Let the application serve it, or what else is named; where many wait even to be begun, say no at once."""
        if self.unbegun >= UNBEGUN and call.head.path not in OPEN:
            return self.refuse(
                call,
                Unavailable("More is asked than can be answered.", code="busy", hint="Send more slowly."),
            )
        self.unbegun += 1
        self.loop.call_soon(self._begin, call, run or self._run)

    def _begin(self, call: Call, run: service.Run) -> None:
        self.unbegun -= 1
        if call.gone:
            return
        task = self.loop.create_task(run(call))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        call.left = task.cancel

    async def _run(self, call: Call) -> None:
        try:
            await run(self.app, call)
        except Exception as error:  # the caller learns nothing of our insides
            self.note(error)
            call.refuse(INTERNAL)


def ways(lanes: Mapping[str, Lane]) -> dict[bytes, Way]:
    """The addresses where models are asked in a hurry."""
    found: dict[str, Way] = {}
    for name, lane in lanes.items():
        found[f"/v2/models/{name}/infer"] = Way(lane, lane.infer)
        found[f"/models/{name}"] = Way(lane, partial(lane.shaped, plain.shaped))
        found[f"/models/{name}/invocations"] = way = Way(
            lane, partial(lane.shaped, mlflow.shaped), mlflow.refusal
        )
        found |= {
            f"/v1/models/{name}:{verb}": Way(lane, partial(lane.shaped, shape))
            for verb, shape in tensorflow.SHAPES.items()
        }
    if len(lanes) == 1:
        found["/invocations"] = way
    return {path.encode(): one for path, one in found.items()}


def _time_for(head: Head) -> float:
    """The seconds that a caller waits, as far as that can be told at a look; who sends nonsense is told so later."""
    text = head.header(b"timeout-ms")
    return min(TIMEOUT_S, int(text) / 1000) if _is_time(text) else TIMEOUT_S


def _is_time(text: bytes) -> bool:
    return text.isdigit() and len(text) < 10 and int(text) > 0


def _untimed(call: Call, status: int, seconds: float) -> None:
    """What another process counts."""


def _is_plain(headers: Headers) -> bool:
    kind = b""
    for name, value in headers:
        if name == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
        elif name in _ODD or (name == b"timeout-ms" and not _is_time(value)):
            return False
    return kind in (b"application/json", b"")
