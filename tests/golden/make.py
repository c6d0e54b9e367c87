"""golden: makes a small home in the format of the day, and writes down what it says.

`.venv/bin/python -m tests.golden.make tests/golden/format4` made the one of that name. A home that was made is never
made again: what changes is the code that reads it. A new format gets a new folder, and its predecessors a migration
or a refusal.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from penstock.log.blob import FolderBlob
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import FORMAT, Segment, facts
from penstock.log.upkeep.seal import seal
from penstock.log.upkeep.sweep import shrink, sweep
from penstock.record.codec import pack
from penstock.record.record import Draft, Position
from penstock.stage import Running
from tests.faults.ledger import LAZY, LEDGER, Sent, digest, everything, send

ODD = "odd/Töpfe"
BLOB = bytes(range(256)) * 3


def fill(home: Path, sent: Sent) -> None:
    """A ledger of which most is sealed, a topic with headers and repeats of which some was dropped, a blob."""
    log = SqliteLog(home)
    running = Running(LAZY, log, batch=9)
    for sequence in range(1, 13):
        for producer in ("p0", "p1"):
            send(log, sent, producer, sequence)
        while running.advance() is not None:
            pass
        texts = {"trace": f"{sequence}", "who": "änne"} if sequence % 3 else {}
        log.append([Draft(ODD, "k", -sequence, b"\0v" * sequence, f"id{sequence % 9}", texts)], sync=False)
        if sequence == 8:
            seal(log, records=20, tail=5)
            log.drop(ODD, Position(n=log.end().n // 3))
    running.save()
    sweep(log)
    shrink(log)
    log.close()
    FolderBlob(home / "blobs").put(BLOB)


def said(home: Path) -> dict[str, Any]:
    """What a home says, as a few digests and numbers."""
    log = SqliteLog(home, create=False)
    records = {topic: everything(log, [topic]) for topic in log.topics()}
    rows = [
        (topic, r.position, r.id, r.key, r.time_ms, r.value, dict(r.headers))
        for topic, found in records.items()
        for r in found
    ]
    stage = log.load(LEDGER.name)
    with log._reading() as db:
        segments = [[one.base, one.last, one.n, one.digest] for one in facts(db, Segment).values()]
    found = {
        "records": sha256(pack(rows)).hexdigest(),
        "ledger": digest(log),
        "state": sha256(stage.state).hexdigest(),
        "stage": [stage.epoch, stage.position.n, stage.state_position.n],
        "topics": {topic: [log.first(topic).n, log.count(topic)] for topic in records},
        "ids": sum(log.find(r.topic, r.id) == r for found in records.values() for r in found if r.id),
        "producers": {name: log.last(name) for name in ("p0", "p1")},
        "segments": segments,
        "blob": FolderBlob(home / "blobs").get(sha256(BLOB).hexdigest()) == BLOB,
        "end": log.end().n,
    }
    log.close()
    return found


def main(folder: Path) -> None:
    """Make the home, and write down what it says."""
    home = folder / "home"
    fill(home, Sent(folder / "sent"))
    (folder / "sent").unlink()
    for name in ("log.db-wal", "log.db-shm", "sealed/lock"):
        (home / name).unlink(missing_ok=True)
    (folder / "said.json").write_text(json.dumps({"format": FORMAT, **said(home)}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
