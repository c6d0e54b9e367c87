"""model: a fitted model as bytes, and bytes as something that scores. What `fit` returns is duck-typed."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.model import forms
from penstock.model.brought import Brought, Format
from penstock.model.forms import Scores
from penstock.model.outside import Endpoint, Outside, Program
from penstock.record.codec import pack, unpack
from penstock.record.decisions import Value
from penstock.record.errors import Refused

Matrix = NDArray[Any]
Predict = Callable[[Any, Matrix], Any]
Task = Literal["binary", "number"]
Kept = Literal["pickle", "outside"] | Format
"""As what a model's bytes are kept."""
Told = tuple[float | None, str, bool]
"""A score, or none and why; and whether the row was asked by itself, whatever came with it."""


class Packed(msgspec.Struct, frozen=True):
    """The content of a model's blob. A model is bound to its feature set by digest.

    `kinds`: per column "number" or "category", fixed at training.

    Pickles are written and read only by this house's own trainer; no door takes them from outside. What scores
    outside of Python is data; in the other formats the bytes are the library's own. What is unpacked holds no copy of
    `model`, which may be large, but a view.
    """

    format: Kept
    features: str
    task: Task
    kinds: list[str]
    model: memoryview


class Model(msgspec.Struct, frozen=True):
    """A model in memory, ready to score vectors of its feature set. Where there is a form, or it is scored `apart`
    (rows to what is told of them), what was fitted is not unpacked."""

    features: str
    task: Task
    kinds: list[str]
    fitted: Any
    predict: Predict | None
    form: Scores | None = None
    apart: Callable[[Sequence[Sequence[Value]]], list[Told]] | None = None

    def warm(self) -> None:
        """Score a row of nothing, so that the first one to be asked need not wait for what is made ready then."""
        if self.form is not None:
            self.form(matrix([[None] * len(self.kinds)], self.kinds))

    @property
    def elsewhere(self) -> bool:
        """Whether its answers come from another place: then they are no function of the log and the blobs."""
        return isinstance(self.fitted, Endpoint)

    @property
    def quick(self) -> bool:
        """Whether a form scores in its place: nothing of the user's runs, and no answer takes long."""
        return self.form is not None


def kinds_of(rows: Sequence[Sequence[Value]], width: int) -> list[str]:
    """What each column holds: a "category" where text was seen, a "number" elsewhere."""
    return ["category" if any(isinstance(row[i], str) for row in rows) else "number" for i in range(width)]


def matrix(rows: Sequence[Sequence[Value]], kinds: Sequence[str]) -> Matrix:
    """Rows as (n, columns): float64 with NaN for missing; object, with None, once a column holds text."""
    if "category" not in kinds:
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(kinds))  # None is a NaN then
    out = np.empty((len(rows), len(kinds)), dtype=object)
    for i, row in enumerate(rows):
        out[i] = [
            value if kind == "category" else (math.nan if value is None else float(value))
            for value, kind in zip(row, kinds, strict=True)
        ]
    return out


def dump(model: Model) -> bytes:
    """A model's bytes: what scores outside of Python, its library's own, or a pickle, made twice, so that what was
    merely shared in memory leaves no trace."""
    fitted = model.fitted
    if isinstance(fitted, Outside):
        return _packed("outside", model, pack(fitted))
    if isinstance(fitted, Brought):
        return _packed(fitted.format, model, fitted.data)
    again = pickle.loads(pickle.dumps(fitted, protocol=5))
    return _packed("pickle", model, pickle.dumps(again, protocol=5))


def _packed(format: Kept, model: Model, data: bytes) -> bytes:
    return pack(Packed(format, model.features, model.task, model.kinds, memoryview(data)))


def load(data: bytes, predict: Predict | None = None, form: bytes = b"") -> Model:
    """The model of bytes that `dump` wrote; `predict` is the user's own function, if the file has one; `form` the
    bytes of the form that scores in its place, if there is one."""
    packed = unpack(data, Packed)
    if form:
        return Model(packed.features, packed.task, packed.kinds, None, None, forms.load(form))
    return Model(packed.features, packed.task, packed.kinds, _fitted(packed), predict)


def _fitted(packed: Packed) -> Any:
    if packed.format == "outside":
        return _outside.decode(packed.model)
    return (
        pickle.loads(packed.model)
        if packed.format == "pickle"
        else Brought(packed.format, bytes(packed.model))
    )


class _Head(msgspec.Struct, frozen=True):
    """As much of a `Packed` as tells how it is to be opened: the model's bytes are passed over."""

    format: str


_outside: msgspec.msgpack.Decoder[Program | Endpoint] = msgspec.msgpack.Decoder(Program | Endpoint)


def outside(data: bytes) -> Model | None:
    """The model of bytes whose model scores outside of Python; None of any other, which is not unpacked."""
    return load(data) if unpack(data, _Head).format == "outside" else None


def score(model: Model, rows: Sequence[Sequence[Value]]) -> list[float | None]:
    """One finite number a row: the probability of a true label, or the predicted value.

    A number that is not finite becomes None. Raises Refused when the model answers in a wrong shape,
    and whatever the model itself raises.
    """
    x = matrix(rows, model.kinds)
    if model.form is not None:
        answer = model.form(x)
    elif model.predict is not None:
        answer = model.predict(model.fitted, x)
    elif model.task == "binary" and hasattr(model.fitted, "predict_proba"):
        answer = model.fitted.predict_proba(x)
    else:
        answer = model.fitted.predict(x)
    return one_a_row(answer, len(rows))


def where(model: Model) -> str:
    """Where a model scores that is not Python's: in a "program", or "elsewhere"; else ""."""
    return "elsewhere" if model.elsewhere else "program" if isinstance(model.fitted, Program) else ""


def one_a_row(answer: Any, n: int) -> list[float | None]:
    """What a model answered to n rows, as one finite number a row, or None; raises Refused in a wrong shape. Of two
    columns the last is taken."""
    numbers = np.asarray(answer, dtype=np.float64)
    if numbers.ndim == 2 and numbers.shape[1] in (1, 2):
        numbers = numbers[:, -1]
    if numbers.shape != (n,):
        raise Refused(f"The model answered {numbers.shape} to {n} rows.", code="model_shape")
    return [number if math.isfinite(number) else None for number in numbers.tolist()]
