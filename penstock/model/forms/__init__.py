"""model: fast forms: what a fitted model computes, in data that is quick to load and to score, and no code.

A form stands in for a model where its answers are those of the model, but for a stated bound, on every row that
both were tried on. It is bytes of a known kind, opened by this house's own reader or by a runtime that takes bytes
only: nothing of it is unpickled, and nothing of it can hang.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from penstock.model.forms import boosted, linear, onnx, trees
from penstock.model.forms.steps import Texts, parted
from penstock.record.codec import pack, unpack
from penstock.record.errors import Broken

Scores = Callable[[Any], Any]
"""Rows (n, columns), of float64, or of objects where there are texts among them, to n numbers."""


class Form(msgspec.Struct, frozen=True):
    """The content of a form's blob. There is no score where a column that it `needs` is missing. `texts`: how rows
    become those of numbers that it takes."""

    kind: str
    data: bytes
    needs: list[int] = []
    texts: Texts | None = None


class Kind(NamedTuple):
    """How a kind of form is made of a fitted model (None: it is none of these), and read again."""

    make: Callable[[Any, str, int], bytes | None]
    load: Callable[[bytes], Scores]


KINDS = {
    "linear": Kind(linear.make, linear.load),
    "onnx": Kind(onnx.make, onnx.load),
    "trees": Kind(boosted.make, trees.load),
}
"""The quickest first, as `make bench-forms` shows."""


def make(fitted: Any, task: str, width: int) -> Iterator[bytes]:
    """Every form that a fitted model of `width` columns has here, the quickest first, each made when it is asked
    for."""
    found = parted(fitted, width)
    for name, kind in KINDS.items():
        data = kind.make(fitted, task, width)
        if data is not None:
            yield pack(Form(name, data, texts=found and found.texts))


def kind_of(data: bytes) -> str:
    """The kind of a form's bytes."""
    return unpack(data, Form).kind


def needing(data: bytes, needs: Sequence[int]) -> bytes:
    """A form's bytes, with columns without which it says nothing."""
    return pack(msgspec.structs.replace(unpack(data, Form), needs=list(needs)))


def load(data: bytes) -> Scores:
    """The function that a form is; raises Broken where its kind is not known here."""
    form = unpack(data, Form)
    if form.kind not in KINDS:
        raise Broken("This form is of no known kind.", code="form", hint="Was it written by a newer release?")
    scores = KINDS[form.kind].load(form.data)
    scores = _without(scores, form.needs) if form.needs else scores
    return _spread(scores, form.texts) if form.texts else scores


def _spread(scores: Scores, texts: Texts) -> Scores:
    """A function of rows with texts, which says nothing (NaN) of those that are strange to its model."""
    spread = texts.spread()

    def some(x: Any) -> Any:
        rows, strange = spread(x)
        return np.where(strange, math.nan, scores(rows)) if strange.any() else scores(rows)

    return some


def _without(scores: Scores, needs: Sequence[int]) -> Scores:
    """A function that says nothing (NaN) of rows in which a needed column is missing."""
    columns = np.array(needs)

    def some(x: Any) -> Any:
        found = scores(x)
        if not np.isnan(x).any():
            return found
        return np.where(np.isnan(x[:, columns]).any(axis=1), math.nan, found)

    return some
