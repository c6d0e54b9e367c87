"""serve: feature sets at the door: what there is, and the values of entities at (t, O)."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from penstock.feature.lookup import Looked
from penstock.record.codec import moment, repeats_a_key
from penstock.record.decisions import Value
from penstock.record.errors import Refused
from penstock.record.poison import reason
from penstock.serve.answers import TIMEOUT_S, Endpoint, json_of
from penstock.serve.asking import body_of
from penstock.serve.desk import Asked, Desk
from penstock.serve.tensors import BadRequest

MOST_ENTITIES = 10_000
KNOWN = f"it takes {', '.join(Asked.__struct_fields__)}, and nothing else"
_decoder = msgspec.json.Decoder(Asked)


def listing(desk: Desk) -> Endpoint:
    """`GET /v2/features`: every feature set in use, with its definitions."""

    async def features(request: Request) -> Response:
        return json_of({"sets": desk.sets()})

    return features


def looking(desk: Desk) -> Endpoint:
    """`POST /v2/features/{set}`: the values of entities. The set is a model's name, or how a digest begins."""

    async def look(request: Request) -> Response:
        asked = parsed(await body_of(request, "application/json"))
        found = await desk.look(request.path_params["name"], asked, TIMEOUT_S)
        body = await run_in_threadpool(written, found)  # a large one takes longer than others should wait
        return Response(body, media_type="application/json")

    return look


def parsed(body: bytes) -> Asked:
    """What is asked for; raises BadRequest naming the place, never the content."""
    try:
        body.isascii() or body.decode()
        asked = _decoder.decode(body)
    except msgspec.ValidationError as error:
        why = KNOWN if "unknown field" in str(error) else reason(error)  # a field's name is the caller's
        raise BadRequest(f"The body asks for no features: {why}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON.") from None
    if repeats_a_key(body):
        raise BadRequest("The body names something twice.", code="duplicate_key")
    if len(asked.entities) > MOST_ENTITIES:
        raise Refused(
            f"A look-up takes {MOST_ENTITIES} entities at most.", code="too_many", hint="Send several."
        )
    return asked


def written(found: Looked) -> bytes:
    """An answer as JSON; what `told` says is odd is written as null."""
    return msgspec.json.encode(told(found))


def told(found: Looked) -> dict[str, Any]:
    """An answer for JSON. It has no word for NaN and the infinities: they are null among the values, and
    `odd` says where and which, as [row, column, "NaN"]."""
    return {
        "names": found.names,
        "values": found.rows,
        "odd": [
            [i, j, _word(value)]
            for i, row in enumerate(found.rows)
            for j, value in enumerate(row)
            if _odd(value)
        ],
        "t": moment(found.t_ms),
        "o": found.o.n,
        "age_ms": found.age_ms,
        "digest": found.digest,
    }


def _odd(value: Value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _word(value: Value) -> str:
    return "NaN" if value != value else "Infinity" if value == math.inf else "-Infinity"
