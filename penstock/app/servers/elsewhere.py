"""app: calls that this process does not know, passed on to the one that does, over a socket of the machine."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.record.codec import to_json

ANSWER_BYTES = 64 << 20
_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"expect", b"upgrade"}


def elsewhere(path: str) -> ASGIApp:
    """An application that lets the server on a Unix socket answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")
        try:
            status, headers, answer = await _ask(path, scope, body)
        except (OSError, EOFError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            text = {"error": "This part of the system is away for the moment.", "code": "away"}
            status, headers, answer = (
                503,
                [(b"content-type", b"application/json"), (b"retry-after", b"1")],
                to_json(text),
            )
        start: Message = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": answer})

    return app


async def _ask(path: str, scope: Scope, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    try:
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        lines = [b"%b %b HTTP/1.1" % (scope["method"].encode(), target)]
        lines += [b"%b: %b" % one for one in scope["headers"] if one[0] not in _HOP]
        lines += [b"content-length: %d" % len(body), b"connection: close", b"", b""]
        writer.write(b"\r\n".join(lines) + body)
        await writer.drain()
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = [
            (name.lower(), value.strip())
            for name, _, value in (line.partition(b":") for line in rest)
            if name
        ]
        length = int(dict(headers).get(b"content-length", b"0"))
        if length > ANSWER_BYTES:
            raise ValueError(length)
        answer = b"" if scope["method"] == "HEAD" else await reader.readexactly(length)
        return int(first.split(b" ")[1]), [one for one in headers if one[0] not in _HOP], answer
    finally:
        writer.close()
