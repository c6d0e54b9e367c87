"""serve: the HTTP door. Routes are data; every answer is strict JSON, every error a sentence with a code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from penstock.record.codec import to_json
from penstock.record.errors import PenstockError, Unavailable
from penstock.serve import mlflow, openapi, plain, tensorflow
from penstock.serve.answers import Endpoint, json_of, response
from penstock.serve.asking import (
    answers,
    ask,
    body_of,
    entry_of,
    index_of,
    must_answer,
    must_be_loaded,
    stays,
    time_for,
)
from penstock.serve.carried import CARRIED, carried
from penstock.serve.desk import Desk
from penstock.serve.events import appending, retracting
from penstock.serve.features import listing, looking
from penstock.serve.front.call import INTERNAL, Answer, failed, refused
from penstock.serve.infer import EXTENSIONS, answer, metadata, parse, rows_of
from penstock.serve.metrics import exposition
from penstock.serve.replies import finding, reading

JSON_BYTES = "inference-header-content-length"
Note = Callable[[BaseException], None]


Routes = Sequence[tuple[str, Callable[[Desk], Endpoint], str]]


def of_models() -> Routes:
    """The addresses of models: what a process that only serves them answers itself."""
    return [
        ("/v2", _server, "GET"),
        ("/v2/health/live", _live, "GET"),
        ("/v2/health/ready", _live, "GET"),
        ("/v2/models/{name}", _model, "GET"),
        ("/v2/models/{name}/ready", _ready, "GET"),
        ("/v2/models/{name}/versions/{version}", _model, "GET"),
        ("/v2/models/{name}/versions/{version}/ready", _ready, "GET"),
        ("/v2/models/{name}/infer", _infer, "POST"),
        ("/v2/models/{name}/versions/{version}/infer", _infer, "POST"),
        ("/v2/repository/index", _index, "POST"),
        ("/v2/repository/models/{name}/load", _load, "POST"),
        ("/v2/repository/models/{name}/unload", _unload, "POST"),
        *tensorflow.routes(),
        *mlflow.routes(),
        ("/models/{name}", plain.asking, "POST"),
        ("/openapi.json", openapi.telling, "GET"),
        ("/docs", openapi.showing, "GET"),
    ]


def of_the_home() -> Routes:
    """The addresses of the rest of the system."""
    return [
        ("/v2/features", listing, "GET"),
        ("/v2/features/{name}", looking, "POST"),
        ("/models/{name}/answers", reading, "GET"),
        ("/models/{name}/answers/{id:path}", finding, "GET"),
        ("/events/{topic}", appending, "POST"),
        ("/events/{topic}/{id:path}", retracting, "DELETE"),
        ("/status", _status, "GET"),
        ("/metrics", _metrics, "GET"),
    ]


def create(desk: Desk, pages: ASGIApp | None, note: Note, *, alone: bool = False) -> ASGIApp:
    """Every route, the pages last. `note` is told of every error that is not the caller's; `alone`: only the
    routes of models, all others are the pages'."""
    table = [*of_models(), *([] if alone else of_the_home())]
    words = {path: mlflow.refusal for path, _, _ in mlflow.routes()}
    routes: list[Any] = [
        Route(path, _told(make(desk), note, desk.count, words.get(path, refused)), methods=[method])
        for path, make, method in table
    ]
    if pages is not None:
        routes.append(Mount("/", pages))
    return Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})


def _told(
    endpoint: Endpoint,
    note: Note,
    count: Callable[[str, Mapping[str, str], int], None],
    words: Callable[[PenstockError], Answer],
) -> Endpoint:
    """Errors become answers: those of the house as they are, any other without a word of its own. What is answered is
    traced as it was asked."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except PenstockError as error:
            if error.status >= 500 and not isinstance(error, Unavailable):
                note(error)
            answer = words(error)
            count("answers_refused", {"status": str(answer.status), "code": error.code}, 1)
            return response(answer)
        except Exception as error:  # the caller learns nothing of our insides
            note(error)
            count("answers_refused", {"status": "500", "code": "internal"}, 1)
            return response(words(INTERNAL))

    async def told(request: Request) -> Response:
        carries = carried(request.scope["headers"])
        CARRIED.set(carries)
        answer = await answered(request)
        if "traceparent" in carries:
            answer.headers["traceparent"] = carries["traceparent"]
        return answer

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
        return json_of({"name": "penstock", "version": version("penstock"), "extensions": EXTENSIONS})

    return server


def _live(desk: Desk) -> Endpoint:
    async def live(request: Request) -> Response:
        found = desk.health()
        broken, held = found["broken"], found["held"]
        return json_of({"live": not broken, "ready": not broken, "held": held}, 503 if broken else 200)

    return live


def _model(desk: Desk) -> Endpoint:
    async def model(request: Request) -> Response:
        name, entry, _ = entry_of(desk, request)
        return json_of(metadata(desk.faces[name], sorted(entry.versions)))

    return model


def _ready(desk: Desk) -> Endpoint:
    async def ready(request: Request) -> Response:
        name, entry, number = entry_of(desk, request)
        is_ready = answers(entry, number)
        return json_of({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    return ready


def _infer(desk: Desk) -> Endpoint:
    async def infer(request: Request) -> Response:
        body = await body_of(request, "application/json", "application/octet-stream")
        asked, found = parse(body, request.headers.get(JSON_BYTES, ""))
        name, entry, number = entry_of(desk, request)
        champion = must_answer(name, entry, number)
        face = desk.faces[name]
        rows, features = rows_of(asked.inputs, found, face)
        timeout_s = time_for(request, asked.parameters.get("timeout"))
        said = await ask(desk, name, rows, features, timeout_s, number)
        if len(said) == 1 and said[0].error:
            return response(failed(said[0].error))
        told, rest = answer(asked, face, said, champion, desk.durability)
        text = to_json(told)
        kind = "application/octet-stream" if rest else "application/json"
        return Response(text + rest, headers={JSON_BYTES: str(len(text))} if rest else None, media_type=kind)

    return infer


def _index(desk: Desk) -> Endpoint:
    async def index(request: Request) -> Response:
        return json_of(index_of(desk))

    return index


def _load(desk: Desk) -> Endpoint:
    async def load(request: Request) -> Response:
        name, entry, _ = entry_of(desk, request)
        must_be_loaded(name, entry)
        return json_of({})

    return load


def _unload(desk: Desk) -> Endpoint:
    async def unload(request: Request) -> Response:
        name, _, _ = entry_of(desk, request)
        raise stays(name)

    return unload


# How things stand.


def _status(desk: Desk) -> Endpoint:
    async def status(request: Request) -> Response:
        return json_of(desk.status())

    return status


def _metrics(desk: Desk) -> Endpoint:
    async def metrics(request: Request) -> Response:
        return Response(exposition(desk.status()), media_type="text/plain; version=0.0.4")

    return metrics
