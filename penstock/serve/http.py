"""serve: the HTTP door. Routes are data; every answer is strict JSON, every error a sentence with a code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from penstock.record.decisions import Prediction
from penstock.record.errors import NotFound, PenstockError, Unavailable
from penstock.release.registry import Entry
from penstock.serve.answers import TIMEOUT_S, Endpoint, body_of, json_of, refusal
from penstock.serve.desk import Desk
from penstock.serve.events import appending, retracting
from penstock.serve.features import listing, looking
from penstock.serve.infer import InferRequest, answer, face_of, metadata, parse, rows_of
from penstock.serve.metrics import exposition

Note = Callable[[BaseException], None]


def create(desk: Desk, pages: ASGIApp | None, note: Note, *, alone: bool = False) -> ASGIApp:
    """Every route, the pages last. `note` is told of every error that is not the caller's; `alone`: only the
    routes of models, all others are the pages'."""
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
        ("/v2/features", listing, "GET"),
        ("/v2/features/{name}", looking, "POST"),
        ("/events/{topic}", appending, "POST"),
        ("/events/{topic}/{id:path}", retracting, "DELETE"),
        ("/status", _status, "GET"),
        ("/metrics", _metrics, "GET"),
    ]
    if alone:
        table = [
            one for one in table if one[1] not in (listing, looking, appending, retracting, _status, _metrics)
        ]
    routes: list[Any] = [
        Route(path, _told(make(desk), note, desk.count), methods=[method]) for path, make, method in table
    ]
    if pages is not None:
        routes.append(Mount("/", pages))
    return Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})


def _told(endpoint: Endpoint, note: Note, count: Callable[[str, Mapping[str, str], int], None]) -> Endpoint:
    """Errors become answers: those of the house as they are, any other without a word of its own."""

    async def told(request: Request) -> Response:
        try:
            return await endpoint(request)
        except PenstockError as error:
            if error.status >= 500 and not isinstance(error, Unavailable):
                note(error)
            answer = refusal(error)
            count("answers_refused", {"status": str(answer.status_code), "code": error.code}, 1)
            return answer
        except Exception as error:  # the caller learns nothing of our insides
            note(error)
            count("answers_refused", {"status": "500", "code": "internal"}, 1)
            return json_of({"error": "internal error", "code": "internal"}, 500)

    return told


async def _unrouted(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    sentence = {404: "There is nothing at this address.", 405: "This address does not take this method."}
    return json_of(
        {"error": sentence.get(status, "This cannot be answered."), "code": f"http_{status}"}, status
    )


# The Open Inference Protocol.


def _server(desk: Desk) -> Endpoint:
    async def server(request: Request) -> Response:
        return json_of({"name": "penstock", "version": version("penstock"), "extensions": []})

    return server


def _live(desk: Desk) -> Endpoint:
    async def live(request: Request) -> Response:
        found = desk.health()
        broken, held = found["broken"], found["held"]
        return json_of({"live": not broken, "ready": not broken, "held": held}, 503 if broken else 200)

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
        return json_of(metadata(face, sorted(entry.versions)))

    return model


def _ready(desk: Desk) -> Endpoint:
    async def ready(request: Request) -> Response:
        entry, number = _version(desk, request)
        champion = entry.route.champion
        is_ready = champion is not None and number in (0, champion.version)
        return json_of({"name": request.path_params["name"], "ready": is_ready}, 200 if is_ready else 503)

    return ready


def _infer(desk: Desk) -> Endpoint:
    async def infer(request: Request) -> Response:
        asked = parse(await body_of(request, "application/json"))
        entry, number = _version(desk, request)
        face = desk.faces[request.path_params["name"]]
        champion = entry.route.champion.version if entry.route.champion else 0
        if number and number != champion:
            raise NotFound(f"{face.name} answers with its champion, v{champion}.", code="not_champion")
        said = await _ask(desk, asked, face.name)
        if len(said) == 1 and said[0].error:
            return json_of({"error": "The model could not answer this request.", "code": said[0].error}, 500)
        response = json_of(answer(asked, face, said, champion, desk.durability))
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


# How things stand.


def _status(desk: Desk) -> Endpoint:
    async def status(request: Request) -> Response:
        return json_of(desk.status())

    return status


def _metrics(desk: Desk) -> Endpoint:
    async def metrics(request: Request) -> Response:
        return Response(exposition(desk.status()), media_type="text/plain; version=0.0.4")

    return metrics
