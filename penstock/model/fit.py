"""model: fit and evaluate: rows in, a packed model and its evidence out. No log, no clock, no process."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from penstock.dataset.rows import Row
from penstock.feature import FeatureSet
from penstock.model import forms
from penstock.model.brought import brought
from penstock.model.forms.steps import is_sklearn
from penstock.model.outside import Outside, named
from penstock.model.pack import Matrix, Model, Predict, Task, Told, kinds_of, matrix, score, where
from penstock.record.decisions import Evaluation
from penstock.record.errors import PenstockError, Refused

Clock = Callable[[], float]


class Data(msgspec.Struct, frozen=True):
    """What the user's `fit` gets: `x` (rows, features), `y` (rows), and the names of the columns.

    `x` is float64 with NaN for missing values; it is an object array once a feature is text.
    """

    x: Matrix
    y: Matrix
    names: list[str]
    params: dict[str, Any]
    seed: int

    def at(self, *names: str) -> list[int]:
        """The column numbers of features, for a ColumnTransformer and the like."""
        return [self.names.index(name) for name in names]


def fit_rows(
    fit: Callable[[Data], Any],
    predict: Predict | None,
    chosen: Sequence[Row],
    features: FeatureSet,
    task: Task,
    params: dict[str, Any],
    seed: int,
) -> Model:
    """The user's `fit` on rows, under a seed for every common source of randomness."""
    if not chosen:
        raise Refused("There are no labelled rows to train on.", code="no_rows")
    values = [row.values for row in chosen]
    kinds = kinds_of(values, len(features.names))
    y = np.array([row.label for row in chosen], dtype=np.float64)
    if task == "binary":
        y = y.astype(np.int64)
        if len(set(y.tolist())) < 2:
            raise Refused("All labels of the training rows are the same.", code="one_class")
    random.seed(seed)
    np.random.seed(seed)
    fitted = fit(Data(matrix(values, kinds), y, list(features.names), params, seed))
    if fitted is None:
        raise Refused("fit returned None: it must return the model.", code="no_model")
    if isinstance(fitted, Outside):
        if predict is not None:
            raise Refused(
                "What scores outside of Python has no use for predict=: leave it out.", code="predict"
            )
        return Model(features.digest, task, kinds, named(fitted, features.names, kinds), None)
    model = Model(features.digest, task, kinds, fitted, predict)
    if predict is not None or "category" in kinds:  # these are made for what was fitted, and for texts
        return model
    return _brought(model, values)


def _brought(model: Model, values: Sequence[Sequence[Any]]) -> Model:
    """A model of another library as its library's bytes, where those say what it says; else as it is."""
    found = brought(model.fitted, len(model.kinds))
    if found is None:
        return model
    again = msgspec.structs.replace(model, fitted=found)
    if not any(hasattr(model.fitted, name) for name in ("get_booster", "booster_")):
        return again  # bytes, and what does not take rows: there is nothing else to ask
    values = _holed(values[:HOLED])
    try:
        same = _difference(model, answers(model, values), answers(again, values)) is not None
    except Refused:  # several numbers a row, of which the model makes one
        return model
    return again if same else model


def task_of(labels: Sequence[float]) -> Task:
    """The task is "binary" when every label is 0 or 1."""
    return "binary" if all(label in (0.0, 1.0) for label in labels) else "number"


def answers(model: Model, values: Sequence[Sequence[Any]], batch: int = 1024) -> list[float | None]:
    """Scores of many rows; a row that the model cannot take gets None, and costs no other row."""
    out: list[float | None] = []
    for start in range(0, len(values), batch):
        part = values[start : start + batch]
        if model.apart is not None:
            out.extend(score for score, _, _ in model.apart(part))
            continue
        try:
            out.extend(score(model, part))
        except Exception:  # the user's code may raise anything; one by one tells which row it is
            out.extend(_alone(model, row) for row in part)
    return out


def told(model: Model, values: Sequence[Sequence[Any]]) -> list[Told]:
    """The same, and why there is none: `model_failed`, or what became of the process that the model is scored in; and
    whether a row was asked by itself."""
    if model.apart is not None:
        return model.apart(values)
    return [(score, "" if score is not None else "model_failed", False) for score in answers(model, values)]


def _alone(model: Model, row: Sequence[Any]) -> float | None:
    try:
        return score(model, [row])[0]
    except PenstockError:
        raise
    except Exception:  # as above: this row is the culprit
        return None


