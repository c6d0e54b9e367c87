"""log: sealing, sweeping, shrinking and reading as columns: what is read stays what was written."""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.log import Where, chain, segments, tables
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import Segment, facts
from penstock.log.upkeep import turn
from penstock.log.upkeep.columns import columns
from penstock.log.upkeep.doctor import examine
from penstock.log.upkeep.seal import seal
from penstock.log.upkeep.sweep import shrink, strays, sweep
from penstock.record.errors import Broken, PenstockError, Refused
from penstock.record.record import START, Draft, Position, Record

TOPICS = ("a", "b", "c/d")
DRAFTS = st.builds(
    lambda topic, n, id, texts: Draft(topic, f"k{n % 3}", n, bytes([n]) * n, id, texts),
    st.sampled_from(TOPICS),
    st.integers(0, 99),
    st.sampled_from(["", "", "x", "y", "z", "w"]),
    st.sampled_from([{}, {}, {"h": "1"}]),
)
WRITE = st.lists(DRAFTS, min_size=1, max_size=6)
SEAL = st.tuples(st.just("seal"), st.integers(1, 6), st.integers(0, 4))
DROP = st.tuples(st.just("drop"), st.sampled_from(TOPICS), st.integers(0, 40))
SWEEP = st.tuples(st.just("sweep"), st.just(0), st.just(0))
SHRINK = st.tuples(st.just("shrink"), st.just(0), st.just(0))
DOINGS = st.lists(st.one_of(WRITE, WRITE, SEAL, SEAL, DROP, SWEEP, SHRINK), min_size=2, max_size=14)


