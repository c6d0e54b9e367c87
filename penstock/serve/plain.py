"""serve: a model asked in plain JSON: the request's columns in an object, the answer in an object."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock.record.decisions import Prediction
from penstock.serve.answers import Endpoint, json_of
from penstock.serve.asking import alike, ask, body_of, entry_of, json_in, time_for
from penstock.serve.desk import Desk
from penstock.serve.infer import MOST_ROWS, prediction_id
from penstock.serve.tensors import BadRequest


def told(said: Prediction) -> dict[str, Any]:
    """An answer to one row."""
    answer = {
        "score": said.score, "positive": said.positive, "version": said.version, "request_id": said.request,
        "prediction_id": prediction_id(said),
    }  # fmt: skip
    return answer | ({"error": said.error} if said.error else {})


def asking(desk: Desk) -> Endpoint:
    """`POST /models/NAME`: one row, or a list of rows."""

    async def asked(request: Request) -> Response:
        found = json_in(await body_of(request, "application/json"))
        name, _, _ = entry_of(desk, request)
        if type(found) not in (dict, list):
            raise BadRequest("The body is an object of columns, or a list of such.")
        rows, features = alike([found] if type(found) is dict else found, desk, name, MOST_ROWS)
        said = await ask(desk, name, rows, features, time_for(request))
        if type(found) is list:
            return json_of([told(one) for one in said])
        return json_of(told(said[0]), 500 if said[0].error else 200)

    return asked
