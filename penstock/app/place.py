"""app: where a home's log and blobs are, when they are not its own: said once, then remembered."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from penstock.log.blob import FolderBlob
from penstock.log.sqlite import SqliteLog
from penstock.record.errors import NotFound, Refused


class Remembered(msgspec.Struct, frozen=True, omit_defaults=True):
    """The log's address and the file of its settings, and the folder of the blobs; empty: the home's own."""

    log: str = ""
    settings: str = ""
    blobs: str = ""


def remember(path: Path, asked: Remembered) -> Remembered:
    """What is asked for, filled up with what the home remembers, and remembered.

    `log` is an address like kafka://host:9092, `settings` the path of a file with what its connection
    needs, `blobs` a folder that all homes of one log share. Raises Refused for another log than before.
    """
    kept = _kept(path)
    blobs = str(Path(asked.blobs).resolve()) if asked.blobs else ""
    # Not resolved: secrets are mounted behind links that come to lead elsewhere.
    settings = str(Path(asked.settings).absolute()) if asked.settings else ""
    if not kept.log and asked.log and (path / "log.db").exists():
        raise Refused("This home has a log of its own already.", where=str(path), hint="Take another --home.")
    for name, before, now in (("log", kept.log, asked.log), ("blobs", kept.blobs, blobs)):
        if before and now not in ("", before):
            raise Refused(
                f"This home follows {before}.", where=str(path), code=name, hint="Take another --home."
            )
    filled = Remembered(asked.log or kept.log, settings or kept.settings, blobs or kept.blobs)
    if filled != kept:
        path.mkdir(parents=True, exist_ok=True)
        (path / "log.json").write_bytes(msgspec.json.format(msgspec.json.encode(filled)))
    return filled


def blobs_of(path: Path) -> FolderBlob:
    """A home's blobs."""
    return FolderBlob(Path(_kept(path).blobs or path / "blobs"))


def _kept(path: Path) -> Remembered:
    note = path / "log.json"
    return msgspec.json.decode(note.read_bytes(), type=Remembered) if note.exists() else Remembered()


def follow(path: Path, asked: Remembered, create: bool) -> SqliteLog:
    """A log on Kafka, with its mirror in the home."""
    try:
        from penstock.log.kafka import KafkaLog, place
    except ImportError:
        raise Refused(
            "A log on Kafka needs confluent-kafka.", code="no_kafka", hint="pip install 'penstock[kafka]'"
        ) from None
    text, shared = _settings(asked.settings) if asked.settings else ("", False)
    where = place(asked.log, text)
    if shared and where.secrets():
        raise Refused(
            f"Others on this machine may read or change the log's settings, and {where.secrets()[0]} is in them.",
            code="log_secret", where=asked.settings,
            hint="chmod 600 it. A file of root's may be read by its group, as secrets are mounted for a pod.",
        )  # fmt: skip
    return KafkaLog(path, where, create=create)


def _settings(path: str) -> tuple[str, bool]:
    """A file of settings, and whether others than its owner and root may read or change it."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            text = file.read()
    except UnicodeDecodeError:
        raise Refused("The file of log settings is not a text.", code="log_settings", where=path) from None
    except OSError:
        raise NotFound(
            "There is no file of log settings there.", hint="Name it with --log-settings."
        ) from None
    trusted = stat.S_IRGRP if found.st_uid == 0 else 0  # who root lets read it
    shared = stat.S_IMODE(found.st_mode) & (stat.S_IRWXG | stat.S_IRWXO) & ~trusted
    return text, os.name == "posix" and bool(shared)