@contextmanager
def fresh(count: int = 1) -> Iterator[list[SqliteLog]]:
    """Logs in homes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        logs = [SqliteLog(Path(folder) / str(n)) for n in range(count)]
        try:
            yield logs
        finally:
            for log in logs:
                log.close()


def everything(log: SqliteLog, topics: Sequence[str], limit: int = 1000, **more: Any) -> list[Record]:
    """All records of some topics, read in steps."""
    found: list[Record] = []
    position, end = START, log.end()
    while position.n < end.n:
        records, position = log.read(topics, position, limit=limit, **more)
        found += records
    return found


def made(log: SqliteLog) -> dict[str, Segment]:
    """The segments that a log knows of."""
    with log._reading() as db:
        return facts(db, Segment)


def topics_of(log: SqliteLog) -> dict[str, str]:
    """What a log answers about each topic, as text."""
    return {
        topic: f"{log.first(topic)} {[log.count(topic, Position(n=n)) for n in range(log.end().n + 2)]} "
        f"{[log.find(topic, id) for id in 'xyzw']}"
        for topic in TOPICS
    }


def filled(log: SqliteLog, batches: int = 20, each: int = 5, size: int = 50) -> None:
    """Records with ids on topic a, and others between them."""
    for n in range(batches):
        drafts = [
            Draft("a", f"k{i}", n * 100 + i, random.Random(n).randbytes(size), f"{n}-{i}")
            for i in range(each)
        ]
        log.append([*drafts, Draft("b", "", n, b"b")], sync=False)


def plainly(record: Record, field: str) -> Any:
    """A field of a record as Arrow gives it."""
    value = getattr(record, field)
    return (list(value.items()) or None) if field == "headers" else value


def as_records(topic: str, batches: Sequence[Any]) -> list[Record]:
    """Whole columns as the records that they are."""
    rows = [row for batch in batches for row in batch.to_pylist()]
    return [Record(topic, **(row | {"headers": dict(row["headers"] or {})})) for row in rows]


def test_what_is_sealed_reads_as_before() -> None:
    """A log that is sealed, swept and shrunk at random answers each question as one that never is: appends,
    repeats, retention, records from every place, counts at every place, ids, filters, columns."""

    @settings(max_examples=25)
    @given(
        doings=DOINGS,
        where=st.builds(
            Where,
            keys=st.none() | st.just(frozenset({"k1"})),
            since_ms=st.none() | st.integers(0, 99),
            share=st.none() | st.tuples(st.integers(0, 2), st.just(3)),
        ),
        limit=st.integers(1, 7),
        span=st.tuples(st.integers(0, 50), st.integers(0, 50)),
        fields=st.lists(st.sampled_from(segments.FIELDS), min_size=1, max_size=3, unique=True),
    )
    def law(doings: list[Any], where: Where, limit: int, span: tuple[int, int], fields: list[str]) -> None:
        with fresh(2) as (plain, log):
            for doing in doings:
                if isinstance(doing, list):
                    assert log.append(doing, sync=False) == plain.append(doing, sync=False)
                elif doing[0] == "drop":
                    below = Position(n=doing[2])
                    assert log.drop(doing[1], below) == plain.drop(doing[1], below)
                elif doing[0] == "seal":
                    seal(log, records=doing[1], tail=doing[2])
                else:
                    {"sweep": sweep, "shrink": shrink}[doing[0]](log)
            again = SqliteLog(log.path.parent)
            for one in (log, again):
                assert everything(one, TOPICS) == everything(plain, TOPICS)
                assert everything(one, TOPICS[:2], limit) == everything(plain, TOPICS[:2], limit)
                assert everything(one, TOPICS, limit, where=where) == everything(plain, TOPICS, where=where)
                assert topics_of(one) == topics_of(plain)
                assert list(examine(one)) == []
            for topic in TOPICS:
                whole = everything(plain, [topic])
                assert as_records(topic, list(columns(log, topic))) == whole
                start = max(span[0], log.first(topic).n)
                some = columns(log, topic, Position(n=start), Position(n=span[1]), fields)
                rows = [tuple(row.items()) for batch in some for row in batch.to_pylist()]
                due = [r for r in whole if start <= r.position < span[1]]
                assert rows == [tuple((field, plainly(r, field)) for field in fields) for r in due]
            again.close()

    law()


def test_nothing_but_the_tail_is_left_as_rows() -> None:
    """Sealing takes whole segments behind the tail, deletes their rows, and does nothing when nothing is due;
    what retention took does not count as tail."""
    with fresh() as (log,):
        filled(log)
        assert seal(log, records=20, tail=30) == 60 and seal(log, records=20, tail=30) == 0
        found = made(log)
        assert [one.n for one in found.values()] == [20, 20, 20]
        with log._reading() as db:
            assert list(db.execute("SELECT sum(n) FROM batch WHERE place < ?", (2 << 48,))) == [(40,)]
        assert len(list(log.chain.files.folder.glob("*.parquet"))) == 3
        log.drop("a", Position(n=100))
        sweep(log)
        assert seal(log, records=5, tail=17) == 0


def test_retention_inside_a_segment() -> None:
    """What was dropped is gone at once; a sweep deletes the segments below, rows and ids, and keeps the one that
    still has records."""
    with fresh() as (log,):
        filled(log)
        seal(log, records=20, tail=0)
        whole = everything(log, ["a"])
        assert log.drop("a", Position(n=whole[33].position)) == 33
        for _ in range(2):
            assert everything(log, ["a"]) == whole[33:] and log.count("a") == len(whole) - 33
            assert log.first("a").n == whole[32].position + 1
            assert log.find("a", whole[32].id) is None and log.find("a", whole[33].id) == whole[33]
            assert as_records("a", list(columns(log, "a"))) == whole[33:]
            with pytest.raises(Broken) as told:
                log.read(["a"], Position(n=3))
            assert told.value.code == "log_passed"
            with pytest.raises(Broken):
                list(columns(log, "a", Position(n=3)))
            sweep(log)
            assert min(one.base for one in made(log).values()) > 0
            with log._reading() as db:  # the second segment has some that are in force, so its ids stay
                assert list(db.execute("SELECT count(*) FROM ident")) == [(80,)]
        again = log.append([Draft("a", "", 1, b"", whole[0].id), Draft("a", "", 1, b"", whole[34].id)])
        assert again.repeats == [1] and list(examine(log)) == []
        log.drop("a", log.end())
        sweep(log)
        assert everything(log, ["a"]) == [] and not strays(log)
        with log._reading() as db:
            assert list(db.execute("SELECT count(*) FROM ident")) == [(0,)]


def test_shrinking_gives_the_room_back() -> None:
    """After sealing and a drop the file is smaller by what lay there, and says the same."""
    with fresh() as (log,):
        filled(log, 200, 5, 2000)
        seal(log, records=300, tail=0)
        before, freed = everything(log, TOPICS), shrink(log)
        assert freed > 1_000_000 and log.path.stat().st_size < 600_000
        assert everything(log, TOPICS) == before and list(examine(log)) == []
        assert shrink(log) == 0


def test_a_reader_from_before_a_sweep() -> None:
    """What it was given stays right; for what was taken away since it gets an error that says so, or nothing else."""
    with fresh() as (log,):
        filled(log)
        seal(log, records=20, tail=0)
        other = SqliteLog(log.path.parent)
        whole = everything(log, ["a"])
        stream = columns(other, "a", fields=("position",))
        first = next(stream).column("position").to_pylist()
        log.drop("a", Position(n=whole[70].position))
        sweep(log)
        with pytest.raises(Broken, match="retention"):
            list(stream)
        assert first == [one.position for one in whole[:20]]
        assert everything(other, ["a"]) == whole[70:]
        other.close()


def test_a_read_across_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read whose segment goes away under it begins again, and tells of retention as if it had come later."""
    with fresh() as (log,):
        filled(log)
        seal(log, records=20, tail=0)
        other, real = SqliteLog(log.path.parent), segments.Files.opened

        def late(files: segments.Files, topic: str, one: Segment) -> segments.Opened:
            if files is other.chain.files:
                monkeypatch.undo()
                log.drop("a", Position(n=60))
                sweep(log)
            return real(files, topic, one)

        monkeypatch.setattr(segments.Files, "opened", late)
        with pytest.raises(Broken) as told:
            other.read(["a"], Position(n=1))
        assert told.value.code == "log_passed"
        assert other.read(["a"], START)[0] == everything(log, ["a"])
        other.close()


