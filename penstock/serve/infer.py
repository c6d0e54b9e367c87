"""serve: the Open Inference Protocol's words: requests into rows, predictions into outputs, metadata.

Source: the Open Inference Protocol, version 2, REST, with its extension for binary tensor data.
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
from penstock.serve.desk import ModelFace, Spoken
from penstock.serve.tensors import FLOATS, BadRequest, Tensor, packed, values

MOST_ROWS = 10_000
EXTENSIONS = ["binary_tensor_data", "model_repository"]
_DATATYPES = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES", datetime: "BYTES"}
OUTPUTS = {
    "score": "FP64",
    "positive": "BOOL",
    "version": "INT64",
    "prediction_id": "BYTES",
    "request_id": "BYTES",
}


class Wanted(msgspec.Struct, frozen=True):
    """An output that the client asks for."""

    name: str
    parameters: dict[str, Any] = {}


Column = tuple[str, str, list[Any]]
"""An output: its name, its datatype, a value a row."""


class InferRequest(msgspec.Struct, frozen=True):
    """The body of an infer call."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[Wanted] = []


_decoder = msgspec.json.Decoder(InferRequest)


def parse(body: bytes, json_bytes: str = "") -> tuple[InferRequest, list[list[Any]]]:
    """The request in a body, and its inputs' values; `json_bytes`: how much of it is JSON, where tensors follow as
    bytes. Raises BadRequest naming the place, never the content."""
    if json_bytes and (not json_bytes.isdigit() or int(json_bytes) > len(body)):
        raise BadRequest(
            "The length of the JSON is no length in this body.", where="inference-header-content-length"
        )
    text, rest = (body[: int(json_bytes)], body[int(json_bytes) :]) if json_bytes else (body, b"")
    try:
        text.isascii() or text.decode()
        asked = _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The body is no inference request: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON.") from None
    if repeats_a_key(text):
        raise BadRequest("The body names a key twice.", code="duplicate_key")
    if not asked.inputs:
        raise BadRequest("The request has no inputs.")
    must_be_outputs([one.name for one in asked.outputs])
    return asked, [
        values(one, binary) for one, binary in zip(asked.inputs, _binaries(asked, rest), strict=True)
    ]


def must_be_outputs(names: Sequence[str]) -> None:
    """Raise BadRequest for an output that there is not."""
    for name in names:
        if name not in OUTPUTS:
            raise BadRequest(unknown(name[:64], OUTPUTS, "an output"))


def _binaries(asked: InferRequest, rest: bytes) -> list[bytes | None]:
    """The bytes of each input that has such, in order; they must be all that follows the JSON."""
    found: list[bytes | None] = []
    at = 0
    for one in asked.inputs:
        size = one.parameters.get("binary_data_size")
        if size is None:
            found.append(None)
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - at:
            raise BadRequest(
                "The size of the binary data is not that of what follows the JSON.", where=one.name[:64]
            )
        found.append(rest[at : at + size])
        at += size
    if at != len(rest):
        raise BadRequest("There is more behind the JSON than the inputs say.")
    return found


def rows_of(
    inputs: Sequence[Tensor], found: Sequence[list[Any]], face: ModelFace
) -> tuple[list[dict[str, Any]], bool]:
    """One mapping a row, and whether they hold features (else the request's own columns)."""
    if len(inputs) == 1 and _is_matrix(inputs[0], face):
        n, width = inputs[0].shape
        _count_rows(n)
        rows = (found[0][i : i + width] for i in range(0, n * width, width))
        return [dict(zip(face.features, row, strict=True)) for row in rows], True
    columns: dict[str, list[Any]] = {}
    for one, data in zip(inputs, found, strict=True):
        if len(one.shape) == 2 and one.shape[1] != 1:
            raise BadRequest("An input has one value a row: its shape is [n] or [n, 1].", where=one.name[:64])
        columns[one.name] = data
    if len(columns) < len(inputs):
        raise BadRequest("An input is named twice.")
    sizes = {len(data) for data in columns.values()}
    if len(sizes) != 1:
        raise BadRequest(f"The inputs have different numbers of rows: {', '.join(map(str, sorted(sizes)))}.")
    n = sizes.pop()
    _count_rows(n)
    features = are_features(columns, face)
    return [{name: data[i] for name, data in columns.items()} for i in range(n)], features


def _is_matrix(one: Tensor, face: ModelFace) -> bool:
    """Whether an input brings every feature of its rows, in the order of the model's."""
    return (
        len(one.shape) == 2
        and one.shape[1] == len(face.features)
        and one.name not in face.request.columns
        and (one.shape[1] > 1 or one.name not in face.features)
        and one.datatype in FLOATS
    )


def _count_rows(n: int) -> None:
    if not 0 < n <= MOST_ROWS:
        raise BadRequest(f"A request has 1 to {MOST_ROWS} rows.")


def are_features(columns: Mapping[str, Any], face: ModelFace) -> bool:
    """Whether columns are the model's features; else they are the request's own. Raises Refused where neither."""
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


def prediction_id(said: Prediction | Spoken) -> str:
    """The id of a served prediction: the first output of the predict stage for its request."""
    return output_id(f"predict.{said.model}", said.source, said.position, 0)


def told_of(names: Sequence[str], said: Sequence[Prediction | Spoken]) -> list[Column]:
    """The outputs of these names, all where none is named."""
    columns: dict[str, list[Any]] = {
        "score": [one.score for one in said],
        "positive": [one.positive for one in said],
        "version": [one.version for one in said],
        "prediction_id": [prediction_id(one) for one in said],
        "request_id": [one.request for one in said],
    }
    return [(name, OUTPUTS[name], columns[name]) for name in names or columns]


def answer(
    asked: InferRequest, face: ModelFace, said: Sequence[Prediction | Spoken], champion: int, durability: str
) -> tuple[dict[str, Any], bytes]:
    """The body of an answer, and the bytes that follow it."""
    all_binary = asked.parameters.get("binary_data_output") is True
    binary = {one.name: one.parameters.get("binary_data", all_binary) is True for one in asked.outputs}
    outputs: list[dict[str, Any]] = []
    rest: list[bytes] = []
    for name, kind, data in told_of([one.name for one in asked.outputs], said):
        output: dict[str, Any] = {"name": name, "datatype": kind, "shape": [len(said)]}
        if binary.get(name, all_binary):
            rest.append(packed(kind, data))
            output["parameters"] = {"binary_data_size": len(rest[-1])}
        else:
            output["data"] = data
        outputs.append(output)
    failed = [one.error for one in said]
    if any(failed):
        outputs.append({"name": "error", "datatype": "BYTES", "shape": [len(said)], "data": failed})
    served = {one.version for one in said}
    version = served.pop() if len(served) == 1 else champion
    body: dict[str, Any] = {"model_name": face.name, "model_version": str(version), "outputs": outputs}
    if asked.id:
        body["id"] = asked.id
    body["parameters"] = {"durability": durability}
    return body, b"".join(rest)


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
