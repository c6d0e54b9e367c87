"""laws: one contract for every engine: what the memory log does, SQLite does."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.log import Commit
from penstock.log.memory import MemoryLog
from penstock.log.sqlite import SqliteLog
from penstock.record.errors import Fenced
from penstock.record.record import START, Draft, Position, Record

ENGINES = ("memory", "sqlite")


@contextmanager
def opened(engine: str) -> Iterator[Any]:
    """A fresh log of an engine."""
    if engine == "memory":
        yield MemoryLog()
        return
    with tempfile.TemporaryDirectory() as folder:
        log = SqliteLog(Path(folder))
        yield log
        log.close()


@pytest.fixture(params=ENGINES)
def log(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A log of each engine."""
    with opened(request.param) as one:
        yield one


def draft(topic: str, value: int, id: str = "") -> Draft:
    """A draft that says a number."""
    return Draft(topic, f"k{value % 3}", value, str(value).encode(), id)


def everything(log: Any, topics: list[str], limit: int = 1000) -> list[Record]:
    """All records of topics, read in steps."""
    found, position = [], START
    while True:
        records, position = log.read(topics, position, limit=limit)
        if not records:
            return found
        found += records


TOPICS = ("a", "b", "c")
DRAFTS = st.builds(
    draft, st.sampled_from(TOPICS), st.integers(0, 99), st.sampled_from(["", "", "x", "y", "z"])
)
APPENDS = st.lists(st.lists(DRAFTS, max_size=6), max_size=8)


@pytest.mark.parametrize("engine", ENGINES)
@example(appends=[[draft("a", 0), draft("b", 0), draft("a", 0)]], topics={"a", "b"}, limit=1, stop=0)
@given(
    appends=APPENDS,
    topics=st.sets(st.sampled_from(TOPICS), min_size=1),
    limit=st.integers(1, 7),
    stop=st.integers(0, 30),
)
def test_what_is_appended_is_read(
    engine: str, appends: list[list[Draft]], topics: set[str], limit: int, stop: int
) -> None:
    """In order, once an id and topic, whatever the limit, the topics and the stop; no record is skipped."""
    model: list[Record] = []
    ids: dict[tuple[str, str], int] = {}
    with opened(engine) as log:
        for drafts in appends:
            places, repeats = [], []
            for i, one in enumerate(drafts):
                key = (one.topic, one.id)
                if one.id and key in ids:
                    places.append(ids[key])
                    repeats.append(i)
                    continue
                ids[key] = len(model)
                places.append(len(model))
                model.append(Record(one.topic, 0, len(model), one.id, one.key, one.time_ms, one.value))
            done = log.append(drafts, sync=False)
            assert (done.places, done.repeats, done.end.n) == (places, repeats, len(model))
        wanted = [one for one in model if one.topic in topics]
        assert everything(log, sorted(topics), limit) == wanted
        below = [one for one in wanted if one.position < stop]
        found, position = [], START
        while position.n < min(stop, len(model)):
            records, position = log.read(sorted(topics), position, limit=limit, stop=Position(n=stop))
            found += records
        assert found == below
        for topic in TOPICS:
            assert log.count(topic, Position(n=stop)) == sum(
                o.topic == topic and o.position >= stop for o in model
            )
        for (topic, id), place in ids.items():
            assert not id or log.find(topic, id) == model[place]
        assert log.find("a", "nobody") is None


def test_a_producers_append_counts_once(log: Any) -> None:
    """A sequence that was appended changes nothing when it comes again; a later one does."""
    log.append([draft("a", 1)], producer="p", sequence=1)
    log.append([draft("a", 1)], producer="p", sequence=1)
    log.append([draft("a", 2)], producer="p", sequence=2)
    assert log.last("p") == 2 and log.last("q") == 0
    assert [one.time_ms for one in everything(log, ["a"])] == [1, 2]


def test_a_commit_is_one_write(log: Any) -> None:
    """Position, state and outputs are there together; an output whose id stands already is left out."""
    assert log.load("s").position == START
    epoch = log.load("s", claim=True).epoch
    log.commit(Commit("s", epoch, Position(n=3), [draft("out", 1, "o1")], b"state"))
    log.commit(Commit("s", epoch, Position(n=5), [draft("out", 1, "o1"), draft("out", 2, "o2")], None))
    found = log.load("s")
    assert (found.position.n, found.state, found.state_position.n) == (5, b"state", 3)
    assert [one.id for one in everything(log, ["out"])] == ["o1", "o2"]
    assert log.stages()["s"].position.n == 5


def test_an_older_owner_is_fenced(log: Any) -> None:
    """After another claim the first owner's commit is refused, and nothing of it is written."""
    first = log.load("s", claim=True).epoch
    second = log.load("s", claim=True).epoch
    assert second > first
    with pytest.raises(Fenced):
        log.commit(Commit("s", first, Position(n=9), [draft("out", 1, "o1")], b"old"))
    assert log.load("s").position == START and everything(log, ["out"]) == []
    log.commit(Commit("s", second, Position(n=1), [], b"new"))
    assert log.load("s").state == b"new"


def test_a_waiter_is_woken(log: Any) -> None:
    """Waiting ends when there is more, and not before the time is over when there is not."""
    assert not log.wait(log.end(), 0.05)
    end, woken = log.end(), []
    waiter = threading.Thread(target=lambda: woken.append(log.wait(end, 20)))
    waiter.start()
    time.sleep(0.05)
    began = time.monotonic()
    log.append([draft("a", 1)])
    waiter.join()
    assert woken == [True] and time.monotonic() - began < 10


def test_threads_append_side_by_side(log: Any) -> None:
    """Eight threads lose nothing, and positions are dense."""

    def work(n: int) -> None:
        for i in range(20):
            log.append([draft("a", i, f"{n}-{i}"), draft("b", i)], sync=i % 5 == 0)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = everything(log, ["a", "b"], 7)
    assert [one.position for one in found] == list(range(320))
    assert len({one.id for one in found if one.topic == "a"}) == 160
