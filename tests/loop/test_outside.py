"""loop: a model in C, and one that another server answers: trained, released, served, killed, verified."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.app.append import append
from penstock.app.home import open_home
from penstock.app.pipeline import load
from penstock.app.system import System, decide
from penstock.app.train import carry_out
from penstock.record.codec import moment
from penstock.record.decisions import Decision
from penstock.release.registry import registry
from tests.faults.served import PIPELINE as REMOTE
from tests.faults.served import prepare
from tests.loop.test_up import Up, penstock

EXAMPLES = Path(__file__).parents[2] / "examples" / "programs"
HOUR_MS = 3_600_000
Begin = Callable[[Path, Path], Up]

ELSEWHERE = '''
"""Scored by another server."""
from datetime import datetime

from penstock import Endpoint, Event, Pipeline, better, every, key, source, steps


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float


ask = source(Ask, id="ask_id", time="at")
yes = source("yes", key="ask_id", time="at")

none = ask.x * 0.0
no_more = ask.x * 0.0
above = ask.x * 1.0


def fit(data):
    return Endpoint("URL", model="served", ASKED)


there = Pipeline(
    request=ask, label=yes, wait="12h", features=[FEATURES], fit=fit,
    train=every("3650d", at_least=100), gate=better("log_loss"), release=steps(),
)
'''


def trained(folder: Path, path: Path, model: str, columns: tuple[str, ...]) -> Path:
    """A home whose model's first version is champion. A true label mostly follows where the first column is
    above 0."""
    home, file = open_home(folder, create=True), load(path)

    def train(order: Any) -> Any:
        return carry_out(order, home.log, home.blobs, time.perf_counter)

    system = System(file, home.log, home.blobs, home.path, time.perf_counter, train, sync=False)
    plan = file.plan(model)
    request, label = plan.pipeline.request, plan.label.source
    chance, end_ms = random.Random(3), time.time_ns() // 10**6
    start_ms = end_ms - 400 * HOUR_MS
    system.deploy(start_ms)
    for i in range(160):
        at_ms = start_ms + i * 600_000
        row = {request.id: f"h{i}", request.key: f"k{i % 5}", "at": moment(at_ms)}
        row |= {name: chance.gauss(0, 1) for name in columns}
        append(file, home.log, request.topic, [row], now_ms=at_ms, sync=False)
        if row[columns[0]] + chance.gauss(0, 0.7) > 0:
            truth = {label.key: f"h{i}", "at": moment(at_ms + 1000)}
            append(file, home.log, label.topic, [truth], now_ms=at_ms, sync=False)
    for t_ms in (end_ms - 2, end_ms - 1):
        system.tick(t_ms)
        system.drain()
    decide(home.log, Decision(model, "train", "test", "", end_ms))
    for _ in range(2):
        system.tick(end_ms)
        system.drain()
    decide(home.log, Decision(model, "promote", "test", "", end_ms, 1))
    system.drain()
    assert system.champion(model) is not None
    system.save()
    system.parts.models.close()
    home.log.close()
    return home.path


@pytest.fixture
def up() -> Iterator[Begin]:
    """Brings a home's file up, for as long as the test goes."""
    with contextlib.ExitStack() as ending:

        def begin(home: Path, path: Path) -> Up:
            one = Up(home, file=path)
            ending.callback(one.kill)
            return one

        yield begin


def version(home: Path, model: str) -> Any:
    """Its first version's record."""
    log = open_home(home).log
    found = registry(log).models[model].versions[1]
    log.close()
    return found


