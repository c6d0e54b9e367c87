"""feature: wrong definitions are refused with the line and the mend; the digest is of the meaning."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from penstock.feature import compile, count, feature, last, mean, source, sum
from penstock.record.errors import DefinitionError
from penstock.record.event import Event, key


class Payment(Event):
    payment_id: str
    card: str = key()
    at: datetime
    amount: float
    country: str


class Refund(Event):
    payment_id: str = key()
    at: datetime
    card: str
    reason: str
    paid_back: float


payment = source(Payment, id="payment_id", time="at")
refund = source(Refund)


def refused(features: list[Any], names: dict[str, Any], code: str) -> DefinitionError:
    """Compile and expect a refusal."""
    with pytest.raises(DefinitionError) as caught:
        compile(features, payment, names, label=refund, label_column="")
    assert caught.value.code == code, str(caught.value)
    return caught.value


def test_an_unknown_argument_names_the_nearest() -> None:
    """A function's argument that is no column is refused with the nearest name and the line."""

    @feature
    def big(amont: float) -> bool:
        return amont > 100

    error = refused([big], {"big": big}, "unknown_column")
    assert '"amount"' in str(error) and error.where.startswith("line ")


def test_an_unknown_column_names_the_nearest() -> None:
    """A column that the event does not have is refused where it is named."""
    with pytest.raises(DefinitionError, match="amount") as caught:
        mean(payment.amuont, window="1h")
    assert caught.value.code == "unknown_column"


@pytest.mark.parametrize("window", [60, "60", "1 fortnight", "0s", "-1h"])
def test_a_window_needs_a_unit(window: Any) -> None:
    """A window without a unit, or of no length, is refused."""
    with pytest.raises(DefinitionError) as caught:
        count(payment, window=window)
    assert caught.value.code == "unit" and caught.value.where.startswith("line ")


def test_a_column_of_the_truth_is_a_leak() -> None:
    """A feature must not need what is known only with the label."""

    @feature
    def why(reason: str) -> str:
        return reason

    refused([why], {"why": why}, "leak")


def test_ones_own_truth_is_a_leak() -> None:
    """Nor may it aggregate the request's own label."""
    mine = count(refund)
    refused([mine], {"mine": mine}, "leak")
    others = count(refund, window="30d", entity="card")
    assert compile([others], payment, {"others": others}, label=refund).names == ("others",)


def test_features_in_a_circle_are_refused() -> None:
    """Two functions that need each other cannot be worked out."""

    @feature
    def a(b: float) -> float:
        return b

    @feature
    def b(a: float) -> float:
        return a

    refused([a], {"a": a, "b": b}, "cycle")


def test_other_mistakes() -> None:
    """A text is not summed, a name is given once, an entity must match, a time is not a value."""
    words = mean(payment.country, window="1h")
    refused([words], {"words": words}, "wrong_type")
    amount = count(payment, window="1h")
    refused([amount], {"amount": amount}, "name_taken")
    refused([count(payment, window="1h")], {}, "no_name")
    refused([payment.at], {}, "wrong_type")
    refused([refund.reason], {}, "not_a_feature")
    spent = sum(payment.amount, entity=("amount", "card"))
    refused([spent], {"spent": spent}, "wrong_type")


def test_the_digest_is_of_the_meaning() -> None:
    """Moving or commenting a definition changes nothing; another window or another body does."""

    def digest(window: str, body: int) -> str:
        n = count(payment, window=window)
        if body == 0:

            @feature
            def twice(n: int) -> int:
                """Told at length."""
                return n * 2  # a remark
        elif body == 1:

            @feature
            def twice(n: int) -> int:
                return n * 2
        else:

            @feature
            def twice(n: int) -> int:
                return n * 3

        return compile([n, twice], payment, {"n": n, "twice": twice}).digest

    assert digest("1h", 0) == digest("60min", 1)
    assert len({digest("1h", 0), digest("2h", 0), digest("1h", 2)}) == 3


def test_a_lookup_is_a_last() -> None:
    """The default stands in for what is too old or never was."""
    home = last(payment.country, max_age="1h", default="?")
    assert compile([home], payment, {"home": home}).sources == {"payment": payment}
