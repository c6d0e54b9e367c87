"""feature: definitions and windows: events -> the value at (t, O). One fold for live, replay and look-up."""

from penstock.feature.fold import Fold, Past, Seen
from penstock.feature.language import (
    count,
    distinct,
    feature,
    first,
    last,
    max,
    mean,
    min,
    since,
    std,
    sum,
)
from penstock.feature.plan import FeatureSet, compile

__all__ = [
    "FeatureSet",
    "Fold",
    "Past",
    "Seen",
    "compile",
    "count",
    "distinct",
    "feature",
    "first",
    "last",
    "max",
    "mean",
    "min",
    "since",
    "std",
    "sum",
]
