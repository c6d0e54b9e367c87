"""client: each call as data: the request, and how its reply is read. Errors are those of the house."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from penstock.client.wire import Lost, Reply, Request
from penstock.record.errors import NotFound, PenstockError, Refused, Unavailable

T = TypeVar("T")
JSON = ("content-type", "application/json")
_LATER = (408, 429, 502, 503, 504, 507)
_ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Failed(PenstockError):
    """The server could not answer this request."""

    code = "failed"


class Call(msgspec.Struct, Generic[T], frozen=True):
    """A request, and what its reply means."""

    request: Request
    read: Callable[[Reply], T]


class Tensor(msgspec.Struct, frozen=True):
    """A column of values in the Open Inference Protocol's words."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class Inference(msgspec.Struct, frozen=True):
    """The body of an infer answer, as it came."""

    model_name: str
    outputs: list[Tensor]
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True):
    """What was said of one row. `error` is "" or the code of why the model could not answer it."""

    score: float | None
    positive: bool | None
    version: int
    prediction_id: str
    request_id: str
    error: str = ""


class Queued(msgspec.Struct, frozen=True):
    """An answer that was read, at its place on the log. `prediction` is "" where a dead letter says why there is
    none."""

    position: int
    request: str
    score: float | None
    positive: bool | None
    version: int
    prediction: str
    error: str = ""


class Answers(msgspec.Struct, frozen=True):
    """Answers in the log's order; the next ones come after `after`."""

    answers: list[Queued]
    after: int


class Appended(msgspec.Struct, frozen=True):
    """What became of events: how many are new, repeats, refused by code; and why, for the first of them."""

    appended: int = 0
    duplicates: int = 0
    refused: dict[str, int] = {}
    notes: list[str] = []


class Looked(msgspec.Struct, frozen=True):
    """Features of entities, a row each, as they were at time `t` and position `o`."""

    names: list[str]
    values: list[list[Any]]
    t: datetime
    o: int
    age_ms: int | None
    digest: str


class Health(msgspec.Struct, frozen=True):
    """How the server is. `held`: the code of what producers meet now, "" where they are let in."""

    live: bool
    ready: bool
    held: str = ""


def health() -> Call[Health]:
    """Whether the server lives and answers; one that does not is an answer, too."""

    def read(reply: Reply) -> Health:
        return _decoded(reply, Health, (200, 503))

    return Call(Request("GET", "/v2/health/ready"), read)


def metadata(model: str) -> Call[dict[str, Any]]:
    """What the server tells of a model."""
    return Call(
        Request("GET", f"/v2/models/{_quoted(model)}", safe=True),
        lambda reply: _decoded(reply, dict[str, Any]),
    )


def infer(
    model: str, inputs: Sequence[Tensor], outputs: Sequence[str], version: str, *, safe: bool
) -> Call[Inference]:
    """Ask in the protocol's own words."""
    asked: dict[str, Any] = {"inputs": list(inputs)}
    if outputs:
        asked["outputs"] = [{"name": name} for name in outputs]
    path = f"/v2/models/{_quoted(model)}" + (f"/versions/{_quoted(version)}" if version else "") + "/infer"
    request = Request("POST", path, msgspec.json.encode(asked), (JSON,), safe)
    return Call(request, lambda reply: _decoded(reply, Inference))


class _Instances(msgspec.Struct):
    predictions: list[Any]


def instances(model: str, rows: Sequence[Any]) -> Call[list[Any]]:
    """Ask a server as TensorFlow Serving is asked, with rows as it takes them; what it says of each."""
    asked = msgspec.json.encode({"instances": rows})
    request = Request("POST", f"/v1/models/{_quoted(model)}:predict", asked, (JSON,), safe=True)
    return Call(request, lambda reply: _decoded(reply, _Instances).predictions)


def status(model: str) -> Call[dict[str, Any]]:
    """What such a server tells of a model's versions."""
    return Call(
        Request("GET", f"/v1/models/{_quoted(model)}", safe=True),
        lambda reply: _decoded(reply, dict[str, Any]),
    )


def predict(model: str, rows: Sequence[Mapping[str, Any]], *, safe: bool) -> Call[list[Answer]]:
    """Ask about rows of plain columns; NaN is sent as missing. Raises Refused for rows that do not fit together."""
    asked = infer(model, columns(rows), (), "", safe=safe)
    return Call(asked.request, lambda reply: _answers(asked.read(reply), len(rows)))


