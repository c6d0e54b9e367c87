"""serve: the REST interface of TensorFlow Serving: predict, classify, regress, status, metadata.

Source: TensorFlow Serving's RESTful API. What a model says is one output, its score.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock.record.codec import to_json
from penstock.record.errors import NotFound
from penstock.release.registry import Entry
from penstock.serve.answers import Endpoint, json_of, response
from penstock.serve.asking import (
    Answered,
    Shape,
    Shaped,
    alike,
    ask,
    body_of,
    entry_of,
    json_in,
    must_answer,
    time_for,
)
from penstock.serve.desk import Desk, ModelFace
from penstock.serve.front.call import Answer
from penstock.serve.infer import MOST_ROWS, datatype
from penstock.serve.tensors import BadRequest

SIGNATURES = ("", "serving_default")
_TYPES = {"FP64": "DT_DOUBLE", "INT64": "DT_INT64", "BOOL": "DT_BOOL", "BYTES": "DT_STRING"}


def calling(desk: Desk) -> Endpoint:
    """`POST /v1/models/NAME[/versions/N|/labels/L]:VERB`."""

    async def call(request: Request) -> Response:
        shape = SHAPES.get(request.path_params["verb"])
        if shape is None:
            raise NotFound("A model predicts, classifies or regresses.", hint="POST to :predict.")
        body = json_in(await body_of(request, "application/json"))
        name, entry, number = entry_of(desk, request)
        _labelled(request, name, entry)
        must_answer(name, entry, number)
        one = shape(body, desk, name)
        said = await ask(desk, name, one.rows, one.features, time_for(request), number)
        return response(one.told(said))

    return call


def _predicting(body: Any, desk: Desk, name: str) -> Shaped:
    if type(body) is not dict:
        raise BadRequest("The body is an object.")
    if body.get("signature_name", "") not in SIGNATURES:
        raise BadRequest("There is one signature, serving_default.", where="signature_name")
    if ("instances" in body) == ("inputs" in body):
        raise BadRequest('The body has "instances" or "inputs".')
    by_row = "instances" in body
    found = body["instances"] if by_row else _turned(body["inputs"], desk.faces[name])
    return _shaped(found, desk, name, partial(_scores, "predictions" if by_row else "outputs"))


def _classifying(body: Any, desk: Desk, name: str) -> Shaped:
    return _shaped(_examples(body), desk, name, _classes)


def _regressing(body: Any, desk: Desk, name: str) -> Shaped:
    return _shaped(_examples(body), desk, name, partial(_scores, "results"))


SHAPES: Mapping[str, Shape] = {"predict": _predicting, "classify": _classifying, "regress": _regressing}
"""How a body is read, by the verb."""


def _shaped(found: Any, desk: Desk, name: str, told: Callable[[Sequence[Answered]], Answer]) -> Shaped:
    if type(found) is not list:
        raise BadRequest("The rows are a list.")
    return Shaped(*alike([_decoded(row) for row in found], desk, name, MOST_ROWS), told)


def _scores(key: str, said: Sequence[Answered]) -> Answer:
    return Answer(200, to_json({key: [one.score for one in said]}))


def _classes(said: Sequence[Answered]) -> Answer:
    results = [
        [["true", one.score], ["false", None if one.score is None else 1.0 - one.score]] for one in said
    ]
    return Answer(200, to_json({"results": results}))


def _examples(body: Any) -> list[Any]:
    """The rows of classify and regress, each with what all of them share."""
    if type(body) is not dict:
        raise BadRequest("The body is an object.")
    examples, shared = body.get("examples"), body.get("context", {})
    if (
        type(examples) is not list
        or type(shared) is not dict
        or any(type(one) is not dict for one in examples)
    ):
        raise BadRequest('The body has "examples", a list of objects, and may have "context", an object.')
    return [{**shared, **one} for one in examples]


def _decoded(row: Any) -> Any:
    """A row in which bytes written in base 64 are texts."""
    if type(row) is dict and row.keys() == {"b64"}:
        try:
            return base64.b64decode(row["b64"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, TypeError, ValueError):
            raise BadRequest("A value in base 64 is no text.", where="b64") from None
    if type(row) is dict:
        return {name: _decoded(value) if type(value) is dict else value for name, value in row.items()}
    return [_decoded(one) for one in row] if type(row) is list else row


def _turned(inputs: Any, face: ModelFace) -> list[Any]:
    """Rows from columns: of all features in one list of lists, or by name."""
    if type(inputs) is list:
        return inputs
    if type(inputs) is not dict or not inputs:
        raise BadRequest('"inputs" is a list, or an object of columns.')
    columns = {name: data if type(data) is list else [data] for name, data in inputs.items()}
    if len(columns) == 1 and all(type(row) is list for row in next(iter(columns.values()))):
        (name,) = columns
        if name not in face.request.columns:
            return columns[name]
    columns = {
        name: [one[0] if type(one) is list and len(one) == 1 else one for one in data]
        for name, data in columns.items()
    }
    sizes = {len(data) for data in columns.values()}
    if len(sizes) != 1:
        raise BadRequest("The columns have different numbers of rows.")
    return [{name: data[i] for name, data in columns.items()} for i in range(sizes.pop())]


def _labelled(request: Request, name: str, entry: Entry) -> None:
    label = request.path_params.get("label", "champion")
    if label not in ("champion", "stable"):
        raise NotFound(f"{name} answers under the label champion.", code="no_label")


def standing(desk: Desk) -> Endpoint:
    """`GET /v1/models/NAME`: the versions that score, the champion first."""

    async def status(request: Request) -> Response:
        name, entry, number = entry_of(desk, request)
        _labelled(request, name, entry)
        scoring = [ref.version for _, ref in entry.route.versions()]
        listed = [number] if number else scoring[:1] if "label" in request.path_params else scoring
        told = [
            {
                "version": str(one),
                "state": "AVAILABLE" if one in scoring else "END",
                "status": {"error_code": "OK", "error_message": ""},
            }
            for one in listed
        ]
        return json_of({"model_version_status": told})

    return status


def describing(desk: Desk) -> Endpoint:
    """`GET /v1/models/NAME/metadata`: the one signature."""

    async def metadata(request: Request) -> Response:
        name, entry, number = entry_of(desk, request)
        face = desk.faces[name]
        inputs = {one: _tensor(one, datatype(face.request, one)) for one in face.request.columns}
        signature = {
            "inputs": inputs,
            "outputs": {"score": _tensor("score", "FP64")},
            "method_name": "tensorflow/serving/predict",
        }
        version = number or (entry.route.champion.version if entry.route.champion else 0)
        return json_of(
            {
                "model_spec": {"name": name, "signature_name": "", "version": str(version)},
                "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
            }
        )

    return metadata


def _tensor(name: str, kind: str) -> dict[str, Any]:
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    return {"dtype": _TYPES[kind], "tensor_shape": shape, "name": f"{name}:0"}


def routes() -> Sequence[tuple[str, Callable[[Desk], Endpoint], str]]:
    """The addresses of this protocol."""
    bases = ("/v1/models/{name}", "/v1/models/{name}/versions/{version}", "/v1/models/{name}/labels/{label}")
    return [
        *((f"{base}:{{verb}}", calling, "POST") for base in reversed(bases)),
        *((f"{base}/metadata", describing, "GET") for base in bases[:2]),
        *((base, standing, "GET") for base in bases),
    ]
