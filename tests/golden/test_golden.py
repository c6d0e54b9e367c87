"""golden: homes that older releases made: this code reads them to what they said, or refuses and leaves them alone."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import apsw
import pytest

from penstock.log.sqlite import SqliteLog
from penstock.log.tables import FORMAT
from penstock.log.upkeep.doctor import examine
from penstock.record.errors import Refused
from penstock.record.record import Draft
from tests.faults.ledger import check, finish
from tests.golden.make import ODD, said

FOLDER = Path(__file__).parent
OURS = FOLDER / f"format{FORMAT}"
OTHERS = sorted(one for one in FOLDER.glob("format*") if one != OURS)


def bytes_of(home: Path) -> dict[str, bytes]:
    """Each file of a home that holds something; the index of a WAL is none of it."""
    files = {str(one.relative_to(home)): one.read_bytes() for one in home.rglob("*") if one.is_file()}
    return {name: data for name, data in files.items() if data and not name.endswith("-shm")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A copy of the home in the format of the day."""
    return Path(shutil.copytree(OURS / "home", tmp_path / "home"))


def test_a_home_of_this_format_says_what_it_said(home: Path) -> None:
    """Records, headers, ids, state, producers, segments, what retention left, blobs: the digests of then."""
    assert {"format": FORMAT, **said(home)} == json.loads((OURS / "said.json").read_text())


def test_a_home_of_this_format_goes_on(home: Path) -> None:
    """It is whole, its stage resumes and folds to what a plain computation gives, and it takes more."""
    log = SqliteLog(home)
    assert list(examine(log)) == []
    assert log.append([Draft(ODD, "k", 1, b"again", "id3"), Draft(ODD, "k", 1, b"new", "new")]).repeats == [0]
    finish(log)
    assert check(log) == []
    log.close()


def test_a_flipped_byte_differs(home: Path) -> None:
    """The digests can differ: another value gives others."""
    log = SqliteLog(home)
    log.append([Draft(ODD, "k", 1, b"more")])
    log.close()
    assert {"format": FORMAT, **said(home)} != json.loads((OURS / "said.json").read_text())


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("origin", OTHERS, ids=lambda one: one.name)
def test_a_home_of_another_format_is_refused(origin: Path, create: bool, tmp_path: Path) -> None:
    """Refused with the code that says so, and every byte of it stays."""
    home = Path(shutil.copytree(origin / "home", tmp_path / "home"))
    with pytest.raises(Refused) as told:
        SqliteLog(home, create=create)
    assert told.value.code == "format"
    del told
    gc.collect()
    assert bytes_of(home) == bytes_of(origin / "home")


def test_a_later_format_is_refused_with_its_wal(home: Path) -> None:
    """A home of a later release whose process was killed: what lies in its WAL stays there."""
    db = apsw.Connection(str(home / "log.db"))
    db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    before = bytes_of(home)
    copy = home.parent / "copy"
    copy.mkdir()
    for name in ("log.db", "log.db-wal"):
        (copy / name).write_bytes(before[name])
    with pytest.raises(Refused) as told:
        SqliteLog(copy)
    assert told.value.code == "format"
    del told
    gc.collect()
    db.close()
    assert bytes_of(copy) == {name: before[name] for name in ("log.db", "log.db-wal")}
