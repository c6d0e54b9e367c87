"""laws: a stage ends where its records lead, however it is batched, stopped, restored or viewed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.log import Appended, Commit, Then
from penstock.log.memory import MemoryLog
from penstock.record.codec import pack, unpack
from penstock.record.errors import Unavailable
from penstock.record.record import START, Draft, Position, Record
from penstock.stage import Running, Stage, View, replay, stage


class Sums(msgspec.Struct, frozen=True):
    """The sum by key."""

    totals: dict[str, int] = {}


def step(state: Sums, record: Record) -> tuple[Sums, list[Draft]]:
    """Add; say the total twice where it is even, else not at all."""
    total = state.totals.get(record.key, 0) + unpack(record.value, int)
    out = [Draft("out", record.key, 0, pack(total))] * (2 if total % 2 == 0 else 0)
    return Sums({**state.totals, record.key: total}), out


def summing(snapshot_every: int) -> Stage[Sums]:
    """The stage."""
    return stage("sum", ["in"], Sums, step, snapshot_every=snapshot_every)


def outputs(log: Any) -> list[tuple[str, bytes]]:
    """What stands on the output topic."""
    return [(one.id, one.value) for one in log.read(["out"], START, limit=10**6)[0]]


MOVES = st.lists(
    st.one_of(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), st.sampled_from(["run", "crash", "save"])),
    max_size=40,
)


@given(MOVES, st.integers(1, 5), st.integers(1, 7))
def test_it_ends_where_its_records_lead(moves: list[Any], batch: int, snapshot_every: int) -> None:
    """Runs in any batches, with crashes between, say each output once and end in the replay's state."""
    log, calm = MemoryLog(), MemoryLog()
    one = Running(summing(snapshot_every), log, batch=batch)
    for move in moves:
        match move:
            case "run":
                one.advance()
            case "save":
                one.save()
            case "crash":
                one = Running(summing(snapshot_every), log, batch=batch)
            case (key, n):
                for each in (log, calm):
                    each.append([Draft("in", key, 0, pack(n)), Draft("noise", key, 0, b"")])
    while one.advance() is not None:
        pass
    whole = Running(summing(1), calm, batch=10**6)
    whole.advance()
    assert one.state == whole.state == replay(summing(1), log)
    said = [(value, key.rpartition(":")[2]) for key, value in outputs(log)]
    assert said == [(value, key.rpartition(":")[2]) for key, value in outputs(calm)]
    assert len({key for key, _ in outputs(log)}) == len(outputs(log))


class Breaking(MemoryLog):
    """A log whose joint write breaks when it is told to, after it was worked out."""

    breaks = False

    def join(self, drafts: Sequence[Draft], then: Then, *, sync: bool = True) -> tuple[Appended, Appended]:
        """See the port."""

        def worked(done: Appended) -> Commit:
            made = then(done)
            if self.breaks:
                raise Unavailable("The disk is full.")
            return made

        return super().join(drafts, worked, sync=sync)


PUTS = st.lists(
    st.tuples(st.sampled_from(["append", "put", "break", "crash"]), st.sampled_from("ab"), st.integers(0, 9)),
    max_size=40,
)


@given(PUTS, st.integers(1, 5), st.integers(1, 7))
def test_what_is_put_is_folded_as_if_it_had_been_appended(
    moves: list[Any], batch: int, snapshot_every: int
) -> None:
    """Its outputs come back with it, after those of what others appended; what breaks on the way was never there."""
    log, calm = Breaking(), MemoryLog()
    one = Running(summing(snapshot_every), log, batch=batch)
    for i, (move, key, n) in enumerate(moves):
        drafts = [Draft("in", key, 0, pack(n), f"i{i}"), Draft("in", "c", 0, pack(2), f"c{i % 7}")]
        if move == "crash":
            one = Running(summing(snapshot_every), log, batch=batch)
        elif move == "append":
            log.append(drafts)
        elif move == "put":
            before = len(outputs(log))
            done, made = one.put(drafts)
            assert [draft.id for draft in made] == [id for id, _ in outputs(log)[before:]]
            assert one.position == log.end() and done.places[0] == log.find("in", f"i{i}").position
        else:
            log.breaks = True
            with pytest.raises(Unavailable):
                one.put(drafts)
            log.breaks = False
        if move in ("append", "put"):
            calm.append(drafts)
    while one.advance() is not None:
        pass
    whole = Running(summing(1), calm, batch=10**6)
    whole.advance()
    assert one.state == whole.state == replay(summing(1), log)
    assert [value for _, value in outputs(log)] == [value for _, value in outputs(calm)]
    assert len({key for key, _ in outputs(log)}) == len(outputs(log))


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(0, 40))
def test_a_past_state_can_be_read(numbers: list[int], at: int) -> None:
    """Replay below a position is the fold of what lies below it; a view stands at the end."""
    log = MemoryLog()
    view = View(summing(1), log)
    for n in numbers:
        log.append([Draft("in", "a", 0, pack(n))])
        view.read()
    below = numbers[:at]
    assert replay(summing(1), log, Position(n=at)).totals.get("a", 0) == sum(below)
    assert view.read().totals.get("a", 0) == sum(numbers) and view.position == log.end()
