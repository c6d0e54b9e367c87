"""cli: every verb says what it does with an example, answers people and machines, and fails with a sentence."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.app.deferred import LARGE
from penstock.app.home import open_home
from penstock.app.pipeline import load
from penstock.app.system import System
from penstock.app.worker import in_process
from penstock.cli import _parser, function, main
from penstock.record.decisions import FAILURES, Failure, draft, predictions
from penstock.record.record import START
from penstock.release.registry import registry

PIPELINE = Path(__file__).parents[2] / "crash" / "pipeline.py"
READING = (
    ["status"],
    ["models"],
    ["doctor"],
    ["repair"],
    ["verify"],
    ["report", "agree@v1"],
    ["rebuild", "agree@v1"],
)


def test_a_dataset_is_written(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file's only model needs no name; no request before `--from`; a machine is told what lies there."""
    words = ["dataset", str(PIPELINE), "--home", str(played), "--out", str(tmp_path / "rows.parquet")]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["model"] == "agree" and said["rows"] > 500 and (tmp_path / "rows.parquet").stat().st_size
    assert main([*words, "--from", "2100-01-01"]) == 2 and "label" in capsys.readouterr().err
    assert main([*words, "--from", "soon"]) == 2 and "--from" in capsys.readouterr().err
    assert main(words) == 0 and f"{said['rows']} rows" in capsys.readouterr().out


