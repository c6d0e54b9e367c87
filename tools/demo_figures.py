"""Run the demo as a user does, and print its figures: status, first answer, whole story, peak memory.

Memory is the proportional set size of the process and all its children, sampled from /proc.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

SAMPLE_S = 0.1


def children(root: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, todo = [], [root]
    while todo:
        one = todo.pop()
        found.append(one)
        todo += parents.get(one, [])
    return found


def memory_bytes(root: int) -> int:
    """The proportional set size of a process tree."""
    total = 0
    for pid in children(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += 1024 * int(re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)[0])
    return total


def main() -> int:
    """Print the figures; 1 when one is short."""
    began = time.monotonic()
    command = [sys.executable, "-m", "penstock.cli", "demo", "--exit", *sys.argv[1:]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, first_s, last = 0, 0.0, ""

    def sample() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, memory_bytes(process.pid))
            time.sleep(SAMPLE_S)

    watcher = threading.Thread(target=sample)
    watcher.start()
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        if "answers its first request" in line:
            first_s = time.monotonic() - began
        last = line.strip() or last
    status = process.wait()
    seconds = time.monotonic() - began
    watcher.join()
    counts = [int(n) for n in re.findall(r"(\d+) \w", last)]
    figures: list[tuple[str, float, str, bool]] = [
        ("status", status, "0", status == 0),
        ("least_count", min(counts, default=0), "> 0", len(counts) == 8 and min(counts) > 0),
        ("first_prediction_s", round(first_s, 1), "< 10", 0 < first_s < 10),
        ("story_s", round(seconds, 1), "< 60", seconds < 60),
        ("peak_memory_mb", round(peak / 1e6), "< 500", peak < 500e6),
    ]
    for name, value, target, ok in figures:
        print(f"{name} {value:g} {target} {'ok' if ok else 'short'}")
    return int(not all(ok for *_, ok in figures))


if __name__ == "__main__":
    sys.exit(main())
