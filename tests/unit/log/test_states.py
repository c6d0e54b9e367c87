"""log: a stage's state, also one that is so large that it lies in pieces, written before its commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.log import Commit, crash, sqlite, tables
from penstock.log.crash import Point
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.doctor import examine
from penstock.log.upkeep.repair import repair
from penstock.record.errors import Broken, Fenced
from penstock.record.record import Draft, Position

PIECE = 8


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that a test can look at."""
    monkeypatch.setattr(tables, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(sqlite, "PIECE_PAUSE_S", 0.0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    """A log of five records, whose stages are claimed by the tests."""
    with closing(SqliteLog(tmp_path)) as made:
        made.append([Draft("a", "", 0, b"")] * 5)
        yield made


def commit(log: SqliteLog, epoch: int, position: int, state: bytes, name: str = "s") -> None:
    """A state at a position."""
    log.commit(Commit(name, epoch, Position(n=position), [], state))


def rows(log: SqliteLog, name: str = "s") -> list[str]:
    """The names of all rows that hold something of a stage's states."""
    with log._reading() as db:
        found = [one for (one,) in db.execute("SELECT stage FROM state ORDER BY stage")]
    return [one for one in found if one.partition("\n")[0] == name]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=5 * PIECE), min_size=1, max_size=8))
