"""serve: the Open Inference Protocol's words: requests into rows, predictions into outputs, metadata.

Source: the Open Inference Protocol, version 2, REST.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from penstock.record.codec import repeats_a_key
from penstock.record.decisions import Prediction
from penstock.record.errors import NotFound, Refused
from penstock.record.event import Source, unknown
from penstock.record.record import output_id
from penstock.serve.desk import ModelFace

MOST_ROWS = 10_000
_DATATYPES = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES", datetime: "BYTES"}
_FLOATS = ("FP64", "FP32", "FP16", "BF16")
_INTS = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
OUTPUTS = {
    "score": "FP64",
    "positive": "BOOL",
    "version": "INT64",
    "prediction_id": "BYTES",
    "request_id": "BYTES",
}


class BadRequest(Refused):
    """The request does not follow the Open Inference Protocol."""

    code = "malformed"
    status = 400


class Tensor(msgspec.Struct, frozen=True):
    """One input: a column of values, flat or with one value a row."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class Wanted(msgspec.Struct, frozen=True):
    """An output that the client asks for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct, frozen=True):
    """The body of an infer call."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[Wanted] = []


_decoder = msgspec.json.Decoder(InferRequest)


def parse(body: bytes) -> InferRequest:
    """The request in a body; raises BadRequest naming the place, never the content."""
    try:
        body.isascii() or body.decode()
        asked = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The body is no inference request: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON.") from None
    if repeats_a_key(body):
        raise BadRequest("The body names a key twice.", code="duplicate_key")
    if not asked.inputs:
        raise BadRequest("The request has no inputs.")
    for wanted in asked.outputs:
        if wanted.name not in OUTPUTS:
            raise BadRequest(unknown(wanted.name[:64], OUTPUTS, "an output"))
    return asked


def rows_of(asked: InferRequest, face: ModelFace) -> tuple[list[dict[str, Any]], bool]:
    """One mapping a row, and whether they hold features (else the request's own columns)."""
    columns = {tensor.name: _column(tensor) for tensor in asked.inputs}
    if len(columns) < len(asked.inputs):
        raise BadRequest("An input is named twice.")
    sizes = {len(values) for values in columns.values()}
    if len(sizes) != 1:
        raise BadRequest(f"The inputs have different numbers of rows: {', '.join(map(str, sorted(sizes)))}.")
    n = sizes.pop()
    if not 0 < n <= MOST_ROWS:
        raise BadRequest(f"A request has 1 to {MOST_ROWS} rows.")
    features = _are_features(columns, face)
    return [{name: values[i] for name, values in columns.items()} for i in range(n)], features


def _are_features(columns: Mapping[str, Any], face: ModelFace) -> bool:
    own = set(face.request.columns)
    if set(columns) <= own:
        return False
    if set(columns) == set(face.features):
        return True
    strange = next((name for name in columns if name not in own and name not in face.features), "")
    if strange:
        raise Refused(
            unknown(strange[:64], {*own, *face.features}, f"an input of {face.name}"), code="unknown_column"
        )
    odd = sorted(set(columns) ^ set(face.features))
    raise Refused(
        "Send the request's own columns alone, or every feature alone.",
        code="missing_column", hint=f"Too many or too few for the features: {', '.join(odd)}.",
    )  # fmt: skip


def _column(tensor: Tensor) -> list[Any]:
    """The values of an input, checked against its shape and datatype."""
    n = tensor.shape[0] if tensor.shape else 0
    if tensor.shape not in ([n], [n, 1]) or n < 0:
        raise BadRequest("An input has one value a row: its shape is [n] or [n, 1].", where=tensor.name[:64])
    data = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in tensor.data]
    if len(data) != n:
        raise BadRequest(f"The shape says {n} values, the data has {len(data)}.", where=tensor.name[:64])
    check = _check_of(tensor.datatype)
    for row, value in enumerate(data):
        if value is not None and not check(value):
            raise Refused(
                f"A value is no {tensor.datatype}.", code="wrong_type", where=f"{tensor.name[:64]}, row {row}"
            )
    return [float(value) for value in data] if tensor.datatype in _FLOATS and None not in data else data


def _check_of(datatype: str) -> typing.Callable[[Any], bool]:
    if datatype in _FLOATS:
        return lambda value: type(value) in (int, float)
    if datatype in _INTS:
        return lambda value: type(value) is int
    if datatype == "BOOL":
        return lambda value: type(value) is bool
    if datatype == "BYTES":
        return lambda value: type(value) is str
    raise BadRequest(
        "This datatype is not in the protocol.", hint="Use FP64, INT64, BOOL or BYTES, for example."
    )


def prediction_id(said: Prediction) -> str:
    """The id of a served prediction: the first output of the predict stage for its request."""
    return output_id(f"predict.{said.model}", said.source, said.position, 0)


def answer(
    asked: InferRequest, face: ModelFace, said: Sequence[Prediction], champion: int, durability: str
) -> dict[str, Any]:
    """The body of an answer."""
    columns: dict[str, list[Any]] = {
        "score": [one.score for one in said],
        "positive": [one.positive for one in said],
        "version": [one.version for one in said],
        "prediction_id": [prediction_id(one) for one in said],
        "request_id": [one.request for one in said],
    }
    wanted = [one.name for one in asked.outputs] or list(columns)
    outputs = [{"name": n, "datatype": OUTPUTS[n], "shape": [len(said)], "data": columns[n]} for n in wanted]
    failed = [one.error for one in said]
    if any(failed):
        outputs.append({"name": "error", "datatype": "BYTES", "shape": [len(said)], "data": failed})
    served = {one.version for one in said}
    version = served.pop() if len(served) == 1 else champion
    body: dict[str, Any] = {"model_name": face.name, "model_version": str(version), "outputs": outputs}
    if asked.id:
        body["id"] = asked.id
    body["parameters"] = {"durability": durability}
    return body


def metadata(face: ModelFace, versions: Sequence[int]) -> dict[str, Any]:
    """What a client may know of a model."""
    return {
        "name": face.name,
        "versions": [str(version) for version in versions],
        "platform": "penstock",
        "inputs": [
            {"name": name, "datatype": datatype(face.request, name), "shape": [-1]}
            for name in face.request.columns
        ],
        "outputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in OUTPUTS.items()],
    }


def datatype(source: Source, column: str) -> str:
    """The protocol's datatype of a column."""
    hint = typing.get_type_hints(source.schema)[column]
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
    return _DATATYPES.get(kinds[0], "BYTES")


def face_of(faces: Mapping[str, ModelFace], name: str) -> ModelFace:
    """A model by name; raises NotFound with the nearest one."""
    if name not in faces:
        raise NotFound(unknown(name[:64], faces, "a model here"))
    return faces[name]
