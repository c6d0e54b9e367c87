"""A large model loaded while another serves: what its callers notice. `make bench-beside`, or with `ARGS=--json`.

Many models in one file, up with one serving process, so that each is loaded when it is first asked: small linear ones,
and one of 1 GB without a fast form. A small one serves at half of what it manages at 32 connections, its requests due
at a rate, by the client of `make bench-serve`, on every core that there is; for one run nothing else happens, for the
next the large one is asked for the first time a third of the way through, and so loaded. Each run counts for itself,
every answer is checked; the ratio is of medians.

At the end one line a figure, `name value target ok|short`; the exit code is 1 when one is short.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.log import Figure, note, place
from bench.many import CHILD, Up, load
from bench.serve.process import compiled
from penstock.cli import show

SIZE = 1_000_000_000
RUN_S = 9
ROUNDS = 3
MODELS, SMALL = 20, "m1"


def round_(
    client: Path, pipeline: Path, home: Path, rate: float
) -> tuple[dict[str, Any], dict[str, Any], float, float]:
    """A run without, a run with; the seconds that the large one took to answer first, and the rate."""
    up = Up(pipeline, home, "--workers", "1")
    try:
        rows, port = up.rows(SMALL, home.parent), up.connection.port
        rate = rate or load(client, port, rows, 4.0)["in_window"] / 4.0 / 2
        load(client, port, rows, 2.0, rate)
        alone = load(client, port, rows, RUN_S, rate)
        took = list[float]()

        def ask() -> None:
            time.sleep(RUN_S / 3)
            began = time.monotonic()
            status = up.ask("m0")
            took.append(time.monotonic() - began if status == 200 else float("inf"))

        asks = threading.Thread(target=ask)
        asks.start()
        beside = load(client, port, rows, RUN_S, rate)
        asks.join()
        return alone, beside, took[0], rate
    finally:
        up.close()


def main() -> int:
    """Measure, print the table and the figures."""
    parser = argparse.ArgumentParser(
        prog="bench/serve/beside.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  make bench-beside                          three rounds; about two minutes\n"
        "  make bench-beside ARGS='--size 100000000'  a model of 100 MB",
    )  # fmt: skip
    parser.add_argument("--size", type=int, default=SIZE, metavar="BYTES")
    parser.add_argument(
        "--folder", type=Path, help="where the data lies while it runs (default: for temporary files)"
    )
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object, no table")
    given = parser.parse_args()
    base = place(given.folder)
    base.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-beside-", dir=base) as folder:
        pipeline, home, rate = Path(folder) / "two.py", Path(folder) / "home", 0.0
        note("the models are fitted and released")
        subprocess.run(
            [sys.executable, str(CHILD), str(pipeline), str(home), str(MODELS), str(given.size)], check=True
        )
        client = compiled(Path(folder))
        for i in range(ROUNDS):
            note(f"round {i + 1} of {ROUNDS}")
            *one, rate = round_(client, pipeline, home, rate)
            found.append(one)
    p99 = [[run["ms"]["p99"] for run in runs] for *runs, _ in found]
    failed = sum(run["due"] + run["unsent"] - run["right"] for *runs, _ in found for run in runs)
    ratio = statistics.median(beside for _, beside in p99) / statistics.median(alone for alone, _ in p99)
    said = [
        Figure("beside_p99_ratio", ratio, "<1.2"),
        Figure("beside_unanswered", failed, "<=0"),
        Figure("beside_large_first_s", max(took for *_, took in found), "<10"),
    ]
    if given.json:
        show.as_json({one.name: {"value": one.value, "target": one.target, "ok": one.ok} for one in said})
    else:
        rows = [
            [round(alone, 2), round(beside, 2), round(took, 1)]
            for (alone, beside), (*_, took) in zip(p99, found, strict=True)
        ]
        head = ["p99 alone, ms", "p99 while it is loaded", "first answer of the large one, s"]
        show.table(f"{given.size:,} bytes loaded beside {rate:,.0f} requests a second", head, rows)
        for figure in said:
            print(figure)
    return 0 if all(one.ok for one in said) else 1


if __name__ == "__main__":
    raise SystemExit(main())
