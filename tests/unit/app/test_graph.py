"""app: the diagram says what the stages do: who reads and who writes, in text, in JSON and as a picture."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from penstock.app.graph import diagrams, drawn, told, written
from penstock.app.home import open_home
from penstock.app.pipeline import load
from penstock.cli import main
from penstock.record.decisions import FAILURES, VERSIONS
from penstock.stage import every

PIPELINE = Path(__file__).parents[2] / "crash" / "pipeline.py"


def test_what_stages_write_is_what_the_diagram_says(played: Path) -> None:
    """On a log with a history each output's id names its stage: it wrote to its topics only, and the loop's to all."""
    home = open_home(played)
    wrote: dict[str, set[str]] = defaultdict(set)
    for record in every(home.log, home.log.topics()):
        kind = (
            "training"
            if record.topic in (VERSIONS, FAILURES)
            else record.id.partition(":")[0].partition(".")[0]
        )
        if kind in written("agree"):
            wrote[kind].add(record.topic)
    home.log.close()
    for kind, topics in written("agree").items():
        assert wrote[kind] <= set(topics), kind
        assert set(topics) - wrote[kind] <= {"dead", "refused", "failures", "alerts"}, kind


def test_what_is_read_is_what_the_stages_read() -> None:
    """Every topic has somebody who writes it, or comes from outside; every part reads something."""
    (one,) = diagrams(load(PIPELINE))
    made = {topic for part in one.parts for topic in part.writes}
    assert {topic for part in one.parts for topic in part.reads} == (made | set(one.outside)) - {
        "refused",
        "agree.profiles",
    }
    assert set(one.outside) == {"ask", "yes", "agree.vectors", "ticks", "again", "retractions", "decisions"}
    assert [part.name for part in one.parts if part.features] == [
        "predict.agree",
        "consistency.agree",
        "training",
    ]


def test_without_the_comparison_it_is_not_drawn(tmp_path: Path) -> None:
    """A pipeline that says consistency=0 has no such stage in its picture."""
    path = tmp_path / "pipeline.py"
    path.write_text(PIPELINE.read_text().replace("request=ask,", "request=ask, consistency=0,"))
    (one,) = diagrams(load(path))
    assert "consistency" not in told(one) and "consistency" not in drawn(one)


def test_the_verb_says_it_three_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text for people, JSON for machines, and a picture with every box and nothing from outside."""
    picture = tmp_path / "graph.svg"
    assert main(["graph", str(PIPELINE), "--svg", str(picture)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"-> agree\.predictions +-> .*outcome\.agree.*release\.agree", text)
    assert main(["graph", str(PIPELINE), "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    svg = picture.read_text()
    boxes = {part["name"] for part in one["parts"]} | {
        topic for part in one["parts"] for topic in part["writes"]
    }
    assert all(f">{name}</text>" in svg for name in boxes - {"dead"})
    assert svg.replace("http://www.w3.org/2000/svg", "").count("http") == 0 and "<script" not in svg
    assert main(["graph", str(PIPELINE), "--model", "agre"]) == 2
