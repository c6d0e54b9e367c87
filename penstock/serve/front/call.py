"""serve: one call over HTTP and its answer: what every route gets, whoever parsed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus

import msgspec

from penstock.record.codec import to_json
from penstock.record.errors import Broken, PenstockError

Headers = Sequence[tuple[bytes, bytes]]
REASONS = {one.value: one.phrase.encode() for one in HTTPStatus} | {499: b"Client Closed Request"}
SAFE = b"x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\ncache-control: no-store\r\n"
"""What stands on every answer that does not say otherwise."""
FAILED = {"model_late": 504, "model_rests": 503, "model_away": 503, "row_rests": 503}
"""What it is that a model said nothing, where it is not 500: it took too long, fell too often, or is away."""
_STATUS = {
    "deadline": 504, "lag": 429, "busy": 429, "rate": 429, "queue": 429, "log_full": 507, "disk_floor": 507,
    "log_size": 507,
}  # fmt: skip
"""What an error that passes is over HTTP, where it is not 503: too much at once, or no room."""
INTERNAL = Broken("internal error", code="internal")
"""All that a caller learns of what is ours."""
_RETRY_S = {429: b"1", 503: b"1", 507: b"10"}
_ALWAYS = [tuple(line.split(b": ")) for line in SAFE.splitlines()]


class Answer(msgspec.Struct, frozen=True):
    """What a call is answered. `kind` is its content type; `headers` have lower-case names."""

    status: int
    body: bytes
    kind: bytes = b"application/json"
    headers: Headers = ()


class Head(msgspec.Struct, frozen=True):
    """What a request says before its body. `headers` have lower-case names."""

    method: bytes
    path: bytes
    query: bytes = b""
    headers: Headers = ()

    def header(self, name: bytes) -> bytes:
        """The first value of a header; nothing where it is missing."""
        return next((value for key, value in self.headers if key == name), b"")


class Call:
    """A request whose body is here. `gone`: its client has left, and nobody reads the answer; `left` is called then.
    `refusal`: what an error is in the words of its protocol."""

    __slots__ = ("_reply", "began_s", "body", "gone", "head", "left", "refusal")

    def __init__(
        self, head: Head, body: bytes, reply: Callable[[Call, Answer], None], began_s: float = 0.0
    ) -> None:
        self.head, self.body, self.began_s = head, body, began_s
        self.gone = False
        self.left: Callable[[], object] | None = None
        self.refusal: Callable[[PenstockError], Answer] = refused
        self._reply = reply

    def reply(self, answer: Answer) -> None:
        """Answer, once."""
        self._reply(self, answer)

    def refuse(self, error: PenstockError) -> None:
        """Answer with an error of the house."""
        self.reply(self.refusal(error))


def top(answer: Answer, length: int, *, close: bool) -> bytes:
    """The bytes of an answer's head, with the length of its body and whether the connection ends with it."""
    if not answer.headers and answer.status == 200 and not close:
        return b"HTTP/1.1 200 OK\r\n%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (
            SAFE,
            answer.kind,
            length,
        )
    had = {name for name, _ in answer.headers}
    lines = [b"HTTP/1.1 %d %b\r\n" % (answer.status, REASONS.get(answer.status, b""))]
    lines += [b"%b: %b\r\n" % one for one in _ALWAYS if one[0] not in had]
    lines += [b"%b: %b\r\n" % one for one in answer.headers if one[0] != b"content-length"]
    if answer.kind and b"content-type" not in had:
        lines.append(b"content-type: %b\r\n" % answer.kind)
    if answer.status != 204 and answer.status >= 200:
        lines.append(b"content-length: %d\r\n" % length)
    if close:
        lines.append(b"connection: close\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def status_of(error: PenstockError) -> int:
    """The status that an error of the house is."""
    return _STATUS.get(error.code, error.status)


def refused(error: PenstockError) -> Answer:
    """The answer that an error of the house is."""
    status = status_of(error)
    headers: list[tuple[bytes, bytes]] = []
    if status in _RETRY_S:
        headers.append((b"retry-after", _RETRY_S[status]))
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="penstock"'))
    return Answer(status, to_json({"error": str(error), "code": error.code}), headers=headers)


def failed(code: str) -> Answer:
    """The answer to a request that no score came of."""
    text = {"error": "The model could not answer this request.", "code": code}
    status = FAILED.get(code, 500)
    return Answer(status, to_json(text), headers=[(b"retry-after", b"1")] if status == 503 else ())
