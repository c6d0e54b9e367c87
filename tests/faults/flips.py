"""faults: every byte of every file changed, every file cut at every length: what is read is right, or nothing is.

A damaged log gives all its records, an exact prefix of them, or an error that names the place; a
checkpoint is the right one or an error; a blob is itself or an error. Anything else is a difference.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw
import msgspec

from penstock.log import Checkpoint, Log, segments, tables
from penstock.log.blob import FolderBlob
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.doctor import examine
from penstock.log.upkeep.seal import seal
from penstock.log.upkeep.sweep import shrink
from penstock.record.errors import NotFound, PenstockError
from penstock.record.record import START, Record
from penstock.stage import Running
from tests.faults.finding import Finding, Plan
from tests.faults.ledger import INPUTS, LAZY, LINES, SUMS, Sent, send
from tests.faults.process import side_by_side

PAGE_BYTES = 512
TOPICS = (*INPUTS, LINES, SUMS)
BOTH = ("log.db", "log.db-wal")
LIMIT = 7
AT_ONCE = 200
"""Damages tried in one go."""


class Truth(msgspec.Struct, frozen=True):
    """What the undamaged log says."""

    records: list[Record]
    checkpoint: Checkpoint
    lasts: dict[str, int]


def build(home: Path) -> None:
    """A small log: some of it in the database, the rest in the WAL, its state in both."""
    home.mkdir()
    db = apsw.Connection(str(home / "log.db"))
    db.execute(
        f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL"
    )
    db.close()
    log = SqliteLog(home)
    sent = Sent(home.parent / "sent")
    running = Running(LAZY, log, batch=9)
    for sequence in range(1, 9):
        for producer in ("p0", "p1"):
            send(log, sent, producer, sequence)
        while running.advance() is not None:
            pass
    log.close()


def extend(home: Path, copy: Path) -> None:
    """More of the same, as a killed process would leave it: in the WAL. The copy has no shared memory."""
    log = SqliteLog(home)
    sent = Sent(home.parent / "sent")
    running = Running(LAZY, log, batch=9)
    for sequence in range(9, 11):
        for producer in ("p0", "p1"):
            send(log, sent, producer, sequence)
        while running.advance() is not None:
            pass
        if sequence == 9:  # the WAL's first part is in the database as well
            log._reader().execute("PRAGMA wal_checkpoint(PASSIVE)")
    copy.mkdir()
    for name in BOTH:
        shutil.copy(home / name, copy / name)
    log.close()


def sealed(home: Path, copy: Path) -> list[str]:
    """A copy of a home where most of its history lies in segments, and the names of its files."""
    shutil.copytree(home, copy)
    log = SqliteLog(copy)
    seal(log, records=20, tail=6)
    shrink(log)
    log.close()
    return sorted(str(one.relative_to(copy)) for one in copy.rglob("*") if one.suffix in {".db", ".parquet"})


def truth(home: Path) -> Truth:
    """What the log in a home says, read plainly."""
    log = SqliteLog(home)
    try:
        return Truth(
            _read(log, TOPICS), _known(log.load(LAZY.name)), {name: log.last(name) for name in ("p0", "p1")}
        )
    finally:
        log.close()


def _known(checkpoint: Checkpoint) -> Checkpoint:
    return msgspec.structs.replace(checkpoint, epoch=0)


def _read(log: Log, topics: Sequence[str]) -> list[Record]:
    found: list[Record] = []
    position = START
    while True:
        records, position = log.read(topics, position, limit=LIMIT)
        if not records:
            return found
        found += records


def judge(home: Path, right: Truth, prefixes: list[Truth]) -> list[str]:
    """What is wrong with what a damaged log says. `prefixes`: checkpoints that an exact prefix may have."""
    try:
        log = SqliteLog(home, create=False)
    except PenstockError as error:
        return _named(error, "opening")
    wrong: list[str] = []
    try:
        for topics in (TOPICS, *((topic,) for topic in TOPICS)):
            wanted = [r for r in right.records if r.topic in topics]
            wrong += _tried(lambda topics=topics, wanted=wanted: _prefix(_read(log, topics), wanted))
        wrong += _tried(lambda: _stop(log, right))
        wrong += _tried(lambda: _one_of(_known(log.load(LAZY.name)), [right, *prefixes]))
        for r in right.records[:: len(right.records) // 9]:
            wrong += _tried(lambda r=r: _found(log, r))
    finally:
        try:
            log.close()
        except PenstockError as error:
            wrong += _named(error, "closing")
    return wrong


def _tried(read: Any) -> list[str]:
    try:
        return read()
    except PenstockError as error:
        return _named(error, "reading")


def _named(error: PenstockError, doing: str) -> list[str]:
    """An error must say where, or be one that passes."""
    if error.where or error.code in {"log_io", "log_backwards"}:
        return []
    return [f"{doing} a damaged log says only: {error}"]


def _prefix(found: list[Record], wanted: list[Record]) -> list[str]:
    if found == wanted[: len(found)]:
        return []
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(wanted))
    got = f"{found[at].topic}@{found[at].position}" if at < len(found) else "nothing"
    due = f"{wanted[at].topic}@{wanted[at].position}" if at < len(wanted) else "nothing"
    return [f"reads {got} where {due} should be"]


def _stop(log: Log, right: Truth) -> list[str]:
    """A read that stops in the middle: all below, or an error, or no more than the log has."""
    end = log.end().n
    stop = msgspec.structs.replace(START, n=min(end, right.records[len(right.records) // 2].position))
    found, position = [], START
    while position.n < stop.n:
        records, position = log.read(TOPICS, position, limit=LIMIT, stop=stop)
        found += records
    wanted = [r for r in right.records if r.position < stop.n]
    return [] if found == wanted else ["a read that stops in the middle leaves records out"]


def _one_of(found: Checkpoint, known: list[Truth]) -> list[str]:
    if any(found == one.checkpoint for one in known):
        return []
    return [
        f"the stage stands at {found.position}, with a state of {len(found.state)} bytes at {found.state_position}"
    ]


def _found(log: Log, wanted: Record) -> list[str]:
    """A record by its id, where the log reaches it."""
    if not wanted.id or log.end().n <= wanted.position:
        return []
    found = log.find(wanted.topic, wanted.id)
    if found is None and next(examine(log), None) is not None:
        return []  # nothing but reading everything shows that an id is lost: that is what `doctor` does
    return [] if found == wanted else [f"finds {found and found.position} by the id of {wanted.position}"]


class Damage(msgspec.Struct, frozen=True):
    """One change of one file: a byte made another, or the end cut off."""

    file: str
    at: int
    flip: int = 0  # 0: cut here

    def __str__(self) -> str:
        return f"{self.file}: " + (f"byte {self.at} ^ {self.flip:#x}" if self.flip else f"cut at {self.at}")

    def of(self, data: bytes) -> bytes:
        """The damaged bytes."""
        if not self.flip:
            return data[: self.at]
        return data[: self.at] + bytes([data[self.at] ^ self.flip]) + data[self.at + 1 :]


class Judged(msgspec.Struct, frozen=True):
    """What came of some damages: those that were judged wrong."""

    tried: int
    wrong: list[str]


class _Equal:
    """Equal to everything: a checksum that nobody compares."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def try_unchecked(case: tuple[str, Truth, list[Truth], list[Damage]]) -> Judged:
    """The same with a bug: no checksum of the tables is compared."""
    check, tables.check = tables.check, lambda *_: _Equal()
    try:
        return try_all(case)
    finally:
        tables.check = check


