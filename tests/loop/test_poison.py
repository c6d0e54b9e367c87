"""loop: a record that no stage could take, a mended file, and the record brought back: the books still balance."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import penstock.predict.refold
import penstock.predict.verify
import penstock.stage
from penstock.app.append import append
from penstock.app.dead import again, letters
from penstock.app.home import Books, Home, Views, open_home
from penstock.app.pipeline import File, load, load_text
from penstock.app.system import System
from penstock.app.worker import in_process
from penstock.cli import main
from penstock.record.codec import moment, pack
from penstock.record.decisions import Outcome, outcomes, predictions, read
from penstock.record.record import START, Draft

PIPELINE = Path(__file__).parents[1] / "crash" / "pipeline.py"
MENDED = PIPELINE.read_bytes().replace(b"z: float | None", b"z: float | None = None")


def drained(home: Home, file: File, end_ms: int) -> None:
    """Bring a file up on the log and run it to its end."""
    system = System(file, home.log, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    system.deploy(end_ms)
    for k in range(3):
        system.tick(end_ms + k)
        system.drain()
    system.save()


def ask(home: Home, file: File, id: str, at_ms: int) -> None:
    """A good request of the same entity."""
    row = {"ask_id": id, "who": "who-1", "at": moment(at_ms), "x": 0.5, "z": None}
    assert append(file, home.log, "ask", [row], now_ms=at_ms).appended == 1


@pytest.fixture
def buried(played: Path, tmp_path: Path) -> tuple[Home, int, int]:
    """A home with a request that has no z, buried, then brought back under a mended file; its place, the time."""
    folder = tmp_path / "home"
    shutil.copytree(played, folder)
    home, file = open_home(folder), load(PIPELINE)
    at_ms = home.log.read(["ask"], START, limit=10**6)[0][-1].time_ms + 1000
    value = {"ask_id": "poison", "who": "who-1", "at": moment(at_ms), "x": 3.0}
    place = home.log.append([Draft("ask", "who-1", at_ms, pack(value), "poison")]).places[0]
    ask(home, file, "between", at_ms + 1000)
    drained(home, file, at_ms + 2000)
    assert [(one.stage, one.code, one.position) for one in letters(home.log)] == [
        (name, "missing_column", place) for name in ("monitor.agree", "outcome.agree", "predict.agree")
    ]
    assert home.log.find(predictions("agree"), f"predict.agree:ask:{place}:0") is None
    mended = load_text(MENDED, str(PIPELINE))
    assert again(home.log, [f"ask@{place}"], "me", at_ms + 3000)[0].position == place
    ask(home, mended, "after", at_ms + 4000)
    drained(home, mended, at_ms + 5000)
    return home, place, at_ms


def test_what_comes_back_keeps_its_id(buried: tuple[Home, int, int]) -> None:
    """It is answered once under the id of its own place, gets its outcome, and counts from the word on."""
    home, place, at_ms = buried
    assert letters(home.log) == []
    mended = load_text(MENDED, str(PIPELINE))
    books = Books(mended, home.log, home.blobs)
    found = books.trace(f"predict.agree:ask:{place}:0")
    assert found.prediction.request == "poison" and found.prediction.o.n > place
    seen = {id: books.trace(id).prediction.values[2] for id in ("between", "poison", "after")}
    assert seen["after"] == seen["between"] + 2  # both of the others lie below it
    assert seen["poison"] == seen["between"]  # its own time is before the other's
    assert again(home.log, [], "me", at_ms) == []
    append(mended, home.log, "yes", [{"ask_id": "poison", "at": moment(at_ms + 6000)}], now_ms=at_ms)
    drained(home, mended, at_ms + 7000)
    known = [read(r, Outcome) for r in home.log.read([outcomes("agree")], START, limit=10**6)[0]]
    assert [(one.label, len(one.said) > 0) for one in known if one.request == "poison"] == [(1.0, True)]
    ids = [r.id for r in home.log.read([predictions("agree")], START, limit=10**6)[0]]
    assert len(set(ids)) == len(ids)


def test_every_prediction_can_be_made_again(
    buried: tuple[Home, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the old file and the mended one; a replay that forgets what was buried is found out."""
    home, _, _ = buried
    mended = load_text(MENDED, str(PIPELINE))
    assert Books(mended, home.log, home.blobs).verify("agree").unequal == []
    with monkeypatch.context() as hurried:  # values are not kept: each request is read again from the log
        hurried.setattr(penstock.predict.refold, "KEPT", 0)
        assert Books(mended, home.log, home.blobs).verify("agree").unequal == []
    real = penstock.stage.folded

    def forgetful(log: Any, name: str, topics: Any, *args: Any, **options: Any) -> Any:
        return real(log, f"other than {name}", topics, *args, **options)

    monkeypatch.setattr(penstock.predict.verify, "folded", forgetful)
    assert Books(mended, home.log, home.blobs).verify("agree").unequal != []


def test_the_verb_lists_and_counts(buried: tuple[Home, int, int], capsys: pytest.CaptureFixture[str]) -> None:
    """`penstock dead` and `penstock status` tell of it; a place without a dead letter is refused."""
    home, _, at_ms = buried
    place = home.log.append([Draft("ask", "who-1", at_ms, b"\xc1", "worse")]).places[0]
    drained(home, load_text(MENDED, str(PIPELINE)), at_ms + 9000)
    status = Views(home.file(), home.log, home.blobs).status()
    counted = {
        tuple(c["labels"].values()): c["value"] for c in status["counters"] if c["name"] == "dead_letters"
    }
    assert counted["predict.agree", "missing_column"] == 1 and counted["predict.agree", "malformed"] == 1
    where = ["--home", str(home.path)]
    assert main(["dead", *where, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {one["position"] for one in told} == {place} and len(told) == 3
    assert main(["dead", *where, "--again", "ask@1"]) == 2
    assert main(["dead", *where, "--again"]) == 0
    drained(home, load_text(MENDED, str(PIPELINE)), at_ms + 10_000)
    again_dead = letters(home.log)
    assert len(again_dead) == 3 and all(one.o > one.position == place for one in again_dead)
