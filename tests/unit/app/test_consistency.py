"""app: the comparison runs with the other stages, holds nobody back, tells its report, and can be left out."""

from __future__ import annotations

import json
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.app.append import append
from penstock.app.home import Books, Home, inputs_of, open_home, pressure
from penstock.app.parts import Parts
from penstock.app.pipeline import load, load_text
from penstock.app.pressure import Bounds
from penstock.app.processes.crew import chosen
from penstock.app.system import System, own
from penstock.app.worker import in_process
from penstock.cli import main
from penstock.dataset.kept import Retained
from penstock.feature import Fold
from penstock.log.memory import MemoryBlob, MemoryLog
from penstock.predict.consistency import report
from penstock.record.codec import millis, moment
from penstock.record.decisions import ALERTS, RETENTION, Alert, draft, predictions, read
from penstock.record.errors import Broken, DefinitionError
from penstock.record.record import Draft, Position
from penstock.stage import Running, every

PIPELINE = Path(__file__).parents[2] / "crash" / "pipeline.py"


def said(share: str) -> bytes:
    """The pipeline file with a share of keys to compare."""
    return PIPELINE.read_text().replace("request=ask,", f"request=ask, consistency={share},").encode()


@pytest.fixture
def home(played: Path, tmp_path: Path) -> Home:
    """A home with a history, to change."""
    return open_home(Path(shutil.copytree(played, tmp_path / "home")))


