"""laws: one contract for the engines whose writer can be alone with the log: joint writes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.log import Appended, Commit
from penstock.record.errors import Fenced, Refused
from penstock.record.record import START, Position
from tests.engines import ENGINES, SHARED, opened
from tests.laws.test_log_laws import draft, everything


@pytest.fixture(params=[one for one in ENGINES if one not in SHARED])
def log(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A log of each engine that its writer can be alone with."""
    with opened(request.param) as one:
        assert one.alone
        yield one


def test_an_append_and_its_commit_are_one_write(log: Any) -> None:
    """`then` learns the places and may read what lies below; both are there after."""
    log.append([draft("in", 0), draft("in", 1)])
    epoch = log.load("s", claim=True).epoch
    seen: list[Any] = []

    def then(done: Appended) -> Commit:
        seen.extend([done, len(log.read(["in"], START, stop=Position(n=done.places[0]))[0])])
        return Commit("s", epoch, done.end, [draft("out", n, f"o{n}") for n in done.places])

    done, said = log.join([draft("in", 2, "i2"), draft("in", 3, "i3")], then)
    assert seen == [done, 2] and (done.places, done.repeats) == ([2, 3], [])
    assert [one.id for one in everything(log, ["in", "out"])] == ["", "", "i2", "i3", "o2", "o3"]
    assert log.load("s").position.n == 4 and log.end().n == said.end.n == 6 and said.places == [4, 5]
    again, _ = log.join([draft("in", 4, "i4"), draft("in", 9, "i2")], then)
    assert (again.places, again.repeats) == ([6, 2], [1]) and log.end().n == 8


@pytest.mark.parametrize("why", ["fenced", "raised", "position"])
def test_what_a_joint_write_raises_leaves_nothing(log: Any, why: str) -> None:
    """Neither the records nor their ids nor the position, and the log takes the next write as if nothing was."""
    log.append([draft("in", 0)])
    epoch = log.load("s", claim=True).epoch
    log.commit(Commit("s", epoch, Position(n=1), []))

    def then(done: Appended) -> Commit:
        if why == "raised":
            raise ValueError("then")
        place = START if why == "position" else done.end
        return Commit("s", epoch - (why == "fenced"), place, [draft("out", 1, "o1")])

    with pytest.raises((Fenced, Refused, ValueError)):
        log.join([draft("in", 1, "i1")], then)
    assert log.end().n == 1 and log.find("in", "i1") is None and everything(log, ["out"]) == []
    assert log.load("s").position.n == 1
    kept, _ = log.join(
        [draft("in", 1, "i1")], lambda done: Commit("s", epoch, done.end, [draft("out", 1, "o1")])
    )
    assert kept.places == [1] and kept.repeats == [] and log.find("out", "o1").position == 2


def test_joint_writes_and_appends_side_by_side(log: Any) -> None:
    """Whoever is alone with the log knows where it ends: nobody's record comes to lie in between."""
    epoch = log.load("s", claim=True).epoch

    def others() -> None:
        for n in range(40):
            log.append([draft("other", n)])

    threads = [threading.Thread(target=others) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(40):

        def then(done: Appended) -> Commit:
            return Commit("s", epoch, done.end, [draft("out", done.places[0], f"o{done.places[0]}")])

        log.join([draft("in", n)], then)
    for thread in threads:
        thread.join()
    records = everything(log, ["in", "out", "other"])
    assert [one.position for one in records] == list(range(160))
    for one, following in itertools.pairwise(records):
        assert one.topic != "in" or (following.topic, following.id) == ("out", f"o{one.position}")


@pytest.mark.parametrize("engine", SHARED)
def test_where_others_write_a_joint_write_is_refused(engine: str) -> None:
    """Before anything is written, or anybody is asked what to commit."""
    with opened(engine) as log:
        assert not log.alone
        with pytest.raises(Refused) as told:
            log.join([draft("in", 0)], lambda _: pytest.fail("asked"))
        assert told.value.code == "joint" and log.end() == START
