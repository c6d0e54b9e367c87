"""model: ONNX graphs, from bytes only, scored by onnxruntime on one thread: what may be in them, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from penstock.record.errors import Broken, Refused

PLAIN = {"", "ai.onnx", "ai.onnx.ml"}
"""The domains whose operators are ONNX's own."""


def opened(data: bytes) -> Callable[[Any], Any]:
    """Rows (n, columns) to what a graph of one input says last; raises Broken where it cannot be opened here."""
    try:
        import onnxruntime
    except ImportError:
        raise Broken(
            "This model is an ONNX graph, and onnxruntime is not installed.", code="model_library",
            hint="Install the extra `onnx`.",
        ) from None  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (asked,) = session.get_inputs()
    name, output = asked.name, session.get_outputs()[-1].name
    kind = np.float64 if asked.type == "tensor(double)" else np.float32

    def said(x: Any) -> Any:
        found = session.run([output], {name: x.astype(kind, copy=False)})[0]
        if isinstance(found, list):  # a map a row, of a class to its probability
            found = np.array([[row[one] for one in sorted(row)] for row in found])
        return found

    return said


def checked(data: bytes, width: int) -> bytes:
    """A graph from outside, of `width` columns, that needs no other file; raises Refused where it is none."""
    try:
        import onnx
    except ImportError:
        raise Refused(
            "fit returned an ONNX model.", code="model_library", hint="Install the extra `onnx`."
        ) from None
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # the parser of protocol buffers raises its own
        raise Refused("fit returned bytes that are no ONNX model.", code="model_onnx") from None
    for one in _messages(model):
        if isinstance(one, onnx.TensorProto) and (one.external_data or one.data_location == one.EXTERNAL):
            raise Refused(
                "The ONNX model keeps weights in other files.", code="model_onnx",
                hint="Save it whole, as one file.",
            )  # fmt: skip
    weights = {one.name for one in model.graph.initializer}
    asked = [one.type.tensor_type for one in model.graph.input if one.name not in weights]
    sizes = [dim.dim_value for dim in asked[0].shape.dim] if len(asked) == 1 else []
    if len(sizes) != 2 or sizes[0] != 0 or sizes[1] not in (0, width) or asked[0].elem_type not in (1, 11):
        raise Refused(
            f"The ONNX model must have one input, float or double, of shape [n, {width}].", code="model_onnx",
            hint="Convert it with one input for all columns, in the order of the features.",
        )  # fmt: skip
    try:
        opened(data)(np.zeros((1, width)))
    except Broken:
        raise
    except Exception as error:  # onnxruntime raises many things for what it does not know
        raise Refused(
            f"onnxruntime cannot run this ONNX model ({type(error).__name__}).", code="model_onnx"
        ) from None
    return data


def tame(data: bytes) -> bool:
    """Whether nothing in a graph can go on for ever: no loop, branch or function of its own, no foreign operator."""
    import onnx

    model = onnx.load_model_from_string(data)
    if model.functions:
        return False
    nodes = model.graph.node
    return all(
        node.domain in PLAIN and not any(one.HasField("g") or one.graphs for one in node.attribute) for node in nodes
    )  # fmt: skip


def _messages(message: Any) -> Iterator[Any]:
    """A message of protocol buffers and all within it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                yield from _messages(one)
