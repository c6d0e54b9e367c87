"""app: bounds hold producers back, a full disk loses nothing, and everything left out is counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from penstock.app.append import append
from penstock.app.counters import Counters, Tally
from penstock.app.pipeline import load
from penstock.app.pressure import Bounds, Disk, Pressure, bytes_of, lags, patiently
from penstock.app.waiting import Answers
from penstock.log.memory import MemoryLog
from penstock.log.sqlite import SqliteLog
from penstock.record.codec import pack, unpack
from penstock.record.decisions import REFUSED, Prediction, Refusal, read
from penstock.record.errors import Refused, Unavailable
from penstock.record.record import START, Draft, Record
from penstock.serve.front.call import refused
from penstock.stage import Running, Stage, replay, stage

PIPELINE = Path(__file__).parents[2] / "crash" / "pipeline.py"


class World:
    """A clock, lags and a disk to set."""

    def __init__(self, bounds: Bounds) -> None:
        self.now_s, self.lag, self.free, self.size = 0.0, {"fast": 0, "slow": 0}, 10**12, 0
        self.pressure = Pressure(bounds, self._lags, lambda: Disk(self.free, self.size), lambda: self.now_s)

    def _lags(self, names: Collection[str]) -> dict[str, int]:
        return {name: self.lag[name] for name in names or self.lag}

    def code(self, n: int, *stages: str) -> str:
        """What `n` records meet: "" when they are let in."""
        try:
            with self.pressure.admit(n, stages):
                return ""
        except Unavailable as error:
            return error.code


def test_the_slowest_stage_bounds_the_producers() -> None:
    """What was let in since the last look counts; a look is due after 0.1 s; another stage's lag may not count."""
    world = World(Bounds(max_lag=100))
    world.lag["slow"] = 60
    assert [world.code(20), world.code(20), world.code(20)] == ["", "", "lag"] or world.code(1) == "lag"
    world.lag["slow"] = 0
    assert world.code(1) == "lag"
    world.now_s = 0.2
    assert world.code(100) == ""
    world.now_s, world.lag["slow"] = 0.4, 500
    assert world.code(1) == "lag" and world.code(1, "fast") == ""
    assert World(Bounds(max_lag=0)).code(10**9) == ""


def test_what_is_on_its_way_counts() -> None:
    """Records that were let in and are not on the log yet count at every look; those that never came do not."""
    world = World(Bounds(max_lag=100))
    with world.pressure.admit(500):
        assert world.code(1) == "lag"
        world.now_s = 5.0
        assert world.code(1) == "lag"
    world.now_s = 10.0
    assert world.code(1) == ""
    with pytest.raises(RuntimeError), world.pressure.admit(500):
        raise RuntimeError
    assert world.code(1) == ""


def test_the_disk_bounds_the_producers() -> None:
    """A floor of free bytes, and a size of the log."""
    world = World(Bounds(min_free_bytes=1000, max_log_bytes=5000))
    world.free = 999
    assert world.code(1) == "disk_floor"
    world.now_s, world.free, world.size = 1.0, 1000, 5001
    assert world.code(1) == "log_size"
    world.now_s, world.size = 2.0, 5000
    assert world.code(1) == ""
    assert [bytes_of(text) for text in ("0", "1GB", "500mb", "7")] == [0, 10**9, 5 * 10**8, 7]


@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [("lag", 429, b"1"), ("busy", 429, b"1"), ("log_full", 507, b"10"), ("disk_floor", 507, b"10"),
     ("log_size", 507, b"10"), ("log_busy", 503, b"1"), ("deadline", 504, None)],
)  # fmt: skip
def test_the_door_says_what_passes(code: str, status: int, retry: bytes | None) -> None:
    """Too much at once is 429, no room 507, each with a time to try again."""
    answer = refused(Unavailable("Not now.", code=code))
    assert (answer.status, dict(answer.headers).get(b"retry-after")) == (status, retry)


def test_a_producer_waits_or_is_refused_as_it_declared() -> None:
    """Waiting ends when there is room, or when the time is over; other errors are told at once."""
    clock, noted = iter(range(100)), list[str]()
    tries = iter([Unavailable("full", code="log_full")] * 3)

    def do() -> str:
        error = next(tries, None)
        if error:
            raise error
        return "done"

    def wait(pressed: Any, wait_s: float) -> str:
        return patiently(
            do, pressed, noted.append, wait_s=wait_s, clock=lambda: next(clock), sleep=lambda s: None
        )

    with pytest.raises(Unavailable):
        wait("refuse", 60)
    assert wait("wait", 60) == "done" and len(noted) == 2
    tries = iter([Unavailable("full", code="log_full")] * 9)
    with pytest.raises(Unavailable):
        wait("wait", 3)
    tries = iter([Unavailable("gone", code="fenced")])
    with pytest.raises(Unavailable, match="gone"):
        wait("wait", 60)


