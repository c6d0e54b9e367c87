"""crash: the whole process killed at twenty random moments ends where an undisturbed one ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.app.home import Books, Home, open_home
from penstock.app.pipeline import load
from penstock.record.codec import unpack
from penstock.record.decisions import Outcome, Prediction, outcomes, predictions, read
from penstock.record.record import START, Record
from penstock.release.registry import registry

HERE = Path(__file__).parent
SEED = 11
KILLS = 20
MEASURED = {"train_s", "evaluation", "p99_s", "latency_s", "size_bytes"}
"""Fields that a clock fills: the only ones that two runs may differ in."""


def play(folder: Path, *options: str) -> subprocess.Popen[str]:
    """A process that plays the history on from where the home stands."""
    command = [sys.executable, str(HERE / "player.py"), str(folder), str(SEED), *options]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> None:
    """Let it come to its end."""
    out, _ = process.communicate(timeout=120)
    assert out.splitlines()[-1] == "done"


def disturbed(folder: Path, chance: random.Random, *options: str) -> int:
    """Kill the process some periods and some milliseconds after it has started to play; says the periods."""
    process = play(folder, *options)
    assert process.stdout is not None
    lines, wanted = 0, chance.randrange(1, 9)
    for line in process.stdout:
        lines += 1
        if line == "done\n" or lines == wanted:
            break
    time.sleep(chance.random() * 0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return lines


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Home]:
    """A home that was played undisturbed, and one whose process was killed twenty times."""
    folder = tmp_path_factory.mktemp("crash")
    finish(play(folder / "calm"))
    chance = random.Random(SEED)
    killed = sum(disturbed(folder / "rough", chance) > 0 for _ in range(KILLS))
    assert killed == KILLS
    finish(play(folder / "rough"))
    return open_home(folder / "calm"), open_home(folder / "rough")


def every(home: Home, topic: str) -> list[Record]:
    """All records of a topic."""
    return home.log.read([topic], START, limit=1_000_000)[0]


def plain(value: Any) -> Any:
    """A value as builtins, without what a clock has measured."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key not in MEASURED}
    return [plain(part) for part in value] if isinstance(value, list) else value


def test_the_registry_is_the_same(homes: tuple[Home, Home]) -> None:
    """The same versions by digest, the same verdicts, the same releases."""
    calm, rough = (plain(msgspec.to_builtins(registry(home.log).models)) for home in homes)
    assert calm == rough
    assert len(calm["agree"]["versions"]) >= 3
    assert sum(one["step"] == "champion" for one in calm["agree"]["releases"]) >= 2


def test_the_outcomes_are_the_same(homes: tuple[Home, Home]) -> None:
    """Record by record, under the same ids at the same positions."""
    calm, rough = ([(r.id, r.position, r.value) for r in every(home, outcomes("agree"))] for home in homes)
    assert calm == rough and len(calm) > 1000


def test_the_feature_state_is_the_same(homes: tuple[Home, Home]) -> None:
    """The answering stage's saved state, byte for byte: folds and route."""
    calm, rough = (home.log.load("predict.agree") for home in homes)
    assert calm.state == rough.state and calm.position == rough.position and len(calm.state) > 1000


def test_each_request_is_answered_once(homes: tuple[Home, Home]) -> None:
    """No request is served by two versions; none after the first champion goes without an answer."""
    calm, rough = (
        [plain(msgspec.to_builtins(read(r, Prediction))) for r in every(home, predictions("agree"))]
        for home in homes
    )
    assert calm == rough
    served = Counter(one["request"] for one in rough if one["served"])
    assert set(served.values()) == {1}
    asked = {r.id for r in every(homes[1], "ask") if r.position >= min(one["position"] for one in rough)}
    assert asked == set(served)
    known, kept = ([(r.id, r.position, r.value) for r in every(home, "ask")] for home in homes)
    assert known == kept and len(kept) == 6 * 24 * 8
    assert all(unpack(r.value, Outcome).request for r in every(homes[1], outcomes("agree")))


def test_every_prediction_can_be_made_again(homes: tuple[Home, Home]) -> None:
    """After twenty kills verify finds nothing unequal."""
    home = homes[1]
    found = Books(load(HERE / "pipeline.py"), home.log, home.blobs).verify("agree")
    assert found.predictions > 500 and found.unequal == []


def test_a_torn_commit_is_caught(homes: tuple[Home, Home], tmp_path: Path) -> None:
    """The harness finds a planted bug: outputs and position in two writes."""
    chance = random.Random(SEED)
    for _ in range(6):
        disturbed(tmp_path / "torn", chance, "planted")
    home, calm = open_home(tmp_path / "torn"), homes[0]
    asked = home.log.count("ask")
    torn = [
        (r.position, r.key)
        for r in home.log.read(["ask", predictions("agree"), outcomes("agree")], START, limit=10**6)[0]
    ]
    home.log.close()
    right = [
        (r.position, r.key)
        for r in calm.log.read(["ask", predictions("agree"), outcomes("agree")], START, limit=len(torn))[0]
    ]
    assert asked > 50 and torn != right
