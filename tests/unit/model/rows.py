"""model: rows with missing values, and models fitted to them as a pipeline fits its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from penstock import Event, key, source
from penstock.dataset.rows import Row
from penstock.feature import compile
from penstock.model.fit import fit_rows
from penstock.model.pack import Model

WIDTH = 5


class Ask(Event):
    """A request that brings its features."""

    ask_id: str
    who: str = key()
    at: int
    a: float
    b: float
    c: float
    d: float
    e: float


ask = source(Ask, id="ask_id", time="at")
FEATURES = compile([ask.a, ask.b, ask.c, ask.d, ask.e], ask, {})


def sampled(n: int, seed: int = 3) -> list[list[Any]]:
    """Rows of values of several sizes, whole ones among them, a tenth of them missing."""
    chance = np.random.default_rng(seed)
    x = chance.normal(size=(n, WIDTH)) * [1, 4, 0.01, 1e5, 1]
    x[:, 1] = np.round(x[:, 1])
    gone = chance.random(x.shape) < 0.1
    return [
        [None if no else float(one) for one, no in zip(*row, strict=True)]
        for row in zip(x, gone, strict=True)
    ]


def labelled(x: Any, y: Any) -> list[Row]:
    """Rows to train on."""
    return [
        Row(str(i), "", i, i, [None if np.isnan(one) else float(one) for one in row], float(label), [])
        for i, (row, label) in enumerate(zip(x, y, strict=True))
    ]


def trained(make: Callable[[Any, Any], Any], task: str) -> Model:
    """A model by `fit(x, y)`, as `fit_rows` hands it on."""
    x = np.array(sampled(400), dtype=float)
    size = np.nan_to_num(x[:, 0] + x[:, 1] / 4 + x[:, 3] / 1e5) + np.isnan(x[:, 4])
    size += np.random.default_rng(9).normal(size=len(x))
    y = (size > 0) if task == "binary" else np.exp(size) * 10
    rows = labelled(x, y)
    return fit_rows(lambda data: make(data.x, data.y), None, rows, FEATURES, task, {}, 1)  # type: ignore[arg-type]
