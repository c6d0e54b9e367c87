"""cli: a repair says what it would do, does it when asked to, and tells people and machines what became of it."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest

from penstock.app.place import Remembered, remember
from penstock.cli import main
from penstock.log.sqlite import SqliteLog
from penstock.record.record import Draft


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A small log of two batches."""
    log = SqliteLog(tmp_path)
    for word in ("one", "two"):
        log.append([Draft("t", "k", 0, b"v", f"{word}-{n}") for n in range(3)])
    log.close()
    return tmp_path


def change(home: Path, sql: str) -> None:
    """Change a log's tables behind its back."""
    db = apsw.Connection(str(home / "log.db"))
    db.execute(sql)
    db.close()


def said(home: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The status and the text of `penstock repair`."""
    status = main(["repair", "--home", str(home), *words])
    return status, capsys.readouterr().out


def test_a_whole_log_has_nothing_to_repair(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0, for people and machines."""
    assert said(home, capsys)[0] == 0
    status, text = said(home, capsys, "--json", "--accept-loss")
    assert (status, json.loads(text)["found"]) == (0, [])


def test_nothing_is_done_unasked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is lost, `--yes` does it; before, it is said what would be done, with status 1."""
    change(home, "DELETE FROM ident")
    status, text = said(home, capsys)
    assert status == 1
    assert "--yes repairs the log; nothing is lost" in text
    assert said(home, capsys, "--yes")[0] == 0
    assert said(home, capsys)[0] == 0
    log = SqliteLog(home)
    assert log.append([Draft("t", "k", 0, b"v", "one-2")]).repeats == [0]
    log.close()


def test_a_loss_must_be_accepted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--yes` alone loses nothing; the text names topic, number and positions."""
    change(home, "UPDATE batch SET crc = crc + 1 WHERE n = 3 AND ahead = 0")
    before = (home / "log.db").read_bytes()
    status, text = said(home, capsys, "--yes")
    assert status == 1
    assert "t: 3 records at positions 0 to 2" in text
    assert (home / "log.db").read_bytes() == before
    status, text = said(home, capsys, "--accept-loss", "--json")
    told = json.loads(text)
    assert (status, told["done"], told["loses"]) == (0, True, True)
    assert (home / told["kept"] / "log.db").exists()
    assert main(["doctor", "--home", str(home), "--json"]) in (0, 1)
    assert not [one for one in json.loads(capsys.readouterr().out)["problems"] if "@" in one]


def test_a_mirror_is_made_anew_instead(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log of a home that follows a log on Kafka is only a copy: it says so, and what to do."""
    change(home, "DELETE FROM ident")
    (home / "log.db").rename(home / "aside")
    remember(home, Remembered("kafka://127.0.0.1:1"))
    (home / "aside").rename(home / "log.db")
    assert main(["repair", "--home", str(home), "--accept-loss"]) == 2
    assert "journal" in capsys.readouterr().err


def test_there_must_be_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is none, none is made."""
    assert main(["repair", "--home", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
    assert "no log" in capsys.readouterr().err
