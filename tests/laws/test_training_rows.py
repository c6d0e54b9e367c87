"""laws: training rows are what was seen: nothing that comes later moves one, and another process makes the same."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from penstock.dataset.rows import Row, rows
from penstock.feature import Fold, compile
from penstock.log.sqlite import SqliteLog
from penstock.record.codec import pack, unpack
from penstock.record.decisions import Outcome, draft, outcomes
from penstock.record.record import Position, Record
from tests.laws.values.oracle import Meant
from tests.laws.values.ways import draft as event_draft
from tests.laws.values.ways import play
from tests.laws.values.worlds import T0_MS, Move, World, ask, moves, world

SEED = 5
FROM_MS = T0_MS - 10**10


def made() -> World:
    """Random features, and the request's own number, which may be null or NaN."""
    one = world(random.Random(SEED), 40)
    space = {node.name: node.aggregate for node in one.features.nodes if node.aggregate is not None}
    return World(compile([ask.x, *space.values()], ask, space), {"x": Meant(""), **one.meant})


def happened() -> list[Move]:
    """What happens, requests without a number and with NaN among it."""
    return moves(random.Random(SEED), 400)


def rebuilt(home: Path, o: int) -> bytes:
    """The training set by the log of a home alone."""
    log = SqliteLog(home, create=False)
    try:
        return pack(rows(log, made().features, "m", o=Position(n=o), from_ms=FROM_MS))
    finally:
        log.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A home whose requests all have labels, and the position at which they were known."""
    folder = tmp_path_factory.mktemp("rows")
    log = SqliteLog(folder)
    play(made(), happened(), log)
    for request in log.read(["ask"], Position(), limit=10_000)[0]:
        known = Outcome(
            "m",
            request.id,
            request.key,
            request.position,
            request.time_ms,
            request.time_ms,
            "observed",
            1.0,
            [],
        )
        log.append([draft(outcomes("m"), known, key=request.id, t_ms=request.time_ms)])
    end = log.end().n
    log.close()
    return folder, end


def test_a_fresh_process_makes_the_same_rows(home: tuple[Path, int]) -> None:
    """The log alone gives the training set, to the bit; null and NaN are told apart."""
    mine = rebuilt(*home)
    code = f"import sys; from pathlib import Path; from {__name__.split('.')[-1]} import rebuilt"
    call = f"{code}; sys.stdout.buffer.write(rebuilt(Path({str(home[0])!r}), {home[1]}))"
    child = subprocess.run(
        [sys.executable, "-c", call], check=True, capture_output=True, cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": f".:{Path(__file__).parent}", "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert child.stdout == mine
    values = [row.values[0] for row in unpack(mine, list[Row])]
    assert len(values) > 50 and None in values and any(value != value for value in values)


def test_late_events_move_no_old_row(home: tuple[Path, int]) -> None:
    """Events and retractions that come after a request, whatever their time, leave its row as it was."""
    before = rebuilt(*home)
    log = SqliteLog(home[0], create=False)
    late = [
        msgspec.structs.replace(move, n=move.n + 10_000)
        for move in happened()
        if move.what in ("paid", "visit")
    ]
    log.append([event_draft(move) for move in late])
    now = log.end().n
    log.close()
    assert rebuilt(home[0], home[1]) == before
    assert rebuilt(home[0], now) == before


def test_a_row_that_moved_would_be_seen(home: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The law finds a planted bug: a request that sees what comes after it."""
    before = rebuilt(*home)
    read, late = Fold.read, event_draft(Move(99_999, "paid", T0_MS, "a", 1, 7.0, 1, "DE", True))

    def reading(self: Fold, record: Record, event: object = None) -> list[object]:
        seen = Record(late.topic, record.position, late.id, late.key, record.time_ms, late.value)
        self.fold(seen, self.fit(seen))
        self.seen -= 1
        return read(self, record, event)  # type: ignore[arg-type,return-value]

    monkeypatch.setattr(Fold, "read", reading)
    assert rebuilt(*home) != before
