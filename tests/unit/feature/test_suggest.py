"""feature: what is proposed compiles as it is printed, is new, and is bounded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.app.pipeline import load, load_text
from penstock.app.suggest import told
from penstock.feature.definition.suggest import source_text, suggest
from penstock.record.errors import DefinitionError

FLIGHTS = Path(__file__).parents[3] / "examples" / "flights" / "pipeline.py"
CRASH = Path(__file__).parents[2] / "crash" / "pipeline.py"


def pasted(path: Path, text: str, names: list[str], listed: str) -> str:
    """The file with proposals pasted behind its features, and all of them listed."""
    whole, (before, after) = path.read_text(), path.read_text().split("\ndef fit(", 1)
    assert listed in whole
    after = after.replace(listed, f"{listed}{', '.join(names)}, ", 1)
    return f"{before}\n{text}\n\ndef fit({after}"


PLACES = [(FLIGHTS, "tailnum", "features=[\n"), (CRASH, "who", "features=[")]


@pytest.mark.parametrize(("path", "entity", "listed"), PLACES)
def test_what_is_printed_runs_as_it_is(path: Path, entity: str, listed: str) -> None:
    """Each proposal is a new feature of the file once it is pasted; then there is none left."""
    pytest.importorskip("sklearn")
    file = load(path)
    (model,) = file.plans
    found = suggest(told(file, model), entity)
    text = pasted(path, source_text(found), [one.name for one in found], listed)
    grown = load_text(text.encode(), str(path))
    before, after = file.plan(model).features, grown.plan(model).features
    assert len(after.names) == len(before.names) + len(found)
    new = [str(after.meanings[one.name]) for one in found]
    assert len({*new, *map(str, before.meanings.values())}) == len(new) + len(before.meanings), (
        "no meaning twice"
    )
    assert suggest(told(grown, model), entity) == []


def test_what_it_proposes() -> None:
    """The rules, on a file of one number and one nullable one; what the file has is left out."""
    found = {one.name: one.text for one in suggest(told(load(CRASH), "agree"), "who")}
    assert found["ask_x_to_usual_by_who"] == (
        'ask_x_to_usual_by_who = ask.x / mean(ask.x, entity="who", window="7d")'
    )
    assert found["ask_7d_by_who"] == 'ask_7d_by_who = count(ask, entity="who", window="7d")'
    assert "ask_1d_by_who" not in found, "the file has it under another name"
    assert found["ask_hour"] == "ask_hour = ask.at.hour()"
    assert not any("yes" in text for text in found.values()), "the request's own truth"
    had = CRASH.read_text().replace("asks_1d = ", 'had = mean(ask.x, window="7d")\nasks_1d = ')
    file = load_text(had.replace("ask.z, asks", "ask.z, had, asks").encode(), "had.py")
    assert "ask_x_usual_by_who" not in {one.name for one in suggest(told(file, "agree"), "who")}


def test_depth() -> None:
    """Two goes through the plane's carrier; one does not."""
    pytest.importorskip("sklearn")
    near, far = (suggest(told(load(FLIGHTS), "late"), "tailnum", depth=depth) for depth in (1, 2))
    assert {one.name for one in near} < {one.name for one in far}
    assert "landing_late_tailnum_in_carrier" in {one.name for one in far}
    with pytest.raises(DefinitionError, match="tailnum"):
        suggest(told(load(FLIGHTS), "late"), "tailnumber")


def test_the_verb_is_bounded() -> None:
    """It prints so many, and how to get more; what it prints is Python."""
    command = [sys.executable, "-m", "penstock.cli", "features", "suggest", str(CRASH), "--entity", "who"]
    said = subprocess.run([*command, "--most", "3"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("# The first 3 of ") and said.count(" = ") == 3
    compile(said, "said.py", "exec")
