"""app: a program in any language may lie, hang, fall or shout: each row is told its own fate, and nobody else more."""

from __future__ import annotations

import json
import math
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.app.scoring.apart import Apart
from penstock.app.scoring.line import line
from penstock.app.scoring.order import Limits
from penstock.app.scoring.outside import ready
from penstock.app.scoring.piped import WORDS_BYTES
from penstock.app.scoring.pool import Pool
from penstock.model.fit import answers
from penstock.model.outside import Program
from penstock.model.pack import Model, dump, outside
from penstock.record.errors import Refused, Unavailable
from tests.unit.app.asker import ends_with, said

PROGRAM = f"""#!{sys.executable} -I
import json, os, sys, time
hello = json.loads(sys.stdin.readline())
told = open(sys.argv[1]).read()
print(json.dumps({{"penstock": 1, "returns": hello["returns"], "also": "unknown words"}}), flush=True)
for asked in sys.stdin:
    rows = json.loads(asked)
    scores = []
    for row in rows:
        if row[0] == 2: time.sleep(60)
        if row[0] == 3: sys.stderr.write("secret words\\n"); sys.stderr.flush(); os.abort()
        if row[0] == 4: scores.append(0.5)
        if row[0] == 5: sys.stdout.write("not a line of JSON\\n")
        if row[0] == 6: sys.stderr.write("x" * 300_000); sys.stderr.flush()
        if row[0] == 7: os.close(2)
        if row[0] == 8: print(json.dumps([hello, told, row, os.getcwd(), sys.argv]), file=open(told, "w"))
        scores.append(None if row[0] is None else row[0] / 10)
    print(json.dumps(scores), flush=True)
"""
EXAMPLES = Path(__file__).parents[3] / "examples" / "programs"
LIMITS = Limits(start_s=5.0, batch_s=0.5, tries_s=3.0, strikes=3, rest_s=0.5)
Make = Callable[..., Apart]


def model(program: Program, kinds: tuple[str, ...] = ("number",)) -> Model:
    """A model of such columns."""
    return Model("f", "binary", list(kinds), program, None)


def of(text: str, learned: bytes = b"") -> Program:
    """A program of one column."""
    return Program(text.encode(), model=learned, columns=("x",))


@pytest.fixture
def made() -> Iterator[Make]:
    """A program that is scored apart."""
    started: list[Apart] = []

    def make(
        program: Program | None = None, noted: Callable[[str], None] = lambda code: None, **more: Any
    ) -> Apart:
        spoken = line(model(program or of(PROGRAM), **more), program or of(PROGRAM))
        started.append(Apart(Pool(spoken), LIMITS, noted=noted))
        return started[-1]

    yield make
    for one in started:
        one.close()


def test_it_is_told_what_comes_and_answers_row_by_row(made: Make, tmp_path: Path) -> None:
    """Names, types, what it returns; its model's bytes in a file; a folder that nobody else may look into, and that
    goes with it."""
    note = tmp_path / "note"
    program = Program(PROGRAM.encode(), model=str(note).encode(), columns=("x", "text"))
    apart = made(program, kinds=("number", "category"))
    assert said(apart, [[1, "é\n"], [None, None], [8, 3], [float("nan"), ""], [True, "a"]]) == [
        (0.1, ""), (None, "model_failed"), (0.8, ""), (None, "model_failed"), (0.1, ""),
    ]  # fmt: skip
    hello, told, row, folder, arguments = json.loads(note.read_text())
    assert hello == {
        "penstock": 1,
        "columns": [{"name": "x", "type": "number"}, {"name": "text", "type": "text"}],
        "returns": "probability",
    }
    assert told == str(note) and row == [8, "3"]
    assert arguments == [f"{folder}/program", f"{folder}/model"]
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    apart.close()
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("value", "code"), [(2, "model_late"), (3, "model_died"), (4, "model_protocol"), (5, "model_protocol")]
)
def test_the_others_of_its_batch_are_answered(made: Make, value: int, code: str) -> None:
    """Whatever it does to one row: it is begun again for the rest."""
    noted: list[str] = []
    apart = made(noted=noted.append)
    assert said(apart, [[9], [value], [0]]) == [(0.9, ""), (None, code), (0.0, "")]
    assert noted == [code, code]


