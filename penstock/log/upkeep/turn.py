"""log: what every kind of upkeep stands on: being alone at it, reading in pieces, taking away few rows at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import apsw

from penstock.log import tables
from penstock.log.chain import Part
from penstock.log.machine import make_folder, said_of_files
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import Topic
from penstock.log.writing import Writing

LOCK = "lock"
PIECE = 200
"""Batches read in one snapshot, rows or pages taken away in one transaction: nobody waits for longer."""


@contextmanager
def alone(log: SqliteLog, *, wait: bool) -> Iterator[bool]:
    """Be the one who is at it, as far as that can be had; says whether it could."""
    folder = log.chain.files.folder
    with log._disk, said_of_files():
        make_folder(folder)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        mine = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            mine = False
        yield mine
    finally:
        os.close(handle)


def topic_of(db: apsw.Connection, name: str) -> Topic:
    """A topic that is there."""
    found = tables.fact(db, Topic, name)
    if found is None:
        raise tables.damaged(name, 0)
    return found


def rows(log: SqliteLog, name: str, start: int, below: int) -> Iterator[Part]:
    """A topic's batches that begin in [start, below), in order, each the next after the one before. No snapshot
    is held between some and the next."""
    ahead = None
    while True:
        with log._reading() as db:
            at = topic_of(db, name)
            bases = islice((one for one in tables.bases(db, at, start, below) if one >= start), PIECE)
            piece = [Part(name, base, *tables.batch(db, at, name, base)) for base in bases]
        for one in piece:
            if ahead is not None and one.ahead != ahead:
                raise tables.damaged(name, one.base)
            ahead, start = one.ahead + one.n, one.base + 1
            yield one
        if not piece:
            return


def change(log: SqliteLog, sql: str, values: Sequence[tuple[Any, ...]]) -> None:
    """Run a statement for each of the values, few at a time."""
    for at in range(0, len(values), PIECE):
        log._transact(partial(_many, sql, values[at : at + PIECE]), sync=False)


def _many(sql: str, values: Sequence[tuple[Any, ...]], writing: Writing) -> None:
    writing.db.executemany(sql, values)
