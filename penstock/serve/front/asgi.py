"""serve: calls handed to an application that speaks ASGI: for every route that is not in a hurry."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from penstock.serve.front.call import Answer, Call

_QUOTED = re.compile(rb"%([0-9a-fA-F]{2})")


def _unquoted(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 16)])


async def run(app: ASGIApp, call: Call) -> None:
    """Let an application answer a call. What it raises is the caller's."""
    status, headers, parts, begun = 500, [], [], False
    came = False

    async def receive() -> Message:
        nonlocal came
        if came:  # a second look asks whether the client is still there: until it is answered, it is
            await asyncio.Event().wait()
        came = True
        return {"type": "http.request", "body": call.body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers, begun
        if message["type"] == "http.response.start":
            status, headers, begun = message["status"], list(message.get("headers", ())), True
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    await app(scope_of(call), receive, send)
    assert begun
    call.reply(Answer(status, b"".join(parts), b"", headers))


def scope_of(call: Call) -> Scope:
    """A call in the words of ASGI 3."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": call.head.method.decode("ascii", "replace"),
        "scheme": "http",
        "path": _QUOTED.sub(_unquoted, call.head.path).decode("utf-8", "replace"),
        "raw_path": call.head.path,
        "query_string": call.head.query,
        "root_path": "",
        "headers": list(call.head.headers),
        "client": None,
        "server": None,
        "state": {},
    }
    return scope
