"""gate: what the user asks of a candidate: a metric, a margin, slices, latency, size."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import msgspec

from penstock.record.codec import span
from penstock.record.errors import DefinitionError
from penstock.record.event import unknown

METRICS = ("log_loss", "brier", "accuracy", "roc_auc", "mae", "mse")
_BYTES = {"": 1, "B": 1, "kB": 1_000, "KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}


class Gate(msgspec.Struct, frozen=True):
    """`margin` is how much worse in the metric the candidate may be (0 and `strict`: it must be better).

    Latency in seconds, size in bytes; 0: no bound.
    """

    metric: str
    strict: bool
    margin: float
    slices: tuple[str, ...]
    slice_margin: float
    p99_s: float
    size_bytes: int
    level: float


def better(
    metric: str,
    *,
    slices: Sequence[str] = (),
    slice_margin: float = 0.0,
    p99: str = "",
    size: str = "",
    level: float = 0.95,
) -> Gate:
    """Ship a candidate that is better than the champion on the rows that neither has seen.

    It is blocked when it is worse, overall or on a value of a column in `slices` by more than
    `slice_margin`, or exceeds `p99` ("5ms" a single-row call) or `size` ("50MB").
    """
    return _gate(metric, True, 0.0, slices, slice_margin, p99, size, level)


def not_worse(
    metric: str,
    *,
    margin: float,
    slices: Sequence[str] = (),
    slice_margin: float = 0.0,
    p99: str = "",
    size: str = "",
    level: float = 0.95,
) -> Gate:
    """Ship a candidate that is surely not worse than the champion by more than `margin`."""
    return _gate(metric, False, margin, slices, slice_margin, p99, size, level)


def _gate(
    metric: str,
    strict: bool,
    margin: float,
    slices: Sequence[str],
    slice_margin: float,
    p99: str,
    size: str,
    level: float,
) -> Gate:
    where = f"line {sys._getframe(2).f_lineno}"
    if metric not in METRICS:
        raise DefinitionError(unknown(metric, METRICS, "a metric"), code="unknown_metric", where=where)
    if not 0.5 < level < 1 or margin < 0 or slice_margin < 0:
        raise DefinitionError(
            "level= lies between 0.5 and 1, margins are not negative.", code="gate", where=where
        )
    try:
        p99_s = span(p99) / 1000 if p99 else 0.0
    except ValueError as error:
        raise DefinitionError(f"p99=: {error}.", code="unit", where=where) from None
    return Gate(metric, strict, margin, tuple(slices), slice_margin, p99_s, _bytes(size, where), level)


def _bytes(text: str, where: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMG]?B)", text) if text else None
    if text and match is None:
        raise DefinitionError(f'"{text}" is not a size: write "50MB", for example.', code="unit", where=where)
    return round(float(match.group(1)) * _BYTES[match.group(2)]) if match else 0
