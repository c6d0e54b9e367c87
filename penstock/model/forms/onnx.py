"""model: the ONNX form: trees and pipelines, scored by onnxruntime on one thread.

Source: ONNX and its operators for machine learning. Trees are drawn here, node by node, in the precision of
their library; what else is of scikit-learn is converted by skl2onnx, in double precision where its operators have it,
in single precision else. A graph that `fit` returned is its own form, where nothing in it can go on for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
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
        found = boosted.trees(fitted, task, width)
        return _converted(fitted, task, width) if found is None else drawn(found)
    except ImportError:
        return None


def drawn(trees: Trees) -> bytes:
    """The graph of trees."""
    from onnx import TensorProto, helper, numpy_helper

    kind = np.float32 if trees.precision == "single" else np.float64
    taken = TensorProto.FLOAT if trees.precision in ("single", "rounded") else TensorProto.DOUBLE
    arrays = trees.arrays()
    node = np.arange(len(arrays.left))
    begin = np.repeat(arrays.roots, np.diff([*arrays.roots, len(node)]))
    tree, leaf = np.searchsorted(arrays.roots, begin), arrays.left == node

    def tensor(name: str, values: Any) -> Any:
        return numpy_helper.from_array(np.asarray(values, kind), name)

    widened, apart = trees.precision == "rounded", trees.precision == "summed"
    targets = tree[leaf] if apart else np.zeros(int(leaf.sum()), int)
    steps = [helper.make_node("Cast", [INPUT], ["wide"], to=TensorProto.DOUBLE)] if widened else []
    steps.append(
        helper.make_node(
            "TreeEnsembleRegressor", ["wide" if widened else INPUT], ["each" if apart else "sum"],
            domain="ai.onnx.ml", n_targets=int(targets.max()) + 1,
            nodes_treeids=tree.tolist(), nodes_nodeids=(node - begin).tolist(),
            nodes_featureids=arrays.column.tolist(), nodes_values_as_tensor=tensor("limit", arrays.limit),
            nodes_modes=["LEAF" if one else "BRANCH_LEQ" for one in leaf],
            nodes_truenodeids=np.where(leaf, 0, arrays.left - begin).tolist(),
            nodes_falsenodeids=np.where(leaf, 0, arrays.right - begin).tolist(),
            nodes_missing_value_tracks_true=arrays.strays.astype(int).tolist(),
            target_treeids=tree[leaf].tolist(), target_nodeids=(node - begin)[leaf].tolist(),
            target_ids=targets.tolist(), target_weights_as_tensor=tensor("value", arrays.value[leaf]),
        )
    )  # fmt: skip
    numbers = []
    if apart:  # the operator would sum in the precision of the rows: each tree is a target, summed in single
        numbers = [numpy_helper.from_array(np.array([at]), name) for name, at in (("one", 1), ("last", -1))]
        steps.append(helper.make_node("CumSum", ["each", "one"], ["sums"]))
        steps.append(helper.make_node("Gather", ["sums", "last"], ["sum"], axis=1))
    if trees.link != "plain":
        steps.append(helper.make_node("Exp" if trees.link == "exp" else "Sigmoid", ["sum"], ["score"]))
    drawing = helper.make_graph(
        steps, "penstock", [helper.make_tensor_value_info(INPUT, taken, [None, None])],
        [helper.make_tensor_value_info(steps[-1].output[0], TensorProto.FLOAT, [None, 1])], numbers,
    )  # fmt: skip
    versions = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(drawing, opset_imports=versions, ir_version=8).SerializeToString())


def _converted(fitted: Any, task: str, width: int) -> bytes | None:
    """The graph of a model of scikit-learn as skl2onnx has it."""
    classes = hasattr(fitted, "predict_proba")
    if type(fitted).__module__.partition(".")[0] != "sklearn" or (classes and task == "number"):
        return None
    if any(np.isinf(limit).any() for limit in _limits(fitted)):
        return None  # what splits by nothing but missing values: the converter would look on for ever
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


def _limits(fitted: Any) -> Iterator[Any]:
    """The limits of all trees of scikit-learn within a model."""
    if isinstance(fitted, list | tuple) or (isinstance(fitted, np.ndarray) and fitted.dtype == object):
        for one in np.ravel(fitted) if isinstance(fitted, np.ndarray) else fitted:
            yield from _limits(one)
    elif hasattr(fitted, "tree_"):
        yield fitted.tree_.threshold
    elif type(fitted).__module__.startswith("sklearn.") and hasattr(fitted, "__dict__"):
        yield from _limits(list(vars(fitted).values()))


def load(data: bytes) -> Any:
    """The function, from bytes only: a graph that names a file finds none."""
    said = opened(data)

    def scores(x: Any) -> Any:
        found = said(x)
        return found[:, -1] if found.ndim == 2 else found

    return scores