def test_it_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, states: list[bytes]) -> None:
    """Whatever its size and that of the one before; what lies of earlier ones is taken away in time."""
    with closing(SqliteLog(tmp_path_factory.mktemp("log"))) as log:
        log.append([Draft("a", "", 0, b"")] * len(states))
        epoch = log.load("s", claim=True).epoch
        most = 2 * max(-(-len(one) // PIECE) or 1 for one in states)
        for position, state in enumerate(states):
            commit(log, epoch, position, state)
            found = log.load("s")
            assert (found.state, found.state_position.n) == (state, position)
            assert log.load("t").state == b""
            assert len(rows(log)) <= most
        while len(rows(log)) > 1:
            before = len(rows(log))
            commit(log, epoch, len(states), b"")
            assert len(rows(log)) == before - 1
        assert not list(examine(log))


def test_others_write_between_two_pieces(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """And see the state of before, until the commit."""
    epoch = log.load("s", claim=True).epoch
    commit(log, epoch, 1, b"the one of before, in pieces")
    seen: list[bytes] = []

    def other(at: Point, about: str) -> None:
        if at is Point.COMMITTED:
            monkeypatch.setattr(crash, "reach", None)
            with closing(SqliteLog(log.path.parent)) as another:
                another.append([Draft("a", "", 0, b"")])
                seen.append(another.load("s").state)
            monkeypatch.setattr(crash, "reach", other)

    monkeypatch.setattr(crash, "reach", other)
    commit(log, epoch, 2, b"the new one, in four pieces ...")
    assert seen == [b"the one of before, in pieces"] * 3 + [b"the new one, in four pieces ..."]
    assert log.end().n == 9


def test_no_write_is_long(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the commit either, whatever lies there of the state before."""
    epoch, changed = log.load("s", claim=True).epoch, list[int]()
    commit(log, epoch, 1, bytes(20 * PIECE))

    def watch(at: Point, about: str) -> None:
        if at in {Point.BEGUN, Point.CLOSED}:
            changed.append(log._writer.total_changes())

    monkeypatch.setattr(crash, "reach", watch)
    commit(log, epoch, 2, bytes(30 * PIECE))
    commit(log, epoch, 3, bytes(10 * PIECE))
    took = [after - before for before, after in zip(changed[::2], changed[1::2], strict=True)]
    assert len(took) == 40 and max(took) <= 5


def test_who_dies_between_two_pieces_has_changed_nothing(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes next writes his own, of the same position too, and takes away what was left."""
    epoch = log.load("s", claim=True).epoch
    commit(log, epoch, 1, b"the one of before, in pieces")
    for left in range(4):
        points = iter(range(left))

        def die(at: Point, about: str, points: Iterator[int] = points) -> None:
            if at is Point.COMMITTED and next(points, None) is None:
                raise KeyboardInterrupt

        monkeypatch.setattr(crash, "reach", die)
        with pytest.raises(KeyboardInterrupt):
            commit(log, epoch, 2, b"the one that nobody sees ..." + bytes([left] * PIECE))
        monkeypatch.setattr(crash, "reach", None)
        with closing(SqliteLog(log.path.parent)) as another:
            assert another.load("s").state == b"the one of before, in pieces"
            epoch = another.load("s", claim=True).epoch
            assert not list(examine(another))
    commit(log, epoch, 2, b"short")
    commit(log, epoch, 3, b"the next of all, in pieces ....")
    commit(log, epoch, 4, b"and one more for the rest, so .")
    commit(log, epoch, 5, b"and the last.")
    assert log.load("s").state == b"and the last."
    assert len(rows(log)) <= 6


@pytest.mark.parametrize("other", [3, 5, 7, 100])
def test_pieces_of_another_size_are_not_taken_for_these(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch, other: int
) -> None:
    """Who died before the commit of this very state had cut it otherwise, as another release may."""
    epoch, state = log.load("s", claim=True).epoch, b"one state, cut in two ways"
    log._transact(
        lambda writing: tables.lay(writing.db, "s", 2, tables.pieces("s", 2, state)[1:]), sync=False
    )
    monkeypatch.setattr(tables, "PIECE_BYTES", other)
    commit(log, epoch, 2, state)
    assert log.load("s").state == state
    for _ in range(12):
        commit(log, epoch, 3, b"")
    assert rows(log) == ["s"]


def test_who_is_fenced_disturbs_nobody(log: SqliteLog) -> None:
    """An older owner writes pieces of another state of the same position, while the new one's lie there."""
    first = log.load("s", claim=True).epoch
    second = log.load("s", claim=True).epoch
    commit(log, second, 3, b"the state of the new owner")
    with pytest.raises(Fenced):
        commit(log, first, 3, b"the state of the old owner")
    assert log.load("s").state == b"the state of the new owner"


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM state WHERE stage > 's' AND rowid = (SELECT max(rowid) FROM state WHERE stage > 's')",
        "UPDATE state SET body = x'00' WHERE rowid = (SELECT max(rowid) FROM state WHERE stage > 's')",
        "DELETE FROM state WHERE stage = 's'",
        "UPDATE state SET crc = crc + 1 WHERE stage = 's'",
    ],
)
def test_a_piece_that_is_missing_or_damaged_is_noticed(log: SqliteLog, harm: str) -> None:
    """By whoever loads it."""
    epoch = log.load("s", claim=True).epoch
    commit(log, epoch, 1, b"a state that lies in pieces")
    log._writer.execute(harm)
    with pytest.raises(Broken, match="state is damaged"):
        log.load("s")
    assert [one.where for one in examine(log)] == ["s"]


def test_a_claim_reads_the_state_outside_of_its_write(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write meanwhile."""
    commit(log, log.load("s", claim=True).epoch, 1, b"a state that lies in pieces")
    read: Any = tables.checkpoint

    def reading(db: Any, name: str) -> Any:
        with closing(SqliteLog(log.path.parent)) as another:
            another.append([Draft("a", "", 0, b"")])
        return read(db, name)

    monkeypatch.setattr(tables, "checkpoint", reading)
    found = log.load("s", claim=True)
    assert (found.epoch, found.state) == (2, b"a state that lies in pieces")


def test_a_repaired_log_has_the_whole_state(tmp_path: Path) -> None:
    """Each stage's own, though pieces of others lie beside."""
    with closing(SqliteLog(tmp_path)) as log:
        log.append([Draft("a", "", 0, b"")] * 5)
        for name in ("s", "s2"):
            epoch = log.load(name, claim=True).epoch
            commit(log, epoch, 1, f"an old state of {name}, in pieces".encode(), name)
            commit(log, epoch, 2, f"the state of {name}, in pieces".encode(), name)
        log._writer.execute("DELETE FROM fact WHERE kind = 'end'")
    assert repair(tmp_path, 0, accept_loss=True).kept
    with closing(SqliteLog(tmp_path, create=False)) as again:
        assert [again.load(name).state for name in ("s", "s2")] == [
            b"the state of s, in pieces", b"the state of s2, in pieces",
        ]  # fmt: skip
        assert not list(examine(again))
