"""model: a form answers as its model does, whatever stands beside a row, or it is not taken."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from penstock.model import forms
from penstock.model.fit import BOUND, answers, formed
from penstock.model.pack import Model, dump, load

WIDTH = 6
CHANCE = np.random.default_rng(3)
X = CHANCE.normal(size=(400, WIDTH)) * [1, 10, 0.1, 1000, 1, 1]
Y = (X[:, 0] + X[:, 1] / 10 + CHANCE.normal(size=400) > 0).astype(int)

MODELS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "logistic": (lambda: LogisticRegression(max_iter=2000), "binary", "linear"),
    "scaled": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), "binary", "linear"),
    "filled": (
        lambda: make_pipeline(SimpleImputer(strategy="median"), MinMaxScaler(), LogisticRegression()),
        "binary", "linear",
    ),
    "stochastic": (lambda: make_pipeline(StandardScaler(), SGDClassifier("log_loss", random_state=1)),
        "binary", "linear"),
    "least squares": (LinearRegression, "number", "linear"),
    "ridge": (lambda: make_pipeline(StandardScaler(with_mean=False), Ridge()), "number", "linear"),
    "forest": (lambda: RandomForestClassifier(20, max_depth=5, random_state=1), "binary", "onnx"),
    "boosting": (lambda: GradientBoostingClassifier(n_estimators=20, random_state=1), "binary", "onnx"),
    "a tree": (lambda: DecisionTreeClassifier(max_depth=4, random_state=1), "binary", "onnx"),
    "forest of numbers": (lambda: RandomForestRegressor(20, max_depth=5, random_state=1), "number", "onnx"),
}  # fmt: skip


def model(name: str) -> Model:
    """One of the models, fitted."""
    make, task, _ = MODELS[name]
    x = X.copy()
    if name == "filled":
        x[CHANCE.random(x.shape) < 0.1] = math.nan
    y = Y if task == "binary" else X[:, 0] * 3 + X[:, 3]
    return Model("f" * 64, task, ["number"] * WIDTH, make().fit(x, y), None)  # type: ignore[arg-type]


def rows(n: int, *, holes: bool = False) -> list[list[Any]]:
    """Rows as a feature set gives them."""
    found = CHANCE.normal(size=(n, WIDTH)) * [1, 10, 0.1, 1000, 1, 1]
    return [[None if holes and CHANCE.random() < 0.1 else float(one) for one in row] for row in found]


@pytest.mark.parametrize("name", MODELS)
def test_a_form_answers_as_its_model(name: str) -> None:
    """On rows that neither has seen, missing values among them where the model takes those; and as alone in a batch."""
    one = model(name)
    found = formed(one, rows(200, holes=name == "filled"))
    assert found is not None and found.kind == MODELS[name][2] and found.difference <= BOUND * 4000
    fresh = rows(100, holes=name == "filled")
    bound = BOUND * (1 if one.task == "binary" else 4000)
    said, quick = answers(one, fresh), answers(found.model, fresh)
    assert all(
        a is not None and b is not None and abs(a - b) <= bound for a, b in zip(said, quick, strict=True)
    )
    assert [answers(found.model, [row])[0] for row in fresh] == quick
    assert answers(load(dump(one), None, found.data), fresh) == quick


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=40),
    st.integers(1, 9),
)
@settings(deadline=None, max_examples=50)
def test_what_stands_beside_a_row_does_not_matter(some: list[list[float]], size: int) -> None:
    """Any batches of any rows give the same bits."""
    data = next(forms.make(model("scaled").fitted, "binary", WIDTH))
    score = forms.load(data)
    whole = score(np.array(some))
    parts = np.concatenate([score(np.array(some[i : i + size])) for i in range(0, len(some), size)])
    assert whole.tobytes() == parts.tobytes()


def test_a_form_that_answers_otherwise_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is, or none: a weight that is a little off, and a score where the model has none."""
    one, tried = model("logistic"), rows(50)
    good = forms.KINDS["linear"]
    monkeypatch.setattr(forms, "KINDS", dict(forms.KINDS))

    def off(fitted: Any, task: str, width: int) -> bytes:
        fitted = LogisticRegression(max_iter=2000).fit(X, Y)
        fitted.coef_ = one.fitted.coef_ * (1 + 1e-3)
        fitted.intercept_ = one.fitted.intercept_
        made = good.make(fitted, task, width)
        assert made is not None
        return made

    monkeypatch.setitem(forms.KINDS, "linear", forms.Kind(off, good.load))
    taken = formed(one, tried)
    assert taken is not None and taken.kind == "onnx"
    monkeypatch.delitem(forms.KINDS, "onnx")
    assert formed(one, tried) is None
    monkeypatch.setitem(forms.KINDS, "linear", good)
    assert formed(one, tried) is not None
    holes = [[None, *row[1:]] for row in tried]
    monkeypatch.setitem(
        forms.KINDS, "linear", forms.Kind(good.make, lambda data: lambda x: good.load(data)(np.nan_to_num(x)))
    )
    assert formed(one, holes) is None


def test_what_has_no_form() -> None:
    """A model with a function of its own, one of the user's class, one that takes texts, one of three classes."""
    one = model("logistic")
    assert formed(msgspec.structs.replace(one, predict=lambda fitted, x: x[:, 0]), rows(9)) is None
    assert formed(msgspec.structs.replace(one, kinds=["category"] * WIDTH), rows(9)) is None
    assert formed(msgspec.structs.replace(one, fitted=object()), rows(9)) is None
    assert not list(forms.make(LogisticRegression(max_iter=5000).fit(X, np.arange(400) % 3), "number", WIDTH))


def test_a_linear_form_needs_no_library(tmp_path: Path) -> None:
    """Who loads it in a fresh process has neither scikit-learn nor scipy nor onnxruntime in memory."""
    one = model("scaled")
    found = formed(one, rows(50))
    assert found is not None
    (tmp_path / "model").write_bytes(dump(one))
    (tmp_path / "form").write_bytes(found.data)
    code = (
        "import sys; from pathlib import Path; from penstock.model.pack import load, score\n"
        "at = Path(sys.argv[1]); m = load((at / 'model').read_bytes(), None, (at / 'form').read_bytes())\n"
        "print(score(m, [[1.0] * 6])[0], [x for x in ('sklearn', 'scipy', 'onnxruntime') if x in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{answers(found.model, [[1.0] * 6])[0]} []\n"
