"""feature: a look-up takes an entity's columns, says what is wrong with them, and asks for no more than is needed."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.feature import Fold, compile, count, feature, mean, source, sum
from penstock.feature import fold as fold_module
from penstock.feature.lookup import Choice
from penstock.record.errors import Refused
from penstock.record.event import Event, key
from penstock.record.record import Record

T_MS = 10**12


class Paid(Event):
    payment: str
    card: str | None = key()
    shop: int
    at: int
    amount: float


class Ask(Event):
    ask_id: str
    card: str = key()
    shop: int
    at: int
    amount: float | None


paid = source(Paid, id="payment", time="at")
ask = source(Ask, id="ask_id", time="at")


@feature
def ratio(amount: float, usual: float | None) -> float | None:
    """Of a request's column and a feature."""
    if amount < 0:
        raise ValueError("secret-amount")
    return None if usual is None else amount / usual


DEFINED: dict[str, Any] = {
    "amount": ask.amount,
    "rows": count(paid, window="1h"),
    "usual": mean(paid.amount, window="1d"),
    "sold": sum(paid.amount, window="1h", entity="shop"),
    "ratio": ratio,
}
FEATURES = compile(list(DEFINED.values()), ask, DEFINED)


def folded() -> Fold:
    """Two payments of one card in two shops."""
    fold = Fold(FEATURES)
    for position, (shop, amount) in enumerate([(1, 2.0), (2, 4.0)]):
        one = paid.draft(Paid(payment=str(position), card="c1", shop=shop, at=T_MS, amount=amount))
        fold.add(Record(one.topic, position, one.id, one.key, one.time_ms, one.value))
    return fold


def got(entity: Any, *names: str, strict: bool = True) -> list[Any]:
    """The values of some features."""
    choice = Choice(FEATURES, names)
    return choice.read(folded(), [choice.entity(entity, strict=strict)], T_MS)[0]


def test_only_what_is_needed_is_asked_for() -> None:
    """Some features in the order asked for need their columns only; a text stands for the only one."""
    assert got({"card": "c1"}, "usual", "rows") == [3.0, 2]
    assert got("c1", "rows") == [2] and got("2", "sold", strict=False) == [4.0]
    assert got({"card": "c1", "shop": 2, "amount": 6.0}) == [6.0, 2, 3.0, 4.0, 2.0]
    assert Choice(FEATURES, ["ratio"]).needs == ("card", "amount")


def test_plans_of_many_choices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many selections are asked for, a fold keeps few plans, and each selection has its values."""
    monkeypatch.setattr(fold_module, "MOST_PLANS", 2)
    fold, entity = folded(), {"card": "c1", "shop": 1}
    for _ in range(2):
        for names, values in (
            (["sold", "rows"], [2.0, 2]),
            (["rows"], [2]),
            (["sold"], [2.0]),
            (["usual"], [3.0]),
        ):
            choice = Choice(FEATURES, names)
            assert choice.read(fold, [choice.entity(entity)], T_MS) == [values]
            assert len(fold._some) <= 2


def test_who_is_not_known_has_no_history() -> None:
    """Counts and sums are 0, others null; a null for a name is nobody, whatever the column's type says."""
    assert got({"card": "nobody", "shop": 9}, "rows", "usual", "sold") == [0, None, 0.0]
    assert got({"card": None, "shop": None}, "rows", "usual", "sold") == [0, None, 0.0]


REFUSALS: dict[str, tuple[Any, tuple[str, ...], str, str]] = {
    "a column that is near": ({"crad": "c1"}, ("rows",), "unknown_column", 'did you mean "card"?'),
    "no column": ({"card": "c1", "secret" * 50: 1}, ("rows",), "unknown_column", "is not a column"),
    "one that is missing": ({"card": "c1"}, (), "missing_column", "these features only: rows, usual."),
    "all are missing": ({}, ("sold",), "missing_column", '"sold" needs the column "shop"'),
    "which one": ("c1", ("rows", "sold"), "which_column", '"card", "shop"'),
    "a type": ({"shop": "secret"}, ("sold",), "wrong_type", "$.shop"),
    "a feature that is near": ({"card": "c1"}, ("row",), "unknown_feature", 'did you mean "rows"?'),
    "a feature twice": ({"card": "c1"}, ("rows", "rows"), "feature_twice", "twice"),
    "a function that fails": ({"card": "c1", "amount": -1.0}, ("rows", "ratio"), "feature_failed", '"ratio"'),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_names_the_mend(case: str) -> None:
    """A stable code, the nearest name or what could be asked instead, and no value."""
    entity, names, code, word = REFUSALS[case]
    with pytest.raises(Refused) as caught:
        got(entity, *names)
    assert caught.value.code == code and word in str(caught.value)
    assert "secret-" not in str(caught.value) and len(str(caught.value)) < 300
    assert code != "wrong_type" or "secret" not in str(caught.value)
