"""serve: what every route needs: bodies that are bounded, answers in strict JSON, errors as answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from penstock.record.codec import to_json
from penstock.record.errors import PenstockError, Refused, Unavailable
from penstock.serve.front.call import refused

BODY_BYTES = 16 << 20
TIMEOUT_S = 10.0
Endpoint = Callable[[Request], Awaitable[Response]]


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


def json_of(value: Any, status: int = 200) -> Response:
    """A value as an answer."""
    return Response(to_json(value), status, media_type="application/json")


def refusal(error: PenstockError) -> Response:
    """The answer that an error of the house is."""
    answer = refused(error)
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers, media_type="application/json")


async def body_of(request: Request, *kinds: str) -> bytes:
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
