"""model: the ONNX form: trees and pipelines, scored by onnxruntime on one thread.

Source: ONNX and its operators for machine learning; converted by skl2onnx in double precision where its operators
have it, in single precision else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

INPUT = "x"


def make(fitted: Any, task: str, width: int) -> bytes | None:
    """The graph of a model of scikit-learn; None where it cannot be had, or the converter is not installed."""
    classes = hasattr(fitted, "predict_proba")
    if type(fitted).__module__.partition(".")[0] != "sklearn" or (classes and task == "number"):
        return None
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    except ImportError:
        return None
    for kind in (DoubleTensorType, FloatTensorType):
        try:
            graph = to_onnx(
                fitted, initial_types=[(INPUT, kind([None, width]))], name="penstock",
                options={id(fitted): {"zipmap": False}} if classes else None,
            )  # fmt: skip
            data = bytes(graph.SerializeToString())
            load(data)(np.zeros((1, width)))
        except (
            Exception
        ):  # the converter and the runtime raise many things for what they do not know: no form then
            continue
        return data
    return None


def load(data: bytes) -> Any:
    """The function, from bytes only: a graph that names a file finds none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (asked,) = session.get_inputs()
    kind = np.float64 if asked.type == "tensor(double)" else np.float32
    output = session.get_outputs()[-1].name

    def scores(x: Any) -> Any:
        found = session.run([output], {INPUT: x.astype(kind, copy=False)})[0]
        return found[:, -1] if found.ndim == 2 else found

    return scores
