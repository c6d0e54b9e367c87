"""log: a mirror as blobs: a home that starts late takes another's and applies only what came since."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import apsw
import msgspec

from penstock.log import Blob
from penstock.log.kafka.engine import KafkaLog
from penstock.log.machine import Disk
from penstock.record.codec import pack, unpack
from penstock.record.errors import Refused

CHUNK_BYTES = 16 << 20


class _Contents(msgspec.Struct, frozen=True):
    """A snapshot: its bytes in pieces, and the journal's offset that it has applied."""

    pieces: list[str]
    applied: int


def save(log: KafkaLog, blobs: Blob) -> str:
    """Put a copy of the mirror, as of one moment, into a blob store; the digest that `restore` takes."""
    with tempfile.TemporaryDirectory(dir=log.path.parent) as folder:
        path = Path(folder) / "mirror.db"
        with Disk():
            log._reader().execute("VACUUM INTO ?", (str(path),))
            copy = apsw.Connection(str(path))
            # Whoever takes it is another home, and no writer's.
            copy.execute("DELETE FROM meta WHERE key = 'home'; UPDATE writer SET answers = x''")
            copy.execute("PRAGMA journal_mode = DELETE")
            applied, _ = log._mark(copy)
            copy.close()
        pieces = []
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                pieces.append(blobs.put(piece))
    return blobs.put(pack(_Contents(pieces, applied)))


def restore(home: Path, blobs: Blob, digest: str) -> int:
    """Make a home's mirror from a snapshot; the journal's offset that it has applied."""
    path = home / "log.db"
    if path.exists():
        raise Refused("This home has a mirror already.", where=str(home), code="log_mirror")
    contents = unpack(blobs.get(digest), _Contents)
    home.mkdir(parents=True, exist_ok=True)
    fresh = home / "log.db.new"
    with fresh.open("wb") as file:
        for piece in contents.pieces:
            file.write(blobs.get(piece))
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    return contents.applied