def sealing(home: str, barrier: Any, answers: Any) -> None:
    """A process that seals when the other does."""
    log = SqliteLog(Path(home))
    barrier.wait()
    answers.put(sum(seal(log, records=10, tail=0) for _ in range(20)))
    log.close()


def test_two_processes_seal_at_once() -> None:
    """Between them each record goes once; none twice, none not at all."""
    context = get_context("forkserver")
    with fresh() as (log,):
        filled(log, 60)
        before = everything(log, TOPICS)
        barrier, answers = context.Barrier(2), context.Queue()
        both = [context.Process(target=sealing, args=(str(log.path.parent), barrier, answers)) for _ in "ab"]
        for one in both:
            one.start()
        done = [answers.get(timeout=60) for _ in both]
        for one in both:
            one.join(60)
        found = made(log)
        assert sum(done) == sum(one.n for one in found.values()) > 300
        assert len(list(log.chain.files.folder.glob("*.parquet"))) == len(found) and not strays(log)
        assert everything(log, TOPICS) == before and list(examine(log)) == []


def test_who_is_not_alone_seals_nothing() -> None:
    """While another is at it, sealing does nothing and says so."""
    with fresh() as (log,):
        filled(log)
        with turn.alone(log, wait=True) as mine:
            assert mine and seal(log, records=10, tail=0) == 0 and made(log) == {}
        assert seal(log, records=10, tail=0) > 0


