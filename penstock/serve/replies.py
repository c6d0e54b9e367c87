"""serve: a model's answers, read one after the other or by a request's id. Nobody is called back."""

from __future__ import annotations

import asyncio
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from penstock.predict.answers import MOST, replies, reply_to
from penstock.serve.answers import TIMEOUT_S, Endpoint, json_of
from penstock.serve.desk import Desk
from penstock.serve.infer import face_of
from penstock.serve.tensors import BadRequest

POLL_S = 0.1
"""Between two looks for who waits: no thread is held meanwhile."""


def reading(desk: Desk) -> Endpoint:
    """`GET /models/{name}/answers`: those `after` a place, `limit` at most; `wait-ms`: so long for the first one."""

    async def read(request: Request) -> Response:
        face = face_of(desk.faces, request.path_params["name"])
        after, most = _number(request, "after", 0, 2**63 - 1), _number(request, "limit", 1000, MOST)
        until_s = asyncio.get_running_loop().time() + min(
            TIMEOUT_S, _number(request, "wait-ms", 0, 10**9) / 1000
        )
        while True:
            found = await asyncio.to_thread(partial(replies, desk.log, face.name, after, max(1, most)))
            if found.answers or asyncio.get_running_loop().time() >= until_s:
                return json_of(found)
            after = found.after
            await asyncio.sleep(POLL_S)

    return read


def finding(desk: Desk) -> Endpoint:
    """`GET /models/{name}/answers/{id}`: the answer to a request."""

    async def find(request: Request) -> Response:
        face = face_of(desk.faces, request.path_params["name"])
        return json_of(reply_to(desk.log, face.name, face.request.topic, request.path_params["id"]))

    return find


def _number(request: Request, name: str, otherwise: int, most: int) -> int:
    text = request.query_params.get(name, str(otherwise))
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > most:
        raise BadRequest(f"It is a whole number up to {most}.", where=name)
    return int(text)
