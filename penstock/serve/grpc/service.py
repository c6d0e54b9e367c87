"""serve: calls by gRPC: the same words as over HTTP, in messages; those of one turn are answered with JSON's."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec

from penstock.record.decisions import Prediction
from penstock.record.errors import Broken, NotFound, PenstockError, Unavailable
from penstock.serve.answers import TIMEOUT_S
from penstock.serve.asking import entry_named, index_of, must_answer, must_be_loaded, stays, unpacked
from penstock.serve.carried import CARRIED, carried
from penstock.serve.desk import Desk, Spoken
from penstock.serve.front.call import FAILED, Answer, Call, status_of
from penstock.serve.front.http2 import Asked
from penstock.serve.grpc import messages
from penstock.serve.grpc.messages import field, flag, named
from penstock.serve.hot import Lane, Waiting
from penstock.serve.infer import (
    EXTENSIONS,
    Column,
    InferRequest,
    face_of,
    matrix_of,
    metadata,
    must_be_outputs,
    rows_of,
    told_of,
)
from penstock.serve.tensors import BadRequest, Tensor, values

SERVICE = "/inference.GRPCInferenceService"
HEALTH = "/grpc.health.v1.Health/Check"
OPEN = tuple(one.encode() for one in (f"{SERVICE}/ServerLive", f"{SERVICE}/ServerReady", HEALTH))
"""What is answered without a key."""
Run = Callable[[Call], Coroutine[Any, Any, None]]
Later = Callable[[Call, Run], None]


class Unimplemented(NotFound):
    """This server has no such method."""

    code = "method"
    status = 501


class ModelFailed(Unavailable):
    """The model could not answer this request."""

    def __init__(self, code: str) -> None:
        super().__init__(code=code)
        self.status = FAILED.get(code, 500)


class Question(msgspec.Struct, frozen=True):
    """An infer call, understood: `rows` are columns, or all features in order."""

    asked: messages.Infer
    name: str
    rows: Sequence[Any]
    features: bool
    champion: int
    timeout_s: float


class Remote:
    """The service. `later` begins what takes its time; `note` is told of every error that is not the caller's."""

    def __init__(
        self, desk: Desk, lanes: Mapping[str, Lane], later: Later, note: Callable[[BaseException], None]
    ) -> None:
        self.desk, self.lanes, self.later, self.note = desk, lanes, later, note
        self.parameters = messages.parameter("durability", desk.durability)

    def __call__(self, call: Call) -> None:
        """Serve a call, or put it where it is served with others."""
        assert isinstance(call, Asked)
        token = CARRIED.set(carried(call.headers))
        try:
            body = unpacked(call.body, call.coding)
            if call.path == _INFER:
                self.infer(call, body)
            elif (method := METHODS.get(call.path)) is not None:
                call.reply(Answer(200, method(self.desk, body)))
            else:
                raise Unimplemented
        except Exception as error:
            self.refuse(call, error)
        finally:
            CARRIED.reset(token)

    def refuse(self, call: Call, error: Exception) -> None:
        """Say no; of what is ours the caller learns nothing."""
        if not isinstance(error, PenstockError):
            self.note(error)
            error = Broken("internal error", code="internal")
        elif error.status >= 500 and not isinstance(error, Unavailable | Unimplemented):
            self.note(error)
        self.desk.count("answers_refused", {"status": str(status_of(error)), "code": error.code}, 1)
        call.refuse(error)

    def infer(self, call: Asked, body: bytes) -> None:
        """Ask a model."""
        question = self.question(messages.read(body), call.timeout_s)
        crowd = self.desk.crowd(question.name, question.timeout_s)
        if crowd is not None:
            raise crowd
        make = self.desk.vectors if question.features else self.desk.requests
        drafts = make(question.name, question.rows)

        def slow(call: Call) -> None:
            self.later(call, partial(self.ask, question))

        self.lanes[question.name].put(Waiting(call, drafts, partial(self.told, question), slow))

    def question(self, asked: messages.Infer, timeout_s: float) -> Question:
        """What is asked; raises Refused where it does not fit."""
        name, champion = face_of(self.desk.faces, asked.model).name, 0
        if asked.version:
            champion = must_answer(*entry_named(self.desk, name, asked.version))
        face = self.desk.faces[name]
        if not asked.inputs or len(asked.raw) not in (0, len(asked.inputs)):
            raise BadRequest("The request has no inputs, or raw contents for some of them only.")
        must_be_outputs(asked.outputs)
        tensors = [Tensor(one.name, one.shape, one.datatype, _texts(one)) for one in asked.inputs]
        raw: Sequence[bytes | None] = asked.raw or [None] * len(tensors)
        found = [values(one, binary) for one, binary in zip(tensors, raw, strict=True)]
        rows: Sequence[Any] | None = matrix_of(tensors, found, face)
        features = rows is not None
        if rows is None:
            rows, features = rows_of(InferRequest(tensors), found, face)
            rows = [[row[one] for one in face.features] for row in rows] if features else rows
        timeout_s = min(TIMEOUT_S, timeout_s, asked.timeout_us / 1e6 or TIMEOUT_S)
        return Question(asked, name, rows, features, champion, timeout_s)

    async def ask(self, question: Question, call: Call) -> None:
        """What cannot be had at once."""
        CARRIED.set(carried(call.headers))
        ask = self.desk.ask_vectors if question.features else self.desk.ask
        try:
            said = await ask(question.name, question.rows, question.timeout_s)
            call.reply(self.told(question, said))
        except Exception as error:
            self.refuse(call, error)

    def told(self, question: Question, said: Sequence[Prediction | Spoken]) -> Answer:
        """The answer."""
        if len(said) == 1 and said[0].error:
            error = ModelFailed(said[0].error)
            return Answer(status_of(error), str(error).encode())
        asked, failed = question.asked, [one.error for one in said]
        columns: list[Column] = told_of(asked.outputs, said)
        if any(failed):
            columns.append(("error", "BYTES", failed))
        head = (question.name, str(max(one.version for one in said)), asked.id)
        return Answer(200, messages.answer(head, self.parameters, columns, raw=bool(asked.raw)))


