"""laws: one contract for every engine: what the memory log does, every other does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.log import Checkpoint, Commit, Where
from penstock.record.errors import Broken, Fenced, Refused
from penstock.record.record import START, Draft, Position, Record, partition
from tests.engines import ENGINES, EXAMPLES, handles, opened


@pytest.fixture(params=ENGINES)
def reopened(request: pytest.FixtureRequest) -> Iterator[Callable[[], Any]]:
    """What opens handles on one log of each engine."""
    with handles(request.param) as opening:
        yield opening


@pytest.fixture
def log(reopened: Callable[[], Any]) -> Any:
    """A log of each engine."""
    return reopened()


def wait_for(true: Callable[[], bool], within_s: float = 20.0) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + within_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


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
def test_what_is_appended_is_read(engine: str) -> None:
    """In order, once an id and topic, whatever the limit, the topics and the stop; no record is skipped. Who asks for
    news is told the topics that were written since."""

    @settings(max_examples=EXAMPLES[engine])
    @example(appends=[[draft("a", 0), draft("b", 0), draft("a", 0)]], topics={"a", "b"}, limit=1, stop=0)
    @given(
        appends=APPENDS,
        topics=st.sets(st.sampled_from(TOPICS), min_size=1),
        limit=st.integers(1, 7),
        stop=st.integers(0, 30),
    )
    def law(appends: list[list[Draft]], topics: set[str], limit: int, stop: int) -> None:
        model: list[Record] = []
        ids: dict[tuple[str, str], int] = {}
        ends = {0}
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
                    model.append(Record(one.topic, len(model), one.id, one.key, one.time_ms, one.value))
                done = log.append(drafts, sync=False)
                assert (done.places, done.repeats, done.end.n) == (places, repeats, len(model))
                ends.add(len(model))
            for end in ends:
                assert log.news(topics, Position(n=end)) == sorted({r.topic for r in model[end:]} & topics)
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

    law()


def test_a_producers_append_counts_once(log: Any) -> None:
    """A sequence that was appended changes nothing when it comes again; a later one does."""
    log.append([draft("a", 1)], producer="p", sequence=1)
    log.append([draft("a", 1)], producer="p", sequence=1)
    log.append([draft("a", 2)], producer="p", sequence=2)
    assert log.last("p") == 2 and log.last("q") == 0
    assert [one.time_ms for one in everything(log, ["a"])] == [1, 2]


def test_a_repeated_sequence_is_told(reopened: Callable[[], Any]) -> None:
    """All drafts are repeats and none has a place, to whoever sends it, whatever it holds; a first one is none,
    though ids of it stand already."""
    log = reopened()
    sent = [draft("a", 1, "x"), draft("b", 2), draft("a", 3)]
    first = log.append(sent, producer="p", sequence=7)
    assert (first.places, first.repeats) == ([0, 1, 2], [])
    for sequence, again in ((7, sent), (3, sent[:2]), (7, [draft("c", 9)])):
        done = reopened().append(again, producer="p", sequence=sequence)
        assert (done.places, done.repeats, done.end.n) == ([], list(range(len(again))), 3)
    by_id = log.append([sent[0]], producer="p", sequence=8)
    assert (by_id.places, by_id.repeats) == ([0], [0])
    assert log.append([sent[1]], producer="q", sequence=7).repeats == [] and log.end().n == 4


def test_a_commit_is_one_write(log: Any) -> None:
    """Position, state and outputs are there together; an output whose id stands already is left out."""
    log.append([draft("in", n) for n in range(5)])
    assert log.load("s").position == START
    epoch = log.load("s", claim=True).epoch
    log.commit(Commit("s", epoch, Position(n=3), [draft("out", 1, "o1")], b"state"))
    log.commit(Commit("s", epoch, Position(n=5), [draft("out", 1, "o1"), draft("out", 2, "o2")], None))
    found = log.load("s")
    assert (found.position.n, found.state, found.state_position.n) == (5, b"state", 3)
    assert [one.id for one in everything(log, ["out"])] == ["o1", "o2"]
    assert log.stages()["s"] == Checkpoint(epoch, Position(n=5), state_position=Position(n=3))


def test_a_position_does_not_go_back(log: Any) -> None:
    """A commit below the stage's position is refused; so is one of a stage that nobody claimed."""
    log.append([draft("in", n) for n in range(5)])
    epoch = log.load("s", claim=True).epoch
    log.commit(Commit("s", epoch, Position(n=4), []))
    with pytest.raises(Refused):
        log.commit(Commit("s", epoch, Position(n=3), [draft("out", 1)]))
    with pytest.raises(Fenced):
        log.commit(Commit("t", 0, Position(n=3), [draft("out", 1)]))
    assert log.load("s").position.n == 4 and everything(log, ["out"]) == []


def test_an_older_owner_is_fenced(log: Any) -> None:
    """After another claim the first owner's commit is refused, and nothing of it is written."""
    log.append([draft("in", 1)])
    first = log.load("s", claim=True).epoch
    second = log.load("s", claim=True).epoch
    assert second > first
    with pytest.raises(Fenced):
        log.commit(Commit("s", first, Position(n=1), [draft("out", 1, "o1")], b"old"))
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