def test_sealing_beside_writers_and_readers() -> None:
    """Appends, drops, a follower and the doctor go on beside sealing: nothing is lost, doubled or called damaged."""
    with fresh() as (log,):
        ended = threading.Event()
        problems: list[Any] = []
        followed: list[Record] = []

        def look() -> None:
            other = SqliteLog(log.path.parent)
            while not ended.is_set():
                problems.extend(examine(other))
            other.close()

        def follow() -> None:
            other, position = SqliteLog(log.path.parent), START
            while not (ended.is_set() and position == other.end()):
                records, position = other.read(["a"], position, limit=17)
                followed.extend(records)
            other.close()

        def keep_sealing() -> None:
            other = SqliteLog(log.path.parent)
            while not ended.is_set():
                seal(other, records=20, tail=5)
            other.close()

        work = [threading.Thread(target=one) for one in (look, follow, keep_sealing)]
        for thread in work:
            thread.start()
        for n in range(150):
            log.append([Draft("a", "", n, b"v", f"{n}"), Draft("a", "", n, b"w")], sync=False)
            log.append([Draft("b", "", n, b"v", f"{n}")], sync=n % 20 == 0)
            if n % 30 == 29:
                log.drop("b", Position(n=log.end().n - 20))
        ended.set()
        for thread in work:
            thread.join()
        assert problems == [] and list(examine(log)) == []
        assert [one.time_ms for one in followed] == [n for n in range(150) for _ in "vw"]
        assert followed == everything(log, ["a"]) and len(made(log)) > 5


def test_a_segment_that_is_not_what_was_written() -> None:
    """Missing, damaged, cut, another's, or changed under an open handle: each reader is told where, and the doctor
    names the place; the records of other segments are read all the same."""
    with fresh() as (log,):
        filled(log)
        seal(log, records=20, tail=20)
        names = {name: log.chain.files.path("a", one) for name, one in made(log).items() if one.n == 20}
        one, path = made(log)[sorted(names)[1]], names[sorted(names)[1]]
        right, other = path.read_bytes(), names[sorted(names)[2]].read_bytes()
        wholes = everything(log, ["a"])
        middle = bytes([right[500] ^ 1])
        for data in (None, right[:-1], b"", right[:500] + middle + right[501:], other):
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)
            fresh_one = SqliteLog(log.path.parent)
            for ask in (
                lambda log=fresh_one: everything(log, ["a"]),
                lambda log=fresh_one: list(columns(log, "a")),
                lambda log=fresh_one: log.find("a", wholes[25].id),
                lambda log=fresh_one: log.append([Draft("a", "", 0, b"", wholes[25].id)]),
            ):
                with pytest.raises(Broken) as told:
                    ask()
                assert told.value.where == f"a@{one.base}"
            assert [found.where for found in examine(fresh_one)] == [f"a@{one.base}"]
            assert fresh_one.read(["a"], START, stop=Position(n=one.base))[0] == wholes[:20]
            assert as_records("a", list(islice(columns(fresh_one, "a"), 1))) == wholes[:20]
            fresh_one.close()
        path.write_bytes(right)
        assert list(examine(log)) == []
        opened = SqliteLog(log.path.parent)
        opened.read(["a"], Position(n=one.base), limit=1)
        opened.chain.files._held.clear()
        with path.open("r+b") as file:  # under a handle that has it open, page checksums tell
            file.seek(500)
            file.write(middle)
        with pytest.raises(Broken) as told:
            opened.read(["a"], Position(n=one.base), limit=1)
        assert told.value.where == f"a@{one.base}"
        opened.close()


