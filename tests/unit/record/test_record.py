"""record: values keep their bits, times their milliseconds, events their types, errors their silence."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.feature import source
from penstock.record.codec import millis, moment, pack, span, span_text, to_json, unpack
from penstock.record.decisions import Vector
from penstock.record.errors import DefinitionError, Refused
from penstock.record.event import Event, key, pii
from penstock.record.record import Position, Record, output_id

VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text())


@given(st.lists(VALUES))
def test_values_keep_their_bits(values: list[Any]) -> None:
    """Packed and unpacked: the same types, every float's bits, null and NaN told apart; equal in, equal out."""
    back = unpack(pack(Vector(values)), Vector).values
    assert [type(one) for one in back] == [type(one) for one in values]
    assert pack(Vector(back)) == pack(Vector(values))
    assert all((a != a and b != b) or a == b for a, b in zip(values, back, strict=True))
    assert pack({"b": 1, "a": values}) == pack({"a": values, "b": 1})


def test_json_is_strict() -> None:
    """What JSON cannot say becomes null."""
    assert to_json({"a": [math.nan, math.inf, 1.5, None]}) == b'{"a":[null,null,1.5,null]}'


@given(st.integers(-(10**12), 4 * 10**12))
def test_times_are_utc_milliseconds(t_ms: int) -> None:
    """There and back, from any zone, and a naive time is UTC."""
    at = moment(t_ms)
    assert millis(at) == t_ms == millis(at.replace(tzinfo=None))
    assert millis(at.astimezone(timezone(timedelta(hours=5)))) == t_ms


def test_spans_need_a_unit() -> None:
    """A number alone is no span; the text of one says it in its largest unit."""
    assert [span(text) for text in ("90s", "5min", "1.5h", "2d", "1w", "7ms")] == [
        90_000, 300_000, 5_400_000, 172_800_000, 604_800_000, 7,
    ]  # fmt: skip
    assert [span_text(span(text)) for text in ("90s", "5min", "24h", "7d")] == ["90s", "5min", "1d", "1w"]
    for wrong in ("5", "", "h", "1 fortnight", "1hh"):
        with pytest.raises(ValueError, match="span"):
            span(wrong)


def test_a_position_covers_what_lies_below() -> None:
    """And nothing that lies at it or beyond."""
    record = Record("t", 5, "", "", 0, b"")
    assert Position(n=6).covers(record) and not Position(n=5).covers(record)
    assert output_id("stage", "t", 5, 2) == "stage:t:5:2"


class Paid(Event):
    paid_id: str
    card: str = pii(key())
    at: datetime
    amount: float
    kind: Literal["a", "b"]
    note: str | None = None


paid = source(Paid, id="paid_id", time="at")
GOOD = {"paid_id": "p", "card": "secret-card", "at": "2024-01-01T00:00:00Z", "amount": 2, "kind": "a"}


def test_an_event_becomes_a_draft() -> None:
    """With its id, key and time from its columns; tags are known."""
    draft = paid.draft(paid.parse(GOOD))
    assert (draft.topic, draft.id, draft.key) == ("paid", "p", "secret-card")
    assert (
        draft.time_ms == millis(datetime(2024, 1, 1, tzinfo=UTC))
        and paid.pii == {"card"}
        and paid.key == "card"
    )
    assert unpack(draft.value, Paid).amount == 2.0
    line = b'{"paid_id": "p", "card": "c", "at": "2024-01-01T00:00:00Z", "amount": 1.5, "kind": "b"}'
    assert paid.draft(paid.parse(line)).key == "c"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"card": None}, "no_key"), ({"card": ...}, "no_key"), ({"amount": ...}, "missing_column"),
        ({"amount": "secret"}, "wrong_type"), ({"kind": "secret"}, "wrong_type"), ({"at": "secret"}, "wrong_type"),
    ],
)  # fmt: skip
def test_a_bad_event_is_refused_without_its_values(change: dict[str, Any], code: str) -> None:
    """The column is named, its content is not."""
    row = {name: value for name, value in {**GOOD, **change}.items() if value is not ...}
    with pytest.raises(Refused) as caught:
        paid.parse(row)
    assert caught.value.code == code and "secret" not in str(caught.value)
    assert next(iter(change)) in str(caught.value)
    with pytest.raises(Refused) as caught:
        paid.parse(b"{nonsense")
    assert caught.value.code == "malformed"


def test_sources_are_checked() -> None:
    """Two times, an unknown column, a bad topic are refused; a bare topic has a key and a time."""

    class Two(Event):
        a: datetime
        b: datetime

    for make in (lambda: source(Two), lambda: source(Paid, id="paidid"), lambda: source(Paid, topic="A b")):
        with pytest.raises(DefinitionError) as caught:
            make()
        assert caught.value.where.startswith("line ")
    bare = source("gone", key="paid_id", time="at")
    assert (
        bare.columns == ("paid_id", "at")
        and bare.draft(bare.parse({"paid_id": "p", "at": GOOD["at"]})).key == "p"
    )
    with pytest.raises(DefinitionError):
        source("gone")