def children(pid: int, name: str) -> list[int]:
    """The processes below a process that run a file of this name."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text() if entry.name.isdigit() else ""
            if stat and int(stat.rpartition(")")[2].split()[1]) == pid:
                found += [int(entry.name)] if name.encode() in (entry / "cmdline").read_bytes() else []
        except OSError:
            continue
    return found


def test_a_program_is_a_model_like_any_other(tmp_path: Path, up: Begin) -> None:
    """It passes the loop by its digest; killed, it is begun again; every score comes out the same again."""
    folder = Path(shutil.copytree(EXAMPLES, tmp_path / "file"))
    path, compiler = folder / "pipeline.py", shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: cc")
    subprocess.run([compiler, "-o", folder / "linear", folder / "linear.c", "-lm"], check=True)
    home = trained(tmp_path / "home", path, "late", ("weight", "distance"))
    assert version(home, "late").form_kind == "program"
    here = up(home, path)
    row = {"depot": "d", "weight": 2.0, "distance": None}
    high = here.client.post("/models/late", json=row).json()["score"]
    low = here.client.post("/models/late", json={**row, "weight": -2.0}).json()["score"]
    assert 0 < low < 0.2 < 0.8 < high < 1
    waits = []
    for _ in range(15):
        began = time.monotonic()
        said = here.client.post("/models/late", json=row)
        waits.append(time.monotonic() - began)
        assert said.status_code == 200
    assert statistics.median(waits) < 0.04, "who is scored apart waits for nobody's hurry"
    processes = children(here.process.pid, "/model")
    assert len(processes) == 2  # one is asked, one is to spare
    for process in processes:
        os.kill(process, signal.SIGKILL)
    many = here.client.post("/models/late", json=[{**row, "weight": float(i)} for i in range(-3, 4)])
    scores = [one["score"] for one in many.json()]
    assert scores == sorted(scores) and len(set(scores)) == 7
    assert here.close() == 0 and children(here.process.pid, "/model") == []
    done = penstock("verify", "--home", str(home))
    assert done.returncode == 0 and done.stdout == "verify: 24 predictions, 0 unequal\n", done
    assert penstock("rebuild", "late@v1", "--home", str(home)).returncode == 0


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Another server of this house."""
    up = Up(prepare(tmp_path_factory.mktemp("remote")), "--max-lag", "0", file=REMOTE)
    yield up
    up.kill()


@pytest.mark.parametrize(
    ("asked", "features"),
    [
        ("protocol='v2', output='score'", "ask.x, none, no_more, above"),
        ("protocol='tensorflow', columns=['x', 'who'], output='score'", "ask.x, ask.who"),
    ],
)
def test_another_server_answers(asked: str, features: str, remote: Up, tmp_path: Path, up: Begin) -> None:
    """By the protocols that it speaks; what came from there is on our log, and verify says what it cannot compare."""
    path = tmp_path / "there.py"
    text = ELSEWHERE.replace("URL", str(remote.client.base_url)).replace("ASKED", asked)
    path.write_text(text.replace("FEATURES", features))
    home = trained(tmp_path / "home", path, "there", ("x",))
    assert version(home, "there").form_kind == "elsewhere"
    here = up(home, path)
    rows = [{"who": "w", "x": float(i)} for i in (-2, 0, 2)]
    said = here.client.post("/models/there", json=rows).json()
    scores = [one["score"] for one in said]
    assert scores == sorted(scores) and 0 < scores[0] < 0.3 < 0.7 < scores[2] < 1
    assert here.close() == 0
    told = json.loads(penstock("verify", "--home", str(home), "--json").stdout)
    assert told == {"predictions": 3, "unequal": [], "elsewhere": 3}


def test_a_server_that_is_away(tmp_path: Path, remote: Up, up: Begin) -> None:
    """That is said at once, to each request; then it is left alone for a while. Our answers stand as they were."""
    path = tmp_path / "there.py"
    text = ELSEWHERE.replace("URL", str(remote.client.base_url)).replace("ASKED", "columns=['x', 'who']")
    path.write_text(text.replace("FEATURES", "ask.x, ask.who"))
    home = trained(tmp_path / "home", path, "there", ("x",))
    here = up(home, path)

    def ask(id: str) -> httpx.Response:
        return here.client.post("/models/there", json={"ask_id": id, "who": "w", "x": 1.0})

    before = ask("a").json()
    assert ask("b").status_code == 200
    remote.kill()
    began = time.monotonic()
    said = [ask(f"c{i}") for i in range(5)]
    assert {one.status_code for one in said} == {503} and time.monotonic() - began < 4
    assert "model_away" in said[0].text and "model_rests" in said[-1].text
    assert ask("a").json() == before
    assert here.close() == 0
    done = penstock("verify", "--home", str(home))
    assert done.returncode == 0 and "of 2 another server made the score" in done.stdout, done