def test_waiting_answers_are_bounded() -> None:
    """One more than may wait is refused before it is put on the log; of two who wait for one id, one may give up."""
    said = Prediction("m", 3, "d", "champion", True, "a", "", "ask", 7, 0, START, "f", [], 7, 0.25, False)

    async def ask() -> None:
        answers = Answers(2)
        assert answers.room("m") == 2
        one, two = answers.expect("m", "a"), answers.expect("m", "a")
        assert answers.room("m") == 0 and answers.full("m").code == "busy"
        one.cancel()
        await asyncio.sleep(0)
        assert answers.room("m") == 1
        answers.give(said)
        assert answers.room("m") == 2
        assert (await two).score == 0.25

    asyncio.run(ask())


def test_who_would_wait_in_vain_is_refused() -> None:
    """Where the first who waits has waited for most of a request's time; whoever waits for longer comes in, and so
    does everybody once he is answered, and for other models always."""
    now_s = 0.0

    async def ask() -> list[bool]:
        nonlocal now_s
        answers, found = Answers(clock=lambda: now_s), []

        def comes(model: str, timeout_s: float) -> None:
            found.append(answers.crowd(model, timeout_s) is None)

        answers.expect("m", "a")
        now_s = 1.3
        answers.expect("m", "b")
        comes("m", 2.0)
        now_s = 1.5
        comes("m", 2.0)
        comes("m", 3.0)
        comes("n", 0.1)
        answers.refuse("m", "a", Refused("no", code="x"))
        comes("m", 2.0)
        return found

    assert asyncio.run(ask()) == [True, False, True, True, True]


# A full disk.


class Full(apsw.VFS):
    """A disk that can be full."""

    full = False

    def __init__(self) -> None:
        super().__init__("full", "")

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:  # noqa: N802
        """Open a file on it."""
        return FullFile("", name, flags)


class FullFile(apsw.VFSFile):
    """A file on it."""

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        """Write, where there is room."""
        if Full.full:
            raise apsw.FullError("full")
        super().xWrite(data, offset)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteLog]:
    """A log on such a disk."""
    vfs = Full()
    monkeypatch.setattr(SqliteLog, "vfs", "full")
    log = SqliteLog(tmp_path)
    yield log
    Full.full = False
    log.close()
    vfs.unregister()


class Ledger(msgspec.Struct):
    """Count and sum; mutable, as a stage's state inside a batch may be."""

    count: int = 0
    total: int = 0


def ledger(pause: Callable[[], None] = lambda: None) -> Stage[Ledger]:
    """A stage that keeps a ledger, and says it; `pause` makes it slow."""

    def step(state: Ledger, record: Record) -> tuple[Ledger, list[Draft]]:
        pause()
        state.count, state.total = state.count + 1, state.total + unpack(record.value, int)
        return state, [Draft("sums", "", 0, pack(state.total))]

    return stage("ledger", ["in"], Ledger, step, snapshot_every=7)


def filled(log: SqliteLog) -> Running[Ledger]:
    """The disk fills while the stage commits, three times, and has room again."""
    one, met = Running(ledger(), log, batch=3), set[str]()
    for n in range(30):
        log.append([Draft("in", "", 0, pack(n))])
        Full.full = n % 4 == 3
        for _ in range(3 if Full.full else 1):
            try:
                one.advance()
            except Unavailable as error:
                met.add(error.code)
        if Full.full:
            with pytest.raises(Unavailable):
                log.append([Draft("in", "", 0, pack(10**6))])
        Full.full = False
    while one.advance() is not None:
        pass
    assert met == {"log_full"}
    return one


def right(log: SqliteLog, state: Ledger) -> None:
    """The ledger is that of what was acknowledged, said once."""
    sums = [unpack(r.value, int) for r in log.read(["sums"], START, limit=99)[0]]
    assert state == Ledger(30, sum(range(30))) == replay(ledger(), log)
    assert sums == [sum(range(n + 1)) for n in range(30)]


def test_a_full_disk_loses_nothing(disk: SqliteLog) -> None:
    """What did not fit is refused whole; a stage tries the same commit again and folds nothing twice."""
    right(disk, filled(disk).state)


