"""monitor: a rule says what the user wrote; a wrong one is refused with its line and the mend."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.monitor.rules import Rule, check_rules, drift, errors, loss, missing, rate
from penstock.record.errors import DefinitionError

WRITTEN = [
    'missing("tailnum") < 0.05',
    'missing("tailnum", "6h") <= 0.05',
    'rate("positive") < 0.1',
    'rate("label", "1d") > 0.01',
    'drift("price") < 0.25',
    'drift("price", "1h") < 0.25',
    "errors() < 0.01",
    'errors("1d") < 0.01',
    "loss() < 0.7",
    'loss("7d") >= 0.1234567',
]


def plain(rule: Rule) -> tuple[Any, ...]:
    """A rule without its line."""
    return rule.measure.kind, rule.measure.name, rule.measure.window_ms, rule.op, rule.bound


@pytest.mark.parametrize("text", WRITTEN)
def test_text_means_the_rule(text: str) -> None:
    """A rule's text, read again, is the same rule, to the last digit and the window it was given."""
    rule = eval(text)
    assert plain(eval(str(rule))) == plain(rule)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('missing("tailnum", "1h") < 0.05', 'missing("tailnum") < 0.05'),
        ('rate("positive", "6h") < 0.10', 'rate("positive", "6h") < 0.1'),
        ('drift("price") < 2.0', 'drift("price", "1d") < 2.0'),
        ('drift("price", "1h") < 0.25', 'drift("price", "1h") < 0.25'),
        ("errors() < 0.01", 'errors("1h") < 0.01'),
        ('loss("7d") < 0.6', 'loss("1w") < 0.6'),
    ],
)
def test_text(text: str, shown: str) -> None:
    """A rule shows its window in the largest unit, save the hour of a share, which goes without saying."""
    assert str(eval(text)) == shown


@pytest.mark.parametrize(
    ("rule", "under", "at", "over"),
    [
        (missing("a") < 0.5, True, False, False),
        (missing("a") <= 0.5, True, True, False),
        (missing("a") > 0.5, False, False, True),
        (missing("a") >= 0.5, False, True, True),
    ],
)
def test_bounds(rule: Rule, under: bool, at: bool, over: bool) -> None:
    """The sign says whether the bound itself is allowed."""
    assert [rule.holds(value) for value in (0.4, 0.5, 0.6)] == [under, at, over]


@pytest.mark.parametrize("window", ["1", "90", "h", "10s", 60])
def test_a_window_has_a_unit(window: Any) -> None:
    """A window without a unit, or shorter than a minute, is refused with the line it stands on."""
    with pytest.raises(DefinitionError) as caught:
        rate("positive", window)
    assert caught.value.code == "unit" and caught.value.where.startswith("line ")


@pytest.mark.parametrize(
    ("rule", "mend"),
    [
        (missing("tailnumb") < 0.05, 'did you mean "tailnum"?'),
        (drift("prices") < 0.2, 'did you mean "price"?'),
        (rate("positives") < 0.1, 'did you mean "positive"?'),
    ],
)
def test_unknown_names(rule: Rule, mend: str) -> None:
    """A name that is no column is refused with the nearest that is, and the rule's line."""
    with pytest.raises(DefinitionError) as caught:
        check_rules([rule], ["tailnum", "price"])
    assert mend in str(caught.value) and f"line {rule.measure.line}" in str(caught.value)


def test_known_names() -> None:
    """Columns, features and the score may be watched."""
    rules = [missing("tailnum") < 1, drift("score") < 1, rate("label") < 1, errors() < 1, loss() < 1]
    check_rules(rules, ["tailnum"])


def test_a_measure_is_no_rule() -> None:
    """A measure that nothing bounds is refused."""
    with pytest.raises(DefinitionError, match="list of rules"):
        check_rules([missing("tailnum")], ["tailnum"])  # type: ignore[list-item]