def test_what_it_shouts_holds_nobody_and_goes_no_further(
    made: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    """More than a pipe holds; then it falls, and its last words are told to whoever runs us, cut short."""
    apart = made()
    assert said(apart, [[6], [9]]) == [(0.6, ""), (0.9, "")] and said(apart, [[9]]) == [(0.9, "")]
    assert capfd.readouterr().err == ""
    assert said(apart, [[3]]) == [(None, "model_died")]
    told = capfd.readouterr().err
    assert "model_died" in told and told.endswith("xxsecret words\n") and len(told) < WORDS_BYTES + 100
    assert said(apart, [[7]]) == [(0.7, "")] and said(apart, [[9]]) == [(0.9, "")]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('#!/bin/sh\necho \'{"penstock":1,"error":"no such column"}\'\n', "model_refused"),
        ("#!/bin/sh\necho '{\"penstock\":2}'\n", "model_refused"),
        ('#!/bin/sh\necho \'{"penstock":1,"returns":"value"}\'\n', "model_refused"),
        ("#!/bin/sh\necho hello\n", "model_protocol"),
        ("#!/bin/sh\nexit 3\n", "model_died"),
        ("no program at all", "model_died"),
    ],
)
def test_what_does_not_come_up_says_why(made: Make, text: str, code: str) -> None:
    """By its code, to each row, and to whoever starts it; in a row it is left alone."""
    apart = made(of(text))
    with pytest.raises(Unavailable) as raised:
        apart.start()
    assert raised.value.code == code
    assert [said(apart, [[1]])[0][1] for _ in range(3)] == [code, code, "model_rests"]


def test_it_ends_with_who_asks(tmp_path: Path) -> None:
    """Even while it hangs, and reads no end of its input."""
    (tmp_path / "program").write_text(PROGRAM)
    code = (
        "import sys, threading\n"
        "from penstock.app.scoring.outside import scorer\n"
        "from penstock.model.outside import Program\n"
        "from penstock.model.pack import Model\n"
        "one = scorer(Model('f', 'binary', ['number'], Program(sys.argv[1], columns=('x',)), None)); one.start()\n"
        "print(one.asks.all[0].process.pid, flush=True)\n"
        "threading.Thread(target=one, args=([[2]],), daemon=True).start()\n"
        "sys.stdin.read()\n"
    )
    assert ends_with(code, str(tmp_path / "program"), TMPDIR=str(tmp_path))


@pytest.mark.parametrize("language", ["C", "R"])
def test_the_examples(made: Make, language: str, tmp_path: Path) -> None:
    """A program in C and one in R say the same; both are built and run as they stand."""
    program = EXAMPLES / "linear.R"
    if language == "C":
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("needs a C compiler: cc")
        program = tmp_path / "linear"
        warned = ["-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler, *warned, "-o", program, EXAMPLES / "linear.c", "-lm"], check=True)
    elif shutil.which("Rscript") is None:
        pytest.skip("needs R: Rscript (Debian: r-base-core)")
    rows = [[0.25, 3.0], [None, -1e-7], [-40.0, 1e3]]
    apart = made(Program(program, b"0.5\n-1.5\n2e-3\n", ("a", "b")), kinds=("number", "number"))
    found = said(apart, rows)
    sums = [0.5 - 1.5 * (a or 0) + 2e-3 * b for a, b in rows]
    assert [why for _, why in found] == ["", "", ""]
    assert [one for one, _ in found] == pytest.approx([1 / (1 + math.exp(-one)) for one in sums], rel=1e-14)


def test_its_bytes_are_its_versions(tmp_path: Path) -> None:
    """A path is read at once; the same bytes give the same blob, which holds no pickle; whoever evaluates asks it."""
    path = tmp_path / "program"
    path.write_text(PROGRAM)
    one = model(Program(path, columns=["x"]))  # type: ignore[arg-type]
    path.write_text("changed")
    assert dump(one) == dump(model(of(PROGRAM))) != dump(model(of(PROGRAM, b"learned")))
    again = outside(dump(one))
    assert again is not None and again.fitted == one.fitted and not again.elsewhere
    assert outside(dump(model(None))) is None  # type: ignore[arg-type]
    with ready(again) as asked:
        assert answers(asked, [[1], [3], [9]]) == [0.1, None, 0.9]
    with pytest.raises(Refused, match="cannot be read"):
        Program(tmp_path / "nothing")
