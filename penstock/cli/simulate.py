"""cli: `penstock simulate`: schedules by seed, the table of what they reached, and the figures."""

from __future__ import annotations

import argparse
import functools
import gc
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from penstock.cli import show

SCHEDULES = 1000
FEW = 200
"""Below so many schedules no speed is judged: the start of the processes would be."""
LEAST_A_MINUTE = 1000.0
Figure = tuple[str, float, str, bool]
GROUPS = {
    "loop": (
        "trained", "failed_trainings", "verdict_ship", "verdict_block", "verdict_inconclusive",
        "shadow", "canary", "champion", "settled", "withdrawn", "rolled_back", "rolled_back_by_rule",
    ),
    "asks": ("answered_at_once", "asked_again", "asked_a_rival", "asker_fenced"),
    "faults": (
        "killed_before", "killed_after", "lost", "unsure", "away", "short", "stale", "blob_away",
        "zombie_fenced", "restored", "restored_from_state", "rebooted", "restarted",
        "batch_sent_again", "result_twice", "trainer_died", "trained_again",
    ),
}  # fmt: skip


def simulate(given: argparse.Namespace) -> int:
    """Play schedules; 1 when a law broke or they were too slow."""
    began = time.perf_counter()
    first = 1 if given.seed is None else given.seed
    count = given.schedules or (SCHEDULES if given.seed is None else 1)
    runs = []
    with show.bar("simulate", quiet=given.json) as progress:
        for run in _runs(given, list(range(first, first + count))):
            runs.append(run)
            progress(len(runs), count)
    seconds = time.perf_counter() - began
    runs.sort(key=lambda run: run.seed)
    failed = [run for run in runs if run.broken]
    figures = _figures(runs, seconds)
    reached = _reached(runs)
    if given.json:
        show.as_json({"fit": given.fit, "figures": [dict(zip(("name", "value", "target", "ok"), one, strict=True))
                      for one in figures], "coverage": reached, "failures": failed,
                      "digests": {run.seed: run.digest for run in runs}})  # fmt: skip
    else:
        _print(given, runs, failed, figures, reached)
    return int(not all(ok for *_, ok in figures))


def _runs(given: argparse.Namespace, seeds: list[int]) -> Iterator[Any]:
    """The schedules, as they end; on several processes each plays every n-th."""
    from penstock.app.simulation.schedule import run

    what, jobs = (given.file, given.data, given.fit), min(given.jobs, len(seeds))
    if jobs == 1 or given.trace:
        yield from (run(_shared(*what), seed, trace=given.trace) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(functools.partial(_one, *what), seeds, chunksize=2)


@functools.cache
def _shared(file: str, data: str, fit: str) -> Any:
    """The file, loaded once in each process of the pool."""
    from penstock.app.simulation.schedule import ground

    made = ground(file, data=Path(data) if data else None, quick=fit == "quick")
    gc.freeze()  # what is loaded stays: looking through it again and again took a quarter of the time
    gc.set_threshold(100_000, 50, 1000)
    return made


def _one(file: str, data: str, fit: str, seed: int) -> Any:
    from penstock.app.simulation.schedule import run

    return run(_shared(file, data, fit), seed)


def _reached(runs: list[Any]) -> dict[str, tuple[int, int]]:
    """By what can happen: in how many schedules it did, and how often."""
    schedules: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for run in runs:
        times.update(run.seen)
        schedules.update(name for name, n in run.seen.items() if n)
    return {name: (schedules[name], times[name]) for names in GROUPS.values() for name in names}


def _figures(runs: list[Any], seconds: float) -> list[Figure]:
    """One line a figure: (name, value, target, ok)."""
    speed, failed = len(runs) / seconds * 60, sum(bool(run.broken) for run in runs)
    judged = len(runs) >= FEW
    return [
        ("schedules", len(runs), "", True),
        ("steps", sum(run.steps for run in runs), "", True),
        ("predictions_verified", sum(run.seen.get("predictions_verified", 0) for run in runs), "", True),
        ("schedules_per_minute", speed, f">={LEAST_A_MINUTE:g}" if judged else "",
         speed >= LEAST_A_MINUTE or not judged),
        ("failures", failed, "0", not failed),
    ]  # fmt: skip


def _print(
    given: argparse.Namespace,
    runs: list[Any],
    failed: list[Any],
    figures: list[Figure],
    reached: dict[str, tuple[int, int]],
) -> None:
    if given.fit == "quick":
        print(
            "fit replaced: a line on the most telling column stands for the file's own (--fit own keeps it)"
        )
    for run in runs if given.trace else failed[:5]:
        print("\n".join(run.told))
        if run.broken:
            print(f"seed {run.seed} ({run.kind}) step {run.steps}: {run.broken}")
            print(f"again: penstock simulate {given.file} --seed {run.seed} --trace")
        else:
            print(f"seed {run.seed} ({run.kind}) ends after {run.steps} steps, log {run.digest[:16]}")
    for title, names in GROUPS.items():
        rows = [[name.replace("_", " "), *reached[name]] for name in names]
        show.table(title, ["what happened", "in schedules", "times"], rows)
        show.console().print()
    for name, value, target, ok in figures:
        shown = f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
        print(f"{name} {shown} {target or '-'} {'ok' if ok else 'short'}")