def test_folding_again_after_a_failed_commit_is_caught(
    disk: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger finds a planted bug: a stage that forgets what it has folded and not committed."""
    advance = Running.advance

    def forgetful(self: Running[Any]) -> Any:
        self.waiting = None
        return advance(self)

    monkeypatch.setattr(Running, "advance", forgetful)
    with pytest.raises(AssertionError):
        right(disk, filled(disk).state)


# A slow consumer.


def flood(folder: Path, bounds: Bounds, seconds: float) -> tuple[int, int]:
    """Append at full speed beside a stage that sleeps; the greatest lag, and how often a producer waited."""
    log = SqliteLog(folder)
    over = threading.Event()
    one = Running(ledger(lambda: None if over.is_set() else time.sleep(0.0002)), log, batch=500)

    def follow() -> None:
        while one.advance() is not None or not over.is_set():
            pass

    inputs = {"ledger": ["in"]}
    pressure = Pressure(bounds, lambda names: lags(log, inputs), lambda: Disk(10**12, 0))
    worker = threading.Thread(target=follow)
    worker.start()
    until_s, n, most, waits = time.monotonic() + seconds, 0, 0, list[str]()
    while time.monotonic() < until_s:
        drafts = [Draft("in", "", 0, pack(n + i)) for i in range(500)]

        def admitted(drafts: list[Draft] = drafts) -> None:
            with pressure.admit(500):
                log.append(drafts, sync=False)

        patiently(admitted, "wait", waits.append, sleep=lambda s: time.sleep(0.01))
        n += 500
        most = max(most, lags(log, inputs).get("ledger", 0))
    over.set()
    worker.join()
    assert one.state == Ledger(n, sum(range(n))) and n > 2000
    log.close()
    return most, len(waits)


def test_a_slow_consumer_holds_its_producer_back(tmp_path: Path) -> None:
    """The lag stays under the declared bound, the producer waits, the ledger is equal; without the bound it grows."""
    most, waits = flood(tmp_path / "bounded", Bounds(max_lag=2000), 2.0)
    assert 0 < most <= 2500 and waits > 0
    most, waits = flood(tmp_path / "planted", Bounds(max_lag=0), 0.5)
    assert most > 2500 and waits == 0


# What is counted.


def test_one_in_a_hundred_of_each_kind_is_counted() -> None:
    """The good ones stand, the bad are counted by code exactly, in one record a code, with their rows."""
    file, log = load(PIPELINE), MemoryLog()
    row = b'{"ask_id":"%d","who":"w","at":"2024-01-01T00:00:00Z","x":1,"z":null}'
    bad = {
        "bad_utf8": row.replace(b'"w"', b'"\xff"'),
        "wrong_type": row.replace(b'"x":1', b'"x":"1"'),
        "missing_column": row.replace(b',"x":1', b""),
        "nested": row.replace(b'"x":1', b'"x":1,"deep":' + b"[" * 50_000 + b"]" * 50_000),
        "malformed": row[:-1],
        "duplicate_key": row.replace(b'"x":1', b'"x":1,"\\u0078":2'),
        "no_key": row.replace(b'"w"', b"null"),
    }
    kinds = list(bad)
    rows = [(bad[kinds[i // 100 % 7]] if i % 100 == 50 else row) % i for i in range(2100)]
    total: dict[str, int] = {}
    for first in range(0, 2100, 700):
        report = append(file, log, "ask", rows[first : first + 700], now_ms=0, first=first + 1)
        for code, n in report.refused.items():
            total[code] = total.get(code, 0) + n
        assert report.appended == 693 and report.notes[0].startswith(f"row {first + 51}: ")
    assert total == dict.fromkeys(kinds, 3)
    assert append(file, log, "ask", rows[:10], now_ms=0).duplicates == 10
    told = [read(r, Refusal) for r in log.read([REFUSED], START, limit=999)[0]]
    assert len(told) == 3 * 7 + 1
    found = Counters(log, file.sources, ["agree"]).read()
    counts = {one.labels["code"]: one.value for one in found if one.name == "refused"}
    assert counts == {**total, "duplicate": 10}


def test_a_numbered_append_counts_once() -> None:
    """What comes again under its number is dropped and counted, apart from ids; one that is missing is asked for."""
    file, log = load(PIPELINE), MemoryLog()
    rows = [{"ask_id": f"q{i}", "at": "2024-01-01T00:00:00Z"} for i in range(3)]

    def send(n: int, topic: str = "yes") -> tuple[int, int]:
        report = append(file, log, topic, rows, now_ms=0, numbered=("till-1", n))
        return report.appended, report.duplicates

    assert [send(1), send(1), send(2), send(1), send(2)] == [(3, 0), (0, 3), (3, 0), (0, 3), (0, 3)]
    for wrong in (0, 4):
        with pytest.raises(Refused) as told:
            send(wrong)
        assert told.value.code == "sequence" and "is 3" in told.value.what
    assert log.count("yes") == 6 and log.last("yes/till-1") == 2
    found = Counters(log, file.sources, ["agree"]).read()
    assert [(one.labels["code"], one.value) for one in found if one.name == "refused"] == [("repeated", 9)]


def test_topics_that_strangers_name_are_one() -> None:
    """A flood of unknown topics makes no flood of labels; a tally counts from many threads."""
    file, log = load(PIPELINE), MemoryLog()
    for i in range(5):
        with pytest.raises(Exception, match="is not a topic"):
            append(file, log, f"strange{i}", [b"{}"] * 3, now_ms=0)
    found = [one for one in Counters(log, file.sources, ["agree"]).read() if one.name == "refused"]
    assert [(one.labels["topic"], one.value) for one in found] == [("(unknown)", 15)]
    tally = Tally()
    threads = [
        threading.Thread(target=lambda: [tally.add("n", {"a": "b"}) for _ in range(500)]) for _ in range(4)
    ]
    [one.start() for one in threads]  # type: ignore[func-returns-value]
    [one.join() for one in threads]  # type: ignore[func-returns-value]
    assert [one.value for one in tally.read()] == [2000]
