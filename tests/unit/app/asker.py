"""app: somebody who asks a scoring process, and is killed while he waits: the process is to end with him."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from penstock.app.scoring.apart import Apart
from penstock.app.scoring.order import Row


def lives(pid: int) -> bool:
    """Whether a process goes on: neither gone nor waiting to be reaped."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends_with(code: str, *arguments: str, **environment: str) -> bool:
    """Whether the process that `code` begins, tells the number of, and asks, ends within 5 s of the end of who
    runs that code."""
    asks = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert asks.stdout is not None
    pid = int(asks.stdout.readline())
    time.sleep(0.2)
    assert lives(pid)
    asks.kill()
    asks.communicate()
    until_s = time.monotonic() + 5
    while lives(pid) and time.monotonic() < until_s:
        time.sleep(0.02)
    return not lives(pid)


def said(apart: Apart, rows: Sequence[Row]) -> list[tuple[float | None, str]]:
    """What a model that is scored apart says of rows, however they were asked."""
    return [(score, why) for score, why, _ in apart(rows)]