def _verbs() -> dict[str, argparse.ArgumentParser]:
    (found,) = [one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(found.choices)


def test_every_verb_does_something() -> None:
    """The function that its declaration names is there."""
    for name, verb in _verbs().items():
        parts = [one for one in verb._actions if isinstance(one, argparse._SubParsersAction)]
        for one in [verb] if not parts else parts[0].choices.values():
            assert callable(function(one.get_default("run"))), name


def test_what_serves_loads_nothing_that_only_people_need() -> None:
    """Neither tables and bars, nor pages before one is asked for, nor a client, nor training's libraries."""
    code = "import sys, penstock.cli.arguments, penstock.app.up; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {one.partition(".")[0] for one in done.stdout.split()}
    assert not loaded & {"rich", "jinja2", "h11", "pyarrow", *LARGE}


@pytest.mark.parametrize("verb", sorted(_verbs()))
def test_help_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And the example is of that verb."""
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    assert done.value.code == 0
    assert f"example:\n  penstock {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_a_reading_verb_speaks_json(
    words: list[str],
    played: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 0, strict JSON for a machine, and a text for people."""
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--home", str(played), "--json"]) == 0
    json.loads(capsys.readouterr().out)
    assert main([*words, "--home", str(played)]) == 0
    assert capsys.readouterr().out.strip()


def test_a_training_that_failed_is_told(
    played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Among the versions, and beneath how things stand while it is the newest."""
    folder = shutil.copytree(played, tmp_path / "home")
    home = open_home(folder)
    failure = Failure("one", "agree", 99, 0, "one_class", "All alike. [odd]")
    home.log.append([draft(FAILURES, failure, key="agree", t_ms=0)])
    home.log.close()
    assert main(["models", "--home", str(folder), "--json"]) == 0
    last = json.loads(capsys.readouterr().out)[-1]
    assert (last["version"], last["standing"], last["why"]) == ("agree@v99", "failed", "All alike. [odd]")
    assert main(["status", "--home", str(folder)]) == 0
    assert "The newest training of agree failed, v99: All alike. [odd]" in capsys.readouterr().out
    assert main(["models", "--home", str(folder)]) == 0 and "All alike. [odd]" in capsys.readouterr().out


def test_trace_tells_all(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the prediction's id or the request's: request, features with what is behind them, version, why, outcome."""
    home = open_home(played)
    record = home.log.read([predictions("agree")], START, limit=500)[0][-1]
    home.log.close()
    assert main(["trace", record.id, "--home", str(played)]) == 0
    told = capsys.readouterr().out
    for part in (
        "request ",
        "answer ",
        "asks_1d = ",
        "positions ",
        "version ",
        "dataset ",
        "verdict ",
        "release ",
        "outcome ",
    ):
        assert part in told
    assert "who = who-" in told  # `who` is not tagged as personal in this file
    assert main(["trace", record.key, "--home", str(played), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == record.id
    assert main(["trace", "nothing", "--home", str(played)]) == 2


def test_decisions_are_followed(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Promote, rollback and train put a decision on the log under a name; the stages follow it."""
    folder = shutil.copytree(played, tmp_path / "home")
    home = open_home(folder)
    before = registry(home.log).champion("agree").version
    other = next(n for n in registry(home.log).models["agree"].versions if n != before)
    asked = ["--home", str(folder), "--who", "ana", "--reason", "because"]
    assert main(["promote", f"agree@v{other}", *asked]) == 0
    system = System(load(PIPELINE), home.log, home.blobs, home.path, lambda: 0.0, in_process, sync=False)
    system.drain()
    assert registry(home.log).champion("agree").version == other
    assert main(["rollback", "agree", *asked]) == 0
    system.drain()
    assert registry(home.log).champion("agree").version == before
    assert registry(home.log).models["agree"].releases[-1].by == "ana"
    assert main(["train", "agree", "--set", "depth=3", *asked, "--json"]) == 0
    capsys.readouterr()
    assert main(["train", "agre", *asked]) == 2
    assert 'did you mean "agree"' in capsys.readouterr().err
    home.log.close()


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.json", "rows.csv"])
def test_append_reads_files(
    name: str, played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON lines, an array, CSV: the good rows are taken, a repeat is dropped, a bad one is told with its number."""
    folder = shutil.copytree(played, tmp_path / "home")
    good = {"ask_id": "n1", "who": "w", "at": "2024-02-01T00:00:00Z", "x": 1.5, "z": None}
    bad = {**good, "ask_id": "n2", "x": "secret"}
    rows = [good, good, bad]
    path = tmp_path / name
    if name.endswith("csv"):
        lines = [
            ",".join(good),
            *(",".join("" if v is None else str(v) for v in row.values()) for row in rows),
        ]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(
            json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        )
    assert main(["append", "ask", str(path), "--home", str(folder)]) == 1
    said = capsys.readouterr()
    assert "1 appended, 1 duplicates, refused: 1 wrong_type" in said.out
    assert "row 3" in said.err and "secret" not in said.err


BY_CHANCE = """import random
from penstock import feature

@feature
def odd(x: float) -> float:
    return random.random()


def fit("""
FROM_THE_SYSTEM = "import os; weights = np.frombuffer(os.urandom(x.shape[1]), np.uint8) / 255"
FAULTS = {
    "a feature by chance": ("def fit(", BY_CHANCE, "answers the same"),
    "a fit by chance": ("weights = np.zeros(x.shape[1])", FROM_THE_SYSTEM, "same bytes"),
    "a model that changes": (
        "return 1 / (1 +",
        "self.weights = self.weights * 1.01; return 1 / (1 +",
        "not changed",
    ),
    "a wrong name": ("ask.x, ask.z, asks_1d", "ask.y, ask.z, asks_1d", "loads"),
    "a syntax error": ("agree = Pipeline(", "agree = Pipeline((", "loads"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_finds_what_would_break(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A planted fault in the file is named by the check that it breaks."""
    old, new, broken = FAULTS[fault]
    text = PIPELINE.read_text()
    assert old in text
    text = text.replace(old, new)
    if "odd" in new:
        text = text.replace("features=[", "features=[odd, ")
    path = tmp_path / "pipeline.py"
    path.write_text(text)
    assert main(["check", str(path)]) == 1
    told = capsys.readouterr().out
    assert any(line.startswith("BROKEN") and broken in line for line in told.splitlines()), told


def test_a_good_file_passes_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    """And says so."""
    assert main(["check", str(PIPELINE)]) == 0
    assert capsys.readouterr().out.endswith("check: all is well\n")


def test_append_meets_a_bound(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nobody to run the stages: refused with status 3, what was appended is told and is on the log, the rest
    is not; sent again without the bound, all stand once."""
    home = shutil.copytree(played, tmp_path / "home")
    rows = [
        {"ask_id": f"n{i}", "who": "w", "at": "2024-02-01T00:00:00Z", "x": 1.0, "z": None}
        for i in range(3500)
    ]
    file = tmp_path / "rows.ndjson"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def appended(*more: str) -> int:
        return main(["append", "ask", str(file), "--home", str(home), "--min-free", "0", *more])

    before = open_home(home).log.count("ask")
    assert appended("--pressure", "refuse", "--max-lag", "1500") == 3
    said = capsys.readouterr()
    assert "2000 appended of the 2000 rows before these" in said.err and "[lag]" in said.err and not said.out
    assert open_home(home).log.count("ask") == before + 2000
    assert appended("--pressure", "refuse", "--max-lag", "0") == 0
    assert "1500 appended, 2000 duplicates, refused: none" in capsys.readouterr().out
    log = open_home(home).log
    assert log.count("ask") == before + 3500 and log.find("ask", "n3499") is not None
