"""faults: a process that dies at each numbered point of the log leaves a log that tells the truth."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from penstock.log import Appended, Commit, crash, sqlite
from penstock.log.blob import FolderBlob
from penstock.log.crash import Point
from penstock.log.sqlite import SqliteLog
from penstock.record.record import Draft
from penstock.stage import Running
from tests.faults import ledger

APP = {Point.EFFECT, Point.RESULT}
"""Reached by the app's own effects, not by the ledger."""
DIED = 9


def work(home: Path, *, after: int) -> None:
    """Append, fold, store a blob and forget a little, so that every point of the log is passed."""
    sqlite.WAL_FOLD_BYTES = 0
    sqlite.SYNC_EVERY_S = 0.01
    log, sent, blobs = SqliteLog(home), ledger.Sent(home / "sent"), FolderBlob(home / "blobs")
    owner = Running(ledger.LEDGER, log, batch=8)
    for sequence in range(after, after + 12):
        ledger.send(log, sent, "p", sequence, sync=sequence % 3 > 0)
        ledger.send(log, sent, "q", sequence)
        owner.advance()
        blobs.put(f"{sequence}".encode())
    log.append([Draft("old", "k", 1, b"v", "an id")])
    log.drop("old", log.end())
    log.close()


def die_at(home: Path, point: Point) -> int:
    """A child that works and dies at a point; its exit status."""
    child = os.fork()
    if child == 0:
        crash.reach = lambda at, about: os._exit(DIED) if at is point else None
        try:
            work(home, after=1)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("point", [one for one in Point if one not in APP], ids=lambda one: one.name)
def test_a_death_at_each_point(point: Point, tmp_path: Path) -> None:
    """The point is reached; after a restart nothing acknowledged is missing and nothing stands twice."""
    assert die_at(tmp_path, point) == DIED
    log, sent = SqliteLog(tmp_path), ledger.Sent(tmp_path / "sent")
    begun = max(log.last("p"), log.last("q"))
    for sequence in range(1, begun + 3):
        for producer in "pq":
            ledger.send(log, sent, producer, sequence)
    ledger.finish(log)
    assert ledger.check(log, sent, words=("kept", "safe")) == []
    log.close()


def test_an_offset_stored_first_is_caught(tmp_path: Path) -> None:
    """The check finds the planted bug: the position in one write, the outputs in a later one."""
    whole, calls = SqliteLog.commit, []

    def torn(log: SqliteLog, commit: Commit, *, sync: bool = True) -> Appended:
        done = whole(log, msgspec.structs.replace(commit, outputs=[]), sync=sync)
        calls.append(done)
        if len(calls) == 5:
            os._exit(DIED)
        log.append(commit.outputs, sync=sync)
        return done

    child = os.fork()
    if child == 0:
        SqliteLog.commit = torn  # type: ignore[method-assign]
        try:
            work(tmp_path, after=1)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == DIED
    log = SqliteLog(tmp_path)
    ledger.finish(log)
    assert ledger.check(log) != []
    log.close()
