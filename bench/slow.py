"""A producer at full speed, a stage that is much slower: what both hold in memory. `make bench-slow`, or `ARGS=--json`.

Each in a process of its own: appends of 100 events of 200 bytes as fast as they go, and a stage that takes
2,000 a second. Without a bound the stage falls behind by so many records, which wait on the disk; with
`--max-lag` declared, the producer meets it and waits. Then the stage hurries through all that is left: it
must have seen every record once, in order.

At the end one line a figure, `name value target ok|short`; the exit code is 1 when one is short.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.child_log import EVENT_BYTES
from bench.child_slow import HURRY
from bench.log import CHILD_S, Figure, answer, note, place
from penstock.cli import show

BACKLOGS = (100_000, 1_000_000)
HOLD_S = 5.0
CHILD = Path(__file__).with_name("child_slow.py")
HEAD = [
    "backlog", "bound", "appended", "events/s until there", "waits", "greatest lag", "producer peak MB",
    "stage, behind MB", "stage, peak MB", "caught up/s",
]  # fmt: skip


def child(part: str, home: Path, *given: object) -> subprocess.Popen[str]:
    """Start a part; its answer is the last line that it prints."""
    command = [sys.executable, str(CHILD), part, str(home), *(str(one) for one in given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measure(home: Path, backlog: int, bounded: bool) -> dict[str, Any]:
    """One backlog, with or without its bound: what both processes tell."""
    stage = child("consume", home, CHILD_S)
    started = [stage]
    try:
        assert stage.stdout is not None
        stage.stdout.readline()
        started.append(child("produce", home, backlog, int(bounded), HOLD_S))
        wrote = answer(started[1])
        (home / HURRY).touch()
        return {"wrote": wrote, "seen": answer(stage)}
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()


def figures(found: dict[tuple[int, bool], dict[str, Any]]) -> list[Figure]:
    """What must hold of all runs, and of those with a bound."""
    wrote, seen = [one["wrote"] for one in found.values()], [one["seen"] for one in found.values()]
    lost = sum(
        abs(w["appended"] - s["seen"]) + (w["crc"] != s["crc"]) for w, s in zip(wrote, seen, strict=True)
    )
    peaks = [max(w["peak_mb"], s["peak_mb"]) for w, s in zip(wrote, seen, strict=True)]
    return [
        Figure("slow_consumer_peak_mb", max(one["peak_mb"] for one in seen), "<=150"),
        Figure("slow_producer_peak_mb", max(one["peak_mb"] for one in wrote), "<=150"),
        Figure(
            "slow_lag_to_bound", max(one["wrote"]["most"] / n for (n, bound), one in found.items() if bound), "<=1.05"
        ),
        Figure("slow_memory_growth", max(peaks) / min(peaks), "<=1.25"),
        Figure("slow_wrong_records", lost, "<=0"),
    ]  # fmt: skip


def main() -> int:
    """Measure, print the table and the figures."""
    parser = argparse.ArgumentParser(
        prog="bench/slow.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  make bench-slow                   everything; about a minute\n"
        "  make bench-slow ARGS=--quick      a backlog of 100,000 only\n"
        "  make bench-slow ARGS='--json --folder ~/bench'",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="the shorter backlog only")
    parser.add_argument(
        "--folder", type=Path, help="where the data lies while it runs (default: for temporary files)"
    )
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object, no table")
    given = parser.parse_args()
    base = place(given.folder)
    base.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-slow-", dir=base) as folder:
        for backlog in BACKLOGS[:1] if given.quick else BACKLOGS:
            for bounded in (False, True):
                note(f"{backlog:,} records behind, {'held there' if bounded else 'without a bound'}")
                home = Path(folder) / f"{backlog}-{bounded}"
                home.mkdir()
                found[backlog, bounded] = measure(home, backlog, bounded)
    said = figures(found)
    if given.json:
        show.as_json({one.name: {"value": one.value, "target": one.target, "ok": one.ok} for one in said})
    else:
        rows = [
            [
                n, "held" if bound else "none", w["appended"], round(w["per_s"]), w["waits"], w["most"], w["peak_mb"],
                s["backlog_mb"], s["peak_mb"], round(s["per_s"]),
            ]
            for (n, bound), one in found.items() for w, s in [(one["wrote"], one["seen"])]
        ]  # fmt: skip
        show.table(f"a stage that falls behind, events of {EVENT_BYTES} bytes in batches of 100", HEAD, rows)
        for one in said:
            print(one)
    return 0 if all(one.ok for one in said) else 1


if __name__ == "__main__":
    raise SystemExit(main())
