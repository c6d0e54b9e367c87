"""feature: definitions and windows: events -> the value at (t, O). One fold for live, replay and look-up."""

from penstock.feature.definition.compiler import compile
from penstock.feature.definition.derive import derive_stage, derived
from penstock.feature.definition.expression import Column, Expression, case, row
from penstock.feature.definition.language import (
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
from penstock.feature.definition.plan import About, FeatureSet
from penstock.feature.definition.said import Answers, predictions
from penstock.feature.definition.scored import (
    JOIN,
    Answer,
    answers,
    asked,
    join_inputs,
    join_stage,
    requests,
    scored,
)
from penstock.feature.definition.source import Declared, Derived, Scored, descent, lineage, raw, source, wider
from penstock.feature.definition.text import tokens
from penstock.feature.fold import Fold, Past, Seen

__all__ = [
    "JOIN",
    "About",
    "Answer",
    "Answers",
    "Column",
    "Declared",
    "Derived",
    "Expression",
    "FeatureSet",
    "Fold",
    "Past",
    "Scored",
    "Seen",
    "answers",
    "asked",
    "case",
    "compile",
    "count",
    "derive_stage",
    "derived",
    "descent",
    "distinct",
    "feature",
    "first",
    "hashed",
    "join_inputs",
    "join_stage",
    "last",
    "last_k",
    "lineage",
    "max",
    "mean",
    "min",
    "predictions",
    "rate",
    "raw",
    "requests",
    "row",
    "scored",
    "since",
    "source",
    "std",
    "sum",
    "tokens",
    "wider",
]
