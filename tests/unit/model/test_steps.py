"""model: steps before a line or trees are worked into them: what scores is the same, to the last neighbour."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest, f_regression
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

from penstock.model import forms
from penstock.model.fit import BOUND, answers, formed
from penstock.model.forms import boosted
from penstock.model.forms.steps import parted
from penstock.model.pack import Model, dump, load, matrix, score
from tests.unit.model.rows import WIDTH, sampled, trained

X: dict[str, Any] = {"n_estimators": 30, "nthread": 1}
L: dict[str, Any] = {"n_estimators": 30, "n_jobs": 1, "verbose": -1}
F: dict[str, Any] = {"n_estimators": 40, "max_leaf_nodes": 9, "random_state": 1}
LAST: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "linear": (lambda: LogisticRegression(solver="newton-cholesky"), lambda: Ridge(solver="svd")),
    "hist": (lambda: HistGradientBoostingClassifier(max_iter=9), lambda: HistGradientBoostingRegressor(max_iter=9)),
    "forest": (lambda: RandomForestClassifier(**F), lambda: RandomForestRegressor(**F)),
    "boosting": (lambda: GradientBoostingClassifier(n_estimators=9), lambda: GradientBoostingRegressor(n_estimators=9)),
    "xgboost": (lambda: xgboost.XGBClassifier(**X), lambda: xgboost.XGBRegressor(**X)),
    "lightgbm": (lambda: lightgbm.LGBMClassifier(**L), lambda: lightgbm.LGBMRegressor(**L)),
}  # fmt: skip


def columns(*parts: tuple[Any, Any], **more: Any) -> Any:
    """Steps side by side."""
    return ColumnTransformer([(str(i), *part) for i, part in enumerate(parts)], **more)


BEFORE: dict[str, Callable[[], list[Any]]] = {
    "mean": lambda: [SimpleImputer()],
    "median, scaled": lambda: [SimpleImputer(strategy="median"), StandardScaler()],
    "constant, told": lambda: [SimpleImputer(strategy="constant", fill_value=-1, add_indicator=True), StandardScaler()],
    "scaled, filled": lambda: [StandardScaler(with_mean=False), RobustScaler(), SimpleImputer(add_indicator=True)],
    "most frequent, ranged": lambda: [SimpleImputer(strategy="most_frequent"), MinMaxScaler((-1, 3)), MaxAbsScaler()],
    "chosen": lambda: [SimpleImputer(), SelectKBest(f_regression, k=3), "passthrough"],
    "parts": lambda: [columns(
        (make_pipeline(SimpleImputer(), StandardScaler()), [3, 0]), ("drop", [2]), (SimpleImputer(), slice(4, 5)),
        (FunctionTransformer(), []), (SimpleImputer(add_indicator=True), [0, 1]),
    ), StandardScaler()],
    "parts, the rest": lambda: [SimpleImputer(), columns((MinMaxScaler(), [1, 3]), remainder="passthrough")],
}  # fmt: skip


ALL = [
    (before, last, ("binary", "number")[(i + j) % 2]) for i, before in enumerate(BEFORE) for j, last in enumerate(LAST)
]  # fmt: skip


@pytest.mark.parametrize(("before", "last", "task"), ALL)
def test_a_form_answers_as_all_steps(before: str, last: str, task: str) -> None:
    """On rows that nobody has seen, with values missing; in a batch and alone; and without onnxruntime."""
    make = LAST[last][task == "number"]
    one = trained(lambda x, y: make_pipeline(*BEFORE[before](), make()).fit(x, y), task)
    fresh = sampled(100, seed=7)
    said = answers(one, fresh)
    assert None not in said and len(set(said)) > 10
    most = max(1.0, *(abs(each) for each in said if each is not None))
    kinds = ["linear"] if last == "linear" else ["onnx", "trees"]
    made = list(islice(forms.make(one.fitted, task, WIDTH), len(kinds)))
    assert [forms.kind_of(data) for data in made] == kinds
    x = np.array(fresh, dtype=float)
    for data in made:
        quick = forms.load(data)(x)
        assert np.abs(quick - np.array(said, dtype=float)).max() <= BOUND * most
        assert forms.load(data)(x[:1]).tobytes() == quick[:1].tobytes()


@pytest.mark.parametrize("last", ["hist", "forest", "xgboost", "lightgbm"])
def test_the_limits_themselves_fall_on_the_same_side(last: str) -> None:
    """Rows of nothing but the limits that come of it, and their neighbours: scaling rounds, and so do libraries."""
    one = trained(
        lambda x, y: make_pipeline(*BEFORE["constant, told"](), LAST[last][0]()).fit(x, y), "binary"
    )
    trees = boosted.trees(one.fitted, "binary", WIDTH)
    assert trees is not None
    arrays, (made, *_) = trees.arrays(), forms.make(one.fitted, "binary", WIDTH)
    chance, inner = np.random.default_rng(2), arrays.left != np.arange(len(arrays.left))
    limits = [arrays.limit[inner & (arrays.column == i) & (abs(arrays.limit) < 1e300)] for i in range(WIDTH)]
    assert all(len(each) > 2 for each in limits)
    x = np.column_stack(
        [chance.choice(np.concatenate([each, np.nextafter(each, math.inf)]), 3000) for each in limits]
    )
    said = one.fitted.predict_proba(x)[:, 1]
    assert len(set(said.tolist())) > 50 and np.abs(forms.load(made)(x) - said).max() <= BOUND


def test_what_many_trees_sum_in_single_precision_is_summed_so() -> None:
    """A thousand trees of XGBoost around a large number: in double precision the sum would be another."""
    many = {**X, "n_estimators": 1000, "max_depth": 3}
    one = trained(
        lambda x, y: make_pipeline(StandardScaler(), xgboost.XGBRegressor(**many)).fit(x, y + 500), "number"
    )
    fresh = sampled(200, seed=5)
    for data in forms.make(one.fitted, "number", WIDTH):
        assert forms.load(data)(np.array(fresh, dtype=float)).tolist() == score(one, fresh)


def test_steps_that_mix_columns_or_turn_their_order_are_not_read() -> None:
    """Nor those of the user's own, weights of columns, and what counts another number as missing."""
    x = np.nan_to_num(np.array(sampled(100), dtype=float))
    own = type("StandardScaler", (StandardScaler,), {})
    weighed = columns((StandardScaler(), [0, 1]), transformer_weights={"0": 2.0})
    negative = FunctionTransformer(np.negative)
    for step in (PolynomialFeatures(), negative, SimpleImputer(missing_values=0.0), weighed, own()):
        assert parted(make_pipeline(step, Ridge(solver="svd")).fit(x, x[:, 0]), WIDTH) is None
    clipped = make_pipeline(SimpleImputer(), MinMaxScaler(clip=True), Ridge(solver="svd")).fit(x, x[:, 0])
    assert forms.kind_of(next(forms.make(clipped, "number", WIDTH))) == "onnx"


