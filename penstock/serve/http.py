"""serve: the HTTP door. Routes are data; every answer is strict JSON, every error a sentence with a code."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.record.codec import to_json
from penstock.record.decisions import Prediction
from penstock.record.errors import NotFound, PenstockError, Refused, Unavailable
from penstock.release.registry import Entry
from penstock.serve.desk import Desk
from penstock.serve.identity import Keys, Unauthorised, is_loopback
from penstock.serve.infer import BadRequest, InferRequest, answer, face_of, metadata, parse, rows_of

BODY_BYTES = 16 << 20
BODIES_BYTES = 128 << 20
"""What the bodies of all requests under way may take together: one more is refused as it comes in."""
TIMEOUT_S = 10.0
OPEN = ("/v2/health/live", "/v2/health/ready")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_STATUS = {"deadline": 504, "lag": 429, "busy": 429, "log_full": 507, "disk_floor": 507, "log_size": 507}
"""What an error that passes is over HTTP, where it is not 503: too much at once, or no room."""
GAUGES = frozenset((
    "labels_parked", "feature_state_bytes", "feature_state_events", "feature_state_entities",
    "feature_state_largest_entity",
))  # fmt: skip
"""Counts that may fall again."""
_RETRY_S = {429: "1", 503: "1", 507: "10"}
_PRODUCER, _NUMBER = re.compile(r"[A-Za-z0-9_-]{1,64}"), re.compile(r"[0-9]{1,18}")
Endpoint = Callable[[Request], Awaitable[Response]]
Note = Callable[[BaseException], None]


class Bodies:
    """The room that bodies share. On the event loop only."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, request: Request, n: int) -> None:
        """Let `n` bytes of a request in, until it is answered; raises Unavailable where there is no room."""
        if n > self.left:
            raise Unavailable("Too much is sent at once.", code="busy", hint="Send more slowly.")
        self.left -= n
        request.state.taken = getattr(request.state, "taken", 0) + n

    def give_back(self, request: Request) -> None:
        """The request is answered."""
        self.left += getattr(request.state, "taken", 0)


class TooLarge(Refused):
    """The body is larger than 16 MB."""

    code = "too_large"
    status = 413


class NotJson(Refused):
    """Send JSON, with the content type application/json."""

    code = "content_type"
    status = 415


class WrongHost(Refused):
    """This server does not answer under this host name."""

    code = "host"
    status = 400


def create(desk: Desk, keys: Keys | None, hosts: Sequence[str], pages: ASGIApp | None, note: Note) -> ASGIApp:
    """The whole door. `hosts`: further names to answer under besides loopback ones; `note` is told of
    every error that is not the caller's."""
    table: list[tuple[str, Callable[[Desk], Endpoint], str]] = [
        ("/v2", _server, "GET"),
        ("/v2/health/live", _live, "GET"),
        ("/v2/health/ready", _live, "GET"),
        ("/v2/models/{name}", _model, "GET"),
        ("/v2/models/{name}/ready", _ready, "GET"),
        ("/v2/models/{name}/versions/{version}", _model, "GET"),
        ("/v2/models/{name}/versions/{version}/ready", _ready, "GET"),
        ("/v2/models/{name}/infer", _infer, "POST"),
        ("/v2/models/{name}/versions/{version}/infer", _infer, "POST"),
        ("/events/{topic}", _append, "POST"),
        ("/status", _status, "GET"),
        ("/metrics", _metrics, "GET"),
    ]
    bodies = Bodies(BODIES_BYTES)
    routes: list[Any] = [
        Route(path, _told(make(desk), note, desk.count, bodies), methods=[method])
        for path, make, method in table
    ]
    if pages is not None:
        routes.append(Mount("/", pages))
    app: ASGIApp = Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})
    for wrap in (_with_keys(keys), _with_hosts(hosts), _with_headers):
        app = wrap(app)
    return app


def _told(
    endpoint: Endpoint, note: Note, count: Callable[[str, Mapping[str, str]], None], bodies: Bodies
) -> Endpoint:
    """Errors become answers: those of the house as they are, any other without a word of its own."""

    async def told(request: Request) -> Response:
        request.state.bodies = bodies
        try:
            return await endpoint(request)
        except PenstockError as error:
            if error.status >= 500 and not isinstance(error, Unavailable):
                note(error)
            answer = refusal(error)
            count("answers_refused", {"status": str(answer.status_code), "code": error.code})
            return answer
        except ClientDisconnect:  # in the middle of the body: nothing of it was taken
            count("answers_refused", {"status": "499", "code": "left"})
            return Response(status_code=499)
        except Exception as error:  # the caller learns nothing of our insides
            note(error)
            count("answers_refused", {"status": "500", "code": "internal"})
            return _json({"error": "internal error", "code": "internal"}, 500)
        finally:
            bodies.give_back(request)

    return told