def test_a_whole_loop_is_compared(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """After eight days every served vector was folded again; the verb says so by home and by file, and ends with 0."""
    count = home.log.count(predictions("agree"))
    home.log.close()
    for where in ([str(home.path)], [str(PIPELINE), "--home", str(home.path)]):
        assert main(["consistency", *where]) == 0
        assert f"{count:,} vectors compared" in capsys.readouterr().out
    assert main(["consistency", str(home.path), "--json", "--model", "agree"]) == 0
    told = json.loads(capsys.readouterr().out)["agree"]
    assert [(one["name"], one["equal"]) for one in told["features"]] == [
        (name, count) for name in ("x", "z", "asks_1d", "usual_x")
    ]
    assert main(["consistency", str(home.path), "--model", "agre"]) == 2


def test_a_fold_damaged_in_memory_is_told(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The answering stage's fold has lost somebody's events: the next answer to him is an alert, and the verb ends
    with 1; all that was served before stays equal."""
    file = load(PIPELINE)
    system = System(file, home.log, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    system.drain()
    last = moment(max(record.time_ms for record in every(home.log, ["ask"])))
    fold: Fold = next(iter(system.predicting[0].state.folds.values()))
    who = max(fold.tables[0].series, key=lambda one: len(fold.tables[0].series[one]))
    for table in fold.tables:
        del table.series[who]
    at = last + timedelta(minutes=5)
    row = {"ask_id": "now", "who": who, "at": at, "x": 1.0, "z": 0.5}
    append(file, home.log, "ask", [row], now_ms=millis(at))
    system.drain()
    system.save()
    alerts = [one for one in (read(r, Alert) for r in every(home.log, [ALERTS])) if "consistency" in one.rule]
    place = home.log.find("ask", "now")
    assert place is not None
    assert sorted(one.rule for one in alerts) == [
        f"consistency: {name} of who {who} at ask@{place.position}"
        for name in ("asks_1d over 1d", "usual_x over 2d")
    ]
    wrong = {line.name: line for line in report(Books(file, home.log, home.blobs).consistency("agree").state)}
    assert [name for name, line in wrong.items() if line.equal < line.compared] == ["asks_1d", "usual_x"]
    home.log.close()
    assert main(["consistency", str(home.path)]) == 1
    assert "standing: consistency: asks_1d" in capsys.readouterr().out


def test_it_goes_on_where_it_was(home: Home) -> None:
    """A new process takes its state; nothing is compared twice, and none is left out."""
    file = load(PIPELINE)
    before = Books(file, home.log, home.blobs).consistency("agree").state.sets
    system = System(file, home.log, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    system.drain()
    system.save()
    after = Books(file, home.log, home.blobs).consistency("agree")
    assert after.state.sets == before and after.position == system.folding[-1].position
    count = home.log.count(predictions("agree"))
    home.log.close()
    assert sum(one.vectors for one in after.state.sets.values()) == count and after.state.left_out == {}


def test_on_an_old_log_it_begins_at_the_start(home: Home) -> None:
    """A log from before there was a comparison is compared from its first prediction on."""
    log, fresh = home.log, MemoryLog()
    fresh.append([Draft(r.topic, r.key, r.time_ms, r.value, r.id) for r in every(log, log.topics())])
    (stage,) = Parts(load(PIPELINE), fresh, home.blobs, time.perf_counter).posts(1)["consistency.agree"]
    running: Running[Any] = Running(stage, fresh)
    while running.advance() is not None:
        pass
    assert sum(one.vectors for one in running.state.sets.values()) == log.count(predictions("agree"))
    assert all(line.equal == line.compared for line in report(running.state))
    log.close()


@pytest.mark.parametrize("ran_before", [True, False])
def test_where_retention_was_ahead_it_begins_at_the_end(home: Home, ran_before: bool) -> None:
    """It was off for a while, or is new, and what it would read is gone: it goes on where the log ends, silent,
    and compares what comes."""
    log, fresh = home.log, MemoryLog()
    fresh.append([Draft(r.topic, r.key, r.time_ms, r.value, r.id) for r in every(log, log.topics())])
    file, off = load(PIPELINE), load_text(said("0"), str(PIPELINE))
    others = System(off, fresh, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    others.drain()
    others.save()
    (stage,) = Parts(file, fresh, home.blobs, time.perf_counter).posts(1)["consistency.agree"]
    compared = 0
    if ran_before:
        early: Running[Any] = Running(stage, fresh)
        early.advance()
        early.save()
        compared = sum(one.vectors for one in early.state.sets.values())
    asks = list(every(fresh, ["ask"]))
    gone = next(one for one in asks if one.time_ms > asks[-1].time_ms - 3 * 86_400_000)
    taken = Retained("ask", Position(n=gone.position), gone.time_ms, 1, gone.time_ms)
    fresh.append([draft(RETENTION, taken, key="ask", t_ms=gone.time_ms)])
    fresh.drop("ask", Position(n=gone.position))
    if ran_before:
        with pytest.raises(Broken, match="not read yet"):
            Running(stage, fresh).advance()
    end = fresh.end()
    running = own(stage, fresh)
    assert running.position == end and sum(one.vectors for one in running.state.sets.values()) >= compared
    system = System(file, fresh, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    at = moment(asks[-1].time_ms)
    for i in range(20):
        row = {"ask_id": f"now-{i}", "who": f"who-{i}", "at": at + timedelta(minutes=i), "x": 1.0, "z": 0.5}
        append(file, fresh, "ask", [row], now_ms=0)
    before = sum(one.vectors for one in system.folding[-1].state.sets.values())
    system.drain()
    state = system.folding[-1].state
    assert sum(one.vectors for one in state.sets.values()) >= before + 20
    assert all(line.equal == line.compared for line in report(state))
    assert not any("consistency" in read(r, Alert).rule for r in every(fresh, [ALERTS]))
    log.close()


def test_one_that_lags_keeps_nobody_waiting(home: Home) -> None:
    """A turn of the folding stages takes all that is new to the others, and one batch of the comparison."""
    log, fresh = home.log, MemoryLog()
    fresh.append([Draft(r.topic, r.key, r.time_ms, r.value, r.id) for r in every(log, log.topics())])
    system = System(load(PIPELINE), fresh, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    for running in system.folding:
        running.batch = 50
    assert system.fold()
    left = {
        one.stage.name: sum(fresh.count(t, one.position) for t in one.stage.inputs) for one in system.folding
    }
    assert left.pop("consistency.agree") > 500 and max(left.values()) < 50
    log.close()


def test_it_can_be_left_out() -> None:
    """consistency=0 makes no stage; a share that is none is refused."""
    none = load_text(said("0"), "pipeline.py")
    assert "consistency.agree" not in inputs_of(none, MemoryBlob())
    assert "consistency.agree" not in Parts(none, MemoryLog(), MemoryBlob(), time.perf_counter).posts(1)
    assert "consistency.agree" in inputs_of(load_text(said("0.1"), "pipeline.py"), MemoryBlob())
    for wrong in ("1.5", "-1", "True + 1"):
        with pytest.raises(DefinitionError, match="share of the keys"):
            load_text(said(wrong), "pipeline.py")


def test_it_holds_nobody_back(home: Home) -> None:
    """Producers meet the lag of the stages that answer and learn; the comparison may be as far behind as it is."""
    file = load(PIPELINE)
    bounds = pressure(file, home, Bounds())
    assert set(bounds.lag(())) == {
        f"{kind}.agree" for kind in ("predict", "outcome", "monitor", "train", "release")
    } | {"gate"}
    assert home.log.stages()["consistency.agree"].position.n > 1000
    home.log.close()


def test_processes_may_run_it_alone() -> None:
    """`penstock run consistency` is that stage, and "all" has it."""
    posts = Parts(load(PIPELINE), MemoryLog(), MemoryBlob(), time.perf_counter).posts(2)
    assert chosen(["consistency"], posts) == {"consistency.agree"} <= chosen(["all"], posts)
    assert [len(posts[name]) for name in ("predict.agree", "consistency.agree")] == [2, 1]
