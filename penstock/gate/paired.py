"""gate: paired tests: the same rows, two answers each, one difference a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEAST_ROWS = 30
"""Below this a normal interval of a mean is not to be trusted, and nothing is concluded."""
_CLIP = 1e-6
_NORMAL = NormalDist()


class Paired(msgspec.Struct, frozen=True):
    """Two means of a metric and their difference, turned so that positive means: the candidate is better."""

    rows: int
    candidate: float
    champion: float
    difference: float
    low: float
    high: float
    error: float
    p_value: float
    p_worse: float


def losses(metric: str, labels: Sequence[float], scores: Sequence[float | None]) -> Floats:
    """One loss a row. A row without a score gets the worst loss that its metric knows on these rows."""
    y = np.asarray(labels, dtype=np.float64)
    x = np.array([math.nan if score is None else score for score in scores], dtype=np.float64)
    match metric:
        case "log_loss":
            p = np.clip(x, _CLIP, 1 - _CLIP)
            loss = -(y * np.log(p) + (1 - y) * np.log(1 - p))
            worst = -math.log(_CLIP)
        case "brier":
            loss, worst = (x - y) ** 2, 1.0
        case "accuracy":
            loss, worst = np.where(np.isnan(x), math.nan, (x >= 0.5) != (y == 1)), 1.0
        case "mae":
            loss = np.abs(x - y)
            worst = float(np.nanmax(loss, initial=1.0))
        case _:
            loss = (x - y) ** 2
            worst = float(np.nanmax(loss, initial=1.0))
    return np.where(np.isnan(loss), worst, loss)


def shown(metric: str, mean_loss: float) -> float:
    """A mean loss as people know the metric: accuracy is the share of right answers."""
    return 1.0 - mean_loss if metric == "accuracy" else mean_loss


def compare(metric: str, mine: Floats, other: Floats, level: float, margin: float = 0.0) -> Paired:
    """The paired test of two losses a row: a studentised normal interval of the mean difference."""
    d = other - mine
    error = float(d.std(ddof=1)) / math.sqrt(len(d)) if len(d) > 1 else 0.0
    return _paired(
        len(d),
        shown(metric, float(mine.mean())),
        shown(metric, float(other.mean())),
        float(d.mean()),
        error,
        level,
        margin,
    )


def compare_auc(
    labels: Sequence[float], mine: Floats, other: Floats, level: float, margin: float = 0.0
) -> Paired:
    """The paired test of two areas under the ROC curve.

    DeLong's variance from midranks: Sun and Xu, "Fast implementation of DeLong's algorithm", IEEE
    Signal Processing Letters 2014. Needs both classes.
    """
    y = np.asarray(labels) == 1
    m, n = int(y.sum()), int((~y).sum())
    areas, tens, ones = [], [], []
    for x in (mine, other):
        whole, inside, outside = _midranks(x), _midranks(x[y]), _midranks(x[~y])
        areas.append(float((whole[y].sum() - m * (m + 1) / 2) / (m * n)))
        tens.append((whole[y] - inside) / n)
        ones.append(1 - (whole[~y] - outside) / m)
    ten, one = tens[0] - tens[1], ones[0] - ones[1]
    spread = (float(ten.var(ddof=1)) / m if m > 1 else 0.0) + (float(one.var(ddof=1)) / n if n > 1 else 0.0)
    return _paired(m + n, areas[0], areas[1], areas[0] - areas[1], math.sqrt(spread), level, margin)


def _midranks(x: Floats) -> Floats:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Floats = (last - (counts - 1) / 2)[place]
    return middle


def _paired(
    rows: int, candidate: float, champion: float, difference: float, error: float, level: float, margin: float
) -> Paired:
    half = _NORMAL.inv_cdf((1 + level) / 2) * error
    p_value = 2 * _tail(abs(difference), error)
    p_worse = _tail(-(difference + margin), error)
    return Paired(
        rows, candidate, champion, difference, difference - half, difference + half, error, p_value, p_worse
    )


def _tail(x: float, error: float) -> float:
    """P(a difference of at least x) under none."""
    if error == 0.0:
        return 0.5 if x == 0 else float(x < 0)
    return 1 - _NORMAL.cdf(x / error)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of p-values for their number."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def rows_needed(paired: Paired, level: float, power: float = 0.8, most: int = 10_000_000) -> int:
    """How many more rows would decide with this power if the difference is what it seems to be."""
    if paired.error == 0.0 or paired.difference == 0.0:
        return most
    spread = paired.error * math.sqrt(paired.rows)
    reach = _NORMAL.inv_cdf((1 + level) / 2) + _NORMAL.inv_cdf(power)
    wanted = (reach * spread / paired.difference) ** 2
    return int(min(most, max(0.0, math.ceil(wanted) - paired.rows)))
