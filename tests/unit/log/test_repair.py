"""log: a damaged log is repaired to what is provably right, and just what is missing is told of."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from penstock.log import Checkpoint, tables
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import Body
from penstock.log.upkeep import apart
from penstock.log.upkeep import repair as repairing
from penstock.log.upkeep.columns import columns
from penstock.log.upkeep.doctor import examine
from penstock.log.upkeep.pages import Pages
from penstock.log.upkeep.rebuild import Repair
from penstock.log.upkeep.repair import repair
from penstock.log.upkeep.salvage import Lost, Piece, Salvage
from penstock.log.upkeep.seal import seal
from penstock.record.codec import unpack
from penstock.record.decisions import REPAIRS
from penstock.record.errors import PenstockError, Refused, Unavailable
from penstock.record.record import START, Draft, Position, Record
from penstock.stage import Running, restore
from tests.faults import flips
from tests.faults.ledger import INPUTS, LAZY, LINES, everything, state_bytes

NOW_MS = 1_700_000_000_000
FILES = ("log.db", "log.db-wal")
BATCHES = ("batch", "place")
TABLES = (BATCHES, BATCHES, ("fact", "kind || name"), ("ident", "id"), ("state", "stage"))


class Truth(msgspec.Struct, frozen=True):
    """What an undamaged log says."""

    records: dict[tuple[str, int], Record]
    written: dict[tuple[str, int], Record]  # what retention dropped is among them
    end: int
    checkpoint: Checkpoint
    state: bytes
    lasts: dict[str, int]
    dropped: bool


def truth(home: Path, written: dict[tuple[str, int], Record] | None = None) -> Truth:
    """The truth of a copy of a home."""
    copy = home.parent / f"{home.name}.truth"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy)
    log = SqliteLog(copy, create=False)
    try:
        at = log.load(LAZY.name)
        records = {(r.topic, r.position): r for r in everything(log, log.topics())}
        return Truth(
            records,
            written or records,
            log.end().n,
            at,
            state_bytes(restore(LAZY, log, at)),
            {name: log.last(name) for name in ("p0", "p1")},
            any(log.first(topic) != START for topic in log.topics()),
        )
    finally:
        log.close()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A log that was closed; one as a killed process leaves it; one with segments; one with retention, too."""
    root = tmp_path_factory.mktemp("homes")
    built = root / "built"
    flips.build(built)
    found = {name: root / name for name in ("closed", "open", "sealed", "dropped")}
    for name in ("closed", "sealed", "dropped"):
        shutil.copytree(built, found[name])
    flips.extend(built, found["open"])
    for name in ("sealed", "dropped"):
        log = SqliteLog(found[name])
        seal(log, records=8, tail=9)
        if name == "dropped":
            log.drop(INPUTS[0], Position(n=40))
            log.drop(LINES, Position(n=70))
        log.close()
    return found


@pytest.fixture
def fast() -> Iterator[Path]:
    """A folder in memory where there is one: what is tried in it is not the disk."""
    with tempfile.TemporaryDirectory(prefix="penstock-repair-", dir=flips._fast()) as folder:
        yield Path(folder)


def bytes_of(home: Path) -> dict[str, bytes]:
    """What lies in a home, but for what SQLite shares in memory."""
    paths = [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]
    data = {
        str(path.relative_to(home)): path.read_bytes() for path in paths if not path.name.endswith("-shm")
    }
    return {name: held for name, held in data.items() if held or name != "log.db-wal"}


# Damages: each changes the files of a home.


def flipped(home: Path, chance: random.Random) -> None:
    """Some bytes are others."""
    path = home / chance.choice([name for name in FILES if (home / name).exists()])
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    path.write_bytes(data)


