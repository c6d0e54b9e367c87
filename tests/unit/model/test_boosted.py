"""model: trees answer to the bit, or nearly, as the library that grew them; what cannot be read has no such form."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.impute import KNNImputer
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeRegressor

from penstock.model import forms
from penstock.model.fit import BOUND, answers, fit_rows, formed
from penstock.model.forms import boosted, onnx
from penstock.model.pack import Model, dump, load, score
from tests.unit.model.rows import FEATURES, WIDTH, labelled, sampled, trained

QUIET: dict[str, Any] = {"verbose": -1, "num_threads": 1}
ONE: dict[str, Any] = {"nthread": 1, "max_depth": 4}


def booster_x(objective: str, **more: Any) -> Callable[[Any, Any], Any]:
    """A fit by XGBoost."""
    return lambda x, y: xgboost.train(
        {"nthread": 1, "objective": objective, **more}, xgboost.DMatrix(x, y), 30
    )


def booster_l(objective: str, **more: Any) -> Callable[[Any, Any], Any]:
    """A fit by LightGBM."""
    return lambda x, y: lightgbm.train({**QUIET, "objective": objective, **more}, lightgbm.Dataset(x, y), 30)


def early_x(x: Any, y: Any) -> Any:
    """A classifier that stops before its last tree, and has some more."""
    one = xgboost.XGBClassifier(n_estimators=200, early_stopping_rounds=5, learning_rate=1.0, **ONE)
    return one.fit(x[:300], y[:300], eval_set=[(x[300:], y[300:])], verbose=False)


def early_l(x: Any, y: Any) -> Any:
    """The same by LightGBM."""
    one = lightgbm.LGBMClassifier(n_estimators=200, learning_rate=0.5, n_jobs=1, verbose=-1)
    stop = lightgbm.early_stopping(5, verbose=False)
    return one.fit(x[:300], y[:300], eval_X=x[300:], eval_y=y[300:], callbacks=[stop])


def categories_l(x: Any, y: Any) -> Any:
    """A fit to a column of categories, as numbers."""
    rows = lightgbm.Dataset(np.column_stack([x[:, 0], np.abs(x[:, 1]), x[:, 2:]]), y, categorical_feature=[1])
    return lightgbm.train({**QUIET, "objective": "binary", "min_data_per_group": 5}, rows, 30)


HIST: dict[str, Any] = {"max_iter": 30, "random_state": 1}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "hist": lambda x, y: HistGradientBoostingClassifier(**HIST).fit(x, y),
    "forest": lambda x, y: RandomForestClassifier(20, random_state=1).fit(x, y),
    "XGBClassifier": lambda x, y: xgboost.XGBClassifier(n_estimators=30, **ONE).fit(x, y),
    "XGBClassifier that stops early": early_x,
    "xgboost": booster_x("binary:logistic"),
    "xgboost dart": booster_x("binary:logistic", booster="dart", rate_drop=0.3),
    "LGBMClassifier that stops early": early_l,
    "lightgbm": booster_l("binary", is_unbalance=True, sigmoid=1.5),
    "lightgbm forest": booster_l("binary", boosting="rf", bagging_freq=1, bagging_fraction=0.5),
    "lightgbm without missing": booster_l("binary", use_missing=False),
}
NUMBER: dict[str, Callable[[Any, Any], Any]] = {
    "hist": lambda x, y: HistGradientBoostingRegressor(**HIST).fit(x, y),
    "hist poisson": lambda x, y: HistGradientBoostingRegressor("poisson", **HIST).fit(x, y),
    "tree": lambda x, y: DecisionTreeRegressor(max_depth=6, random_state=1).fit(x, y),
    "extra": lambda x, y: ExtraTreesRegressor(20, random_state=1).fit(x, y),
    "XGBRegressor": lambda x, y: xgboost.XGBRegressor(n_estimators=30, **ONE).fit(x, y),
    "XGBRFRegressor": lambda x, y: xgboost.XGBRFRegressor(n_estimators=30, **ONE).fit(x, y),
    "xgboost poisson": booster_x("count:poisson"),
    "xgboost absolute": booster_x("reg:absoluteerror"),
    "LGBMRegressor": lambda x, y: lightgbm.LGBMRegressor(n_jobs=1, verbose=-1).fit(x, y),
    "lightgbm tweedie": booster_l("tweedie"),
    "lightgbm quantile": booster_l("quantile", alpha=0.9),
}
ALL = [("binary", name) for name in BINARY] + [("number", name) for name in NUMBER]


@pytest.mark.parametrize(("task", "name"), ALL)
def test_trees_answer_as_their_library(task: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By onnxruntime and by numpy, on rows that nobody has seen, with values missing, in a batch and alone."""
    one = trained(BINARY[name] if task == "binary" else NUMBER[name], task)
    fresh = sampled(300, seed=7)
    said = answers(one, fresh)
    assert None not in said and len(set(said)) > 10
    most = max(1.0, *(abs(each) for each in said if each is not None))
    for kind, bound in (("onnx", BOUND), ("trees", 2e-7)):
        found = formed(one, sampled(200, seed=5))
        assert found is not None and found.kind == kind
        quick = answers(load(dump(one), None, found.data), fresh)
        assert all(
            a is not None and b is not None and abs(a - b) <= bound * most
            for a, b in zip(said, quick, strict=True)
        )
        assert [answers(found.model, [row])[0] for row in fresh[:40]] == quick[:40]
        monkeypatch.setattr(forms, "KINDS", {"trees": forms.KINDS["trees"]})


