"""serve: the scoring protocol of MLflow: its four forms of JSON and CSV, on `/invocations`.

Source: MLflow's documentation of the inference server. What a model says is its score.
"""

from __future__ import annotations

import csv
import io
import typing
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from penstock.record.codec import to_json
from penstock.record.errors import NotFound, PenstockError, Refused
from penstock.serve.answers import Endpoint, response
from penstock.serve.asking import Answered, Shaped, alike, ask, body_of, json_in, time_for
from penstock.serve.desk import Desk
from penstock.serve.front.call import Answer, refused
from penstock.serve.infer import MOST_ROWS, are_features, face_of
from penstock.serve.tensors import BadRequest

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_CODES = {
    404: "RESOURCE_DOES_NOT_EXIST",
    500: "INTERNAL_ERROR",
    429: "RESOURCE_EXHAUSTED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "TEMPORARILY_UNAVAILABLE",
}


def invoking(desk: Desk) -> Endpoint:
    """`POST /invocations`, or `/models/NAME/invocations`."""

    async def invoke(request: Request) -> Response:
        name = _name(desk, request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await body_of(request, "application/json", "text/csv")
        if kind == "text/csv":
            one = Shaped(*_rows_of_csv(body, desk, name), _told)
        else:
            one = shaped(json_in(body), desk, name)
        return response(one.told(await ask(desk, name, one.rows, one.features, time_for(request))))

    return invoke


def shaped(body: Any, desk: Desk, name: str) -> Shaped:
    """The rows of one of the forms of JSON."""
    return Shaped(*_rows(body, desk, name), _told)


def _told(said: Sequence[Answered]) -> Answer:
    if len(said) == 1 and said[0].error:
        text = {"error_code": "INTERNAL_ERROR", "message": f"The model failed: {said[0].error}."}
        return Answer(500, to_json(text))
    return Answer(200, to_json({"predictions": [one.score for one in said]}))


def refusal(error: PenstockError) -> Answer:
    """An error as this protocol's clients read it."""
    answer = refused(error)
    code = _CODES.get(answer.status, "BAD_REQUEST")
    text = {"error_code": code, "message": str(error), "code": error.code}
    return msgspec.structs.replace(answer, body=to_json(text))


def _name(desk: Desk, request: Request) -> str:
    name = request.path_params.get("name") or request.query_params.get("model")
    if name is None and len(desk.faces) > 1:
        raise NotFound(
            "There are several models here.", code="which_model",
            hint=f"Name one: /models/NAME/invocations. There are {', '.join(sorted(desk.faces))}.",
        )  # fmt: skip
    return face_of(desk.faces, name or next(iter(desk.faces), "")).name


def _rows(body: Any, desk: Desk, name: str) -> tuple[list[dict[str, Any]], bool]:
    """The rows of one of the forms of JSON."""
    forms = [one for one in FORMS if type(body) is dict and one in body]
    if len(forms) != 1:
        raise BadRequest(f"The body has one of {', '.join(FORMS)}.")
    found = body[forms[0]]
    if forms[0] == "dataframe_split":
        return alike(_split(found), desk, name, MOST_ROWS)
    if type(found) is dict:
        columns = {key: data if type(data) is list else [data] for key, data in found.items()}
        sizes = {len(data) for data in columns.values()}
        if len(sizes) != 1:
            raise BadRequest("The columns have different numbers of rows.", where=forms[0])
        found = [{key: data[i] for key, data in columns.items()} for i in range(sizes.pop())]
    if type(found) is not list:
        raise BadRequest("The rows are a list.", where=forms[0])
    return alike(found, desk, name, MOST_ROWS)


def _split(found: Any) -> list[Any]:
    """Rows from a frame's columns and data."""
    if type(found) is not dict or type(found.get("data")) is not list:
        raise BadRequest('A frame has "columns" and "data".', where="dataframe_split")
    columns = found.get("columns")
    if columns is None:
        return list(found["data"])
    if (
        type(columns) is not list
        or any(type(one) is not str for one in columns)
        or len(set(columns)) < len(columns)
    ):
        raise BadRequest("The columns are different names.", where="dataframe_split")
    for i, row in enumerate(found["data"]):
        if type(row) is not list or len(row) != len(columns):
            raise BadRequest(f"A row has {len(columns)} values.", where=f"dataframe_split, row {i}")
    return [dict(zip(columns, row, strict=True)) for row in found["data"]]


def _rows_of_csv(body: bytes, desk: Desk, name: str) -> tuple[list[dict[str, Any]], bool]:
    """The rows of CSV with a head: texts, read as what each column is; an empty one is missing."""
    face = desk.faces[name]
    try:
        head, *lines = list(csv.reader(io.StringIO(body.decode()), strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error):
        raise BadRequest("The body is not valid CSV.") from None
    if len(set(head)) < len(head) or not head:
        raise BadRequest("The first line names the columns, each once.")
    features = are_features(dict.fromkeys(head), face)
    if not 0 < len(lines) <= MOST_ROWS:
        raise BadRequest(f"A request has 1 to {MOST_ROWS} rows.")
    kinds = typing.get_type_hints(face.request.schema)
    rows = []
    for i, line in enumerate(lines):
        if len(line) != len(head):
            raise BadRequest(f"A line has {len(head)} values.", where=f"row {i}")
        cells = zip(head, line, strict=True)
        rows.append(
            {key: _number(text) if features else _cell(key, text, kinds[key], i) for key, text in cells}
        )
    return rows, features


def _cell(column: str, text: str, kind: Any, row: int) -> Any:
    """A cell as what its column is."""
    if not text:
        return None
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        raise Refused(
            "A cell is not what its column is.", code="wrong_type", where=f"{column}, row {row}"
        ) from None


def _number(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def living(desk: Desk) -> Endpoint:
    """`GET /ping` and `/health`."""

    async def live(request: Request) -> Response:
        broken = desk.health()["broken"]
        return Response(b"\n", 503 if broken else 200, media_type="application/json")

    return live


def versioned(desk: Desk) -> Endpoint:
    """`GET /version`."""

    async def told(request: Request) -> Response:
        return Response(version("penstock"), media_type="text/plain")

    return told


def routes() -> Sequence[tuple[str, Callable[[Desk], Endpoint], str]]:
    """The addresses of this protocol."""
    return [
        ("/ping", living, "GET"),
        ("/health", living, "GET"),
        ("/version", versioned, "GET"),
        ("/invocations", invoking, "POST"),
        ("/models/{name}/invocations", invoking, "POST"),
    ]