def torn(home: Path, chance: random.Random) -> None:
    """Some pages of the database are zeros, chance, or another page."""
    path = home / "log.db"
    data = bytearray(path.read_bytes())
    pages = len(data) // flips.PAGE_BYTES
    for _ in range(chance.choice((1, 2, 4))):
        at, other = (chance.randrange(pages) * flips.PAGE_BYTES for _ in range(2))
        made = (
            bytes(flips.PAGE_BYTES),
            chance.randbytes(flips.PAGE_BYTES),
            bytes(data[other:][: flips.PAGE_BYTES]),
        )
        data[at : at + flips.PAGE_BYTES] = chance.choice(made)
    path.write_bytes(data)


def cut(home: Path, chance: random.Random) -> None:
    """The end of the database is gone."""
    path = home / "log.db"
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(flips.PAGE_BYTES, len(data))])


def rows(home: Path, chance: random.Random) -> None:
    """Some rows are gone, or not what was written."""
    db = apsw.Connection(str(home / "log.db"))
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    with contextlib.suppress(apsw.Error):  # it is damaged already
        for _ in range(chance.choice((1, 1, 3))):
            table, key = chance.choice(TABLES)
            keys = [key for (key,) in db.execute(f"SELECT {key} FROM {table}")]
            picked = (chance.choice(keys or [""]),)
            if table == "ident" or chance.random() < 0.5:
                db.execute(f"DELETE FROM {table} WHERE {key} = ?", picked)
            else:
                db.execute(f"UPDATE {table} SET crc = crc + 1 WHERE {key} = ?", picked)
    db.close()


def segment(home: Path, chance: random.Random) -> None:
    """A segment's file is gone, cut, or has some other bytes."""
    paths = sorted((home / "sealed").glob("*.parquet"))
    if not paths:
        return rows(home, chance)
    path = chance.choice(paths)
    data = bytearray(path.read_bytes())
    kind = chance.randrange(3)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(data[: chance.randrange(len(data))])
    else:
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        path.write_bytes(data)
    return None


DAMAGES = (flipped, torn, cut, rows, segment)


def judge(home: Path, right: Truth, prefix: bool) -> list[str]:
    """What is wrong with a repair of a damaged log. `prefix`: its WAL may have been cut short as well."""
    wrong: list[str] = []
    before = bytes_of(home)
    try:
        asked = repair(home, NOW_MS)
    except Refused as error:
        small = len(before["log.db"]) < 8000 and error.code == "format"
        return [] if small and bytes_of(home) == before else [str(error)]
    if bytes_of(home) != before or asked.done:
        wrong.append("asking changes something")
    mended = repair(home, NOW_MS, mend=True)
    if mended.done != bool(asked.found and not asked.loses):
        wrong.append(f"mending did {mended.done}, and {asked.loses} loses")
    if asked.loses and bytes_of(home) != before:
        wrong.append("what would lose something changes something")
    done = repair(home, NOW_MS, accept_loss=True) if asked.loses else mended
    log = SqliteLog(home, create=False)
    try:
        wrong += [f"doctor: {one.where}: {one.what}" for one in examine(log)]
        wrong += _records(log, right, done, prefix)
        wrong += _told(log, done)
        wrong += _goes_on(log, right, done, prefix)
    finally:
        log.close()
    if repair(home, NOW_MS).found:
        wrong.append("a repaired log is to be repaired")
    return wrong


def _records(log: SqliteLog, right: Truth, done: Repair, prefix: bool) -> list[str]:
    found = {(r.topic, r.position): r for r in everything(log, log.topics()) if r.topic != REPAIRS}
    wrong = [f"{key} is not what was written" for key, r in found.items() if right.written.get(key) != r]
    gone = right.records.keys() - found.keys()
    for one in done.lost if not prefix else ():
        mine = {key for key in gone if key[0] == one.topic and one.first <= key[1] <= one.last}
        if one.topic.startswith("lost."):
            mine = {key for key in gone if one.first <= key[1] <= one.last}
        if len(mine) != one.n and not (one.most and (len(mine) <= one.n or not one.n)):
            wrong.append(f"said to be lost: {one}; missing there: {len(mine)}")
        gone -= mine
    if _vague(done):
        gone = {key for key in gone if key[0] in log.topics()}
    return wrong + [f"missing, and nobody says so: {key}" for key in sorted(gone)[:3] if not prefix]