@pytest.mark.parametrize("name", ["hist", "xgboost", "lightgbm"])
@given(st.lists(st.lists(st.sampled_from(range(12)), min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=9))
@settings(deadline=None, max_examples=15)
def test_the_limits_themselves_fall_on_the_same_side(name: str, picks: list[list[int]]) -> None:
    """Rows of nothing but limits of the trees, their neighbours in either precision, zeros and missing values."""
    if name not in _CACHED:
        fitted = trained(BINARY[name], "binary")
        trees = boosted.trees(fitted.fitted, "binary", WIDTH)
        assert trees is not None
        _CACHED[name] = fitted, trees, forms.KINDS["onnx"].load(onnx.drawn(trees))
    fitted, trees, drawn = _CACHED[name]
    arrays = trees.arrays()
    inner = arrays.limit[arrays.left != np.arange(len(arrays.left))]
    some = inner[:: max(1, len(inner) // 3)][:3]
    near = [
        np.nextafter(some, -np.inf),
        some,
        np.nextafter(some, np.inf),
        np.nextafter(some.astype("f4"), np.float32(np.inf)),
    ]
    values = [*np.concatenate(near).astype(float)[:10], 0.0, math.nan]
    x = np.array([[values[at % len(values)] for at in row] for row in picks])
    assert (
        np.abs(
            np.ravel(fitted.fitted.predict_proba(x)[:, 1] if name == "hist" else fitted.fitted.predict(x))
            - drawn(x)
        ).max()
        <= BOUND
    )


_CACHED: dict[str, Any] = {}


def test_a_form_says_nothing_where_its_model_does_not() -> None:
    """Boosting of scikit-learn takes no missing values: nor does its form; rows beside them are answered."""
    x, y = np.nan_to_num(np.array(sampled(400), dtype=float)), np.arange(400) % 2
    one = Model(
        "f" * 64, "binary", ["number"] * WIDTH, GradientBoostingClassifier(n_estimators=5).fit(x, y), None
    )
    rows = x[:50].tolist()
    found = formed(one, rows)
    assert found is not None and found.kind == "onnx"
    rows[3] = [None, *rows[3][1:]]
    assert [score is None for score in answers(found.model, rows)] == [i == 3 for i in range(50)]


def test_what_is_kept_is_what_the_library_writes() -> None:
    """Not a pickle, the same bytes for the same fit, and the same answers once opened again."""
    for name, kind in (("XGBClassifier", "xgboost"), ("LGBMClassifier that stops early", "lightgbm")):
        one = trained(BINARY[name], "binary")
        data = dump(one)
        assert kind.encode() in data and data == dump(trained(BINARY[name], "binary"))
        assert score(load(data), sampled(50)) == score(one, sampled(50))
        assert b"sklearn" not in one.fitted.data[:40]


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (lambda x, y: xgboost.XGBClassifier(n_estimators=5, missing=-9.0, **ONE).fit(x, y), False),
        (booster_x("binary:logistic", booster="gblinear"), True),
        (booster_l("binary", zero_as_missing=True), True),
        (booster_l("binary", linear_tree=True), True),
        (categories_l, True),
        (lambda x, y: make_pipeline(KNNImputer(), xgboost.XGBClassifier(n_estimators=5, **ONE)).fit(x, y), False),
    ],
)  # fmt: skip
def test_what_is_not_read_is_scored_by_its_library(make: Callable[[Any, Any], Any], kept: bool) -> None:
    """A form would be a guess. `kept`: as its library's bytes, for these say all of it."""
    one = trained(make, "binary")
    assert hasattr(one.fitted, "format") == kept
    assert formed(one, sampled(100)) is None
    assert score(load(dump(one)), sampled(20)) == score(one, sampled(20)) and None not in score(
        one, sampled(20)
    )


def test_a_classifier_of_many_classes_keeps_its_own_answer() -> None:
    """Its library's bytes say a probability for each: they are not what it predicts."""
    fitted = xgboost.XGBClassifier(n_estimators=3, **ONE)
    x = np.array(sampled(300), dtype=float)
    one = fit_rows(
        lambda data: fitted.fit(data.x, data.y),
        None,
        labelled(x, np.arange(300) % 3),
        FEATURES,
        "number",
        {},
        1,
    )
    assert one.fitted is fitted and set(score(one, sampled(30))) <= {0.0, 1.0, 2.0}


def test_forms_of_trees_need_no_library_of_theirs(tmp_path: Path) -> None:
    """A fresh process loads neither XGBoost nor scikit-learn to score, and with numpy's not even onnxruntime."""
    one = trained(BINARY["xgboost"], "binary")
    (tmp_path / "model").write_bytes(dump(one))
    for at, data in enumerate(forms.make(one.fitted, "binary", WIDTH)):
        (tmp_path / str(at)).write_bytes(data)
    code = (
        "import sys; from pathlib import Path; from penstock.model.pack import load, score\n"
        "at = Path(sys.argv[1]); m = load((at / 'model').read_bytes(), None, (at / sys.argv[2]).read_bytes())\n"
        "score(m, [[1.0] * 5]); print(*[x for x in ('sklearn', 'scipy', 'xgboost', 'onnxruntime') if x in sys.modules])"
    )
    for at, loaded in (("0", "onnxruntime"), ("1", "")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), at], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{loaded}\n"
