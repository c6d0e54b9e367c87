"""app: a MOJO of H2O's is a model: its runtime, in a program of Java, says what H2O itself says.

`late.mojo.zip` is a GBM of three trees of H2O 3.46.0.7, as exported, less its folder `experimental`; what is expected
are the digits that H2O answered to the same rows.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from penstock.app.scoring.apart import PATIENT, Apart
from penstock.app.scoring.line import line
from penstock.app.scoring.pool import Pool
from penstock.model.outside import Program
from penstock.model.pack import Model
from tests.unit.app.asker import said

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[2] / "examples" / "programs" / "mojo"
SHELL = b'#!/bin/sh\nexec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -jar "$0" "$@"\n'
COLUMNS = ("weight", "distance", "depot")
FETCH_S = 180.0


@pytest.fixture(scope="module")
def program() -> bytes:
    """The program, built as its page says, once for what it is built of."""
    sources = [EXAMPLE / "Mojo.java", EXAMPLE / "pom.xml"]
    digest = hashlib.sha256(b"".join(one.read_bytes() for one in sources)).hexdigest()
    jar = (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "penstock" / "mojo" / f"{digest}.jar"
    )
    if shutil.which("java") is None:
        pytest.skip("needs Java 17: java")
    if not jar.exists():
        _built(sources, jar)
    return SHELL + jar.read_bytes()


def _built(sources: list[Path], jar: Path) -> None:
    if shutil.which("mvn") is None or shutil.which("javac") is None:
        pytest.skip("needs Maven and a JDK, the first time: mvn, javac")
    folder = jar.with_suffix(f".{os.getpid()}")
    folder.mkdir(parents=True)
    try:
        for one in sources:
            shutil.copy(one, folder)
        subprocess.run(
            ["mvn", "-q", "-B", "package"], cwd=folder, check=True, capture_output=True, timeout=FETCH_S
        )
        (folder / "target" / "mojo.jar").rename(jar)
    except subprocess.TimeoutExpired:
        pytest.skip(f"Maven did not fetch H2O's runtime in {FETCH_S:.0f} s")
    except subprocess.CalledProcessError as error:
        if b"COMPILATION ERROR" in error.stdout:
            raise
        pytest.skip("Maven could not fetch H2O's runtime")
    finally:
        shutil.rmtree(folder)


def asked(program: bytes, columns: tuple[str, ...], task: str) -> Apart:
    """The MOJO, scored apart."""
    one = Program(program, (HERE / "late.mojo.zip").read_bytes(), columns)
    kinds = ["category" if name == "depot" else "number" for name in columns]
    return Apart(Pool(line(Model("f", task, kinds, one, None), one)), PATIENT)  # type: ignore[arg-type]


def test_it_says_what_h2o_says(program: bytes) -> None:
    """To the last digit, values missing, a text that it has not met, and columns in an order of our own."""
    rows: list[list[float | str | None]] = [
        [1.5, 100.0, "north"], [9.0, 700.0, "south"], [None, 350.0, None], [1.0, 900.0, "nowhere"],
        [12.5, None, "south"],
    ]  # fmt: skip
    scores = [
        0.16936348705598503,
        0.8404562179206734,
        0.24041204425212565,
        0.7337461826195604,
        0.8145892418207792,
    ]
    for order in ((0, 1, 2), (2, 0, 1)):
        apart = asked(program, tuple(COLUMNS[at] for at in order), "binary")
        assert said(apart, [[row[at] for at in order] for row in rows]) == [(score, "") for score in scores]
        apart.close()


@pytest.mark.parametrize(("columns", "task"), [(("weight", "distance"), "binary"), (COLUMNS, "number")])
def test_a_column_that_does_not_come_or_another_kind_is_refused(
    program: bytes, columns: tuple[str, ...], task: str
) -> None:
    """When it starts, by the program itself."""
    apart = asked(program, columns, task)
    assert said(apart, [[1.0] * len(columns)]) == [(None, "model_refused")]
    apart.close()
