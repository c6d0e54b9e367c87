"""app: a directory as MLflow writes it is a model that fit might have returned; what is not read is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
import skops.io
import xgboost
import yaml
from skl2onnx import to_onnx
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from penstock.app.mlmodel import read, reading
from penstock.model.brought import Brought, brought
from penstock.model.fit import formed
from penstock.model.pack import Model, score
from penstock.record.errors import Refused

NAMES = ["a", "b", "c"]
X = np.random.default_rng(1).normal(size=(120, 3))
Y = (X[:, 0] > 0).astype(int)
PLAIN = LogisticRegression().fit(X, Y)
STEPS = make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=5, n_jobs=1)).fit(X, Y)
LIGHTS = lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(X, Y)
TRUSTED = [
    "collections.OrderedDict", "lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier", "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
]  # fmt: skip
LIGHT: dict[str, Any] = {"objective": "binary", "verbose": -1, "num_threads": 1}


def saved(folder: Path, flavor: str, file: str, write: Callable[[Path], Any], **about: Any) -> Path:
    """A directory as MLflow 3 writes it."""
    folder.mkdir()
    write(folder / file)
    at = "pickled_model" if flavor == "sklearn" else "data"
    python = {"loader_module": f"mlflow.{flavor}", "env": {"conda": "conda.yaml"}}
    signature = about.pop("signature", None)
    text = {
        "flavors": {"python_function": python, flavor: {"code": None, at: file, **about}},
        "mlflow_version": "3.17.2",
    }
    (folder / "MLmodel").write_text(yaml.safe_dump({**text, "signature": signature} if signature else text))
    return folder


def xgb() -> Any:
    """A classifier of XGBoost."""
    return xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(X, Y)


def light() -> Any:
    """A Booster of LightGBM."""
    return lightgbm.train(LIGHT, lightgbm.Dataset(X, Y), 5)


CASES: dict[str, Callable[[Path], tuple[Path, Any]]] = {
    "sklearn, pickle": lambda at: (
        saved(at, "sklearn", "model.pkl", lambda file: file.write_bytes(pickle.dumps(PLAIN))),
        PLAIN.predict_proba(X)[:, 1],
    ),
    "sklearn, skops": lambda at: (
        saved(at, "sklearn", "model.skops", lambda file: skops.io.dump(PLAIN, file), skops_trusted_types=None),
        PLAIN.predict_proba(X)[:, 1],
    ),
    "xgboost, class": lambda at: (
        saved(at, "xgboost", "model.ubj", xgb().save_model, model_class="xgboost.sklearn.XGBClassifier"),
        xgb().predict_proba(X)[:, 1],
    ),
    "xgboost, Booster": lambda at: (
        saved(at, "xgboost", "model.json", xgb().get_booster().save_model, model_class="xgboost.core.Booster"),
        xgb().predict_proba(X)[:, 1],
    ),
    "lightgbm": lambda at: (
        saved(at, "lightgbm", "model.lgb", light().save_model, model_class="lightgbm.basic.Booster"),
        light().predict(X),
    ),
    "lightgbm, class": lambda at: (
        saved(at, "lightgbm", "model.skops", lambda file: skops.io.dump(LIGHTS, file), skops_trusted_types=TRUSTED,
            model_class="lightgbm.sklearn.LGBMClassifier"),
        LIGHTS.predict_proba(X)[:, 1],
    ),
    "sklearn, skops, with steps before XGBoost": lambda at: (
        saved(at, "sklearn", "model.skops", lambda file: skops.io.dump(STEPS, file), skops_trusted_types=TRUSTED),
        STEPS.predict_proba(X)[:, 1],
    ),
    "onnx": lambda at: (
        saved(at, "onnx", "model.onnx", lambda file: file.write_bytes(
            to_onnx(PLAIN, X[:1].astype(np.float32)).SerializeToString()
        )),
        PLAIN.predict_proba(X)[:, 1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_scores_as_what_was_saved(case: str, tmp_path: Path) -> None:
    """By path or by text, as `fit` may return either."""
    folder, said = CASES[case](tmp_path / "model")

    class Data:
        names = NAMES

    for path in (folder, str(folder)):
        found = reading(lambda data, path=path: path)(Data)
        one = brought(found, 3)
        again = one.predict(X) if isinstance(one, Brought) else found.predict_proba(X)
        assert np.abs(np.reshape(again, (len(X), -1))[:, -1] - said).max() < 1e-6


@pytest.mark.parametrize("saves", [pickle.dumps, skops.io.dumps])
def test_what_was_fitted_to_a_data_frame_takes_a_matrix(
    saves: Callable[[Any], bytes], tmp_path: Path
) -> None:
    """Columns that it named are taken by number, texts among them; it has a form, and nothing warns."""
    table = pl.DataFrame({"a": X[:, 0], "b": np.where(X[:, 1] > 0, "x", "y"), "c": X[:, 2]})
    fitted = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["b"]),
            (make_pipeline(StandardScaler()), ["c"]),
            remainder="passthrough",
        ),
        LogisticRegression(),
    ).fit(table, Y)
    said = fitted.predict_proba(table)[:, 1]
    suffix = "pkl" if saves is pickle.dumps else "skops"
    folder = saved(tmp_path / "m", "sklearn", f"model.{suffix}", lambda file: file.write_bytes(saves(fitted)))
    one = Model("f" * 64, "binary", ["number", "category", "number"], read(folder, NAMES), None)
    rows = [list(row) for row in table.rows()]
    found = formed(one, rows)
    assert found is not None and found.kind == "linear"
    for model in (one, found.model):
        assert score(model, rows) == pytest.approx(said.tolist(), abs=1e-12)


def test_what_is_no_path_is_left_alone() -> None:
    """A fitted model passes as it is."""
    assert reading(lambda data: PLAIN)(None) is PLAIN


@pytest.mark.parametrize(
    ("names", "taken"),
    [(["a", "b", "c"], True), (["b", "a", "c"], False), (["a", "b"], False), ([None], True)],
)
def test_a_signature_is_held_to(names: list[str | None], taken: bool, tmp_path: Path) -> None:
    """Its columns are the features, in their order, for a model is asked by position; a tensor has no names."""
    inputs = json.dumps([{"type": "double", "name": one} if one else {"type": "tensor"} for one in names])
    folder = saved(
        tmp_path / "model", "sklearn", "model.pkl", lambda file: file.write_bytes(pickle.dumps(PLAIN)),
        signature={"inputs": inputs, "outputs": None},
    )  # fmt: skip
    if taken:
        assert isinstance(read(folder, NAMES), LogisticRegression)
    else:
        with pytest.raises(Refused, match="not the 3 features"):
            read(folder, NAMES)


@pytest.mark.parametrize(
    ("flavor", "file", "about", "why"),
    [
        ("tensorflow", "model", {}, "no flavour"),
        ("sklearn", "model.pkl", {"code": "code"}, "code of its own"),
        ("sklearn", "../model.pkl", {}, "not there"),
        ("sklearn", "model.unknown", {}, "not read"),
        ("lightgbm", "model.txt", {"model_class": "lightgbm.sklearn.LGBMClassifier"}, "not read"),
    ],
)
def test_what_cannot_be_taken(flavor: str, file: str, about: Any, why: str, tmp_path: Path) -> None:
    """A sentence says what it is, and what to do."""
    folder = saved(tmp_path / "model", flavor, file, lambda path: path.write_bytes(b""), **about)
    with pytest.raises(Refused, match=why) as told:
        read(folder, NAMES)
    assert told.value.code == "model_mlflow" and told.value.hint


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    """Neither an empty directory nor a file that is no YAML."""
    with pytest.raises(Refused, match="no MLmodel file"):
        read(tmp_path, NAMES)
    (tmp_path / "MLmodel").write_text("{")
    with pytest.raises(Refused, match="no YAML"):
        read(tmp_path, NAMES)
