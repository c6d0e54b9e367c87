"""laws: `make laws`: a million values, each by every way and by SQL; one line a figure; exit 1 when any is short."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.progress import Progress

from tests.laws.values.ways import WAYS, Wrong, compared, play, seeded, shrunk


class Found(msgspec.Struct):
    """What a run came to. `failing`: the first seed with a wrong value; `happened`: what the logs held."""

    values: int = 0
    seeds: int = 0
    wrong: int = 0
    failing: int = -1
    buried: Counter[str] = Counter()
    happened: Counter[str] = Counter()


def figures(found: Found, values: int) -> list[tuple[str, int, int, bool]]:
    """Each figure: its name, its value, its target, whether that is met."""
    return [
        ("values_compared", found.values, values, found.values >= values),
        ("ways", len(WAYS) + 1, 8, len(WAYS) >= 7),
        ("unequal", found.wrong, 0, not found.wrong),
        *((f"logs_with_{what}", found.happened[what], 1, found.happened[what] > 0) for what in HAPPENS),
    ]


HAPPENS = ("retract", "again", "restart", "tick", "too_large", "retracted_late")


def run(seed: int, values: int, console: Console) -> Found:
    """Seed after seed until enough was compared, or a value is wrong."""
    found = Found()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("values", total=values)
        while found.values < values and not found.wrong:
            world, moves = seeded(seed + found.seeds)
            played = play(world, moves)
            count, wrong = compared(played)
            found.happened.update({*(move.what for move in moves), *played.dead.values()})
            found.values, found.wrong = found.values + count, len(wrong)
            if wrong:
                found.failing = seed + found.seeds
            found.seeds += 1
            bar.update(task, completed=found.values)
    return found


def told(seed: int) -> list[Wrong]:
    """A failing seed again, made as small as it gets, on the screen."""
    world, moves = seeded(seed)
    wrong = compared(play(world, moves))[1]
    small, few = shrunk(world, moves, wrong)
    for name, meant in small.meant.items():
        print(f"{name}: {meant}", file=sys.stderr)
    for move in few:
        print(move, file=sys.stderr)
    wrong = compared(play(small, few))[1]
    for one in wrong[:10]:
        print(one, file=sys.stderr)
    print(f"Again: python -m tests.laws.values.run --only {seed}", file=sys.stderr)
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; 1 when a figure is short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1000, help="the first seed; each log takes the next one")
    parser.add_argument("--values", type=int, default=1_000_000, help="how many values to compare")
    parser.add_argument("--only", type=int, help="one seed that failed, made small")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    chosen = parser.parse_args(arguments)
    if chosen.only is not None:
        return int(bool(told(chosen.only)))
    began = time.monotonic()
    found = run(chosen.seed, chosen.values, Console(stderr=True))
    said = figures(found, chosen.values)
    seconds = time.monotonic() - began
    if chosen.json:
        keys = ("name", "value", "target", "ok")
        rows = [dict(zip(keys, one, strict=True)) for one in said]
        print(json.dumps({"seed": chosen.seed, "seeds": found.seeds, "seconds": seconds, "figures": rows}))
    else:
        for name, value, target, ok in said:
            print(f"{name} {value} {target} {'ok' if ok else 'short'}")
        print(f"seeds {chosen.seed} to {chosen.seed + found.seeds - 1}, {seconds:.0f} s")
    if found.failing >= 0:
        told(found.failing)
    return int(not all(ok for *_, ok in said))


if __name__ == "__main__":
    sys.exit(main())