def test_a_column_that_counts_only_when_it_is_missing_has_no_weight() -> None:
    """No number stands for it in a line: another form is taken, or none."""
    x = np.array(sampled(400), dtype=float)
    y = np.isnan(x[:, 4]) * 5.0
    fitted = make_pipeline(SimpleImputer(add_indicator=True), Lasso(0.1)).fit(x, y)
    assert abs(fitted[-1].coef_[:5]).max() < 1e-5 and abs(fitted[-1].coef_[-1]) > 1
    kinds = [forms.kind_of(data) for data in forms.make(fitted, "number", WIDTH)]
    found = formed(Model("f" * 64, "number", ["number"] * WIDTH, fitted, None), sampled(50))
    assert "linear" not in kinds and (found is None or found.kind != "linear")


def test_a_tree_that_splits_by_missing_values_alone_holds_nobody() -> None:
    """A converter would look for the neighbour of infinity, for ever; within what is not read here, it is not asked."""
    x = np.array(sampled(200), dtype=float)
    y = np.isnan(x[:, 4]).astype(int)
    forest = RandomForestClassifier(5, random_state=1).fit(x, y)
    assert any(np.isinf(one.tree_.threshold).any() for one in forest.estimators_)
    fitted = VotingClassifier([("forest", forest)], voting="soft").fit(x, y)
    assert list(forms.make(fitted, "binary", WIDTH)) == []


