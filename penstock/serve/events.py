"""serve: events at the door: taken in by topic, and taken back by id."""

from __future__ import annotations

import re

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from penstock.record.errors import Refused
from penstock.serve.answers import Endpoint, json_of
from penstock.serve.asking import body_of
from penstock.serve.desk import Desk
from penstock.serve.tensors import BadRequest

_PRODUCER, _NUMBER = re.compile(r"[A-Za-z0-9_-]{1,64}"), re.compile(r"[0-9]{1,18}")


def appending(desk: Desk) -> Endpoint:
    """`POST /events/{topic}`: events as a JSON object, an array of them, or a line each."""

    async def append(request: Request) -> Response:
        body = await body_of(request, "application/json", "application/x-ndjson")
        lines = "ndjson" in request.headers.get("content-type", "")
        rows = [line for line in body.splitlines() if line.strip()] if lines else _rows(body)
        report = await desk.append(request.path_params["topic"], rows, _numbered(request))
        taken = report["appended"] + report["duplicates"]
        return json_of(report, 200 if taken or not rows else 422)

    return append


def retracting(desk: Desk) -> Endpoint:
    """`DELETE /events/{topic}/{id}`: the event is gone from the position that the answer tells."""

    async def retract(request: Request) -> Response:
        at = request.path_params
        return json_of(await desk.retract(at["topic"], at["id"], _numbered(request)))

    return retract


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
