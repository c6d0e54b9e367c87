"""Penstock: raw events in, judged predictions out. One file declares it, one log remembers it.

What a pipeline file needs is imported from here; everything else has its own room.
"""

from penstock.app.limits import limits
from penstock.app.pipeline import Pipeline, label, rate
from penstock.feature import (
    case,
    count,
    derived,
    distinct,
    feature,
    first,
    hashed,
    last,
    last_k,
    max,
    mean,
    min,
    predictions,
    row,
    scored,
    since,
    source,
    std,
    sum,
    tokens,
)
from penstock.gate import better, not_worse
from penstock.model.fit import Data
from penstock.model.outside import Endpoint, Program
from penstock.model.schedule import every
from penstock.monitor.rules import dead, drift, errors, loss, missing
from penstock.predict.queue import queue
from penstock.record.event import Event, key, pii
from penstock.release.stage import steps

__version__ = "0.1.0"

__all__ = [
    "Data",
    "Endpoint",
    "Event",
    "Pipeline",
    "Program",
    "better",
    "case",
    "count",
    "dead",
    "derived",
    "distinct",
    "drift",
    "errors",
    "every",
    "feature",
    "first",
    "hashed",
    "key",
    "label",
    "last",
    "last_k",
    "limits",
    "loss",
    "max",
    "mean",
    "min",
    "missing",
    "not_worse",
    "pii",
    "predictions",
    "queue",
    "rate",
    "row",
    "scored",
    "since",
    "source",
    "std",
    "steps",
    "sum",
    "tokens",
]
