"""serve: calls over gRPC: the same words as over HTTP, in messages, and errors as statuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

import grpc
import msgspec

from penstock.record.decisions import Prediction
from penstock.record.errors import NotFound, PenstockError, Unavailable
from penstock.release.registry import Entry
from penstock.serve.answers import TIMEOUT_S
from penstock.serve.asking import answers, ask, must_answer
from penstock.serve.desk import Desk, Spoken
from penstock.serve.front.call import FAILED, refused
from penstock.serve.grpc.messages import METHODS, PACKAGE, SERVICE, kind
from penstock.serve.identity import Keys, Unauthorised
from penstock.serve.infer import (
    EXTENSIONS,
    InferRequest,
    Wanted,
    face_of,
    metadata,
    must_be_outputs,
    rows_of,
    told_of,
)
from penstock.serve.tensors import BadRequest, Tensor, packed, values

MESSAGE_BYTES = 16 << 20
OPEN = ("ServerLive", "ServerReady")
_CONTENTS = {
    "BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
} | dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents") | dict.fromkeys(
    ("UINT8", "UINT16", "UINT32"), "uint_contents"
)  # fmt: skip
_STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT, 422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED, 503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED, 507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip
Method = Callable[[Desk, Any, float], Awaitable[Any]]
Note = Callable[[BaseException], None]


def handler(desk: Desk, keys: Keys | None, note: Note) -> grpc.GenericRpcHandler:
    """The service, for a server of grpc.aio."""
    made = {
        name: grpc.unary_unary_rpc_method_handler(
            _told(name, _METHODS[name], desk, keys, note),
            request_deserializer=kind(f"{name}Request").FromString,
            response_serializer=kind(f"{name}Response").SerializeToString,
        )
        for name in METHODS
    }
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.{SERVICE}", made)


def _told(name: str, method: Method, desk: Desk, keys: Keys | None, note: Note) -> Any:
    async def told(asked: Any, context: Any) -> Any:
        try:
            if keys is not None and name not in OPEN:
                headers = dict(context.invocation_metadata() or ())
                if keys.name_of(str(headers.get("authorization", ""))) is None:
                    raise Unauthorised
            left = context.time_remaining()
            return await method(desk, asked, TIMEOUT_S if left is None else min(TIMEOUT_S, left))
        except PenstockError as error:
            status = refused(error).status
            if error.status >= 500 and not isinstance(error, Unavailable):
                note(error)
            desk.count("answers_refused", {"status": str(status), "code": error.code}, 1)
            await context.abort(_STATUSES.get(status, grpc.StatusCode.INTERNAL), str(error))
        except Exception as error:  # the caller learns nothing of our insides
            note(error)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error [internal]")

    return told


async def _live(desk: Desk, asked: Any, timeout_s: float) -> Any:
    return kind("ServerLiveResponse")(live=not desk.health()["broken"])


async def _ready(desk: Desk, asked: Any, timeout_s: float) -> Any:
    return kind("ServerReadyResponse")(ready=not desk.health()["broken"])


def _entry(desk: Desk, name: str, text: str) -> tuple[str, Entry, int]:
    face = face_of(desk.faces, name)
    entry = desk.registry().models.get(face.name, Entry())
    number = int(text) if text.isdigit() and len(text) < 10 else 0
    if text and number not in entry.versions:
        raise NotFound(f"{face.name} has no such version.", code="no_version")
    return face.name, entry, number


async def _model_ready(desk: Desk, asked: Any, timeout_s: float) -> Any:
    _, entry, number = _entry(desk, asked.name, asked.version)
    return kind("ModelReadyResponse")(ready=answers(entry, number))


async def _server(desk: Desk, asked: Any, timeout_s: float) -> Any:
    return kind("ServerMetadataResponse")(
        name="penstock", version=version("penstock"), extensions=EXTENSIONS[1:]
    )


async def _model(desk: Desk, asked: Any, timeout_s: float) -> Any:
    name, entry, _ = _entry(desk, asked.name, asked.version)
    return kind("ModelMetadataResponse")(**metadata(desk.faces[name], sorted(entry.versions)))


async def _infer(desk: Desk, asked: Any, timeout_s: float) -> Any:
    name, entry, number = _entry(desk, asked.model_name, asked.model_version)
    champion, face = must_answer(name, entry, number), desk.faces[name]
    request, found = _request(asked)
    rows, features = rows_of(request, found, face)
    said = await ask(desk, name, rows, features, timeout_s, number)
    if len(said) == 1 and said[0].error:
        raise _Failed(code=said[0].error)
    return _response(asked, request, name, said, champion)


class _Failed(Unavailable):
    """The model could not answer this request."""

    code = "model_failed"

    def __init__(self, *, code: str) -> None:
        super().__init__(code=code)
        self.status = FAILED.get(code, 500)


def _request(asked: Any) -> tuple[InferRequest, list[list[Any]]]:
    """A message in the words of the protocol over HTTP, with its values."""
    raw = list(asked.raw_input_contents)
    if not asked.inputs or (raw and len(raw) != len(asked.inputs)):
        raise BadRequest("The request has no inputs, or raw contents for some of them only.")
    tensors, found = [], []
    for i, one in enumerate(asked.inputs):
        data: Any = msgspec.UNSET
        if not raw:
            field = _CONTENTS.get(one.datatype)
            data = list(getattr(one.contents, field)) if field else []
            if one.datatype == "BYTES":
                data = [_text(value, one.name) for value in data]
        tensor = Tensor(one.name, list(one.shape), one.datatype, data)
        tensors.append(tensor)
        found.append(values(tensor, raw[i] if raw else None))
    outputs = [Wanted(one.name) for one in asked.outputs]
    must_be_outputs(outputs)
    return InferRequest(tensors, asked.id, {}, outputs), found


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest("A value is no text.", where=name[:64]) from None


def _response(
    asked: Any, request: InferRequest, name: str, said: Sequence[Prediction | Spoken], champion: int
) -> Any:
    served = {one.version for one in said}
    answer = kind("ModelInferResponse")(
        model_name=name, model_version=str(served.pop() if len(served) == 1 else champion), id=asked.id
    )
    for column, datatype, data in told_of(request, said):
        output = answer.outputs.add(name=column, datatype=datatype, shape=[len(said)])
        if asked.raw_input_contents:
            answer.raw_output_contents.append(packed(datatype, data))
        else:
            whole = [one.encode() for one in data] if datatype == "BYTES" else data
            empty = float("nan") if datatype == "FP64" else False
            getattr(output.contents, _CONTENTS[datatype]).extend(
                empty if one is None else one for one in whole
            )
    return answer


_METHODS: dict[str, Method] = {
    "ServerLive": _live, "ServerReady": _ready, "ModelReady": _model_ready, "ServerMetadata": _server,
    "ModelMetadata": _model, "ModelInfer": _infer,
}  # fmt: skip