def _vague(done: Repair) -> bool:
    """Whether the log does not know any more what else it knew: then it says that."""
    return any("cannot be read" in one or "is not known" in one for one in done.forgotten)


def _told(log: SqliteLog, done: Repair) -> list[str]:
    if not done.found:
        return []
    told = [unpack(r.value, Repair) for r in everything(log, [REPAIRS])]
    return [] if told == [done] else [f"the log tells of {len(told)} repairs"]


def _goes_on(log: SqliteLog, right: Truth, done: Repair, prefix: bool) -> list[str]:
    wrong = []
    if log.end().n < right.end and not prefix:
        wrong.append(f"the end went back to {log.end().n} from {right.end}")
    known = [r for r in everything(log, log.topics()) if r.id and r.topic != REPAIRS]
    for r in known:
        again = log.append([Draft(r.topic, r.key, r.time_ms, r.value, r.id, r.headers)])
        if again.places != [r.position] or again.repeats != [0]:
            wrong.append(f"{r.id} is not known")
    end = log.end().n
    if log.append([Draft(INPUTS[0], "k", 1, b"\x94\xa1x\x01\x00\x01", "fresh")]).places != [end]:
        wrong.append("an append does not come to lie at the end")
    at = log.load(LAZY.name)
    running = Running(LAZY, log)
    while running.advance() is not None:
        pass
    if running.epoch <= right.checkpoint.epoch and not prefix and not _vague(done):
        wrong.append(f"a former owner under epoch {right.checkpoint.epoch} is not fenced")
    if not done.loses and not prefix and not right.dropped:
        if {name: log.last(name) for name in right.lasts} != right.lasts:
            wrong.append("a producer is not where it was")
        if at.position == right.checkpoint.position and state_bytes(restore(LAZY, log, at)) != right.state:
            wrong.append("the stage's state is another")
    return wrong


def tried(homes: dict[str, Path], name: str, folder: Path, seed: int) -> list[str]:
    """A copy of a home damaged by chance, repaired and judged."""
    home = homes[name]
    chance = random.Random(seed)
    copy = folder / "home"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy)
    right = truth(copy, truth(homes["sealed"]).records if name == "dropped" else None)
    wal = bytes_of(copy).get("log.db-wal")
    for _ in range(chance.choice((1, 1, 2))):
        chance.choice(DAMAGES)(copy, chance)
    prefix = wal is not None and not bytes_of(copy).get("log.db-wal", b"").startswith(wal)
    return judge(copy, right, prefix)


SEEDS = range(20)


@pytest.mark.parametrize("name", ["closed", "open", "sealed", "dropped"])
def test_all_that_is_right_comes_back(name: str, homes: dict[str, Path], fast: Path) -> None:
    """Whatever was damaged: what comes back is right and in its place, what is missing is just what is told of,
    nothing changes unasked, ids are known, stages go on, and the log is whole."""
    wrong = [f"seed {seed}: {text}" for seed in SEEDS for text in tried(homes, name, fast, seed)]
    assert wrong == []


def _trusting(salvage: Salvage, name: str, place: int) -> tuple[int, Body] | None:
    """A bug: a batch is taken for right if it can be read at all."""
    for cell in salvage._batches[place]:
        with contextlib.suppress(ValueError, IndexError, msgspec.MsgspecError):
            _, _, ahead, _, data = salvage.pages.values(cell)
            return ahead, unpack(data, Body)
    return None


def _careless(salvage: Salvage, name: str) -> Iterator[Piece | Lost]:
    """A bug: what is lost is not told of."""
    return (one for one in WALK(salvage, name) if isinstance(one, Piece))