def _json(value: Any, status: int = 200) -> Response:
    return Response(to_json(value), status, media_type="application/json")


def refusal(error: PenstockError) -> Response:
    """The answer that an error of the house is."""
    status = _STATUS.get(error.code, error.status)
    response = _json({"error": str(error), "code": error.code}, status)
    if status in _RETRY_S:
        response.headers["retry-after"] = _RETRY_S[status]
    if status == 401:
        response.headers["www-authenticate"] = 'Basic realm="penstock"'
    return response


async def _unrouted(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    sentence = {404: "There is nothing at this address.", 405: "This address does not take this method."}
    return _json(
        {"error": sentence.get(status, "This cannot be answered."), "code": f"http_{status}"}, status
    )


async def _body(request: Request, *kinds: str) -> bytes:
    """The body, refused before it is read where its length or type is wrong."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    from_a_page = "origin" in request.headers  # other programs may leave the type out, as some clients do
    if kind not in kinds and (kind or from_a_page):
        raise NotJson
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > BODY_BYTES:
        raise TooLarge
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES:
            raise TooLarge
        request.state.bodies.take(request, len(part))
        parts.append(part)
    return b"".join(parts)


# The Open Inference Protocol.


def _server(desk: Desk) -> Endpoint:
    async def server(request: Request) -> Response:
        return _json({"name": "penstock", "version": version("penstock"), "extensions": []})

    return server


def _live(desk: Desk) -> Endpoint:
    async def live(request: Request) -> Response:
        status = desk.status()
        broken, held = status.get("broken", ""), status.get("held", "")
        return _json({"live": not broken, "ready": not broken, "held": held}, 503 if broken else 200)

    return live


def _version(desk: Desk, request: Request) -> tuple[Entry, int]:
    """The entry of the model in the path and the version in it, 0 without one."""
    face = face_of(desk.faces, request.path_params["name"])
    entry = desk.registry().models.get(face.name, Entry())
    text = request.path_params.get("version", "")
    number = int(text) if text.isdigit() and len(text) < 10 else 0
    if text and number not in entry.versions:
        raise NotFound(f"{face.name} has no such version.", code="no_version")
    return entry, number


def _model(desk: Desk) -> Endpoint:
    async def model(request: Request) -> Response:
        entry, _ = _version(desk, request)
        face = desk.faces[request.path_params["name"]]
        return _json(metadata(face, sorted(entry.versions)))

    return model


def _ready(desk: Desk) -> Endpoint:
    async def ready(request: Request) -> Response:
        entry, number = _version(desk, request)
        champion = entry.route.champion
        is_ready = champion is not None and number in (0, champion.version)
        return _json({"name": request.path_params["name"], "ready": is_ready}, 200 if is_ready else 503)

    return ready


def _infer(desk: Desk) -> Endpoint:
    async def infer(request: Request) -> Response:
        asked = parse(await _body(request, "application/json"))
        entry, number = _version(desk, request)
        face = desk.faces[request.path_params["name"]]
        champion = entry.route.champion.version if entry.route.champion else 0
        if number and number != champion:
            raise NotFound(f"{face.name} answers with its champion, v{champion}.", code="not_champion")
        said = await _ask(desk, asked, face.name)
        if len(said) == 1 and said[0].error:
            return _json({"error": "The model could not answer this request.", "code": said[0].error}, 500)
        response = _json(answer(asked, face, said, champion, desk.durability))
        if "traceparent" in request.headers:
            response.headers["traceparent"] = request.headers["traceparent"]
        return response

    return infer


async def _ask(desk: Desk, asked: InferRequest, name: str) -> list[Prediction]:
    face = desk.faces[name]
    rows, features = rows_of(asked, face)
    if features:
        return await desk.ask_vectors(name, [[row[f] for f in face.features] for row in rows], TIMEOUT_S)
    return await desk.ask(name, rows, TIMEOUT_S)


# Events, and how things stand.


def _append(desk: Desk) -> Endpoint:
    async def append(request: Request) -> Response:
        body = await _body(request, "application/json", "application/x-ndjson")
        lines = "ndjson" in request.headers.get("content-type", "")
        rows = [line for line in body.splitlines() if line.strip()] if lines else _rows(body)
        report = await desk.append(request.path_params["topic"], rows, _numbered(request))
        taken = report["appended"] + report["duplicates"]
        return _json(report, 200 if taken or not rows else 422)

    return append


def _numbered(request: Request) -> tuple[str, int]:
    """The producer and its number for these events, by which it may send them again."""
    producer, number = (request.headers.get(f"penstock-{name}", "") for name in ("producer", "sequence"))
    if not producer and not number:
        return "", 0
    if not _PRODUCER.fullmatch(producer) or not _NUMBER.fullmatch(number):
        raise Refused(
            "Penstock-Producer is a name of at most 64 letters, digits, - and _; Penstock-Sequence a number.",
            code="sequence",
        )
    return producer, int(number)


def _rows(body: bytes) -> list[bytes]:
    """A JSON object, or each of an array's, still as JSON."""
    try:
        if not body.lstrip().startswith(b"["):
            return [body]
        return [bytes(one) for one in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON.") from None


def _status(desk: Desk) -> Endpoint:
    async def status(request: Request) -> Response:
        return _json(desk.status())

    return status


def _metrics(desk: Desk) -> Endpoint:
    async def metrics(request: Request) -> Response:
        return Response(_exposition(desk.status()), media_type="text/plain; version=0.0.4")

    return metrics


def _exposition(status: dict[str, Any]) -> str:
    """How things stand, in Prometheus' text format."""
    lines = [
        "# TYPE penstock_log_end counter",
        f"penstock_log_end {status['end']}",
        "# TYPE penstock_stage_lag gauge",
    ]
    lines += [f'penstock_stage_lag{{stage="{name}"}} {one["lag"]}' for name, one in status["stages"].items()]
    lines.append("# TYPE penstock_records counter")
    lines += [f'penstock_records{{topic="{topic}"}} {n}' for topic, n in status["topics"].items()]
    lines.append("# TYPE penstock_alerts gauge")
    lines += [
        f'penstock_alerts{{model="{name}"}} {len(one["alerts"])}' for name, one in status["models"].items()
    ]
    held = status.get("held", "")
    lines += ["# TYPE penstock_held gauge", f'penstock_held{{code="{held}"}} {int(bool(held))}']
    lines += _counted("penstock", status.get("counters", ()))
    lines += _counted("penstock_since_start", status.get("since_start", ()))
    return "\n".join(lines) + "\n"


def _counted(prefix: str, counts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Counts in Prometheus' text format; a number under one name goes together."""
    lines: list[str] = []
    for name in dict.fromkeys(one["name"] for one in counts):
        lines.append(f"# TYPE {prefix}_{name} {'gauge' if name in GAUGES else 'counter'}")
        for one in counts:
            if one["name"] == name:
                labels = ",".join(f'{key}="{value}"' for key, value in one["labels"].items())
                lines.append(f"{prefix}_{name}{{{labels}}} {one['value']}")
    return lines


# Middleware: functions from an app to an app.


def _with_keys(keys: Keys | None) -> Callable[[ASGIApp], ASGIApp]:
    """Every address but health asks for a key, once there are keys."""

    def wrap(app: ASGIApp) -> ASGIApp:
        if keys is None:
            return app

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] not in OPEN:
                header = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
                if keys.name_of(header) is None:
                    return await refusal(Unauthorised())(scope, receive, send)
            await app(scope, receive, send)

        return guarded

    return wrap


def _with_hosts(hosts: Sequence[str]) -> Callable[[ASGIApp], ASGIApp]:
    """Only known host names: a page elsewhere cannot reach us by a name that it points at loopback."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def named(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
                name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
                name = name.strip("[]")
                if name not in hosts and not is_loopback(name):
                    return await refusal(WrongHost())(scope, receive, send)
            await app(scope, receive, send)

        return named

    return wrap


def _with_headers(app: ASGIApp) -> ASGIApp:
    async def headed(scope: Scope, receive: Receive, send: Send) -> None:
        async def more(message: Message) -> None:
            if message["type"] == "http.response.start":
                had = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in _HEADERS if h[0] not in had)]
            await send(message)

        await app(scope, receive, more)

    return headed
