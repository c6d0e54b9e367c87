"""app: the line protocol of scoring programs in any language: a line of JSON there, a line of JSON back.

`docs/line-protocol.md` is its specification.
"""

from __future__ import annotations

import functools
import math
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock.app.scoring import become
from penstock.app.scoring.loaded import quiet
from penstock.app.scoring.order import Row, Scores
from penstock.app.scoring.piped import Breach, Speech
from penstock.model.outside import Program
from penstock.model.pack import Model
from penstock.record.decisions import Value

VERSION = 1
ANSWER_BYTES = 64 << 20
"""A line may be as long."""


class Column(msgspec.Struct, frozen=True):
    """A column of the rows to come."""

    name: str
    type: str


class Hello(msgspec.Struct, frozen=True):
    """Our first line: what will be asked, and what the scores are to be."""

    penstock: int
    columns: list[Column]
    returns: str


class Greeting(msgspec.Struct, frozen=True):
    """A program's first line. `error`: why it cannot serve; nothing is asked then."""

    penstock: int
    returns: str = ""
    error: str = ""


def line(model: Model, program: Program) -> Speech:
    """How a program is talked to. Its files lie in a folder of their own, which goes with the last use of it."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-"))  # nobody else may look into it
    shell = folder / "program"
    shell.write_bytes(program.file)
    shell.chmod(0o500)
    (folder / "model").write_bytes(program.model)
    returns = "probability" if model.task == "binary" else "value"
    types = ["text" if kind == "category" else "number" for kind in model.kinds]
    columns = [Column(name, type_) for name, type_ in zip(program.columns, types, strict=True)]
    begin = functools.partial(_begin, folder)
    gone = weakref.finalize(begin, shutil.rmtree, folder, ignore_errors=True)

    def asked(rows: Sequence[Row]) -> bytes:
        sent = [[_value(one, type_) for one, type_ in zip(row, types, strict=True)] for row in rows]
        return msgspec.json.encode(sent) + b"\n"

    hello = msgspec.json.encode(Hello(VERSION, columns, returns)) + b"\n"
    return Speech(begin, hello, functools.partial(_greeted, returns), asked, _answered, _wanted, gone)


def _begin(folder: Path) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    command = (sys.executable, "-I", become.__file__, str(folder / "program"), str(folder / "model"))
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=quiet(), cwd=folder, bufsize=0)


def _value(value: Value, type_: str) -> Value:
    if type_ == "text":
        return None if value is None else str(value)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _greeted(returns: str, data: bytes) -> str:
    said = msgspec.json.decode(data, type=Greeting)
    if said.penstock != VERSION or said.returns not in ("", returns) or said.error:
        return "model_refused"
    return ""


def _answered(data: bytes, n: int) -> Scores:
    scores = msgspec.json.decode(data, type=list[float | None])
    if len(scores) != n:
        raise Breach
    return Scores(scores)


def _wanted(parts: bytearray) -> int:
    if len(parts) > ANSWER_BYTES:
        raise Breach
    return 0 if parts.endswith(b"\n") else 1 << 16
