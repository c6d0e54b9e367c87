"""app: what is here to stay is never looked at again, and what comes later seldom."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from penstock.app.collector import RARELY, staying
kept = []
try:
    with staying():
        1 / 0
except ZeroDivisionError:
    print(gc.isenabled(), gc.get_freeze_count(), gc.get_threshold() == RARELY)
with staying():
    was = gc.isenabled()
    kept += [[n] for n in range(1000)]
print(was, gc.isenabled(), gc.get_freeze_count() >= 1000, gc.get_threshold() == RARELY)
print(sum(map(len, map(gc.get_objects, range(3)))) < 1000)
"""


def test_what_stays_is_put_aside_once_it_is_all_there() -> None:
    """In a process of its own, for it holds for the whole process; where loading fails, nothing has changed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True 0 False", "False True True True", "True"]