WHERES = st.builds(
    Where,
    keys=st.none() | st.frozensets(st.sampled_from(["k0", "k1", "k2", "k9"])),
    since_ms=st.none() | st.integers(0, 99),
    until_ms=st.none() | st.integers(0, 99),
    share=st.none() | st.tuples(st.integers(0, 2), st.just(3)),
)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_filter_leaves_out_the_rest(engine: str) -> None:
    """Key, event time and partition: what is read in steps is what a plain choice gives."""

    @settings(max_examples=EXAMPLES[engine])
    @given(appends=APPENDS, where=WHERES, limit=st.integers(1, 7))
    def law(appends: list[list[Draft]], where: Where, limit: int) -> None:
        with opened(engine) as log:
            for drafts in appends:
                log.append(drafts, sync=False)
            wanted = [
                one
                for one in everything(log, ["a", "b"])
                if (where.keys is None or one.key in where.keys)
                and (where.since_ms is None or one.time_ms >= where.since_ms)
                and (where.until_ms is None or one.time_ms < where.until_ms)
                and (where.share is None or partition(one.key, where.share[1]) == where.share[0])
            ]
            found, position, end = [], START, log.end()
            while position != end:
                records, position = log.read(["a", "b"], position, limit=limit, where=where)
                found += records
            assert found == wanted

    law()


def test_partitions_share_the_keys(log: Any) -> None:
    """Each record belongs to one partition, all of a key to the same, in order."""
    log.append([Draft("a", f"k{n % 50}", n, b"") for n in range(400)])
    parts = [log.read(["a"], START, where=Where(share=(k, 4)))[0] for k in range(4)]
    assert sorted(one.position for part in parts for one in part) == list(range(400))
    assert sum(len({one.key for one in part}) for part in parts) == 50
    assert all(part == sorted(part, key=lambda one: one.position) for part in parts)


def test_retention_forgets_what_it_says(log: Any) -> None:
    """What was written below goes, with its ids; who stands below is told; the beginning is what is left."""
    log.append([draft("a", 0, "x"), draft("b", 0), draft("a", 1)])
    log.append([draft("a", 2, "y")])
    log.append([draft("a", 3, "z"), draft("a", 4, "w")])
    assert log.first("a") == START and log.drop("a", Position(n=5)) == 4
    assert log.first("a").n == 5 and log.first("b") == START
    assert [one.time_ms for one in everything(log, ["a", "b"])] == [0, 4]
    assert log.count("a") == 1 and log.find("a", "z") is None and log.find("a", "w").time_ms == 4
    with pytest.raises(Broken) as told:
        log.read(["a", "b"], Position(n=2))
    assert told.value.code == "log_passed"
    assert log.read(["b"], Position(n=2))[0] == [] and len(log.read(["a"], Position(n=5))[0]) == 1
    assert log.append([draft("a", 5, "x")]).repeats == [] and log.append([draft("a", 6, "w")]).repeats == [0]
    assert log.find("a", "x").position == 6 and log.count("a") == 2
    assert log.drop("a", Position(n=5)) == 0 and log.drop("nobody", Position(n=5)) == 0
    assert log.drop("a", log.end()) == 2 and everything(log, ["a"]) == []
    assert log.append([draft("a", 7)]).end.n == 8 and len(everything(log, ["a"])) == 1


def test_who_began_at_the_start_passes_over_what_is_gone(log: Any) -> None:
    """Read on, a few at a time, over a topic that begins later than others; else one is told."""
    log.append([draft("a", n) for n in range(4)])
    log.append([draft("b", n) for n in range(4)])
    assert log.drop("b", Position(n=7)) == 3
    some, position = log.read(["a", "b"], START, limit=2)
    with pytest.raises(Broken):
        log.read(["a", "b"], position)
    more, end = log.read(["a", "b"], position, passing=True)
    assert [one.position for one in [*some, *more]] == [0, 1, 2, 3, 7] and end == log.end()


def test_lag_is_what_is_left(log: Any) -> None:
    """The count of a topic from a position on."""
    for n in range(3):
        log.append([draft("a", n), draft("b", n), draft("a", n)])
    assert [log.count("a", Position(n=n)) for n in range(10)] == [6, 5, 5, 4, 3, 3, 2, 1, 1, 0]
    assert log.count("nobody") == 0 and log.topics() == ["a", "b"]


def test_a_log_that_went_backwards_says_so(log: Any) -> None:
    """A position that the log does not reach was read from another one."""
    log.append([draft("a", 1)])
    with pytest.raises(Broken) as told:
        log.read(["a"], Position(n=7))
    assert told.value.code == "log_backwards"
    epoch = log.load("s", claim=True).epoch
    log.commit(Commit("s", epoch, Position(n=9), []))
    with pytest.raises(Broken):
        log.load("s")


def test_a_handle_reads_what_another_wrote(reopened: Any) -> None:
    """A second handle on the same log sees records, checkpoints and producers, fences, and wakes the first."""
    first, second = reopened(), reopened()
    epoch = first.load("s", claim=True).epoch
    first.append([draft("a", 1, "x")], producer="p", sequence=4)
    first.commit(Commit("s", epoch, Position(n=1), [draft("out", 1)], b"state"))
    assert wait_for(lambda: len(everything(second, ["a", "out"])) == 2)
    assert second.last("p") == 4 and second.load("s").state == b"state"
    assert second.append([draft("a", 1, "x")]).repeats == [0]
    second.load("s", claim=True)
    with pytest.raises(Fenced):
        first.commit(Commit("s", epoch, Position(n=1), []))
    end, woken = first.end(), []
    waiter = threading.Thread(target=lambda: woken.append(first.wait(end, 20)))
    waiter.start()
    second.append([draft("a", 2)])
    waiter.join()
    assert woken == [True]
    with pytest.raises(Refused):
        second.commit(Commit("s", epoch + 1, Position(n=0), [draft("out", 2)]))
    third = reopened()
    assert everything(third, ["a", "out"]) == everything(first, ["a", "out"])
    assert third.load("s") == first.load("s")