WALK = Salvage.walk


@pytest.mark.parametrize(("name", "bug"), [("_batch", _trusting), ("walk", _careless)])
def test_a_planted_bug_is_caught(
    name: str, bug: Any, homes: dict[str, Path], fast: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop over damages notices a repair that trusts what it reads, and one that keeps silent."""
    monkeypatch.setattr(Salvage, name, bug)
    wrong: list[str] = []
    for seed in range(60):
        with contextlib.suppress(PenstockError):
            wrong += tried(homes, "closed", fast, seed)
        if wrong:
            return
    raise AssertionError("nothing noticed it")


@pytest.fixture
def damaged(homes: dict[str, Path], tmp_path: Path) -> Path:
    """A log with a WAL, one batch of which is not what was written."""
    home = tmp_path / "home"
    shutil.copytree(homes["open"], home)
    change(home, "UPDATE batch SET crc = crc + 1 WHERE place = ?", _place(home, LINES, 24))
    return home


def _place(home: Path, topic: str, base: int) -> int:
    db = apsw.Connection(str(home / "log.db"), flags=apsw.SQLITE_OPEN_READONLY)
    found = tables.fact(db, tables.Topic, topic)
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.close()
    assert found is not None
    return found.number * tables.SPAN + base


def change(home: Path, sql: str, *values: Any) -> None:
    """Change a log's tables behind its back; its WAL stays."""
    db = apsw.Connection(str(home / "log.db"))
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.execute(sql, values)
    db.close()


def test_what_is_lost_is_told_and_passed(damaged: Path) -> None:
    """A damaged batch: its topic, between which positions, how many, who said them; readers pass the gap, and
    the topic `repairs` tells of it for good."""
    before = truth_of_topic(damaged, INPUTS[0])
    done = repair(damaged, NOW_MS, accept_loss=True)
    assert done.done
    assert done.lost == [Lost(LINES, 20, 36, 4, by=["ledger"])]
    assert done.forgotten == []
    log = SqliteLog(damaged)
    places = [r.position for r in everything(log, [LINES])]
    (note,) = everything(log, [REPAIRS])
    assert not {24, 25, 26, 27} & set(places)
    assert log.count(LINES) == len(places) == 63
    assert log.count(LINES, Position(n=30)) == len([one for one in places if one >= 30])
    assert everything(log, [INPUTS[0]]) == before
    assert unpack(note.value, Repair) == done
    assert (note.time_ms, note.position) == (NOW_MS, done.end)
    seal(log, records=1, tail=0)
    assert [r.position for r in everything(log, [LINES])] == places
    assert sum(len(one) for one in columns(log, LINES)) == 63
    again = Draft(LINES, "k", 1, b"", f"ledger:{before[0].topic}:{before[0].position}:0")
    assert log.append([again]).repeats == [0]
    log.close()


def test_what_was_lost_may_be_sent_again(homes: dict[str, Path], tmp_path: Path) -> None:
    """Its ids are not known any more: who still has it appends it, and it stands once."""
    home = tmp_path / "home"
    shutil.copytree(homes["closed"], home)
    mine = [r for r in truth(home).records.values() if r.topic == LINES and r.position < 14]
    change(home, "UPDATE batch SET crc = 0 WHERE place = ?", _place(home, LINES, 7))
    (lost,) = repair(home, NOW_MS, accept_loss=True).lost
    assert (lost.n, lost.by) == (len(mine), [LAZY.name])
    log = SqliteLog(home)
    drafts = [Draft(r.topic, r.key, r.time_ms, r.value, r.id) for r in mine]
    assert log.append(drafts).repeats == []
    assert log.append(drafts).repeats == list(range(len(drafts)))
    assert list(examine(log)) == []
    log.close()


def test_a_repair_that_fails_leaves_nothing_behind(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full on the way: all is as it was."""
    before = bytes_of(damaged)
    small = tables.insert

    def full(*given: Any) -> None:
        small(*given)
        if given[3] > 60:
            raise Unavailable("The disk is full; nothing of this write was kept.", code="log_full")

    monkeypatch.setattr(tables, "insert", full)
    with pytest.raises(Unavailable):
        repair(damaged, NOW_MS, accept_loss=True)
    assert bytes_of(damaged) == before
    monkeypatch.undo()
    assert repair(damaged, NOW_MS, accept_loss=True).kept == "damaged-1"


def truth_of_topic(home: Path, topic: str) -> list[Record]:
    """A topic's records, read from a copy."""
    copy = home.parent / "copy"
    shutil.copytree(home, copy)
    log = SqliteLog(copy)
    try:
        return everything(log, [topic])
    finally:
        log.close()


def test_an_undamaged_log_is_left_alone(homes: dict[str, Path], tmp_path: Path) -> None:
    """There is nothing to do, and nothing is done."""
    for name, home in homes.items():
        shutil.copytree(home, tmp_path / name)
        before = bytes_of(tmp_path / name)
        assert repair(tmp_path / name, NOW_MS, mend=True, accept_loss=True) == Repair(NOW_MS)
        assert bytes_of(tmp_path / name) == before


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM ident WHERE id LIKE '%0'",
        "UPDATE ident SET position = position - 1",
        "UPDATE fact SET crc = 0 WHERE kind = 'end'",
        "UPDATE fact SET crc = 0 WHERE kind = 'topic'",
        "UPDATE fact SET kind = 'staff' WHERE kind = 'stage'",
        "UPDATE fact SET body = x'00' WHERE kind = 'stage'",
        "UPDATE state SET crc = 0",
    ],
)
def test_what_can_be_made_anew_is_no_loss(sql: str, homes: dict[str, Path], tmp_path: Path) -> None:
    """Ids, the end, what is known of a topic, a stage's state: all come from the records again."""
    home = tmp_path / "home"
    shutil.copytree(homes["closed"], home)
    right = truth(home)
    change(home, sql)
    assert not repair(home, NOW_MS).done
    assert repair(home, NOW_MS, mend=True).done
    log = SqliteLog(home)
    now = log.load(LAZY.name, claim=True)
    found = {(r.topic, r.position): r for r in everything(log, log.topics()) if r.topic != REPAIRS}
    assert found == right.records
    assert log.end().n == right.end + 1
    assert now.epoch > right.checkpoint.epoch
    assert {name: log.last(name) for name in right.lasts} == right.lasts
    while Running(LAZY, log).advance() is not None:
        pass
    assert {r.id for r in everything(log, [LINES])} >= {
        r.id for r in right.records.values() if r.topic == LINES
    }
    assert len({r.id for r in everything(log, [LINES])}) == log.count(LINES)
    log.close()


