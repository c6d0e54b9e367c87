"""faults: `make faults`: every part of the harness, one table, one line a figure; exit 1 when any is short."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import msgspec
from rich.console import Console
from rich.table import Table

from penstock.log.crash import Point
from tests.faults.finding import Finding, Plan
from tools.kafka.broker import Missing

PARTS = (
    "crashes",
    "disk",
    "full",
    "power",
    "blobs",
    "flips",
    "kills",
    "served",
    "kafka",
    "doors",
    "contract",
)
Target = tuple[str, Callable[[Sequence[Finding]], int], int, bool]


def provoked(*names: str) -> Callable[[Sequence[Finding]], int]:
    """How often something happened, over the findings whose names begin so."""
    return lambda found: sum(one.provoked for one in found if one.name.startswith(names))


FIGURES: dict[str, list[Target]] = {
    "crashes": [
        ("crash_points_reached", provoked("crash points"), len(Point), False),
        ("schedules", provoked("random schedules"), 1000, True),
    ],
    "disk": [("io_failures", provoked("disk: "), 500, True)],
    "full": [("disks_filled", provoked("full: files"), 200, True)],
    "power": [("power_losses", provoked("power loss"), 1000, True)],
    "flips": [
        ("bytes_flipped", provoked("bytes flipped"), 40_000, True),
        ("truncations", provoked("truncations"), 40_000, True),
    ],
    "kills": [("kills", provoked("kill -9"), 200, True), ("zombies", provoked("zombies"), 20, True)],
    "served": [("serving_kills", provoked("served: kill -9"), 50, True)],
    "kafka": [
        ("kafka_stage_kills", provoked("kafka: stage kills"), 50, True),
        ("kafka_broker_kills", provoked("kafka: broker kills"), 20, True),
        ("kafka_queue_kills", provoked("kafka: queues"), 10, True),
    ],
    "doors": [("kafka_door_restarts", provoked("doors: "), 8, True)],
    "contract": [("kafka_3_9_tests", provoked("Kafka 3.9.1"), 40, False)],
}
"""Of each part: the figure, how it is found, what it must reach, and whether that shrinks with the scale."""


def part(name: str) -> ModuleType | None:
    """A part's module, or None where it cannot run here: the reason is told."""
    try:
        return importlib.import_module(f"tests.faults.{name}")
    except ImportError as error:
        print(f"{name}: skipped, {error}", file=sys.stderr)
        return None


def findings(plan: Plan, parts: Sequence[str]) -> Iterator[tuple[str, Finding]]:
    """What each part finds. A part whose machinery is missing is skipped with one line."""
    for name in parts:
        module = part(name)
        if module is None:
            continue
        try:
            for one in module.findings(plan):
                plan.note(f"{name}: {one.name}: {one.provoked} provoked, {one.differences} differences")
                yield name, one
        except Missing as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)


def figures(found: Sequence[tuple[str, Finding]], scale: float) -> list[tuple[str, int, int, bool]]:
    """Each figure of the parts that ran: its name, its value, its target, whether that is met."""
    ran = {name for name, _ in found}
    all_ = [one for _, one in found]
    out = []
    for name in PARTS:
        for figure, value, target, shrinks in FIGURES.get(name, []) if name in ran else []:
            due = max(1, round(target * min(scale, 1.0))) if shrinks else target
            out.append((figure, value(all_), due, value(all_) >= due))
    lost = sum(one.differences for one in all_ if one.name.startswith("power loss"))
    if "power" in ran:
        out.append(("lost_records", lost, 0, lost == 0))
    caught, planned = sum(one.caught for one in all_), sum(one.planned for one in all_)
    out.append(("planted_caught", caught, planned, caught == planned))
    differences = sum(one.differences for one in all_)
    return [*out, ("differences", differences, 0, differences == 0)]


def shown(found: Sequence[tuple[str, Finding]]) -> Table:
    """The table."""
    table = Table("fault", "provoked", "differences", "planted bugs caught", "seconds", "note")
    for _, one in found:
        caught = f"{one.caught} of {one.planned}: {one.planted}" if one.planned else ""
        row = (one.name, str(one.provoked), str(one.differences), caught, f"{one.seconds:.1f}", one.note)
        table.add_row(*row)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 1 when a figure is short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides everything that is left to chance")
    parser.add_argument("--scale", type=float, default=1.0, help="1: the long form; 0.02: half a minute")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be given again")
    parser.add_argument("--json", action="store_true", help="the findings and figures as JSON")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()

    def note(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", file=sys.stderr, flush=True)

    found = list(findings(Plan(chosen.seed, chosen.scale, note), chosen.only or PARTS))
    said = figures(found, chosen.scale)
    if chosen.json:
        print(json.dumps({
            "seed": chosen.seed, "scale": chosen.scale,
            "findings": [msgspec.to_builtins(one) | {"part": name} for name, one in found],
            "figures": [dict(zip(("name", "value", "target", "ok"), one, strict=True)) for one in said],
        }))  # fmt: skip
    else:
        Console(width=160).print(shown(found))
        for name, value, target, ok in said:
            print(f"{name} {value} {target} {'ok' if ok else 'short'}")
        print(f"seed {chosen.seed}, scale {chosen.scale:g}, {time.monotonic() - began:.0f} s")
    due = set(chosen.only or ()) - {name for name, _ in found}  # who names a part wants it run
    return int(bool(due) or not all(ok for *_, ok in said))


if __name__ == "__main__":
    sys.exit(main())