def try_undigested(case: tuple[str, Truth, list[Truth], list[Damage]]) -> Judged:
    """The same with a bug: neither the digest of a segment's file nor the checksums of its pages are compared."""
    import pyarrow.parquet as parquet

    whole, opening = segments.file_digest, parquet.ParquetFile
    segments.file_digest = lambda path: _Equal()  # type: ignore[assignment,return-value]
    parquet.ParquetFile = lambda path, **_: opening(path)
    try:
        return try_all(case)
    finally:
        segments.file_digest, parquet.ParquetFile = whole, opening


def try_all(case: tuple[str, Truth, list[Truth], list[Damage]]) -> Judged:
    """Each damage on a fresh copy of a home."""
    origin, right, prefixes, damages = case
    paths = [path for path in Path(origin).rglob("*") if path.is_file()]
    files = {str(path.relative_to(origin)): path.read_bytes() for path in paths}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="penstock-faults-", dir=_fast()) as folder:
        home = Path(folder) / "home"
        for damage in damages:
            shutil.rmtree(home, ignore_errors=True)
            (home / "sealed").mkdir(parents=True)
            for name, data in files.items():
                (home / name).write_bytes(damage.of(data) if name == damage.file else data)
            try:
                found = judge(home, right, prefixes)
            except Exception as error:  # whatever it is, it is not in the house's words
                found = [f"{type(error).__name__}: {error}"]
            wrong += [f"{damage}: {found[0]}"] if found else []
    return Judged(len(damages), wrong)


