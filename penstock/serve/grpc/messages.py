"""serve: the messages of `inference.GRPCInferenceService`, described field by field: nothing is generated.

Source: the Open Inference Protocol, version 2, gRPC: names, numbers and types of the fields are the protocol's.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE, SERVICE = "inference", "GRPCInferenceService"
_KINDS = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13,
}  # fmt: skip
_MESSAGE, _ONE, _MANY = 11, 1, 3
_PARAMETERS = ("parameters", "map InferParameter")
_CONTENTS = (
    "InferTensorContents",
    [
        ("bool_contents", 1, "many bool"), ("int_contents", 2, "many int32"), ("int64_contents", 3, "many int64"),
        ("uint_contents", 4, "many uint32"), ("uint64_contents", 5, "many uint64"), ("fp32_contents", 6, "many float"),
        ("fp64_contents", 7, "many double"), ("bytes_contents", 8, "many bytes"),
    ],
)  # fmt: skip
_TENSOR = [("name", 1, "string"), ("datatype", 2, "string"), ("shape", 3, "many int64")]
_FULL = [*_TENSOR, (_PARAMETERS[0], 4, _PARAMETERS[1]), ("contents", 5, "InferTensorContents")]
_NAMED = [("name", 1, "string"), ("version", 2, "string")]
MESSAGES: list[tuple[str, list[tuple[str, int, str]]]] = [
    ("ServerLiveRequest", []),
    ("ServerLiveResponse", [("live", 1, "bool")]),
    ("ServerReadyRequest", []),
    ("ServerReadyResponse", [("ready", 1, "bool")]),
    ("ModelReadyRequest", _NAMED),
    ("ModelReadyResponse", [("ready", 1, "bool")]),
    ("ServerMetadataRequest", []),
    ("ServerMetadataResponse", [*_NAMED, ("extensions", 3, "many string")]),
    ("ModelMetadataRequest", _NAMED),
    ("TensorMetadata", _TENSOR),
    (
        "ModelMetadataResponse",
        [
            ("name", 1, "string"), ("versions", 2, "many string"), ("platform", 3, "string"),
            ("inputs", 4, "many TensorMetadata"), ("outputs", 5, "many TensorMetadata"),
        ],
    ),
    _CONTENTS,
    (
        "InferParameter",
        [("bool_param", 1, "choice bool"), ("int64_param", 2, "choice int64"), ("string_param", 3, "choice string")],
    ),
    ("InferInputTensor", _FULL),
    ("InferRequestedOutputTensor", [("name", 1, "string"), (_PARAMETERS[0], 2, _PARAMETERS[1])]),
    ("InferOutputTensor", _FULL),
    (
        "ModelInferRequest",
        [
            ("model_name", 1, "string"), ("model_version", 2, "string"), ("id", 3, "string"),
            (_PARAMETERS[0], 4, _PARAMETERS[1]), ("inputs", 5, "many InferInputTensor"),
            ("outputs", 6, "many InferRequestedOutputTensor"), ("raw_input_contents", 7, "many bytes"),
        ],
    ),
    (
        "ModelInferResponse",
        [
            ("model_name", 1, "string"), ("model_version", 2, "string"), ("id", 3, "string"),
            (_PARAMETERS[0], 4, _PARAMETERS[1]), ("outputs", 5, "many InferOutputTensor"),
            ("raw_output_contents", 6, "many bytes"),
        ],
    ),
]  # fmt: skip
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")


def _described() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="penstock/inference.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in MESSAGES:
        message = file.message_type.add(name=name)
        if any(kind.startswith("choice ") for _, _, kind in fields):
            message.oneof_decl.add(name="parameter_choice")
        for field, number, kind in fields:
            _field(message, field, number, kind)
    return file


def _field(message: Any, name: str, number: int, kind: str) -> None:
    how, _, kind = kind.rpartition(" ")
    field = message.field.add(name=name, number=number, label=_MANY if how in ("many", "map") else _ONE)
    if how == "map":  # a map is a list of entries of key and value
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _field(entry, "key", 1, "string")
        _field(entry, "value", 2, kind)
        field.type, field.type_name = _MESSAGE, f".{PACKAGE}.{message.name}.{entry.name}"
    elif kind in _KINDS:
        field.type = _KINDS[kind]
    else:
        field.type, field.type_name = _MESSAGE, f".{PACKAGE}.{kind}"
    if how == "choice":
        field.oneof_index = 0


_pool = (
    descriptor_pool.DescriptorPool()
)  # one of our own: a client in this process may know the protocol, too
_pool.Add(_described())


def kind(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
