"""monitor: the rules of one line: `missing("tailnum") < 0.05` says what must hold."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from penstock.record.codec import span, span_text
from penstock.record.errors import DefinitionError
from penstock.record.event import unknown

Op = Literal["<", "<=", ">", ">="]
Kind = Literal["missing", "rate", "drift", "errors", "loss", "dead"]
HOUR_MS = 3_600_000


class Rule(msgspec.Struct, frozen=True):
    """A bound on a measure. It is judged only over at least `measure.at_least` rows."""

    measure: Measure
    op: Op
    bound: float

    def __str__(self) -> str:
        return f"{self.measure} {self.op} {self.bound!r}"

    def holds(self, value: float) -> bool:
        """Whether a measured value keeps the rule."""
        match self.op:
            case "<":
                return value < self.bound
            case "<=":
                return value <= self.bound
            case ">":
                return value > self.bound
        return value >= self.bound


class Measure(msgspec.Struct, frozen=True):
    """Something measured over a sliding window; compared with a number it becomes a rule."""

    kind: Kind
    name: str
    window_ms: int
    at_least: int
    line: int

    def __lt__(self, bound: float) -> Rule:
        return Rule(self, "<", bound)

    def __le__(self, bound: float) -> Rule:
        return Rule(self, "<=", bound)

    def __gt__(self, bound: float) -> Rule:
        return Rule(self, ">", bound)

    def __ge__(self, bound: float) -> Rule:
        return Rule(self, ">=", bound)

    def __str__(self) -> str:
        named = f'"{self.name}"' if self.name else ""
        usual = self.window_ms == HOUR_MS and self.kind in ("missing", "rate")
        window = "" if usual else f'"{span_text(self.window_ms)}"'
        return f"{self.kind}({', '.join(part for part in (named, window) if part)})"


def missing(column: str, window: str = "1h", *, at_least: int = 30) -> Measure:
    """The share of requests in which a column (or a feature) is null or empty."""
    return _measure("missing", column, window, at_least)


def rate(what: str, window: str = "1h", *, at_least: int = 30) -> Measure:
    """ "positive": the share of served predictions that are positive; "label": of labels that are true."""
    return _measure("rate", what, window, at_least)


def drift(column: str, window: str = "1d", *, at_least: int = 200) -> Measure:
    """The population stability index of a feature (or "score") against the champion's training rows."""
    return _measure("drift", column, window, at_least)


def errors(window: str = "1h", *, at_least: int = 30) -> Measure:
    """The share of served predictions without a score."""
    return _measure("errors", "", window, at_least)


def loss(window: str = "1d", *, at_least: int = 30) -> Measure:
    """The mean loss of the served predictions whose label came: log loss, or squared error of numbers."""
    return _measure("loss", "", window, at_least)


def dead(window: str = "1h") -> Measure:
    """How many records the model's stages have buried because they could not take them."""
    return _measure("dead", "", window, 1)


def watched(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules of a pipeline: its own, and one on dead letters where it has none."""
    return (*rules, *(() if any(rule.measure.kind == "dead" for rule in rules) else (FEW_DEAD,)))


def _measure(kind: Kind, name: str, window: str, at_least: int) -> Measure:
    line = sys._getframe(2).f_lineno
    try:
        window_ms = span(window) if isinstance(window, str) else 0
    except ValueError as error:
        raise DefinitionError(f"{error}.", code="unit", where=f"line {line}") from None
    if window_ms < 60_000:
        raise DefinitionError(
            'A rule\'s window is a text of a minute or more, such as "1h".', code="unit", where=f"line {line}"
        )
    return Measure(kind, name, window_ms, at_least, line)


FEW_DEAD = dead("1d") < 10
"""The rule that every pipeline has; a day's window asks for no finer buckets than there are anyway."""


def check_rules(rules: Sequence[Rule], columns: Iterable[str]) -> None:
    """Refuse what is no rule, and rules on columns that there are not; with the line and the mend."""
    known = [*columns, "score"]
    for rule in rules:
        if not isinstance(rule, Rule):
            raise DefinitionError(
                "watch= is a list of rules.", hint='Write missing("column") < 0.05, for example.'
            )
        measure, where = rule.measure, f"line {rule.measure.line}"
        if measure.kind in ("missing", "drift") and measure.name not in known:
            raise DefinitionError(
                unknown(measure.name, known, "a column or a feature"), code="unknown_column", where=where
            )
        if measure.kind == "rate" and measure.name not in ("positive", "label"):
            raise DefinitionError(
                unknown(measure.name, ("positive", "label"), "a rate"), code="unknown_column", where=where
            )
