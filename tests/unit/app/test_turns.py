"""app: of thousands of stages those have a turn that have news; none is forgotten, and none is run by two threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import pytest

from penstock.app import turns as module
from penstock.app.turns import FEW, PACE, SHARE, Turns
from penstock.log import Checkpoint
from penstock.log.memory import MemoryLog
from penstock.record.decisions import RELEASES, TICKS
from penstock.record.record import Draft, Position
from penstock.stage import AnyStage, stage

N = 3 * FEW


class Clock:
    """Seconds to set."""

    now_s = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


def stages(n: int, shared: Iterable[str] = (TICKS, RELEASES, "seen")) -> list[AnyStage]:
    """A stage a model, with a topic of its own."""
    return [
        stage(f"predict.m{i}", (f"m{i}.ask", *shared), Counter, lambda state, record: (state, []))  # type: ignore[type-var]
        for i in range(n)
    ]


def due(turns: Turns) -> list[str]:
    """Who has a turn now, given back at once."""
    turns.look()
    found = []
    while (name := turns.take()) is not None:
        found.append(name)
    for name in found:
        turns.give(name, again=False)
    return found


def write(log: MemoryLog, *written: tuple[str, str]) -> None:
    """Records of topics and keys."""
    log.append([Draft(topic, key, 0, b"") for topic, key in written])


def test_of_few_all_have_a_first_turn_then_those_with_news() -> None:
    """News are what a stage reads, also what all of them do."""
    log = MemoryLog()
    turns = Turns(log, stages(3), {}, Clock())
    assert due(turns) == ["predict.m0", "predict.m1", "predict.m2"]
    assert due(turns) == []
    write(log, ("elsewhere", ""))
    assert due(turns) == []
    write(log, ("m1.ask", "x"))
    assert due(turns) == ["predict.m1"]
    write(log, (TICKS, ""))
    assert len(due(turns)) == 3


@pytest.mark.parametrize(("n", "woken"), [(module.TICKED, module.TICKED), (module.TICKED + 1, 0)])
def test_a_tick_wakes_a_few_stages_and_not_more(n: int, woken: int) -> None:
    """Of more, each has its turn once in a while: all at once they would be in the way of whoever is served."""
    log, clock = MemoryLog(), Clock()
    turns = Turns(log, stages(n), {}, clock)
    due(turns)
    write(log, (TICKS, ""))
    assert len(due(turns)) == woken
    clock.now_s = 1.5 / PACE
    write(log, (TICKS, ""))
    assert len(due(turns)) == max(woken, 1)


def test_of_many_those_have_a_turn_that_have_news() -> None:
    """A record of its own topic, or a decision about its model; what all read wakes nobody."""
    log = MemoryLog()
    turns = Turns(log, stages(N), {}, Clock())
    assert due(turns) == []
    write(log, ("m7.ask", "x"), (RELEASES, "m150"), (TICKS, ""), ("seen", "m3"), (RELEASES, "another"))
    assert due(turns) == ["predict.m7", "predict.m150"] and due(turns) == []
    write(log, *[("m8.ask", "x")] * (module.READ + 5), ("m9.ask", "x"))
    assert due(turns) == ["predict.m8", "predict.m9"] and due(turns) == []
    write(log, *[(RELEASES, "m8")] * (module.READ + 5), (RELEASES, "m9"))
    assert due(turns) == ["predict.m8"] and due(turns) == ["predict.m8", "predict.m9"] and due(turns) == []


def test_what_is_written_between_two_questions_is_news() -> None:
    """While a look asks for news, and then for the records that tell whose they are, others write."""
    log = MemoryLog()
    turns, asked = Turns(log, stages(N), {}, Clock()), log.news

    def news(topics: Collection[str], since: Position) -> list[str]:
        found = asked(topics, since)
        write(log, ("m5.ask", ""))
        return found

    write(log, (RELEASES, "m150"))
    log.news = news  # type: ignore[method-assign]
    assert due(turns) == ["predict.m150"]
    log.news = asked  # type: ignore[method-assign]
    assert due(turns) == ["predict.m5"]


def test_who_was_woken_has_a_turn_without_a_look() -> None:
    """And whoever rests for one wakes up; of stages that are not here nobody hears."""
    turns = Turns(MemoryLog(), stages(N), {}, Clock())
    turns.rest(lambda name: True, 0.001)
    waker = threading.Timer(0.01, turns.wake, [["predict.m3", "predict.elsewhere"]])
    waker.start()
    began_s = time.monotonic()
    turns.rest(lambda name: True, 60)
    assert time.monotonic() < began_s + 30  # woken, not at the end of its time
    waker.join()
    assert (turns.take(), turns.take()) == ("predict.m3", None)


def test_everybody_has_a_turn_in_the_end() -> None:
    """One after the other, as time goes on, so that ticks are folded in time."""
    log, clock, found = MemoryLog(), Clock(), Counter[str]()
    turns = Turns(log, stages(N), {}, clock)
    for second in range(1, 2 * N // PACE + 1):
        clock.now_s = float(second)
        write(log, (TICKS, ""))
        found.update(due(turns))
    assert set(found) == {f"predict.m{i}" for i in range(N)} and set(found.values()) == {2}


def test_the_others_take_a_share_of_a_core_at_most() -> None:
    """Where a turn of theirs takes long there are fewer of them; one with much to do does not stop them."""
    log, clock = MemoryLog(), Clock()
    turns = Turns(log, stages(N), {}, clock)

    def had(turn_s: float, seconds: int) -> int:
        n = 0
        for _ in range(seconds):
            clock.now_s = float(int(clock.now_s) + 1)
            write(log, (TICKS, ""))
            turns.look()
            while (name := turns.take()) is not None:
                clock.now_s += turn_s
                turns.give(name, again=False)
                n += 1
        return n

    had(0.005, 10)
    assert had(0.005, 20) * 0.005 <= 20 * SHARE
    assert had(3.0, 1) >= 1
    had(0.0005, 40)
    assert had(0.0005, 10) == 10 * PACE


def test_who_had_come_less_far_has_news() -> None:
    """After a start: what lies beyond where a stage had come, and not what it has folded."""
    log = MemoryLog()
    write(log, ("m1.ask", "x"), ("m2.ask", "x"), ("m3.ask", "x"))
    came = {1: 1, 2: 3, 3: 2}
    known = {f"predict.m{i}": Checkpoint(position=Position(n=came.get(i, 0))) for i in range(N)}
    assert due(Turns(log, stages(N), known, Clock())) == ["predict.m3"]


@pytest.mark.parametrize("n", [4, N])
def test_a_stage_is_on_one_thread_at_a_time(n: int) -> None:
    """Who is busy waits to be given back; who has more to do comes again, behind the others."""
    log, clock = MemoryLog(), Clock()
    turns = Turns(log, stages(n), {}, clock)
    write(log, *((f"m{i}.ask", "") for i in range(4)))
    turns.look()
    first, second = turns.take(), turns.take()
    write(log, ("m0.ask", ""))
    turns.look()
    rest = [turns.take(), turns.take()]
    assert (first, second, rest, turns.take()) == (
        "predict.m0",
        "predict.m1",
        ["predict.m2", "predict.m3"],
        None,
    )
    assert not turns.waiting(lambda name: True)
    turns.give("predict.m0", again=False)  # it had news while it was busy
    assert turns.take(lambda name: name != "predict.m0") is None and turns.take() == "predict.m0"
    turns.give("predict.m0", again=True)
    assert turns.waiting(lambda name: True) and turns.take() == "predict.m0"


def test_threads_share_the_turns() -> None:
    """Eight of them, and every piece of news is seen to once it is there."""
    log, seen, wrong = MemoryLog(), Counter[str](), list[str]()
    turns, stop, running = Turns(log, stages(N), {}, Clock()), threading.Event(), set[str]()

    def work() -> None:
        while not stop.is_set() or turns.waiting(lambda name: True):
            name = turns.take()
            if name is None:
                turns.look()
                continue
            if name in running:
                wrong.append(name)
            running.add(name)
            seen[name] = int(log.end().n)
            running.discard(name)
            turns.give(name, again=False)

    threads: list[Any] = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    last: dict[str, int] = {}
    for i in range(400):
        write(log, (f"m{i % 50}.ask", ""))
        last[f"predict.m{i % 50}"] = i
    stop.set()
    for thread in threads:
        thread.join(10)
    turns.look()
    for name in iter(turns.take, None):
        seen[name] = int(log.end().n)
    assert not wrong and all(seen[name] > place for name, place in last.items())