def test_who_goes_along_a_log_reads_each_part_of_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few records are asked for at a time, by one or by two who go along together, of one topic or several:
    no group of rows and no batch is read from the disk a second time."""
    monkeypatch.setattr(segments, "GROUP_RECORDS", 10)
    monkeypatch.setattr(chain, "CACHED_RECORDS", 200)
    batch = tables.batch
    with fresh() as (log,):
        filled(log, batches=40, each=20)
        wholes = {topic: everything(log, [topic]) for topic in "ab"}
        seal(log, records=100, tail=300)
        seal(log, records=10, tail=0)
        log.append([Draft("a", "", n, b"late") for n in range(20)])
        wholes["a"] += log.read(["a"], log.first("late"), limit=10_000)[0][len(wholes["a"]) :]
        assert len(made(log)) > 5
        for topics, limit in ((["a"], 3), (["a"], 7), (["b"], 3), (["a", "b"], 3)):
            looked: list[tuple[Any, ...]] = []
            one = SqliteLog(log.path.parent)
            monkeypatch.setattr(one.chain.files, "read", _noting(looked, one.chain.files.read))
            monkeypatch.setattr(tables, "batch", _noting(looked, batch))
            position, found = START, []
            while position.n < one.end().n:
                records, reach = one.read(topics, position, limit=limit)
                assert one.read(topics, position, limit=limit) == (records, reach)
                found, position = found + records, reach
            assert found == sorted((r for topic in topics for r in wholes[topic]), key=lambda r: r.position)
            assert looked and len(looked) == len(set(looked)), topics
            one.close()


def _noting(looked: list[tuple[Any, ...]], read: Callable[..., Any]) -> Callable[..., Any]:
    def noting(*asked: Any) -> Any:
        looked.append(tuple(str(one) for one in asked))
        return read(*asked)

    return noting


def test_the_doctor_misses_the_first_batches() -> None:
    """Rows that are gone from a topic's beginning are missed, not only those from its middle."""
    with fresh() as (log,):
        filled(log)
        log._writer.execute("DELETE FROM batch WHERE place < ?", ((1 << 48) + 20,))
        assert "t@" not in (found := [one.where for one in examine(log)]) and found[0].startswith("a@")


def test_a_stray_goes_with_the_next_turn(tmp_path: Path) -> None:
    """Files that no segment names are deleted by the next turn, others are not; a log whose facts are not whole
    deletes nothing."""
    log = SqliteLog(tmp_path)
    filled(log)
    seal(log, records=20, tail=0)
    files = set(log.chain.files.folder.iterdir())
    stray = log.chain.files.folder / ".new-left"
    stray.write_bytes(b"half")
    shutil.copy(
        min(files - {log.chain.files.folder / turn.LOCK}), log.chain.files.folder / "a.0-1.00.parquet"
    )
    assert len(strays(log)) == 2
    seal(log, records=1000)
    assert set(log.chain.files.folder.iterdir()) == files
    log._writer.execute("DELETE FROM fact WHERE kind = 'topic' AND name = 'a'")
    with pytest.raises(Broken):
        sweep(log)
    assert set(log.chain.files.folder.iterdir()) == files
    log.close()


def test_columns_refuse_a_field_that_records_have_not() -> None:
    """The error names it and those that there are."""
    with fresh() as (log,):
        with pytest.raises(Refused) as told:
            list(columns(log, "a", fields=["size"]))
        assert told.value.code == "no_field" and list(columns(log, "nobody")) == []


def test_little_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealing and columns hold groups of rows, however long the history is: no Arrow memory grows with it."""
    import pyarrow as pa

    monkeypatch.setattr(segments, "GROUP_BYTES", 100_000)
    most = []
    for batches in (60, 240):
        with fresh() as (log,):
            for n in range(batches):
                log.append([Draft("a", "", n, random.Random(n).randbytes(50_000))], sync=False)
            pool = pa.proxy_memory_pool(pa.default_memory_pool())
            was = pa.default_memory_pool()
            pa.set_memory_pool(pool)
            try:
                seal(log, tail=0, records=batches - 5)
                rows = sum(len(batch) for batch in columns(log, "a"))
            finally:
                pa.set_memory_pool(was)
            assert rows == batches and len(made(log)) == 1
            most.append(pool.max_memory())
    assert most[1] < 1.5 * most[0] + 500_000


def test_an_error_of_the_system_is_not_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be opened just now may be right: the reader is told to come again."""
    with fresh() as (log,):
        filled(log)
        seal(log, records=20, tail=0)

        def failing(path: Path) -> str:
            raise OSError(24, "Too many open files")

        log.chain.files._opened.clear()
        monkeypatch.setattr(segments, "file_digest", failing)
        with pytest.raises(PenstockError) as told:
            everything(log, ["a"])
        assert told.value.code == "log_io"