def test_a_first_batch_that_is_gone_is_noticed(homes: dict[str, Path], tmp_path: Path) -> None:
    """The doctor counts from a topic's beginning, ids or none."""
    home = tmp_path / "home"
    shutil.copytree(homes["closed"], home)
    change(home, "DELETE FROM batch WHERE place = ?", _place(home, INPUTS[0], 32))
    found = repair(home, NOW_MS)
    assert [one.n for one in found.lost] == [4]


def test_a_producer_is_not_forgotten_silently(homes: dict[str, Path], tmp_path: Path) -> None:
    """Where a producer's sequence is lost, what it repeats would stand twice: that is a loss."""
    home = tmp_path / "home"
    shutil.copytree(homes["closed"], home)
    change(home, "UPDATE fact SET crc = 0 WHERE kind = 'producer' AND name = 'p1'")
    found = repair(home, NOW_MS, mend=True)
    assert (found.done, found.lost, len(found.forgotten)) == (False, [], 1)
    assert "p1" in found.forgotten[0]


def test_an_end_that_cannot_count_vouches_for_nothing(homes: dict[str, Path], tmp_path: Path) -> None:
    """Where the end is damaged and a producer is gone without a trace, nobody says that nothing is lost."""
    home = tmp_path / "home"
    shutil.copytree(homes["closed"], home)
    change(home, "UPDATE fact SET crc = 0 WHERE kind = 'end'")
    change(home, "DELETE FROM fact WHERE name = 'p1'")
    assert repair(home, NOW_MS).forgotten


