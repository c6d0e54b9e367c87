"""log: the health of a log: sizes, counts, and whether all of it is what was written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import apsw

from penstock.log import tables
from penstock.log.machine import file_system
from penstock.log.sqlite import SqliteLog


def health(log: SqliteLog) -> dict[str, Any]:
    """What `penstock doctor` shows. Sizes in bytes; `integrity` is "ok" or SQLite's first complaint."""
    with log._reading() as db:
        integrity = tables.row(db, "PRAGMA quick_check(1)")
    wal = Path(f"{log.path}-wal")
    return {
        "sqlite": apsw.sqlite_lib_version(),
        "file_system": file_system(log.path.parent),
        "free_bytes": shutil.disk_usage(log.path.parent).free,
        "log_bytes": log.path.stat().st_size,
        "wal_bytes": wal.stat().st_size if wal.exists() else 0,
        "integrity": integrity[0] if integrity else "unknown",
        "end": log.end().n,
        "records": {topic: log.count(topic) for topic in log.topics()},
        **log.about(),
    }
