"""log: a copy of a running home: the log as of one moment, the segments and blobs that it tells of, read through.

What a log tells of was on the disk before it did, and stays as long as upkeep waits: so the log is copied first,
then its segments, then every blob. The copy has its name only when all of it is on the disk and was read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import msgspec

from penstock.log import tables
from penstock.log.machine import Disk, make_folder, said_of_files, sync_file, sync_folder
from penstock.log.segments import segments
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.doctor import examine
from penstock.log.upkeep.turn import alone
from penstock.record.codec import digest
from penstock.record.errors import Broken, Refused


class Copied(msgspec.Struct, frozen=True):
    """What a backup holds: the position at which the log ends, and how many files and bytes lie beside it."""

    end: int
    segments: int
    blobs: int
    size_bytes: int


def backup(
    log: SqliteLog, blobs: Path, out: Path, told: Callable[[int], None] = lambda records: None
) -> Copied:
    """Copy a home to a folder that is not there yet. Writers go on meanwhile, sealing and retention's sweep wait.
    `told` hears how many records of the copy were read; raises Broken where something is not whole."""
    if type(log) is not SqliteLog:
        raise Refused("This home's records lie on Kafka.", code="not_here", hint="Back them up there.")
    if out.exists():
        raise Refused("There is something already.", where=str(out), code="exists", hint="Name a new folder.")
    part = out.with_name(f".{out.name}.part")
    with alone(log, wait=True), log._disk, said_of_files():
        shutil.rmtree(part, ignore_errors=True)
        make_folder(part)
        _log(log, part)
        made = _segments(log, part)
    with said_of_files():
        kept = _blobs(blobs, part)
        copy = SqliteLog(part, create=False)
        try:
            for problem in examine(copy, told):
                raise Broken(problem.what, where=problem.where, code="backup")
            end = copy.end().n
        finally:
            copy.close()
        _settle(part)
        os.rename(part, out)
        sync_folder(out.parent)
        size = sum(one.stat().st_size for one in out.rglob("*") if one.is_file())
    return Copied(end, made, kept, size)


def _log(log: SqliteLog, part: Path) -> None:
    """The database as one read transaction sees it: what is in the WAL is in the copy."""
    with Disk():
        to = apsw.Connection(str(part / "log.db"))
        try:
            with log._reading() as db, to.backup("main", db, "main") as copying:
                copying.step(-1)
        finally:
            to.close()


def _segments(log: SqliteLog, part: Path) -> int:
    """The segments that the copy tells of."""
    copy = SqliteLog(part, create=False)
    try:
        with copy._reading() as db:
            paths = [
                log.chain.files.path(name, one)
                for name, at in tables.facts(db, tables.Topic).items()
                for one in segments(db, at, 0, at.sealed)
                if one.last >= at.first
            ]
    finally:
        copy.close()
    make_folder(part / "sealed")
    for path in paths:
        shutil.copyfile(path, part / "sealed" / path.name)
    return len(paths)


def _blobs(blobs: Path, part: Path) -> int:
    """Every blob, verified."""
    n = 0
    for path in sorted(blobs.glob("??/*")):
        if path.name.startswith(".new-"):
            continue
        data, name = path.read_bytes(), path.parent.name + path.name
        if digest(data) != name:
            raise Broken("A blob's bytes do not match its digest.", where=name[:12])
        (part / "blobs" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (part / "blobs" / path.parent.name / path.name).write_bytes(data)
        n += 1
    return n


def _settle(part: Path) -> None:
    """All of it on the disk."""
    for path in part.rglob("*"):
        sync_folder(path) if path.is_dir() else sync_file(path)
    sync_folder(part)
