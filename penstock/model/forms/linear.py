"""model: the linear form: one weight a column. Steps before it are worked into it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from penstock.model.forms.steps import is_sklearn, parted
from penstock.record.codec import pack, unpack

PROBABLE = {"LogisticRegression", "LogisticRegressionCV"}
PLAIN = {
    "LinearRegression",
    "Ridge",
    "RidgeCV",
    "Lasso",
    "LassoCV",
    "ElasticNet",
    "ElasticNetCV",
    "SGDRegressor",
}


class Linear(msgspec.Struct, frozen=True):
    """A row's score is bias + sum of weights times what stands in its columns, where a missing one counts as
    `fill` says (null: there is no score then); through the logistic function where it is a probability."""

    weights: list[float]
    bias: float
    fill: list[float | None]
    logistic: bool


def make(fitted: Any, task: str, width: int) -> bytes | None:
    """The linear form of a model of scikit-learn, alone or behind steps."""
    found = parted(fitted, width)
    if found is None:
        return None
    seen, last = found.seen, found.last
    logistic = task == "binary" and (
        is_sklearn(last, *PROBABLE) or (is_sklearn(last, "SGDClassifier") and last.loss == "log_loss")
    )
    if not logistic and not (is_sklearn(last, *PLAIN) and not hasattr(last, "predict_proba")):
        return None
    each, bias = np.ravel(last.coef_).astype(float), np.ravel(last.intercept_).astype(float)
    if each.shape != (len(seen),) or bias.shape != (1,):
        return None
    weights, offsets, missing = (np.zeros(found.width) for _ in range(3))
    for weight, column in zip(each.tolist(), seen, strict=True):
        line = column.line()
        if line is None:
            return None
        weights[column.source] += weight * line[0]
        offsets[column.source] += weight * line[1]
        missing[column.source] += weight * column.missing
    odd = (weights == 0.0) & (missing != offsets)
    if (odd & ~np.isnan(missing)).any():  # no value stands for a missing one where all count the same
        return None
    fill = np.where(odd, math.nan, (missing - offsets) / np.where(weights == 0.0, 1.0, weights))
    filled = [None if math.isnan(one) else one for one in fill.tolist()]
    return pack(Linear(weights.tolist(), float(bias[0] + offsets.sum()), filled, logistic))


def load(data: bytes) -> Any:
    """The function: each row is summed by itself in one order, so that it does not matter what stands beside it."""
    form = unpack(data, Linear)
    weights, bias = np.array(form.weights), form.bias
    fill = np.array([math.nan if one is None else one for one in form.fill])
    fills, logistic = not np.isnan(fill).all(), form.logistic

    def scores(x: Any) -> Any:
        if fills:
            x = np.where(np.isnan(x), fill, x)
        sums = (x * weights).sum(axis=1) + bias
        if not logistic:
            return sums
        with np.errstate(over="ignore"):
            return 1.0 / (1.0 + np.exp(-sums))

    return scores
