"""log: an older copy of a home put back: who followed the newer one is told, who starts on it makes the same again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.doctor import examine
from penstock.log.upkeep.seal import seal
from penstock.record.errors import Broken, Fenced
from penstock.record.record import Draft, Record
from penstock.stage import Running, View
from tests.faults.ledger import INPUTS, LEDGER, LINES, SUMS, Sent, check, digest, everything, finish, send


def sent(log: SqliteLog, notes: Sent, first: int, end: int) -> None:
    """Batches of one producer."""
    for sequence in range(first, end):
        send(log, notes, "p0", sequence, sync=False)


def replaced(home: Path, old: Path) -> None:
    """The folder as it was, in the place of the newer one."""
    shutil.rmtree(home)
    shutil.copytree(old, home)


def moved(home: Path, old: Path) -> None:
    """The newer one put aside."""
    home.rename(home.with_name("aside"))
    shutil.copytree(old, home)


def restored(home: Path, old: Path) -> None:
    """SQLite's own restore, into the open file."""
    to, source = apsw.Connection(str(home / "log.db")), apsw.Connection(str(old / "log.db"))
    with to.backup("main", source, "main") as backup:
        backup.step(-1)
    to.close()
    source.close()


@pytest.mark.parametrize("way", [replaced, moved, restored], ids=lambda one: one.__name__)
def test_who_followed_is_told(way: Callable[[Path, Path], None], tmp_path: Path) -> None:
    """A follower, a view, a producer and a stage of the newer log get an error that says that it went backwards, and
    nothing that they send is taken and lost."""
    home, old, notes = tmp_path / "home", tmp_path / "old", Sent(tmp_path / "sent")
    log = SqliteLog(home)
    sent(log, notes, 1, 9)
    finish(log)
    log.close()
    shutil.copytree(home, old)
    log = SqliteLog(home)
    sent(log, notes, 9, 30)
    seal(log, records=10, tail=3)
    running, view = Running(LEDGER, log), View(LEDGER, log)
    while running.advance() is not None:
        pass
    view.read()
    end = log.end()
    way(home, old)
    asks: list[Callable[[], Any]] = [
        view.read,
        running.advance,
        lambda: log.read(INPUTS, end),
    ]
    if way is not restored:  # the file is another: what is written to the one that was open would be lost
        asks += [log.end, lambda: log.append([Draft("t", "", 1, b"lost")]), lambda: log.load(LEDGER.name)]
    for ask in asks:
        with pytest.raises(Broken) as told:
            ask()
        assert told.value.code == "log_backwards"
    running.unsaved = 1
    with pytest.raises((Broken, Fenced)):
        running.save()
    log.close()
    again = SqliteLog(home)
    assert everything(again, ["t"]) == [] and list(examine(again)) == []
    again.close()


def test_what_is_made_again_has_the_same_ids(tmp_path: Path) -> None:
    """After last night's copy was put back and its producers sent the rest again, outputs and digest are the same;
    a consumer that drops ids it knows sees none twice."""
    home, old, notes = tmp_path / "home", tmp_path / "old", Sent(tmp_path / "sent")
    log = SqliteLog(home)
    sent(log, notes, 1, 9)
    finish(log)
    seal(log, records=10, tail=3)
    log.close()
    shutil.copytree(home, old)
    log = SqliteLog(home)
    sent(log, notes, 9, 30)
    finish(log)
    seal(log, records=10, tail=3)
    before: list[Record] = everything(log, (LINES, SUMS))
    newer = digest(log)
    log.close()
    replaced(home, old)
    log = SqliteLog(home)
    consumed = {one.id: one for one in before}
    assert len(everything(log, (LINES, SUMS))) < len(before)
    sent(log, notes, log.last("p0") + 1, 30)
    finish(log)
    after = everything(log, (LINES, SUMS))
    assert {one.id: one.value for one in after} == {one.id: one.value for one in before}
    assert [one.id for one in after if one.id not in consumed] == [] and digest(log) == newer
    assert check(log, notes) == [] and list(examine(log)) == []
    log.close()
