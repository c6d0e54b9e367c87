"""log: the moments between two effects at which a process may die, numbered.

Whoever sets `reach` is called at each of them, and may end the process there; otherwise a point costs
a look at a name. A new point gets the next number; a test says that each of them is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum


class Point(IntEnum):
    """Where a process stands. `about` says whose point it is, where that matters: a stage, a model."""

    BEGIN = 1  # a write waits for the log's lock
    BEGUN = 2  # it has the lock, nothing is written
    PRODUCER = 3  # a producer's sequence is written, its records are not
    OWNER = 4  # a stage's position is written, neither state nor outputs are
    STATE = 5  # a stage's state is written, its outputs are not
    IDS = 6  # ids are written, their records are not
    BATCH = 7  # one topic's records are written, the log's end is not moved
    FORGOTTEN = 8  # records are dropped, the topic's beginning is not moved
    APPLIED = 9  # one write of a transaction is applied, others may follow
    CLOSED = 10  # all is written, the commit is not begun
    COMMITTED = 11  # the log has it, nobody was told
    SYNC = 12  # commits that were told of are not synced
    SYNCED = 13
    FOLD = 14  # the WAL is to be folded into the database
    FOLDED = 15
    BLOB = 16  # a blob's file is there, its bytes are not
    BLOB_WRITTEN = 17  # its bytes are written, not synced
    BLOB_SYNCED = 18  # synced, it has no name yet
    BLOB_NAMED = 19  # it has its name, which is not synced
    BLOB_KEPT = 20
    STEP = 21  # a stage has folded a batch, its commit is not begun
    STEPPED = 22  # the log has its commit, the stage does not know
    EFFECT = 23  # an intent is carried out, its result is not on the log
    RESULT = 24  # its result is on the log
    SEGMENT_WRITTEN = 25  # a segment is written, not synced
    SEGMENT_NAMED = 26  # it has its name, nobody knows of it
    SEALED = 27  # the log knows of a segment, its topic does not
    STRAY = 28  # no segment has this file's name any more, it is still there


reach: Callable[[Point, str], None] | None = None


def point(at: Point, about: str = "") -> None:
    """The process stands here."""
    if reach is not None:
        reach(at, about)
