"""laws: stages that move in turn, each on a thread of its own, write the log that one thread writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.app.processes.turn import Turn
from penstock.record.codec import pack, unpack
from penstock.record.record import START, Draft, Record
from penstock.stage import AnyStage, Running, stage
from tests.engines import opened


class Count(msgspec.Struct, frozen=True):
    """The number of records so far."""

    n: int = 0


def tower() -> list[AnyStage]:
    """Stages that feed each other, upwards and back to the first."""

    def of(name: str, inputs: list[str], passes: Callable[[int], bool]) -> AnyStage:
        def step(state: Count, record: Record) -> tuple[Count, list[Draft]]:
            value = unpack(record.value, int)
            made = [Draft(name, "", 0, pack(value - 1))] if value > 0 and passes(value + state.n) else []
            return Count(state.n + 1), made

        return stage(name, inputs, Count, step)

    return [
        of("low", ["in", "high"], lambda value: value % 3 > 0),
        of("middle", ["in", "low"], lambda value: value % 4 > 0),
        of("mute", ["in", "low"], lambda value: False),
        of("high", ["low", "middle"], lambda value: value % 2 > 0),
    ]


def written(log: Any) -> list[tuple[str, str, bytes]]:
    """Everything on the log, in order."""
    topics = ["in", "low", "middle", "mute", "high"]
    return [(r.topic, r.id, r.value) for r in log.read(topics, START, limit=10**6)[0]]


def one_by_one(log: Any, periods: list[list[int]], *, last: bool = False) -> None:
    """The rule on one thread: after each period the first stage that has something new moves, until none
    has. `last`, a planted bug: the last one moves."""
    stages = [Running(one, log, batch=3) for one in tower()]
    for period in periods:
        log.append([Draft("in", "", 0, pack(value)) for value in period])
        while any(one.advance() is not None for one in (reversed(stages) if last else stages)):
            pass


def side_by_side(log: Any, periods: list[list[int]]) -> None:
    """The rule on a thread a stage; the driver's is this one."""
    stop = threading.Event()

    def loop(one: Running[Any]) -> None:
        turn = Turn(log, tower())
        while not stop.is_set():
            heard = log.hear(-1, 0)
            if turn.next() == one.stage.name:
                assert one.advance() is not None
            else:
                log.hear(heard, 0.05)

    threads = [threading.Thread(target=loop, args=(Running(one, log, batch=3),)) for one in tower()]
    for thread in threads:
        thread.start()
    turn = Turn(log, tower())
    for period in periods:
        log.append([Draft("in", "", 0, pack(value)) for value in period])
        heard = log.hear(-1, 0)
        while turn.next():
            heard = log.hear(heard, 0.05)
    stop.set()
    for thread in threads:
        thread.join()


PERIODS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=4)


@pytest.mark.parametrize(("engine", "examples"), [("memory", 25), ("sqlite", 4)])
def test_in_turn_is_one_by_one(engine: str, examples: int) -> None:
    """The same records under the same ids in the same order, whatever the threads do."""

    @settings(max_examples=examples)
    @given(PERIODS)
    def law(periods: list[list[int]]) -> None:
        with opened("memory") as calm, opened(engine) as log:
            one_by_one(calm, periods)
            side_by_side(log, periods)
            assert written(log) == written(calm)

    law()


def test_another_order_would_be_seen() -> None:
    """The comparison finds a planted bug: the last stage with something new moves first."""
    periods = [[9, 7, 5, 8, 6], [3, 9, 9, 4]]
    with opened("memory") as calm, opened("memory") as log:
        one_by_one(calm, periods)
        one_by_one(log, periods, last=True)
        assert written(log) != written(calm)


def test_a_position_alone_is_heard() -> None:
    """Who sleeps on a log wakes for a commit that writes no record, here and through another handle."""
    from tests.engines import handles

    for engine in ("memory", "sqlite"):
        with handles(engine) as opening:
            log, other = opening(), opening()
            log.append([Draft("in", "", 0, pack(1))])
            mute = Running(tower()[2], other)
            heard, found = log.hear(-1, 0), []
            thread = threading.Thread(target=lambda: found.append(log.hear(heard, 10)))  # noqa: B023
            thread.start()
            mute.advance()
            thread.join()
            assert found[0] > heard, engine
