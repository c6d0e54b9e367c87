"""model: the steps of scikit-learn before a model that keep columns apart: filling in, scaling, choosing.

A column that the model sees is then one column of the rows, moved by numbers that keep the order of its values. So a
line takes the steps into its weights and trees take them into their limits: a form has nothing to do before it scores.
"""

from __future__ import annotations

import math
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
    """What a model sees in a column: what the rows have in `source`, after `moves`; `missing` where that is missing."""

    source: int
    moves: tuple[Move, ...] = ()
    missing: float = math.nan

    def line(self) -> tuple[float, float] | None:
        """Its slope and offset; None where the moves are no line."""
        if any(move in (np.minimum, np.maximum) for move, _ in self.moves):
            return None
        factors = [one for one in self.moves if one[0] in (np.multiply, np.divide)]
        return float(moved(1.0, factors)), float(moved(0.0, self.moves))


def moved(x: Any, moves: Any) -> Any:
    """Numbers after moves; NaN stays what it is."""
    for move, number in moves:
        x = move(x, number)
    return x


def is_sklearn(fitted: Any, *names: str) -> bool:
    """Whether a model is of such a class of scikit-learn: nothing is imported to find out."""
    kind = type(fitted)
    return kind.__name__ in names and kind.__module__.partition(".")[0] == "sklearn"


def parted(fitted: Any, width: int) -> tuple[list[Column], Any] | None:
    """What the model at the end of all steps sees of `width` columns, and that model; None where a step is not known
    here."""
    *before, last = [one for _, one in fitted.steps] if is_sklearn(fitted, "Pipeline") else [fitted]
    seen = [Column(i) for i in range(width)]
    try:
        for step in before:
            seen = _after(step, seen)
    except _Unknown:
        return None
    return seen, last


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
    if type(step).__module__.startswith("sklearn.feature_selection."):
        return [seen[i] for i in step.get_support(indices=True)]
    raise _Unknown


def _filled(step: Any, seen: list[Column]) -> list[Column]:
    """Behind a SimpleImputer: the columns that had any value, then those that tell where one is missing."""
    if not isinstance(step.missing_values, float) or not math.isnan(step.missing_values):
        raise _Unknown
    fills = [float(one) for one in step.statistics_]
    filled = [
        one._replace(missing=fill) if math.isnan(one.missing) else one
        for one, fill in zip(seen, fills, strict=True) if not math.isnan(fill)
    ]  # fmt: skip
    told = [seen[i] for i in step.indicator_.features_] if step.indicator_ is not None else []
    return filled + [
        Column(one.source, ((np.multiply, 0.0),), float(math.isnan(one.missing))) for one in told
    ]


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
        Column(one.source, (*one.moves, *moves), float(moved(one.missing, moves)))
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
