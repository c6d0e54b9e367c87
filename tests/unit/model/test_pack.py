"""model: any fitted thing scores rows of values, and its bytes are the same again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.model.fit import answers
from penstock.model.pack import Model, dump, kinds_of, load, matrix, score
from penstock.record.errors import Refused


class Sum:
    """Adds numbers up; texts count by length. A negative one is an error."""

    def __init__(self) -> None:
        shared = ["x", "y"]
        self.names = [shared, shared]

    def predict_proba(self, x: Any) -> Any:
        """Two columns, as scikit-learn has them."""
        total = [sum(len(v) if isinstance(v, str) else 0.0 if v is None else v for v in row) for row in x]
        if min(total) < 0:
            raise ValueError("negative")
        return np.column_stack([np.zeros(len(total)), total])


def model(
    fitted: Any = None, task: Any = "binary", kinds: Any = ("number", "number"), predict: Any = None
) -> Model:
    """A model of two columns."""
    return Model("f", task, list(kinds), fitted or Sum(), predict)


def test_rows_become_a_matrix() -> None:
    """Null is NaN among numbers; texts keep null, beside them numbers are floats."""
    numbers = matrix([[1, None], [True, 2.5]], ["number", "number"])
    assert numbers.dtype == np.float64 and np.isnan(numbers[0, 1]) and numbers[1, 0] == 1.0
    mixed = matrix([["a", 1], [None, None]], ["category", "number"])
    assert mixed.dtype == object and mixed[1, 0] is None and np.isnan(mixed[1, 1])
    assert kinds_of([["a", 1], [None, 2.0]], 2) == ["category", "number"]


def test_scores_are_one_finite_number_a_row() -> None:
    """From probabilities, from predict, from the user's own function; what is not finite is none."""
    rows: Any = [[0.25, 0.5], [0.1, None]]
    assert score(model(), [rows[0]]) == [0.75] and score(model(), rows)[1] is None
    assert score(model(predict=lambda fitted, x: x[:, 0]), rows) == [0.25, 0.1]

    class Plain:
        def predict(self, x: Any) -> Any:
            return x[:, 0] * 2

    assert score(model(Plain(), "number"), rows) == [0.5, 0.2]
    with pytest.raises(Refused):
        score(model(predict=lambda fitted, x: np.zeros((2, 3))), rows)


def test_one_bad_row_costs_no_other() -> None:
    """A batch that fails is tried row by row."""
    assert answers(model(), [[0.5, 0.0], [-1.0, 0.0], [0.25, 0.0]], batch=2) == [0.5, None, 0.25]


def test_bytes_do_not_tell_what_was_shared() -> None:
    """A model and its copy, read back, have the same bytes, and score the same."""
    first = dump(model())
    again = load(first)
    assert dump(Model(again.features, again.task, again.kinds, again.fitted, None)) == first
    assert score(again, [[0.5, 0.0]]) == [0.5]
