"""feature: definitions and windows: events -> the value at (t, O). One fold for live, replay and look-up."""

from penstock.feature.compiler import compile
from penstock.feature.derive import derive_stage, derived
from penstock.feature.expression import Column, Expression, case, row
from penstock.feature.fold import Fold, Past, Seen
from penstock.feature.language import (
    count,
    distinct,
    feature,
    first,
    hashed,
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
from penstock.feature.said import Answers, predictions
from penstock.feature.source import Declared, Derived, lineage, raw, source, wider
from penstock.feature.text import tokens

__all__ = [
    "About",
    "Answers",
    "Column",
    "Declared",
    "Derived",
    "Expression",
    "FeatureSet",
    "Fold",
    "Past",
    "Seen",
    "case",
    "compile",
    "count",
    "derive_stage",
    "derived",
    "distinct",
    "feature",
    "first",
    "hashed",
    "last",
    "last_k",
    "lineage",
    "max",
    "mean",
    "min",
    "predictions",
    "rate",
    "raw",
    "row",
    "since",
    "source",
    "std",
    "sum",
    "tokens",
    "wider",
]
