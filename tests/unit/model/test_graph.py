"""model: an ONNX model from outside is scored as it is, apart where it could go on for ever, or refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from penstock.model.brought import brought
from penstock.model.fit import formed
from penstock.model.graph import checked, tame
from penstock.model.pack import dump, load, score
from penstock.record.errors import Refused
from tests.unit.model.rows import WIDTH, sampled, trained

X = np.nan_to_num(np.array(sampled(200), dtype=float)) / [1, 4, 0.01, 1e5, 1]
FITTED = LogisticRegression().fit(X, X[:, 0] > 0)
ROWS = X[:30].tolist()


def graph(
    nodes: list[Any], *, width: int = WIDTH, inputs: int = 1, weights: list[Any] | None = None
) -> onnx.ModelProto:
    """A graph from `x` to `y`."""
    asked = [
        helper.make_tensor_value_info("x" if i == 0 else f"x{i}", TensorProto.FLOAT, [None, width])
        for i in range(inputs)
    ]
    said = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    drawn = helper.make_graph(nodes, "one", asked, said, initializer=weights or [])
    return helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def summed() -> onnx.ModelProto:
    """A graph that sums its columns."""
    return graph([helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)], weights=[AXES])


AXES = numpy_helper.from_array(np.array([1], np.int64), "axes")


@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_converted_classifier_says_a_probability(zipmap: bool, as_bytes: bool) -> None:
    """As an object or as bytes, with or without the converter's maps; it is its own form, and kept as it is."""
    made = to_onnx(FITTED, X[:1].astype(np.float32), options={"zipmap": zipmap})
    data = made.SerializeToString()
    one = trained(lambda x, y: data if as_bytes else made, "binary")
    said = score(one, ROWS)
    assert np.abs(np.array(said, float) - FITTED.predict_proba(X[:30])[:, 1]).max() < 1e-6
    assert data in dump(one) and score(load(dump(one)), ROWS) == said
    found = formed(one, ROWS)
    assert found is not None and found.kind == "onnx" and score(found.model, ROWS) == said


def test_numbers_of_any_shape() -> None:
    """A number a row, by itself or in a column of its own."""
    for keep in (0, 1):
        one = trained(lambda x, y, keep=keep: graph(
            [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=keep)], weights=[AXES]
        ), "number")  # fmt: skip
        found = formed(one, ROWS)
        assert found is not None
        assert score(found.model, ROWS) == pytest.approx(X[:30].sum(axis=1), abs=1e-5)


def test_what_could_go_on_for_ever_is_no_form() -> None:
    """A graph within a graph (a branch, a loop), and a function of its own, are scored apart; they do score."""
    branch = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["z"], keepdims=0)], "branch", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )  # fmt: skip
    yes = numpy_helper.from_array(np.array(True), "yes")
    made = graph(
        [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)], weights=[AXES, yes]
    )
    assert not tame(made.SerializeToString()) and tame(summed().SerializeToString())
    one = trained(lambda x, y: made, "number")
    assert formed(one, ROWS) is None and score(one, ROWS) == pytest.approx(X[:30].sum(axis=1), abs=1e-5)


def outside(*, deep: bool) -> onnx.ModelProto:
    """A graph whose weights are in another file: of the graph, or deep in an attribute."""
    weight = onnx.TensorProto(name="axes", data_type=TensorProto.INT64, dims=[1])
    weight.external_data.add(key="location", value="../secret")
    if not deep:
        return graph([helper.make_node("ReduceSum", ["x", "axes"], ["y"])], weights=[weight])
    inner = helper.make_graph([helper.make_node("Constant", [], ["z"], value=weight)], "inner", [], [])
    return graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)])


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (b"no graph", "bytes that are no ONNX model"),
        (outside(deep=False), "weights in other files"),
        (outside(deep=True), "weights in other files"),
        (graph([], width=WIDTH + 1), "one input"),
        (graph([], inputs=2), "one input"),
        (graph([helper.make_node("Nonsense", ["x"], ["y"])]), "cannot run"),
    ],
)
def test_what_cannot_be_taken(made: Any, why: str) -> None:
    """A sentence says why, before anything is stored."""
    with pytest.raises(Refused, match=why) as told:
        brought(made, WIDTH)
    assert told.value.code == "model_onnx"


def test_a_graph_that_was_checked_is_unchanged() -> None:
    """What is stored is what fit returned, to the byte."""
    data = summed().SerializeToString()
    assert checked(data, WIDTH) == data