def _fast() -> str | None:
    """A folder in memory where there is one: what is tried here is not the disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def damages(
    home: Path, files: Sequence[str], chance: random.Random, scale: float, *, cut: bool
) -> list[Damage]:
    """All damages of one kind to some files, or a sample."""
    every = [
        Damage(name, at, 0 if cut else chance.randrange(1, 256))
        for name in files
        for at in range((home / name).stat().st_size)
    ]
    count = min(len(every), max(60, round(len(every) * scale)))
    return every if count == len(every) else chance.sample(every, count)


def of_blobs(chance: random.Random) -> tuple[int, list[str]]:
    """A blob with each byte changed and at each length."""
    data = chance.randbytes(300)
    wrong: list[str] = []
    tried = 0
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        blobs = FolderBlob(Path(folder))
        digest = blobs.put(data)
        path = Path(folder) / digest[:2] / digest[2:]
        for damage in [
            Damage(path.name, n, flip) for n in range(300) for flip in (0, chance.randrange(1, 256))
        ]:
            path.write_bytes(damage.of(data))
            tried += 1
            try:
                blobs.get(digest)
                wrong.append(f"{damage} was not noticed")
            except NotFound:
                wrong.append(f"{damage} was told of as if there were no blob")
            except PenstockError:
                pass
        if blobs.put(data) != digest or blobs.get(digest) != data:
            wrong.append("a damaged blob is not written again")
    return tried, wrong


def findings(plan: Plan) -> Iterator[Finding]:
    """Flips and cuts of the database alone, of the database with its WAL, of one whose history is sealed and of
    its segments, and of blobs."""
    chance = random.Random(plan.seed)
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        built, open_ = Path(folder) / "built", Path(folder) / "open"
        with patch.object(tables, "PIECE_BYTES", 100):
            build(built)
            shutil.copytree(built, Path(folder) / "closed")
            extend(built, open_)
        closed = truth(Path(folder) / "closed")
        shutil.copytree(open_, Path(folder) / "whole")
        whole = truth(Path(folder) / "whole")
        steps = _steps(open_, Path(folder))
        old = Path(folder) / "sealed"
        names = sealed(Path(folder) / "closed", old)
        size = sum((open_ / name).stat().st_size for name in BOTH)
        size += sum((old / name).stat().st_size for name in names)
        for word, cut in (("bytes flipped", False), ("truncations", True)):
            began = time.monotonic()
            homes = (
                (Path(folder) / "closed", ["log.db"], closed, []),
                (open_, BOTH, whole, steps),
                (old, names, closed, []),
            )
            cases = [
                (str(home), right, prefixes, damages(home, files, chance, plan.scale, cut=cut))
                for home, files, right, prefixes in homes
            ]
            bugs = [("checksums_ignored", try_unchecked, *homes[0])]
            if not cut:  # a file that was cut short has no footer: no digest is needed to see it
                files = [name for name in names if name.endswith(".parquet")]
                bugs.append(("digests_ignored", try_undigested, old, files, closed, []))
            caught = sum(
                _caught(bug, (str(home), right, prefixes, damages(home, files, chance, 1.0, cut=cut)))
                for _, bug, home, files, right, prefixes in bugs
            )
            tried = _tried_all(plan, word, cases, f"files of {size} bytes")
            yield msgspec.structs.replace(
                tried, planted=" ".join(name for name, *_ in bugs), caught=caught, planned=len(bugs),
                seconds=time.monotonic() - began,
            )  # fmt: skip
    began = time.monotonic()
    tried, wrong = of_blobs(chance)
    for text in wrong:
        plan.note(text)
    yield Finding("blobs damaged", tried, len(wrong), seconds=time.monotonic() - began)


def _tried_all(plan: Plan, word: str, cases: list[Any], note: str) -> Finding:
    pieces = [
        (home, right, prefixes, some[i : i + AT_ONCE])
        for home, right, prefixes, some in cases
        for i in range(0, len(some), AT_ONCE)
    ]
    tried = wrong = 0
    for one in side_by_side(try_all, pieces):
        tried += one.tried
        wrong += len(one.wrong)
        for text in one.wrong:
            plan.note(text)
    return Finding(word, tried, wrong, note=note)


def _caught(bug: Any, case: tuple[str, Truth, list[Truth], list[Damage]]) -> bool:
    """Whether some of the damages show a planted bug."""
    home, right, prefixes, every = case
    some = every[:: max(1, len(every) // AT_ONCE)]
    return bool(next(side_by_side(bug, [(home, right, prefixes, some)])).wrong)


def _steps(home: Path, folder: Path) -> list[Truth]:
    """What the log says after each of the transactions in its WAL: the prefixes that a damaged WAL may leave."""
    data = (home / "log.db-wal").read_bytes()
    frame = 24 + PAGE_BYTES
    ends = [at + frame for at in range(32, len(data) - frame + 1, frame) if data[at + 4 : at + 8] != bytes(4)]
    found: list[Truth] = []
    for n, end in enumerate([0, *ends]):
        part = folder / f"part{n}"
        part.mkdir()
        shutil.copy(home / "log.db", part / "log.db")
        (part / "log.db-wal").write_bytes(data[:end])
        with contextlib.suppress(PenstockError):
            found.append(truth(part))
    return found
