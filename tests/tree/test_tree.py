"""tests: the rules that the tree itself keeps."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tools.size import BUDGET, KERNEL, TREE, kernel_lines, rooms

PACKAGE = TREE / "penstock"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LOCKS = sorted(TREE.glob("requirements*.lock"))
PROJECT: dict[str, Any] = tomllib.loads((TREE / "pyproject.toml").read_text())


def _told(path: Path) -> str:
    return str(path.relative_to(TREE))


def _first_line(path: Path) -> str:
    return path.read_text().partition("\n")[0]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent != PACKAGE], ids=_told)
def test_first_line(path: Path) -> None:
    """A file's first line is a docstring that names its room and says what it is."""
    room = path.relative_to(PACKAGE).parts[0]
    assert re.match(rf'"""{room}: \S.*\.', _first_line(path))


@pytest.mark.parametrize("path", [*TREE.glob("tests/**/*.py"), *TREE.glob("tools/*.py")], ids=_told)
def test_first_line_beside_the_package(path: Path) -> None:
    """A test or a tool says in its first line what it holds."""
    assert re.match(r'"""\w', _first_line(path))


def test_floors_name_every_room() -> None:
    """Each package under penstock stands on one floor, and each floor's packages exist."""
    floors = next(one for one in PROJECT["tool"]["importlinter"]["contracts"] if one["id"] == "floors")
    named = [name.strip() for floor in floors["layers"] for name in floor.split("|")]
    assert sorted(named) == rooms()


def test_kernel_fits() -> None:
    """Record, log and stage stay within the budget of lines of code."""
    assert kernel_lines() <= BUDGET


def test_kernel_is_typed() -> None:
    """The kernel silences the type checker nowhere."""
    kernel = [path for name in KERNEL for path in (PACKAGE / name).rglob("*.py")]
    assert [_told(path) for path in kernel if "type: ignore" in path.read_text()] == []


def test_pages_fetch_nothing() -> None:
    """No template, style or script names an address of the network: users run offline."""
    files = [path for path in PACKAGE.rglob("*") if path.suffix in {".html", ".css", ".js", ".svg", ".j2"}]
    named = {_told(path): re.findall(r"https?://[^\s\"'<>]+", path.read_text()) for path in files}
    # The name of SVG's namespace is an identifier; nobody fetches it.
    assert {path: found for path, found in named.items() if set(found) - {"http://www.w3.org/2000/svg"}} == {}


@pytest.mark.parametrize("lock", LOCKS, ids=_told)
def test_locks_pin_by_hash(lock: Path) -> None:
    """A lock pins every package by version and hash, and names no index, address or folder."""
    lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
    pin, digest = r"[a-z0-9-]+==\S+ (; .+ )?\\", r"    --hash=sha256:[0-9a-f]{64}( \\)?"
    assert [line for line in lines if not re.fullmatch(f"{pin}|{digest}", line)] == []


def test_locks_hold_what_the_package_needs() -> None:
    """Every dependency of the package is in every lock."""
    needed = {re.split(r"[<>=\[]", one)[0] for one in PROJECT["project"]["dependencies"]}
    pinned = re.compile(r"^([a-z0-9-]+)==", re.MULTILINE)
    locked = {lock.name: set(pinned.findall(lock.read_text())) for lock in LOCKS}
    assert len(locked) == 2
    assert [name for name, pins in locked.items() if needed - pins] == []
