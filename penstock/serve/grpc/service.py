"""serve: calls by gRPC: the same words as over HTTP, in messages; those of one turn are answered with JSON's."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol

from penstock.record.decisions import Prediction
from penstock.record.errors import NotFound, PenstockError, Refused, Unavailable
from penstock.serve.answers import TIMEOUT_S
from penstock.serve.asking import (
    answers,
    ask,
    entry_named,
    index_of,
    must_answer,
    must_be_loaded,
    stays,
    unpacked,
)
from penstock.serve.carried import CARRIED, carried
from penstock.serve.desk import Desk, Spoken
from penstock.serve.front.call import FAILED, INTERNAL, Answer, Call, status_of
from penstock.serve.front.http2 import Asked
from penstock.serve.grpc import messages
from penstock.serve.grpc.messages import field, flag, named
from penstock.serve.hot import Lane, Waiting
from penstock.serve.hot import Tensor as Input
from penstock.serve.infer import EXTENSIONS, metadata, must_be_outputs, rows_of, told_of
from penstock.serve.tensors import BadRequest, Tensor, values

SERVICE = "/inference.GRPCInferenceService"
HEALTH = "/grpc.health.v1.Health/Check"
OPEN = tuple(one.encode() for one in (f"{SERVICE}/ServerLive", f"{SERVICE}/ServerReady", HEALTH))
"""What is answered without a key."""
Run = Callable[[Call], Coroutine[Any, Any, None]]


class Later(Protocol):
    """Begins what takes its time."""

    def __call__(self, call: Call, run: Run) -> None:
        """Do so for a call."""


class Unimplemented(NotFound):
    """This server has no such method."""

    code = "method"
    status = 501


class ModelFailed(Unavailable):
    """The model could not answer this request."""

    def __init__(self, code: str) -> None:
        super().__init__(code=code)
        self.status = FAILED.get(code, 500)


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
        token = CARRIED.set(carried(call.head.headers))
        try:
            body = unpacked(call.body, call.coding)
            if call.head.path == _INFER:
                self.infer(call, body)
            elif (method := METHODS.get(call.head.path)) is not None:
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
            error = INTERNAL
        elif error.status >= 500 and not isinstance(error, Unavailable | Unimplemented):
            self.note(error)
        self.desk.count("answers_refused", {"status": str(status_of(error)), "code": error.code}, 1)
        call.refuse(error)

    def infer(self, call: Asked, body: bytes) -> None:
        """Ask a model: in its lane, where the question is a plain one."""
        asked = messages.read(body)
        if len(asked.raw) not in (0, len(asked.inputs)):
            raise BadRequest("There are raw contents for some of the inputs only.")
        must_be_outputs(asked.outputs)
        for one, raw in zip(asked.inputs, asked.raw, strict=False):
            one.data = values(tensor(one), raw)
        timeout_s = min(TIMEOUT_S, call.timeout_s, asked.timeout_us / 1e6 or TIMEOUT_S)
        slow = partial(self.later, run=partial(self.ask, asked, timeout_s))
        lane, drafts = self.lanes.get(asked.model), None
        if lane is not None and not asked.version:
            crowd = self.desk.crowd(asked.model, timeout_s)
            if crowd is not None:
                raise crowd
            try:
                drafts = lane.drafts(asked.inputs)
            except Refused:
                drafts = None  # the other way finds it again, and has the words
        if lane is not None and drafts:
            return lane.put(Waiting(call, drafts, partial(self.told, asked), slow, timeout_s))
        return slow(call)

    async def ask(self, asked: messages.Infer, timeout_s: float, call: Call) -> None:
        """Any other question, and what cannot be had at once."""
        CARRIED.set(carried(call.head.headers))
        try:
            name, entry, number = entry_named(self.desk, asked.model, asked.version)
            must_answer(name, entry, number)
            if not asked.inputs:
                raise BadRequest("The request has no inputs.")
            tensors = [tensor(one) for one in asked.inputs]
            rows, features = rows_of(tensors, [values(one) for one in tensors], self.desk.faces[name])
            call.reply(self.told(asked, await ask(self.desk, name, rows, features, timeout_s, number)))
        except Exception as error:
            self.refuse(call, error)

    def told(self, asked: messages.Infer, said: Sequence[Prediction | Spoken]) -> Answer:
        """The answer."""
        if len(said) == 1 and said[0].error:
            error = ModelFailed(said[0].error)
            return Answer(status_of(error), str(error).encode())
        columns, failed = told_of(asked.outputs, said), [one.error for one in said]
        if any(failed):
            columns.append(("error", "BYTES", failed))
        head = (asked.model, str(max(one.version for one in said)), asked.id)
        return Answer(200, messages.answer(head, self.parameters, columns, raw=bool(asked.raw)))


def tensor(one: Input) -> Tensor:
    """An input, to be checked."""
    return Tensor(one.name, one.shape, one.datatype, one.data)


def server_live(desk: Desk, body: bytes) -> bytes:
    """Whether it lives; and whether it can be asked, which it can as soon as it lives."""
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
    return flag(answers(entry, number))


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
        ("ServerLive", server_live), ("ServerReady", server_live), ("ModelReady", model_ready),
        ("ServerMetadata", server_metadata), ("ModelMetadata", model_metadata), ("RepositoryIndex", repository_index),
        ("RepositoryModelLoad", repository_model_load), ("RepositoryModelUnload", repository_model_unload),
    ]
}  # fmt: skip
"""What is answered without asking a model, by its path."""
