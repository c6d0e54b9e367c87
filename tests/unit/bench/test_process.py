"""bench: what a server's processes take is that of all of them, those that have ended among them."""

from __future__ import annotations

import subprocess
import sys

from bench.serve.process import cpu_s, memory_mb, tree

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}])
held = subprocess.Popen([sys.executable, "-c", "held = bytes(1) * 50_000_000; print(1, flush=True); input()"],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
held.stdout.readline()
print("ready", flush=True)
input()
held.communicate(b"\\n")
"""


def test_a_tree_is_weighed_whole() -> None:
    """The parent itself does next to nothing: CPU is an ended child's, memory a living one's."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert len(tree(parent.pid)) == 2 and tree(parent.pid)[0] == parent.pid
        assert 0.3 <= cpu_s(parent.pid) < 2.0
        assert 50 < memory_mb(parent.pid) < 150
        parent.communicate("\n")
    assert tree(parent.pid) == [parent.pid] and cpu_s(parent.pid) == 0.0
