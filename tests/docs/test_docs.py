"""docs: what the documents say is true: the file loads and runs, every verb is told of, every path exists."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from penstock.app.check import check
from penstock.app.pipeline import load_text
from penstock.cli import _parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def _verbs() -> dict[str, argparse.ArgumentParser]:
    (found,) = [one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(found.choices)


def test_the_readmes_file_is_a_pipeline(tmp_path: Path) -> None:
    """The file in the README loads, and the whole check of it passes."""
    pytest.importorskip("sklearn")
    text = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    assert list(load_text(text.encode(), "fraud.py").plans) == ["fraud"]
    path = tmp_path / "fraud.py"
    path.write_text(text)
    broken = [f"{one.what}: {one.note}" for one in check(str(path), None) if not one.ok]
    assert broken == []


@pytest.mark.parametrize("verb", sorted(_verbs()))
def test_every_verb_is_told_of(verb: str) -> None:
    """Each verb has its line in the README's table."""
    assert re.search(rf"^\| `penstock {verb}\b", README, re.MULTILINE)


def test_no_verb_is_told_of_that_is_not_there() -> None:
    """The README names no verb, and no make target, that does not exist."""
    assert set(re.findall(r"`penstock ([a-z]+)\b", README)) <= set(_verbs())
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"(?:`|^ {4}|^)make ([a-z]+)", path.read_text(), re.MULTILINE)
    }
    assert told <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_exists(path: Path) -> None:
    """A file that a document names in backticks is in the tree."""
    named = re.findall(
        r"`((?:penstock|tests|examples|docs|tools|app|chart|dataset|feature|serve)/[\w./-]+)`",
        path.read_text(),
    )
    missing = [one for one in named if not ((ROOT / one).exists() or (ROOT / "penstock" / one).exists())]
    assert missing == []


def test_the_architecture_names_every_room() -> None:
    """Each room stands in the table of floors."""
    table = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = [path.parent.name for path in (ROOT / "penstock").glob("*/__init__.py")]
    assert [room for room in rooms if f"`{room}`" not in table] == []


def test_the_architecture_names_every_stages_topics() -> None:
    """The table of stages says what each reads and writes, as the code does."""
    from penstock.app.graph import written
    from penstock.app.home import Views
    from penstock.log.memory import MemoryBlob, MemoryLog

    pytest.importorskip("sklearn")
    text = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    views = Views(load_text(text.encode(), "fraud.py"), MemoryLog(), MemoryBlob())
    table = (ROOT / "ARCHITECTURE.md").read_text()
    for name, inputs in views._inputs.items():
        row = re.search(rf"^\| `{name.replace('.fraud', '.M')}` \|(.*?)\|(.*?)\|", table, re.MULTILINE)
        assert row is not None, name
        told = set(re.findall(r"`([\w.]+)`", row.group(1)))
        own = {one.replace("fraud.", "M.") for one in inputs} - {"payment", "chargeback", "M.vectors"}
        assert own == told, name
        writes = {one.replace("fraud.", "M.") for one in written("fraud")[name.partition(".")[0]]}
        assert writes == set(re.findall(r"`([\w.]+)`", row.group(2))), name
