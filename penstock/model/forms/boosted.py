"""model: the trees of scikit-learn, XGBoost and LightGBM, read from what they tell of themselves.

What is not known to come to the same is left out: categories, several classes, weights at leaves, zeros that count as
missing.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from penstock.model.brought import Brought, brought, lightgbm_opened, xgboost_opened
from penstock.model.forms.steps import folded, is_sklearn, parted
from penstock.model.forms.trees import Grown, Link, Trees, joined
from penstock.record.codec import pack

FOREST = ("RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor")
TREE = ("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor")
BOOSTING = ("GradientBoostingClassifier", "GradientBoostingRegressor")
HIST = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
LINKS: dict[str, Link] = {"HalfBinomialLoss": "logistic", "HalfPoissonLoss": "exp", "HalfGammaLoss": "exp"}
LINKS |= dict.fromkeys(("HalfSquaredError", "AbsoluteError", "PinballLoss", "HuberLoss"), "plain")

XGBOOST: dict[str, Link] = {"binary:logistic": "logistic", "reg:logistic": "logistic"}
XGBOOST |= dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie"), "exp")
XGBOOST |= dict.fromkeys(
    ("binary:logitraw", "reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror"), "plain"
)  # fmt: skip

LIGHTGBM: dict[str, Link] = {"binary": "logistic", "cross_entropy": "logistic"}
LIGHTGBM |= dict.fromkeys(("poisson", "gamma", "tweedie"), "exp")
LIGHTGBM |= dict.fromkeys(("regression", "regression_l1", "huber", "fair", "quantile", "mape"), "plain")


def make(fitted: Any, task: str, width: int) -> bytes | None:
    """The trees form of a model; None where it is of no library that is read here, or says that it is more."""
    found = trees(fitted, task, width)
    return None if found is None else pack(found)


def trees(fitted: Any, task: str, width: int) -> Trees | None:
    """The trees of a model of `width` columns, alone or behind steps; None as above."""
    found = parted(fitted, width)
    if found is None or (hasattr(found.last, "predict_proba") and task != "binary"):
        return None
    grown = _read(found.last, len(found.seen))
    return None if grown is None else folded(grown, found.seen)


def _read(fitted: Any, width: int) -> Trees | None:
    if is_sklearn(fitted, *HIST):
        return hist(fitted)
    if is_sklearn(fitted, *BOOSTING):
        return boosting(fitted, width)
    if is_sklearn(fitted, *FOREST, *TREE):
        return forest(fitted)
    found = fitted if isinstance(fitted, Brought) else brought(fitted, width)
    if found is None or found.format == "onnx":
        return None
    if found.format == "xgboost":
        return xgboost(bytes(xgboost_opened(found.data).save_raw("json")))
    return lightgbm(lightgbm_opened(found.data).dump_model())


def forest(fitted: Any) -> Trees | None:
    """Of a tree, or of the mean of many: a probability of the second of two classes, or a number."""
    if fitted.n_outputs_ != 1 or len(getattr(fitted, "classes_", "01")) != 2:
        return None
    each = [one.tree_ for one in getattr(fitted, "estimators_", [fitted])]
    grown = [_grown(tree, tree.value[:, 0, -1] / len(each)) for tree in each]
    return joined(grown, 0.0, "plain", precision="rounded")


def boosting(fitted: Any, width: int) -> Trees | None:
    """Of a GradientBoostingClassifier of two classes or a GradientBoostingRegressor, begun at one number."""
    link = LINKS.get(type(fitted._loss).__name__)
    begins = fitted.init_ == "zero" or is_sklearn(fitted.init_, "DummyClassifier", "DummyRegressor")
    if link is None or not begins or fitted.estimators_.shape[1] != 1:
        return None
    base = float(np.ravel(fitted._raw_predict_init(np.zeros((1, width))))[0])
    each = [one.tree_ for (one,) in fitted.estimators_]
    grown = [_grown(tree, tree.value[:, 0, 0] * fitted.learning_rate) for tree in each]
    return joined(grown, base, link, precision="rounded")


def _grown(tree: Any, value: Any) -> Grown:
    """A tree of scikit-learn, with what its leaves say."""
    strays = tree.__getstate__()["nodes"]["missing_go_to_left"]
    return Grown(tree.feature, tree.threshold, strays, tree.children_left, tree.children_right, value)


NOTHING = float(np.float32(1e-35))
"""What is no larger counts as 0 to LightGBM, wherever it stands."""


def hist(fitted: Any) -> Trees | None:
    """Of a HistGradientBoostingClassifier of two classes or a HistGradientBoostingRegressor."""
    link = LINKS.get(type(fitted._loss).__name__)
    if link is None or fitted.n_trees_per_iteration_ != 1 or fitted.is_categorical_ is not None:
        return None
    grown = []
    for (tree,) in fitted._predictors:
        nodes, leaf = tree.nodes, tree.nodes["is_leaf"].astype(bool)
        grown.append(Grown(
            nodes["feature_idx"], nodes["num_threshold"], nodes["missing_go_to_left"],
            np.where(leaf, -1, nodes["left"].astype(np.int64)), nodes["right"].astype(np.int64), nodes["value"],
        ))  # fmt: skip
    return (
        joined(grown, float(np.ravel(fitted._baseline_prediction)[0]), link, precision="double")
        if grown
        else None
    )


def xgboost(told: bytes) -> Trees | None:
    """Of the JSON of a Booster of XGBoost: it compares by less than, in single precision."""
    learner = msgspec.json.decode(told)["learner"]
    about, booster = learner["learner_model_param"], learner["gradient_booster"]
    objective = learner["objective"]["name"]
    link = XGBOOST.get(objective)
    if link is None or int(about["num_class"]) > 1 or int(about.get("num_target", 1)) > 1:
        return None
    weights: list[float] | None = None
    if booster["name"] == "dart":
        weights, booster = booster["weight_drop"], booster["gbtree"]
    elif booster["name"] != "gbtree":
        return None
    grown = []
    for i, tree in enumerate(booster["model"]["trees"]):
        if tree["categories_nodes"] or int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
            return None
        values = np.array(tree["split_conditions"], np.float32)
        grown.append(Grown(
            np.array(tree["split_indices"]), np.nextafter(values, np.float32(-np.inf)).astype(np.float64),
            np.array(tree["default_left"]), np.array(tree["left_children"]), np.array(tree["right_children"]),
            values * np.float32(weights[i] if weights else 1.0),
        ))  # fmt: skip
    base = np.float32(about["base_score"].strip("[]"))
    if link == "logistic":
        base = -np.log(np.float32(1.0) / base - np.float32(1.0))
    elif link == "exp":
        base = np.log(base)
    return joined(grown, float(base), link, precision="single") if grown else None


def lightgbm(told: dict[str, Any]) -> Trees | None:
    """Of what a Booster of LightGBM dumps."""
    name, *settings = told["objective"].split() if told.get("objective") else [""]
    link = LIGHTGBM.get(name)
    slope = dict(one.split(":") for one in settings if ":" in one)
    if link is None or told["num_class"] != 1 or "sqrt" in settings:
        return None
    scale = float(slope.get("sigmoid", 1.0)) if name == "binary" else 1.0
    if told["average_output"]:
        scale /= len(told["tree_info"])
    grown = []
    for one in told["tree_info"]:
        tree = _walked(one["tree_structure"], scale)
        if tree is None:
            return None
        grown.append(tree)
    return joined(grown, 0.0, link, precision="double") if grown else None


def _walked(root: dict[str, Any], scale: float) -> Grown | None:
    """A tree of nested nodes as arrays. Where a node knows no missing values, one counts as 0."""
    rows: list[list[Any]] = []
    waiting = [(root, -1, 0)]
    while waiting:
        node, parent, side = waiting.pop()
        if parent >= 0:
            rows[parent][side] = len(rows)
        if "split_index" not in node:
            if "leaf_coeff" in node:
                return None
            rows.append([0, 0.0, False, -1, -1, node["leaf_value"] * scale])
            continue
        kind, limit = node["missing_type"], node["threshold"]
        if node["decision_type"] != "<=" or kind not in ("None", "NaN"):
            return None
        strays = node["default_left"] if kind == "NaN" else limit >= 0.0
        if abs(limit) <= NOTHING:
            limit = NOTHING if limit >= 0.0 else math.nextafter(-NOTHING, -math.inf)
        waiting += [(node["left_child"], len(rows), 3), (node["right_child"], len(rows), 4)]
        rows.append([node["split_feature"], limit, strays, -1, -1, 0.0])
    return Grown(*(np.array(part) for part in zip(*rows, strict=True)))
