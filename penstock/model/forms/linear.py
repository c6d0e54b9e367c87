"""model: the linear form: one weight a column. Scaling and filling in are worked into it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

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
    """The linear form of a model of scikit-learn, alone or behind steps that fill in and scale."""
    steps = [one for _, one in fitted.steps] if is_sklearn(fitted, "Pipeline") else [fitted]
    *before, last = steps
    logistic = task == "binary" and (
        is_sklearn(last, *PROBABLE) or (is_sklearn(last, "SGDClassifier") and last.loss == "log_loss")
    )
    if not logistic and not (is_sklearn(last, *PLAIN) and not hasattr(last, "predict_proba")):
        return None
    weights, bias = np.ravel(last.coef_).astype(float), np.ravel(last.intercept_).astype(float)
    if weights.shape != (width,) or bias.shape != (1,):
        return None
    offset, fill = float(bias[0]), np.full(width, math.nan)
    for step in reversed(before):
        if is_sklearn(step, "SimpleImputer") and step.statistics_.dtype == float and step.indicator_ is None:
            fill = step.statistics_
            if step is not before[0] or not math.isnan(step.missing_values):
                return None
        elif is_sklearn(step, "StandardScaler"):
            weights = weights / step.scale_ if step.with_std else weights
            offset -= float((weights * step.mean_).sum()) if step.with_mean else 0.0
        elif is_sklearn(step, "MinMaxScaler") and not step.clip:
            offset += float((weights * step.min_).sum())
            weights = weights * step.scale_
        else:
            return None
    filled = [None if math.isnan(one) else float(one) for one in fill]
    return pack(Linear(weights.tolist(), offset, filled, logistic))


def is_sklearn(fitted: Any, *names: str) -> bool:
    """Whether a model is of such a class of scikit-learn: nothing is imported to find out."""
    kind = type(fitted)
    return kind.__name__ in names and kind.__module__.partition(".")[0] == "sklearn"


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
