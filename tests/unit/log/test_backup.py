"""log: a backup is a home of one moment, whole, whatever goes on while it is made."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from penstock.cli import main
from penstock.log import segments
from penstock.log.blob import FolderBlob
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep import backup as module
from penstock.log.upkeep.backup import backup
from penstock.log.upkeep.doctor import examine
from penstock.log.upkeep.seal import seal
from penstock.log.upkeep.sweep import sweep
from penstock.record.errors import Broken, Refused
from penstock.record.record import START, Draft, Position
from penstock.stage import Running
from tests.faults.ledger import LEDGER, Sent, check, digest, everything, finish, send


def filled(home: Path, notes: Sent) -> SqliteLog:
    """A ledger with segments, a blob, and a topic of which retention took some."""
    log = SqliteLog(home)
    for sequence in range(1, 30):
        send(log, notes, "p0", sequence, sync=False)
        log.append([Draft("scrap", "", sequence, b"x" * 99, f"s{sequence}")], sync=False)
    finish(log)
    seal(log, records=10, tail=5)
    log.drop("scrap", Position(n=40))
    FolderBlob(home / "blobs").put(b"a model")
    return log


def test_a_backup_is_the_home(tmp_path: Path) -> None:
    """Records, ids, state and blobs are those of the home; it is whole, has its name only then, and goes on."""
    log = filled(tmp_path / "home", Sent(tmp_path / "sent"))
    made = backup(log, tmp_path / "home" / "blobs", tmp_path / "out")
    copy = SqliteLog(tmp_path / "out")
    assert (made.end, made.blobs) == (log.end().n, 1) and made.segments > 3
    assert digest(copy) == digest(log) and check(copy) == [] and list(examine(copy)) == []
    assert everything(copy, ["scrap"]) == everything(log, ["scrap"])
    (blob,) = [one for one in (tmp_path / "out" / "blobs").rglob("*") if one.is_file()]
    assert blob.read_bytes() == b"a model"
    send(copy, Sent(tmp_path / "sent2"), "p0", copy.last("p0") + 1)
    finish(copy)
    assert seal(copy, records=10, tail=0) > 0 and check(copy) == []
    with pytest.raises(Refused):
        backup(log, tmp_path / "home" / "blobs", tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["home", "out", "sent", "sent2"]
    copy.close()
    log.close()


def test_a_backup_under_writes(tmp_path: Path) -> None:
    """While producers, a stage, blobs, sealing and retention go on, each backup is a ledger that is right, and each
    blob that it tells of is in it."""
    log = filled(tmp_path / "home", Sent(tmp_path / "sent"))
    ended, blobs = threading.Event(), FolderBlob(tmp_path / "home" / "blobs")
    failed: list[BaseException] = []

    def work() -> None:
        try:
            other = SqliteLog(tmp_path / "home")
            running, notes = Running(LEDGER, other, batch=5), Sent(tmp_path / "sent")
            while not ended.is_set():
                send(other, notes, "p1", other.last("p1") + 1, sync=False)
                running.advance()
                other.append([Draft("blob", "", 1, blobs.put(str(other.end()).encode()).encode())])
            other.close()
        except BaseException as error:
            failed.append(error)

    def upkeep() -> None:
        try:
            other = SqliteLog(tmp_path / "home")
            while not ended.is_set():
                seal(other, records=5, tail=5)
                other.drop("blob", Position(n=other.end().n - 60))
                sweep(other)
                time.sleep(0.02)  # whoever waits for the lock may have it
            other.close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for one in (work, upkeep)]
    for thread in threads:
        thread.start()
    while log.last("p1") < 5:
        time.sleep(0.01)
    ends = [backup(log, blobs.folder, tmp_path / f"out{n}").end for n in range(2)]
    ended.set()
    for thread in threads:
        thread.join()
    assert not failed and ends == sorted(set(ends))
    for n in range(2):
        copy, kept = SqliteLog(tmp_path / f"out{n}"), FolderBlob(tmp_path / f"out{n}" / "blobs")
        assert all(kept.get(one.value.decode()) for one in everything(copy, ["blob"]))
        assert copy.last("p1") >= 5
        finish(copy)
        assert check(copy) == [] and list(examine(copy)) == []
        copy.close()
    log.close()


def test_a_backup_of_what_is_damaged_is_none(tmp_path: Path) -> None:
    """A segment or a blob that is not what was written is named, and nothing has the backup's name."""
    log = filled(tmp_path / "home", Sent(tmp_path / "sent"))
    path = sorted((tmp_path / "home" / "sealed").glob("*.parquet"))[0]
    right = path.read_bytes()
    path.write_bytes(right[:300] + b"?" + right[301:])
    with pytest.raises(Broken) as told:
        backup(log, tmp_path / "home" / "blobs", tmp_path / "out")
    assert "@" in told.value.where and not (tmp_path / "out").exists()
    path.write_bytes(right)
    (blob,) = [one for one in (tmp_path / "home" / "blobs").rglob("*") if one.is_file()]
    blob.write_bytes(b"b model")
    with pytest.raises(Broken):
        backup(log, tmp_path / "home" / "blobs", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    log.close()


def test_segments_before_the_log_would_be_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug, the log copied after its segments, makes a backup that is refused."""
    log = filled(tmp_path / "home", Sent(tmp_path / "sent"))
    real = module._segments

    def early(log: SqliteLog, part: Path) -> int:
        n = real(log, part)
        for one in range(60):
            log.append([Draft("late", "", one, b"")], sync=False)
        monkeypatch.setattr(segments, "GROUP_RECORDS", 10)
        from penstock.log.upkeep.seal import _due, _seal

        while below := _due(log, "late", 5, 5):
            _seal(log, "late", below)
        (part / "log.db").unlink()
        module._log(log, part)
        return n

    monkeypatch.setattr(module, "_segments", early)
    with pytest.raises(Broken):
        backup(log, tmp_path / "home" / "blobs", tmp_path / "out")
    assert not (tmp_path / "out").exists() and log.read(["late"], START)[0]
    log.close()


def test_the_verb_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people a sentence, for machines JSON; what is there already is not written over."""
    filled(tmp_path / "home", Sent(tmp_path / "sent")).close()
    words = ["backup", "--home", str(tmp_path / "home"), "--out"]
    assert main([*words, str(tmp_path / "a")]) == 0 and "whole" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["blobs"] == 1
    assert main([*words, str(tmp_path / "b")]) != 0 and "exists" in capsys.readouterr().err