def columns(rows: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """Rows as the protocol's columns, with datatypes that all values of a column have."""
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise Refused("Send at least one row, each with the same columns.", code="shape")
    return [_column(name, [row[name] for row in rows]) for name in rows[0]]


def _column(name: str, values: list[Any]) -> Tensor:
    data = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    kinds = {type(value) for value in data if value is not None}
    if kinds <= {str}:
        datatype = "BYTES"
    elif kinds == {bool}:
        datatype = "BOOL"
    elif kinds == {int}:
        datatype = "INT64"
    elif kinds <= {int, float}:
        datatype = "FP64"
    else:
        raise Refused(
            "A column holds numbers, or texts and times, or true and false.",
            code="wrong_type",
            where=name[:64],
        )
    return Tensor(name, datatype, [len(data)], data)


def _answers(said: Inference, n: int) -> list[Answer]:
    found = {one.name: one.data for one in said.outputs}
    names = ("score", "positive", "version", "prediction_id", "request_id")
    if any(len(found.get(name, ())) != n for name in names):
        raise Failed("The answer has another number of rows than was asked.", code="reply")
    errors = found.get("error", [""] * n)
    return [
        msgspec.convert(dict(zip((*names, "error"), row, strict=True)), Answer)
        for row in zip(*(found[name] for name in names), errors, strict=True)
    ]


def append(topic: str, events: Sequence[Mapping[str, Any]], number: tuple[str, int]) -> Call[Appended]:
    """Append events under a producer's name and number: the same again changes nothing."""
    producer, sequence = number
    named = (("penstock-producer", producer), ("penstock-sequence", str(sequence)))
    request = Request(
        "POST", f"/events/{_quoted(topic)}", msgspec.json.encode(events), (JSON, *named), safe=True
    )

    def read(reply: Reply) -> Appended:
        if reply.status == 422 and b'"appended"' in reply.body:  # every event was refused: that is told, too
            return _decoded(reply, Appended, (422,))
        return _decoded(reply, Appended)

    return Call(request, read)


def answers(model: str, after: int, most: int, wait_s: float) -> Call[Answers]:
    """A model's answers after a place."""
    asked = f"after={after}&limit={most}&wait-ms={int(wait_s * 1000)}"
    request = Request("GET", f"/models/{_quoted(model)}/answers?{asked}", safe=True)
    return Call(request, lambda reply: _decoded(reply, Answers))


def answer_to(model: str, id: str) -> Call[Queued]:
    """The answer to a request by its id."""
    request = Request("GET", f"/models/{_quoted(model)}/answers/{_quoted(id)}", safe=True)
    return Call(request, lambda reply: _decoded(reply, Queued))


def look(
    features: str,
    entities: Sequence[str | Mapping[str, Any]],
    t: datetime | int | None,
    o: int | None,
    names: Sequence[str],
) -> Call[Looked]:
    """Look features up: of a model by its name, or of a set by its digest's first letters."""
    asked = {"entities": list(entities), "t": t, "o": o, "features": list(names)}
    request = Request(
        "POST", f"/v2/features/{_quoted(features)}", msgspec.json.encode(asked), (JSON,), safe=True
    )

    def read(reply: Reply) -> Looked:
        found = _decoded(reply, Looked)
        for row, column, word in _decoded(reply, _Odd).odd:  # what JSON has no word for
            found.values[row][column] = _ODD[word]
        return found

    return Call(request, read)


class _Odd(msgspec.Struct):
    odd: list[tuple[int, int, str]] = []


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _decoded(reply: Reply, type_: type[T], good: Sequence[int] = (200,)) -> T:
    if reply.status not in good:
        raise error_of(reply)
    try:
        return msgspec.json.decode(reply.body, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        if reply.status != 200:
            raise error_of(reply) from None
        raise Failed("The answer is not what the server's protocol says.", code="reply") from None


class _Said(msgspec.Struct):
    error: str = ""
    code: str = ""


def error_of(reply: Reply) -> PenstockError:
    """A reply that is no answer, as an error of the house; its `status` is the reply's."""
    try:
        said = msgspec.json.decode(reply.body, type=_Said)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = _Said()
    kind: type[PenstockError] = Failed
    if reply.status == 404:
        kind = NotFound
    elif reply.status in _LATER:
        kind = Unavailable
    elif reply.status < 500:
        kind = Refused
    error = kind(said.error.removesuffix(f" [{said.code}]"), code=said.code or f"http_{reply.status}")
    error.status = reply.status
    return error


def settled(call: Call[T], outcome: Reply | Lost) -> T:
    """What a call came to, when all tries are over; raises it where it is an error."""
    if isinstance(outcome, Lost):
        raise _lost(outcome)
    return call.read(outcome)


def deadline(timeout_s: float) -> tuple[str, str]:
    """The header that tells the server how long the caller waits."""
    return "timeout-ms", str(max(1, int(timeout_s * 1000)))


def _lost(outcome: Lost) -> PenstockError:
    if outcome.late:
        return Unavailable("There was no answer in time.", code="deadline")
    if outcome.sent:
        return Unavailable("The connection ended before the answer was whole.", code="unreachable")
    return Unavailable("Nobody answers there, or none whose certificate is known.", code="unreachable")