BOUND = 1e-6
"""How far a form's answers may lie from its model's: a probability by so much, a number by so much of the largest."""
TRIED = 10_000
"""On so many rows at most a form is tried."""
HOLED = 40
"""On so many of them with values taken out as well."""


class Formed(msgspec.Struct, frozen=True):
    """A model with the form that scores in its place: the form's bytes and kind, the greatest difference between
    the two, and on how many rows."""

    model: Model
    data: bytes
    kind: str
    difference: float
    rows: int


def formed(model: Model, values: Sequence[Sequence[Any]]) -> Formed | None:
    """The quickest form that answers as the model does on all rows, up to BOUND, and on some of them with values
    taken out; None where none does."""
    values = values[:TRIED]
    if not values or model.predict is not None or where(model):
        return None
    if "category" in model.kinds and not is_sklearn(model.fitted, "Pipeline"):
        return None  # whoever takes texts as they are
    said = answers(model, values)
    known = [row for row, one in zip(values, said, strict=True) if one is not None]
    holes = _holed(known[:HOLED])
    tried, said = [*values, *holes], [*said, *answers(model, holes)]
    for form in forms.make(model.fitted, model.task, len(model.kinds)):
        quick = msgspec.structs.replace(model, form=forms.load(form))
        needs = _needs(model, quick, known)
        data = forms.needing(form, needs) if needs else form
        quick = msgspec.structs.replace(model, form=forms.load(data)) if needs else quick
        difference = _difference(model, said, answers(quick, tried))
        if difference is not None:
            return Formed(quick, data, forms.kind_of(data), difference, len(values))
    return None


def _difference(model: Model, said: Sequence[float | None], again: Sequence[float | None]) -> float | None:
    """The greatest difference of what a model says and what stands in for it; None beyond BOUND."""
    pairs = [(a, b) for a, b in zip(said, again, strict=True) if a is not None and b is not None]
    if any((a is None) != (b is None) for a, b in zip(said, again, strict=True)):
        return None
    most = max((abs(a) for a, _ in pairs), default=0.0) if model.task == "number" else 1.0
    difference = max((abs(a - b) for a, b in pairs), default=0.0)
    return difference if difference <= BOUND * max(1.0, most) else None


def _holed(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows with one value taken out, with every third, and with all."""
    return [
        [None if i == n % len(row) or (n % 2 and (i + n) % 3 == 0) or n == len(rows) - 1 else one
         for i, one in enumerate(row)]
        for n, row in enumerate(rows)
    ]  # fmt: skip


def _needs(model: Model, quick: Model, known: Sequence[Sequence[Any]]) -> list[int]:
    """The columns without which a model says nothing, though its form would."""
    if not known:
        return []
    each = [[None if i == at else one for i, one in enumerate(known[0])] for at in range(len(model.kinds))]
    pairs = zip(answers(model, each), answers(quick, each), strict=True)
    return [at for at, (said, again) in enumerate(pairs) if said is None and again is not None]


def latencies(model: Model, values: Sequence[Sequence[Any]], clock: Clock, most: int = 200) -> list[float]:
    """Seconds of single-row calls on the first rows, after one call to warm up."""
    if values:
        answers(model, values[:1])
    taken = []
    for row in values[:most]:
        start = clock()
        answers(model, [row])
        taken.append(clock() - start)
    return taken


def evaluate(
    candidate: tuple[Model, int],
    champion: tuple[Model, int] | None,
    holdout: Sequence[Row],
    champion_values: Sequence[Sequence[Any]],
    slices: Sequence[str],
    baseline: float,
    clock: Clock,
) -> Evaluation:
    """Both versions on the same rows, each with its own features, with latency and size (bytes)."""
    values = [row.values for row in holdout]
    return Evaluation(
        kind=candidate[0].task,
        labels=[row.label for row in holdout],
        candidate=answers(candidate[0], values),
        champion=answers(champion[0], champion_values) if champion else [],
        baseline=baseline,
        slices={name: [row.facts[i] for row in holdout] for i, name in enumerate(slices)},
        candidate_latency_s=latencies(candidate[0], values, clock),
        champion_latency_s=latencies(champion[0], champion_values, clock) if champion else [],
        candidate_bytes=candidate[1],
        champion_bytes=champion[1] if champion else 0,
        t_ms=[row.t_ms for row in holdout],
    )
