"""serve: what every route needs: bodies of a known type, answers in strict JSON, errors as answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock.record.codec import to_json
from penstock.record.errors import Refused
from penstock.serve.front.call import Answer

TIMEOUT_S = 10.0
Endpoint = Callable[[Request], Awaitable[Response]]


class NotJson(Refused):
    """Send JSON, with the content type application/json."""

    code = "content_type"
    status = 415


def json_of(value: Any, status: int = 200) -> Response:
    """A value as an answer."""
    return Response(to_json(value), status, media_type="application/json")


def response(answer: Answer) -> Response:
    """An answer for the application to send."""
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers, media_type=answer.kind.decode())
