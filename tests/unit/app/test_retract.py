"""app: an event taken back is said once, from where it counts, and only if it is there."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.app.pipeline import File
from penstock.app.retract import retract
from penstock.feature import compile, count, source
from penstock.log.memory import MemoryLog
from penstock.record.decisions import AGAIN, DEAD, RETRACTIONS, Again, DeadLetter, Retraction, draft, read
from penstock.record.errors import NotFound, Refused
from penstock.record.event import Event, key
from penstock.record.record import START, Position


class Paid(Event):
    payment: str
    card: str | None = key()
    at: int


class Seen(Event):
    card: str = key()
    at: int


class _Plan:
    def __init__(self, features: Any) -> None:
        self.features = features


paid, seen = source(Paid, id="payment", time="at"), source(Seen, time="at")
DEFINED = {"rows": count(paid, window="1h")}
PLAN: Any = _Plan(compile(list(DEFINED.values()), paid, DEFINED))
FILE = File("", b"", "", {"m": PLAN}, {"paid": paid, "seen": seen})


def filled() -> Any:
    """A log with five payments."""
    log: Any = MemoryLog()
    log.append([paid.draft(Paid(payment=f"p{i}", card="c1", at=i)) for i in range(5)])
    return log


def said(log: Any) -> list[Retraction]:
    """All retractions."""
    return [read(one, Retraction) for one in log.read([RETRACTIONS], START)[0]]


def test_it_is_said_once_with_the_events_bytes() -> None:
    """A second time changes nothing, tells the same position, and says so; repeats in one call too."""
    log = filled()
    first, other = retract(FILE, log, "paid", ["p1", "p3", "p1"])
    assert (first.position, first.gone_from, first.repeated) == (1, 5, False)
    assert (other.position, other.gone_from) == (3, 6)
    (again,) = retract(FILE, log, "paid", ["p1"])
    assert again.repeated and (again.position, again.gone_from) == (1, 5)
    event = log.find("paid", "p1")
    assert said(log)[0] == Retraction("paid", "p1", 1, event.time_ms, event.value)
    assert [one.id for one in log.read([RETRACTIONS], START)[0]] == ["paid:1", "paid:3"]


def test_all_or_none() -> None:
    """One id that is not there, and nothing is taken back."""
    log = filled()
    with pytest.raises(NotFound) as caught:
        retract(FILE, log, "paid", ["p1", "nobody-secret"])
    assert caught.value.code == "unknown_id" and "secret" not in str(caught.value) and said(log) == []


def test_what_retention_dropped_is_not_there() -> None:
    """And the sentence tells from where on the topic is whole."""
    log = filled()
    log.drop("paid", Position(n=3))
    with pytest.raises(NotFound, match="Retention has dropped those below position 3"):
        retract(FILE, log, "paid", ["p1"])
    assert retract(FILE, log, "paid", ["p4"])[0].position == 4


def test_topics_that_cannot() -> None:
    """One without ids is refused, one that is none gets the nearest name; Penstock's own are none."""
    for topic, code in (("seen", "no_id"), ("piad", "unknown_topic"), ("m.predictions", "unknown_topic")):
        with pytest.raises(Refused) as caught:
            retract(FILE, filled(), topic, ["p1"])
        assert caught.value.code == code


def test_a_producers_number_may_come_again() -> None:
    """The same answer; with another event under the number it is refused; a gap is, too."""
    log = filled()
    (first,) = retract(FILE, log, "paid", ["p1"], numbered=("desk", 1))
    (again,) = retract(FILE, log, "paid", ["p1"], numbered=("desk", 1))
    assert again.gone_from == first.gone_from and again.repeated
    for id, number in (("p2", 1), ("p2", 3)):
        with pytest.raises(Refused) as caught:
            retract(FILE, log, "paid", [id], numbered=("desk", number))
        assert caught.value.code == "sequence"
    assert len(said(log)) == 1


def test_it_is_taken_from_where_it_counts() -> None:
    """What every stage has buried counts nowhere; brought back, from there on."""
    log = filled()
    letter = DeadLetter("predict.m", "paid", 2, 2, "", "", "odd", "", "", 0)
    log.append([draft(DEAD, letter, key="predict.m", t_ms=0)])
    with pytest.raises(Refused) as caught:
        retract(FILE, log, "paid", ["p2"])
    assert caught.value.code == "dead"
    log.append([draft(AGAIN, Again("paid", 2, ["predict.m"], "ana", 0), key="paid", t_ms=0)])
    (done,) = retract(FILE, log, "paid", ["p2"])
    assert done.position == 2 and [one.position for one in said(log)] == [6]