KINDS = ["number", "category", "number", "category"]
HOT: dict[str, Any] = {"sparse_output": False}
NUMBERS = (make_pipeline(SimpleImputer(), StandardScaler()), [0, 2])
ENCODED: dict[str, Callable[[], Any]] = {
    "one each": lambda: columns((OneHotEncoder(handle_unknown="ignore", **HOT), [1, 3]), NUMBERS),
    "one each but the first": lambda: columns(NUMBERS, (OneHotEncoder(drop="first", **HOT), [3, 1])),
    "filled in": lambda: columns(NUMBERS, (make_pipeline(
        SimpleImputer(strategy="constant", fill_value="gone", missing_values=None),
        OneHotEncoder(handle_unknown="ignore", **HOT),
    ), [1, 3])),
    "filled in with the usual": lambda: columns(NUMBERS, (make_pipeline(
        SimpleImputer(strategy="most_frequent", missing_values=None), OneHotEncoder(**HOT)
    ), [1]), (OrdinalEncoder(), [3])),
    "numbered": lambda: make_pipeline(columns((make_pipeline(
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=math.nan), SimpleImputer()
    ), [1, 3]), remainder=NUMBERS[0]), StandardScaler()),
    "twice": lambda: columns((OneHotEncoder(handle_unknown="ignore", **HOT), [1]), (OrdinalEncoder(), [1]), NUMBERS),
    "a text left out": lambda: columns((OneHotEncoder(handle_unknown="ignore", **HOT), [1]), (SimpleImputer(), [2])),
}  # fmt: skip


def told(n: int, seed: int, texts: str = "xyz") -> list[list[Any]]:
    """Rows of numbers and texts, a tenth of them missing."""
    chance = np.random.default_rng(seed)
    rows = zip(
        chance.normal(size=n), chance.choice(list(texts), n), chance.normal(size=n) * 100,
        chance.choice(list("abcdefgh"), n), strict=True,
    )  # fmt: skip
    return [
        [None if chance.random() < 0.1 else str(one) if isinstance(one, str) else float(one) for one in row]
        for row in rows
    ]


@pytest.mark.parametrize("last", ["linear", "boosting", "xgboost"])
@pytest.mark.parametrize("encoder", ENCODED)
def test_texts_are_looked_up(encoder: str, last: str) -> None:
    """Those that were met, those that were not, and missing ones: a score where the model has one, and else none."""
    rows = told(500, 1)
    y = [
        (row[1] == "x") + (row[0] or 0) + (row[2] or 0) / 100 + (row[3] in ("a", "b", None)) > 0.8
        for row in rows
    ]
    fitted = make_pipeline(ENCODED[encoder](), LAST[last][0]()).fit(matrix(rows, KINDS), np.array(y))
    one = Model("f" * 64, "binary", KINDS, fitted, None)
    found = formed(one, told(200, 2))
    assert found is not None and found.kind == ("linear" if last == "linear" else "onnx")
    fresh = told(80, 3, "xyzq")
    said, quick = answers(one, fresh), answers(load(dump(one), None, found.data), fresh)
    strict = encoder in ("one each but the first", "filled in with the usual", "twice")
    assert said.count(None) == (sum(row[1] == "q" for row in fresh) if strict else 0)
    assert all(a == b or abs(a - b) <= BOUND for a, b in zip(said, quick, strict=True))  # type: ignore[operator]
    assert [answers(found.model, [row])[0] for row in fresh[:40]] == quick[:40]


def test_texts_that_are_not_read() -> None:
    """Rare ones that count as one, numbers that are encoded like texts, and a model that takes texts as they are."""
    rows = told(300, 1)
    x, y = matrix(rows, KINDS), np.arange(300) % 2
    for step in (OneHotEncoder(min_frequency=5, **HOT), OneHotEncoder(max_categories=3, **HOT)):
        assert parted(make_pipeline(columns((step, [1, 3])), Ridge(solver="svd")).fit(x, y), 4) is None
    whole = np.arange(300).reshape(-1, 1) % 7 * 1.0
    assert parted(make_pipeline(OneHotEncoder(**HOT), Ridge(solver="svd")).fit(whole, y), 1) is None
    taking = type("Own", (), {"predict": lambda self, x: [float(row[1] == "x") for row in x]})()
    assert formed(Model("f" * 64, "number", KINDS, taking, None), rows) is None
