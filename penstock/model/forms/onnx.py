"""model: the ONNX form: trees and pipelines, scored by onnxruntime on one thread.

Source: ONNX and its operators for machine learning. Boosted trees are drawn here, node by node, in the precision of
their library; what else is of scikit-learn is converted by skl2onnx, in double precision where its operators have it,
in single precision else. A graph that `fit` returned is its own form, where nothing in it can go on for ever.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.model.brought import Brought
from penstock.model.forms import boosted
from penstock.model.forms.trees import Trees
from penstock.model.graph import opened, tame

INPUT = "x"


def make(fitted: Any, task: str, width: int) -> bytes | None:
    """The graph of a model; None where it cannot be had, or what it takes is not installed."""
    try:
        if isinstance(fitted, Brought) and fitted.format == "onnx":
            return fitted.data if tame(fitted.data) else None
        found = boosted.trees(fitted, task)
        return _converted(fitted, task, width) if found is None else drawn(found, width)
    except ImportError:
        return None


def drawn(trees: Trees, width: int) -> bytes:
    """The graph of trees over rows of `width` columns."""
    from onnx import TensorProto, helper, numpy_helper

    kind = np.float32 if trees.precision == "single" else np.float64
    taken = TensorProto.DOUBLE if trees.precision == "double" else TensorProto.FLOAT
    arrays = trees.arrays()
    node = np.arange(len(arrays.left))
    begin = np.repeat(arrays.roots, np.diff([*arrays.roots, len(node)]))
    tree, leaf = np.searchsorted(arrays.roots, begin), arrays.left == node

    def tensor(name: str, values: Any) -> Any:
        return numpy_helper.from_array(np.asarray(values, kind), name)

    widened = trees.precision == "rounded"
    steps = [helper.make_node("Cast", [INPUT], ["wide"], to=TensorProto.DOUBLE)] if widened else []
    steps.append(
        helper.make_node(
            "TreeEnsembleRegressor", ["wide" if widened else INPUT], ["sum"], domain="ai.onnx.ml", n_targets=1,
            nodes_treeids=tree.tolist(), nodes_nodeids=(node - begin).tolist(),
            nodes_featureids=arrays.column.tolist(), nodes_values_as_tensor=tensor("limit", arrays.limit),
            nodes_modes=["LEAF" if one else "BRANCH_LEQ" for one in leaf],
            nodes_truenodeids=np.where(leaf, 0, arrays.left - begin).tolist(),
            nodes_falsenodeids=np.where(leaf, 0, arrays.right - begin).tolist(),
            nodes_missing_value_tracks_true=arrays.strays.astype(int).tolist(),
            target_treeids=tree[leaf].tolist(), target_nodeids=(node - begin)[leaf].tolist(),
            target_ids=[0] * int(leaf.sum()), target_weights_as_tensor=tensor("value", arrays.value[leaf]),
        )
    )  # fmt: skip
    if trees.link != "plain":
        steps.append(helper.make_node("Exp" if trees.link == "exp" else "Sigmoid", ["sum"], ["score"]))
    drawing = helper.make_graph(
        steps, "penstock", [helper.make_tensor_value_info(INPUT, taken, [None, width])],
        [helper.make_tensor_value_info(steps[-1].output[0], TensorProto.FLOAT, [None, 1])],
    )  # fmt: skip
    versions = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(drawing, opset_imports=versions, ir_version=8).SerializeToString())


def _converted(fitted: Any, task: str, width: int) -> bytes | None:
    """The graph of a model of scikit-learn as skl2onnx has it."""
    classes = hasattr(fitted, "predict_proba")
    if type(fitted).__module__.partition(".")[0] != "sklearn" or (classes and task == "number"):
        return None
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

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
    said = opened(data)

    def scores(x: Any) -> Any:
        found = said(x)
        return found[:, -1] if found.ndim == 2 else found

    return scores