def test_a_damaged_segment_keeps_its_right_groups(tmp_path: Path) -> None:
    """One byte of a sealed file costs the group of rows that it lies in, and no more."""
    log = SqliteLog(tmp_path)
    for i in range(12):
        log.append([Draft("t", "k", i, b"%d" % (1000 * i + n), f"{i}/{n}") for n in range(1000)])
    seal(log, records=11_000, tail=0)
    records = everything(log, ["t"])
    log.close()
    (path,) = (tmp_path / "sealed").glob("*.parquet")
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    done = repair(tmp_path, NOW_MS, accept_loss=True)
    assert [(one.first, one.last, one.n) for one in done.lost] == [(0, 4999, 5000)]
    log = SqliteLog(tmp_path)
    assert everything(log, ["t"]) == records[5000:]
    assert log.append([Draft("t", "k", 0, b"", "11/7")]).places == [11_007]
    assert list(examine(log)) == []
    log.close()
    assert (tmp_path / done.kept / "sealed" / path.name).read_bytes() == data


def test_a_file_that_ends_its_reader_costs_only_itself(
    homes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads a damaged file may end its process, which is one of its own: the repair goes on without it."""
    home = tmp_path / "home"
    shutil.copytree(homes["sealed"], home)
    path = min((home / "sealed").glob("ledger.lines.*"))
    data = path.read_bytes()
    path.write_bytes(data[:-30] + bytes([data[-30] ^ 7]) + data[-29:])
    monkeypatch.setattr(apart, "__name__", "penstock.none")  # no such program: it ends at once
    done = repair(home, NOW_MS, accept_loss=True)
    assert sum(one.n for one in done.lost) >= 8
    assert repairing.look(home) == []


def test_a_log_in_use_is_not_repaired(damaged: Path) -> None:
    """Another process that has it open is in the way, and is told of in a sentence; when it is gone, all goes well."""
    before = bytes_of(damaged)
    text = "import apsw, sys; db = apsw.Connection(sys.argv[1]); db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)\n"
    text += "db.execute('SELECT * FROM fact').fetchall(); print(flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", text, str(damaged / "log.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(Unavailable, match="Another process"):
        repair(damaged, NOW_MS, accept_loss=True)
    other.communicate()
    assert bytes_of(damaged) == before
    assert repair(damaged, NOW_MS, accept_loss=True).done


class Died(BaseException):
    """The process ended here."""


def dying(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Die before the effect of this number on files and folders; what it gives counts them."""
    seen = [0]

    def wrapped(effect: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            seen[0] += 1
            if seen[0] > at:
                raise Died
            return effect(*args, **more)

        return run

    for of, name in EFFECTS:
        monkeypatch.setattr(of, name, wrapped(getattr(of, name)))
    return seen


EFFECTS: list[tuple[Any, str]] = [
    (os, "link"), (os, "replace"), (os, "pwrite"), (os, "ftruncate"), (Path, "unlink"), (Path, "mkdir"),
    (repairing, "sync_folder"), (repairing, "synced"), (shutil, "rmtree"),
]  # fmt: skip


def deaths(home: Path, folder: Path) -> list[str]:
    """A repair that dies before each of its effects in turn: what is wrong with the log that it leaves."""
    wrong: list[str] = []
    found = repair(home, NOW_MS).found
    shutil.copytree(home, folder / "whole")
    repair(folder / "whole", NOW_MS, accept_loss=True)
    wanted = read_all(folder / "whole")
    for at in range(1000):
        copy = folder / f"died-{at}"
        shutil.copytree(home, copy)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Died):
            seen = dying(patch, at)
            repair(copy, NOW_MS, accept_loss=True)
        left = repairing.look(copy)
        if left != found and (left or read_all(copy) != wanted):
            wrong.append(f"died before effect {at}: neither the old log nor the new")
        repair(copy, NOW_MS, accept_loss=True)
        if read_all(copy) != wanted:
            wrong.append(f"died before effect {at}: another log in the end")
        shutil.rmtree(copy)
        if seen[0] <= at:
            return wrong
    raise AssertionError("it does not end")


def read_all(home: Path) -> list[tuple[str, int, bytes]]:
    """All records of a home but those on repairs."""
    log = SqliteLog(home, create=False)
    try:
        return [(r.topic, r.position, r.value) for r in everything(log, log.topics()) if r.topic != REPAIRS]
    finally:
        log.close()


def test_a_repair_that_dies_leaves_the_old_log_or_the_new(damaged: Path, fast: Path) -> None:
    """Before each of its effects on the disk; and the next repair ends it."""
    assert deaths(damaged, fast) == []


def test_a_swap_that_forgets_the_wal_is_caught(
    damaged: Path, fast: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted bug: the old WAL goes before what it holds is in the old file."""
    monkeypatch.setattr(Pages, "fold", lambda _: None)
    assert any("neither the old log nor the new" in one for one in deaths(damaged, fast))


def test_the_old_log_is_kept(damaged: Path) -> None:
    """As it was, in a folder of its own: it can be looked at as a home."""
    before = repair(damaged, NOW_MS)
    kept = damaged / repair(damaged, NOW_MS, accept_loss=True).kept
    again = repair(kept, NOW_MS)
    assert (again.found, again.lost) == (before.found, before.lost)


def test_who_waits_for_the_old_file_does_not_go_on_in_it(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that opens the log while it is repaired is refused in the end, or gets the new one."""
    waiting: list[subprocess.Popen[str]] = []

    def meanwhile(*given: Any) -> None:
        waiting.append(
            subprocess.Popen([sys.executable, "-c", LATE, str(damaged)], text=True, stdout=subprocess.PIPE)
        )
        assert waiting[0].stdout is not None
        assert waiting[0].stdout.readline() == "opening\n"
        REBUILD(*given)

    monkeypatch.setattr(repairing, "rebuild", meanwhile)
    assert repair(damaged, NOW_MS, accept_loss=True).done
    said = waiting[0].communicate(timeout=30)[0]
    log = SqliteLog(damaged)
    count = log.count(INPUTS[0])
    log.append([Draft(INPUTS[0], "k", 1, b"", "mine")])
    assert list(examine(log)) == []
    log.close()
    assert (said, count) in (("log_busy\n", 28), ("appended\n", 29))


REBUILD = repairing.rebuild
LATE = """
import sys
from pathlib import Path
import penstock.log.machine as machine
from penstock.log.sqlite import SqliteLog
from penstock.record.errors import Unavailable
from penstock.record.record import Draft
machine.BUSY_S = 1.5
print("opening", flush=True)
try:
    log = SqliteLog(Path(sys.argv[1]))
    log.append([Draft("ledger.left", "k", 1, b"", "late")])
    log.close()
    print("appended")
except Unavailable as error:
    print(error.code)
"""


def test_another_format_is_not_taken_for_damage(tmp_path: Path) -> None:
    """A database in which nothing is of a log's is refused, whatever is accepted."""
    db = apsw.Connection(str(tmp_path / "log.db"))
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE record(position INTEGER PRIMARY KEY, value BLOB)")
    db.execute("INSERT INTO record VALUES(1, x'0102')")
    db.close()
    before = bytes_of(tmp_path)
    with pytest.raises(Refused, match="format"):
        repair(tmp_path, NOW_MS, accept_loss=True)
    assert bytes_of(tmp_path) == before
