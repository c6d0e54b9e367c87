"""app: somebody who asks a scoring process, and is killed while he waits: the process is to end with him."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


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
