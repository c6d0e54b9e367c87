"""serve: a model asked in plain JSON: the request's columns in an object, the answer in an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock.record.codec import to_json
from penstock.serve.answers import Endpoint, response
from penstock.serve.asking import Answered, Shaped, alike, ask, body_of, entry_of, json_in, time_for
from penstock.serve.desk import Desk
from penstock.serve.front.call import Answer, failed
from penstock.serve.infer import MOST_ROWS, prediction_id
from penstock.serve.tensors import BadRequest


def shaped(found: Any, desk: Desk, name: str) -> Shaped:
    """One row, or a list of rows."""
    if type(found) not in (dict, list):
        raise BadRequest("The body is an object of columns, or a list of such.")
    one = type(found) is dict
    rows, features = alike([found] if one else found, desk, name, MOST_ROWS)
    return Shaped(rows, features, _told if one else _all_told)


def _told(said: Sequence[Answered]) -> Answer:
    return failed(said[0].error) if said[0].error else Answer(200, to_json(_row(said[0])))


def _all_told(said: Sequence[Answered]) -> Answer:
    return Answer(200, to_json([_row(one) for one in said]))


def _row(said: Answered) -> dict[str, Any]:
    answer = {
        "score": said.score, "positive": said.positive, "version": said.version, "request_id": said.request,
        "prediction_id": prediction_id(said),
    }  # fmt: skip
    return answer | ({"error": said.error} if said.error else {})


def asking(desk: Desk) -> Endpoint:
    """`POST /models/NAME`."""

    async def asked(request: Request) -> Response:
        found = json_in(await body_of(request, "application/json"))
        name, _, _ = entry_of(desk, request)
        one = shaped(found, desk, name)
        return response(one.told(await ask(desk, name, one.rows, one.features, time_for(request))))

    return asked