def _texts(one: messages.Input) -> list[Any]:
    if one.datatype != "BYTES":
        return one.data
    try:
        return [value.decode() for value in one.data]
    except UnicodeDecodeError:
        raise BadRequest("A value is no text.", where=one.name[:64]) from None


def server_live(desk: Desk, body: bytes) -> bytes:
    """Whether it lives."""
    return flag(not desk.health()["broken"])


def server_ready(desk: Desk, body: bytes) -> bytes:
    """Whether it can be asked: as soon as it lives."""
    return flag(not desk.health()["broken"])


def check(desk: Desk, body: bytes) -> bytes:
    """The same for those who know gRPC's own health protocol: 1 is serving, 2 is not."""
    name, _ = named(body)
    if name not in ("", SERVICE[1:]):
        raise NotFound("This server has no such service.")
    return b"\x08\x02" if desk.health()["broken"] else b"\x08\x01"


def model_ready(desk: Desk, body: bytes) -> bytes:
    """Whether a model, or a version of it, answers."""
    _, entry, number = entry_named(desk, *named(body))
    champion = entry.route.champion
    return flag(champion is not None and number in (0, champion.version))


def server_metadata(desk: Desk, body: bytes) -> bytes:
    """What the server is."""
    said = [field(1, "penstock"), field(2, version("penstock")), *(field(3, one) for one in EXTENSIONS[1:])]
    return b"".join(said)


def model_metadata(desk: Desk, body: bytes) -> bytes:
    """What a client may know of a model."""
    name, entry, _ = entry_named(desk, *named(body))
    return messages.metadata(metadata(desk.faces[name], sorted(entry.versions)))


def repository_index(desk: Desk, body: bytes) -> bytes:
    """The versions that there are."""
    told = ("name", "version", "state", "reason")
    return b"".join(
        field(1, b"".join(field(i, one[word]) for i, word in enumerate(told, 1))) for one in index_of(desk)
    )


def repository_model_load(desk: Desk, body: bytes) -> bytes:
    """Nothing is to be done: a model is loaded as soon as it is released."""
    name, entry, _ = entry_named(desk, named(body)[1], "")
    must_be_loaded(name, entry)
    return b""


def repository_model_unload(desk: Desk, body: bytes) -> bytes:
    """It is not."""
    raise stays(entry_named(desk, named(body)[1], "")[0])


_INFER = f"{SERVICE}/ModelInfer".encode()
METHODS: Mapping[bytes, Callable[[Desk, bytes], bytes]] = {HEALTH.encode(): check} | {
    f"{SERVICE}/{name}".encode(): method for name, method in [
        ("ServerLive", server_live), ("ServerReady", server_ready), ("ModelReady", model_ready),
        ("ServerMetadata", server_metadata), ("ModelMetadata", model_metadata), ("RepositoryIndex", repository_index),
        ("RepositoryModelLoad", repository_model_load), ("RepositoryModelUnload", repository_model_unload),
    ]
}  # fmt: skip
"""What is answered without asking a model, by its path."""
