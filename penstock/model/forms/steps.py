"""model: the steps of scikit-learn before a model that keep columns apart: filling in, scaling, choosing, coding texts.

A column that the model sees is then one column of the rows, moved by numbers that keep the order of its values. So a
line takes the steps into its weights and trees take them into their limits: a form has nothing to do before it scores,
but for texts, which are looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.model.forms.trees import Precision, Trees

Move = tuple[np.ufunc, float]

SCALERS: dict[str, tuple[tuple[np.ufunc, str], ...]] = {
    "StandardScaler": ((np.subtract, "mean_"), (np.divide, "scale_")),
    "RobustScaler": ((np.subtract, "center_"), (np.divide, "scale_")),
    "MinMaxScaler": ((np.multiply, "scale_"), (np.add, "min_")),
    "MaxAbsScaler": ((np.divide, "scale_"),),
}
"""What each does to a column, with which numbers of its own. None of them turns the order of values round."""


class Column(NamedTuple):
    """What a model sees in a column: what the rows have in `source`, or the number that `coded` has for the text there,
    after `moves`; `missing` where that is missing (a text, before texts are coded)."""

    source: int
    moves: tuple[Move, ...] = ()
    missing: Any = math.nan
    coded: Coded | None = None

    def line(self) -> tuple[float, float] | None:
        """Its slope and offset; None where the moves are no line."""
        if any(move in (np.minimum, np.maximum) for move, _ in self.moves):
            return None
        factors = [one for one in self.moves if one[0] in (np.multiply, np.divide)]
        return float(moved(1.0, factors)), float(moved(0.0, self.moves))


class Coded(msgspec.Struct, frozen=True):
    """A column of texts as a column of numbers: `other` for those that it does not know; none of both, and no score,
    for those that are not `known`, where that is told."""

    source: int
    numbers: list[tuple[str | None, float]]
    other: float
    known: list[str | None] | None = None


class Texts(msgspec.Struct, frozen=True):
    """How rows with texts become rows of numbers: `numbers` of their columns stay where they are, and what is `coded`
    stands behind all `width`."""

    width: int
    numbers: list[int]
    coded: list[Coded]

    def spread(self) -> Callable[[Any], tuple[Any, Any]]:
        """The function of rows that does so, and tells which of them have a text that is not to be scored."""
        tables = [_table(list(same)) for _, same in groupby(self.coded, lambda one: one.source)]

        def rows(x: Any) -> tuple[Any, Any]:
            out, strange = np.zeros((len(x), self.width + len(self.coded))), np.zeros(len(x), np.bool_)
            out[:, self.numbers] = x[:, self.numbers]
            at = self.width
            for table in tables:
                codes = [table.codes.get(text, -1) for text in x[:, table.source].tolist()]
                found = table.numbers[codes]
                out[:, at : at + found.shape[1]] = found
                at += found.shape[1]
                if table.known is not None:
                    strange |= ~table.known[codes]
            return out, strange

        return rows


class _Table(NamedTuple):
    """All that is coded of one column: a row of numbers a text, the last one for any other."""

    source: int
    codes: dict[str | None, int]
    numbers: NDArray[np.float64]
    known: NDArray[np.bool_] | None


def _table(coded: list[Coded]) -> _Table:
    known = next((one.known for one in coded if one.known is not None), None)
    each = [dict(one.numbers) for one in coded]
    texts = list(dict.fromkeys([*(known or []), *(text for numbers in each for text in numbers)]))
    rows = [
        [numbers.get(text, one.other) for numbers, one in zip(each, coded, strict=True)] for text in texts
    ]
    told = None if known is None else np.array([*(text in known for text in texts), False])
    numbers = np.array([*rows, [one.other for one in coded]])
    return _Table(coded[0].source, {text: i for i, text in enumerate(texts)}, numbers, told)


class Parted(NamedTuple):
    """What a model at the end of steps sees of rows of `width` columns of numbers, and that model. `texts`: how rows
    become such, where there are texts among them."""

    seen: list[Column]
    last: Any
    width: int
    texts: Texts | None


def moved(x: Any, moves: Any) -> Any:
    """Numbers after moves; NaN stays what it is."""
    for move, number in moves:
        x = move(x, number)
    return x


def is_sklearn(fitted: Any, *names: str) -> bool:
    """Whether a model is of such a class of scikit-learn: nothing is imported to find out."""
    kind = type(fitted)
    return kind.__name__ in names and kind.__module__.partition(".")[0] == "sklearn"


def parted(fitted: Any, width: int) -> Parted | None:
    """A model of `width` columns, alone or behind steps, in its parts; None where a step is not known here."""
    *before, last = [one for _, one in fitted.steps] if is_sklearn(fitted, "Pipeline") else [fitted]
    seen = [Column(i) for i in range(width)]
    try:
        for step in before:
            seen = _after(step, seen)
    except _Unknown:
        return None
    coded = sorted((one.coded for one in seen if one.coded is not None), key=lambda one: one.source)
    if not coded:
        return Parted(seen, last, width, None)
    places = {id(one): width + i for i, one in enumerate(coded)}
    numbers = sorted({one.source for one in seen if one.coded is None})
    seen = [one if one.coded is None else one._replace(source=places[id(one.coded)]) for one in seen]
    return Parted(seen, last, width + len(coded), Texts(width, numbers, coded))


class _Unknown(Exception):
    """A step that is not read here."""


def _after(step: Any, seen: list[Column]) -> list[Column]:
    """The columns behind a step."""
    if step in ("passthrough", None) or (is_sklearn(step, "FunctionTransformer") and step.func is None):
        return seen
    if is_sklearn(step, "Pipeline"):
        for _, one in step.steps:
            seen = _after(one, seen)
        return seen
    if is_sklearn(step, "ColumnTransformer") and not step.transformer_weights:
        each = step._transformer_to_input_indices
        sides = [(one, [seen[i] for i in each[name]]) for name, one, _ in step.transformers_]
        return [new for one, side in sides if side and one != "drop" for new in _after(one, side)]
    if is_sklearn(step, "SimpleImputer"):
        return _filled(step, seen)
    if is_sklearn(step, *SCALERS):
        return _scaled(step, seen)
    if is_sklearn(step, "OneHotEncoder", "OrdinalEncoder"):
        return [new for i, one in enumerate(seen) for new in _encoded(step, i, one)]
    if type(step).__module__.startswith("sklearn.feature_selection."):
        return [seen[i] for i in step.get_support(indices=True)]
    raise _Unknown


def _filled(step: Any, seen: list[Column]) -> list[Column]:
    """Behind a SimpleImputer: the columns that had any value, then those that tell where one is missing."""
    fills = step.statistics_.tolist()
    if all(isinstance(one, str) for one in fills) and step.indicator_ is None and step.missing_values is None:
        return [
            one if isinstance(one.missing, str) else one._replace(missing=fill)
            for one, fill in zip(seen, fills, strict=True)
        ]
    if not isinstance(step.missing_values, float) or not math.isnan(step.missing_values):
        raise _Unknown
    if any(isinstance(one, str) for one in fills):
        raise _Unknown
    filled = [
        one._replace(missing=float(fill)) if math.isnan(one.missing) else one
        for one, fill in zip(seen, fills, strict=True) if not math.isnan(fill)
    ]  # fmt: skip
    told = [seen[i] for i in step.indicator_.features_] if step.indicator_ is not None else []
    return filled + [
        one._replace(moves=((np.multiply, 0.0),), missing=float(math.isnan(one.missing))) for one in told
    ]


def _encoded(step: Any, i: int, one: Column) -> list[Column]:
    """Behind an encoder of texts: a column for each text, or one of their numbers."""
    known = step.categories_[i].tolist()
    rare = step.min_frequency is not None or step.max_categories is not None
    if rare or one.moves or one.coded or not all(text is None or isinstance(text, str) for text in known):
        raise _Unknown
    each: list[tuple[dict[str | None, float], float]]
    if is_sklearn(step, "OneHotEncoder"):
        dropped = None if step.drop_idx_ is None else step.drop_idx_[i]
        each = [({text: 1.0}, 0.0) for at, text in enumerate(known) if at != dropped]
    else:
        rest = math.nan if step.unknown_value is None else float(step.unknown_value)
        each = [({text: float(at) for at, text in enumerate(known)}, rest)]
    fill = one.missing if isinstance(one.missing, str) else None
    for numbers, other in each:
        numbers[None] = numbers.get(fill, other)
    strict = None if step.handle_unknown != "error" else [*known, None] if fill in known else known
    coded = [Coded(one.source, list(numbers.items()), other, strict) for numbers, other in each]
    return [Column(one.source, coded=found) for found in coded]


def _scaled(step: Any, seen: list[Column]) -> list[Column]:
    """Behind a scaler."""
    each: list[list[Move]] = [[] for _ in seen]
    for move, name in SCALERS[type(step).__name__]:
        numbers = getattr(step, name)
        if numbers is not None and (name != "mean_" or step.with_mean):
            for moves, number in zip(each, numbers.tolist(), strict=True):
                moves.append((move, number))
    if getattr(step, "clip", False):
        low, high = step.feature_range
        each = [[*moves, (np.maximum, low), (np.minimum, high)] for moves in each]
    return [
        one._replace(moves=(*one.moves, *moves), missing=float(moved(one.missing, moves)))
        for one, moves in zip(seen, each, strict=True)
    ]


def folded(trees: Trees, seen: list[Column]) -> Trees:
    """Trees over the rows themselves: each limit is the largest number that the steps leave on its left."""
    if seen == [Column(i) for i in range(len(seen))]:
        return trees
    arrays = trees.arrays()
    kind = np.float32 if trees.precision in ("single", "rounded") else np.float64
    precision: Precision = "summed" if trees.precision in ("single", "summed") else "double"
    column, limit, strays = arrays.column.copy(), arrays.limit.copy(), arrays.strays.copy()
    inner = arrays.left != np.arange(len(column))
    with np.errstate(over="ignore", invalid="ignore"):
        for i, one in enumerate(seen):
            here = np.flatnonzero(inner & (arrays.column == i))
            column[here] = one.source
            if not math.isnan(one.missing):
                strays[here] = kind(one.missing) <= limit[here]
            limit[here] = _largest(one, kind, limit[here])
    return msgspec.structs.replace(
        trees, column=column.astype("<i4").tobytes(), limit=limit.astype("<f8").tobytes(),
        strays=strays.tobytes(), precision=precision,
    )  # fmt: skip


def _largest(column: Column, kind: Any, limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each limit the largest number that is at most the limit once it is moved, and rounded to `kind`; found by
    halving, for numbers lie in the order of their bits."""
    low, high = (np.full(len(limits), _turned(np.array(end))) for end in (-np.inf, np.inf))
    for _ in range(64):
        middle = (low & high) + ((low ^ high) >> 1)
        left = moved(_turned(middle), column.moves).astype(kind) <= limits
        low, high = np.where(left, middle, low), np.where(left, high, middle)
    return _turned(low)


def _turned(x: NDArray[Any]) -> NDArray[Any]:
    """Numbers as integers in the same order, and back: below 0 all bits but the first are turned over."""
    bits = x.view(np.int64)
    bits = bits ^ ((bits >> 63) & np.int64(2**63 - 1))
    return bits if x.dtype == np.float64 else bits.view(np.float64)
