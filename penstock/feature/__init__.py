"""feature: definitions and windows: events -> the value at (t, O). One fold for live, replay and look-up."""

from penstock.feature.compiler import compile
from penstock.feature.expression import Column, Expression, case, row
from penstock.feature.fold import Fold, Past, Seen
from penstock.feature.language import (
    count,
    distinct,
    feature,
    first,
    last,
    last_k,
    max,
    mean,
    min,
    rate,
    since,
    std,
    sum,
)
from penstock.feature.plan import About, FeatureSet
from penstock.feature.source import Declared, source

__all__ = [
    "About",
    "Column",
    "Declared",
    "Expression",
    "FeatureSet",
    "Fold",
    "Past",
    "Seen",
    "case",
    "compile",
    "count",
    "distinct",
    "feature",
    "first",
    "last",
    "last_k",
    "max",
    "mean",
    "min",
    "rate",
    "row",
    "since",
    "source",
    "std",
    "sum",
]
