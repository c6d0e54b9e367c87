"""Features and their peers in turn: medians of rounds, and ratios. `make bench-features`, or with `ARGS=--json`.

A million payments of 10,000 customers over 30 days, 5 % of them up to six hours late, and 100,000 requests between
them; once with the customers drawn evenly, once with one of them in a quarter of everything. A request asks for 49
values: count, sum, mean, std, min, max and last of the amount in 5m, 1h, 6h, 1d, 7d, 14d and 30d.

- training: the values of all requests, as they were at each, from events in memory. DuckDB and polars by the best
  query that we found, Feast by joining features that it is given ready. Ratios are per value made.
- fold: events a second into the live state, decoded first; storey and river on the same events.
- lookup: the values of one customer and of a hundred, now, in process; Feast from its sqlite store.
- memory: what the process grows by, an event kept: a thousand events of each of 10,000 customers.
- And 2,000 requests' values are compared with DuckDB's integer sums, bit for bit, in both forms.

Peers that cannot be installed are named, and their figures are short. At the end one line a figure,
`name value target ok|short`; the exit code is 1 when one is short.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.data_features import FORMS, NAMES, make
from bench.log import Figure, note
from penstock.cli import show

HERE = Path(__file__).parent
KEYS = 10_000
PATIENCE_S = 600.0  # far more than any task takes
PEER_S = 180.0  # a peer that takes longer for one task is left out from then on
OWN = {
    "feast": "features",
    "river": "features",
    "storey": "storey",
}  # the peers with an environment of theirs
EXAMPLES = """examples:
  make bench-features                                everything; about fifteen minutes, 4 GB of memory
  make bench-features ARGS=--quick                   one round, a million events kept; about four minutes
  make bench-features ARGS='--only training'         one part
  make bench-features ARGS='--json --only lookup'    its figures as one JSON object
"""


class Plan(msgspec.Struct, frozen=True):
    """How much to measure. A peer that is slow gets fewer requests or events; its figures are per one of them."""

    rounds: int
    events: int
    requests: int
    joined_hot: (
        int  # requests of the joins where one key holds a quarter: each of its requests meets all its events
    )
    streamed: int  # events of storey and river
    looks: int
    kept: int
    checked: int


class Child:
    """A side in a process of its own, which answers one task at a time; one that ends or hangs is gone from then on."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.version, self.trouble = name, "", ""
        if name == "ours":
            command = [sys.executable, str(HERE / "child_features.py"), str(folder)]
        else:
            python = (
                HERE.parent / ".venv-bench" / OWN[name] / "bin" / "python" if name in OWN else sys.executable
            )
            command = [str(python), str(HERE / "peers_features.py"), name, str(folder)]
        environment = os.environ | {"PYTHONPATH": str(HERE.parent), "PYTHONWARNINGS": "ignore"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  lives as long as the child
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=environment,
            )
        except OSError as error:
            self.trouble = f"{error.strerror}: {command[0]}"
            return
        self.version = (self._answer(PATIENCE_S) or {}).get("version", "")

    def ask(self, task: str, **given: Any) -> dict[str, Any] | None:
        """The answer, or None from a child that is gone, fails, or takes too long."""
        if self.trouble:
            return None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"task": task, **given}) + "\n")
        self._process.stdin.flush()
        found = self._answer(PATIENCE_S if self.name == "ours" else PEER_S)
        failed = self.trouble if found is None else found.get("failed")
        if failed:
            note(f"{self.name} left out of {task}: {failed}")
        return None if failed else found

    def _answer(self, patience_s: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        alarm = threading.Timer(patience_s, self._process.kill)
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        if line:
            answered: dict[str, Any] = json.loads(line)
            return answered
        self.trouble = "took too long" if self._process.wait() < 0 else self._last_words()
        return None

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it ended without a word")

    def close(self) -> None:
        """Let it end."""
        if hasattr(self, "_process"):
            self._process.communicate()
        self._errors.close()


Children = dict[str, Child]
Told = tuple[list[list[Any]], list[Figure]]


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> float | None:
    """The median over the rounds of one side's figure to another's in the same round."""
    return statistics.median(a / b for a, b in zip(tops, bottoms, strict=True)) if tops else None


# Training sets.


class Way(msgspec.Struct):
    """One way of one side to make a training set: seconds of the rounds, and what it made."""

    side: str
    form: str
    name: str
    requests: int = 0
    values: int = 0
    seconds: list[float] = msgspec.field(default_factory=list)

    @property
    def ns(self) -> list[float]:
        """Nanoseconds a value, by round."""
        return [s / self.values * 1e9 for s in self.seconds]


def asked_of(name: str, form: str, plan: Plan) -> dict[str, Any]:
    """What a side is asked in a round: joins of the hot form for few requests."""
    joined = plan.requests if form == "uniform" else plan.joined_hot
    return {
        "duckdb": {"joined": joined},
        "polars": {"joined": joined, "rolled": form == "uniform"},
        "feast": {
            "kinds": ["dask", "duckdb"],
            "asked": plan.requests if form == "uniform" else plan.joined_hot // 4,
        },
    }.get(name, {})


def bench_training(children: Children, plan: Plan) -> Told:
    """All sides in turn; the fastest way a value speaks for a side."""
    ways: dict[tuple[str, str, str], Way] = {}
    for i in range(plan.rounds):
        for form in FORMS:
            for name in ("ours", "duckdb", "polars", "feast"):
                note(f"training sets, round {i + 1} of {plan.rounds}, {form}: {name}")
                found = children[name].ask("training", form=form, **asked_of(name, form, plan))
                for one in (found or {}).get("ways", ()):
                    way = ways.setdefault((form, name, one["way"]), Way(name, form, one["way"]))
                    way.requests, way.values = one["requests"], one["values"]
                    way.seconds.append(one["s"])
    rows = [told(way, best(ways.values(), way.form, "ours")) for way in ways.values()]
    return rows, training_figures(list(ways.values()), plan)


def best(ways: Any, form: str, side: str) -> Way | None:
    """A side's fastest way in a form, of those that lasted all rounds."""
    most = max((len(way.seconds) for way in ways), default=0)
    whole = [way for way in ways if (way.form, way.side) == (form, side) and len(way.seconds) == most]
    return min(whole, key=lambda way: statistics.median(way.ns), default=None)


def told(way: Way, ours: Way | None) -> list[Any]:
    """A row of the table."""
    whole = ours is not None and len(ours.seconds) == len(way.seconds)
    times = ratio(way.ns, ours.ns) if whole and ours is not None else None
    return [
        way.form, way.side, way.name, way.requests, statistics.median(way.seconds), min(way.seconds),
        max(way.seconds), statistics.median(way.ns), "-" if times is None else times,
    ]  # fmt: skip


def training_figures(ways: list[Way], plan: Plan) -> list[Figure]:
    """The replay's own seconds, the hot key's price, and how far behind a peer's best way is."""
    ours = {form: best(ways, form, "ours") for form in FORMS}
    even, hot = ours["uniform"], ours["hot"]
    seconds = statistics.median(even.seconds) if even else None
    figures = [
        Figure("replay_s", seconds, "<0.4"),
        Figure("replay_hot_ratio", ratio(hot.seconds, even.seconds) if even and hot else None, "<=10"),
    ]
    for peer, wanted in (("duckdb", ">=50"), ("feast", ">=100")):
        for form, mine in ours.items():
            theirs = best(ways, form, peer)
            times = ratio(theirs.ns, mine.ns) if theirs and mine else None
            figures.append(Figure(f"replay_times_{peer}_{form}", times, wanted))
    return figures


def check(children: Children, plan: Plan) -> Told:
    """Our training sets against DuckDB's integers: one row a form. No comparison is as bad as a difference."""
    rows: list[list[Any]] = []
    unequal = []
    for form in FORMS:
        note(f"comparing {plan.checked:,} requests' values with DuckDB's integers, {form}")
        found = children["duckdb"].ask("check", form=form, requests=plan.checked)
        if found is None:
            return rows, [Figure("unequal_values", None, "<=0")]
        rows.append([form, found["compared"], found["unequal"], str(found["first"] or "-")])
        unequal.append(found["unequal"])
    return rows, [Figure("unequal_values", sum(unequal), "<=0")]


# The live state.


def bench_fold(children: Children, plan: Plan) -> Told:
    """Events a second of each side; ours in both forms, and with the requests read between the events."""
    rates: dict[tuple[str, str, str], list[float]] = {}
    events: dict[str, int] = {}
    for i in range(plan.rounds):
        for name, form, given in (
            ("ours", "uniform", {"reads": True}), ("storey", "uniform", {"events": plan.streamed}),
            ("river", "uniform", {"events": plan.streamed}), ("ours", "hot", {"reads": False}),
        ):  # fmt: skip
            note(f"fold, round {i + 1} of {plan.rounds}, {form}: {name}")
            found = children[name].ask("fold", form=form, **given)
            if found is None:
                continue
            events[name] = found["events"]
            rates.setdefault((name, form, found.get("way", "events alone")), []).append(found["per_s"])
            if "mean_per_s" in found:
                alone = (name, form, "the means alone")
                rates.setdefault(alone, []).append(found["mean_per_s"])
            if name == "ours":
                work = (name, form, "the same, a second of the process's own work")
                rates.setdefault(work, []).append(found["per_worked_s"])
            if "with_reads_per_s" in found:
                both = (name, form, "49 values read at each tenth event or so; records/s")
                rates.setdefault(both, []).append(found["with_reads_per_s"])
    rows = [
        [form, name, way, events[name], round(statistics.median(some)), round(min(some)), round(max(some))]
        for (name, form, way), some in rates.items()
    ]
    mine = rates.get(("ours", "uniform", "events alone"))
    return rows, [Figure("fold_events_per_s", statistics.median(mine) if mine else None, ">=100000")]


def bench_lookup(children: Children, plan: Plan) -> Told:
    """One customer's values and a hundred's, from the state after all events."""
    asked = {
        ("ours", "uniform"): (len(NAMES), plan.looks),
        ("feast", "uniform"): (10, plan.looks // 20),
        ("ours", "hot"): (len(NAMES), 0),
    }
    found: dict[tuple[str, str], list[dict[str, Any]]] = {side: [] for side in asked}
    for i in range(plan.rounds):
        for (name, form), (_, looks) in asked.items():
            note(f"look-ups, round {i + 1} of {plan.rounds}, {form}: {name}")
            answer = children[name].ask("lookup", form=form, looks=looks)
            if answer is not None:
                found[name, form].append(answer)

    def median(side: tuple[str, str], figure: str) -> float | None:
        some = [one[figure] for one in found[side] if figure in one]
        return statistics.median(some) if some else None

    rows = [
        ["the hot one" if form == "hot" else form, name, asked[name, form][0],
         median((name, form), "one_us"), median((name, form), "hundred_ms")]
        for name, form in asked
    ]  # fmt: skip
    ours = ("ours", "uniform")
    return rows, [
        Figure("lookup_one_us", median(ours, "one_us"), "<20"),
        Figure("lookup_hundred_ms", median(ours, "hundred_ms"), "<1.5"),
    ]


def bench_memory(folder: Path, plan: Plan) -> Told:
    """A fresh process that does nothing but fold."""
    note(f"memory: folding {plan.kept:,} events")
    child = Child("ours", folder)
    found = child.ask("memory", events=plan.kept, keys=KEYS)
    child.close()
    if found is None:
        note(f"nothing was measured: {child.trouble}")
        return [], [Figure("memory_bytes_per_event", None, "<40")]
    row = [plan.kept, found["kept"], round(found["mb"]), found["bytes_an_event"], found["s"]]
    return [row], [Figure("memory_bytes_per_event", found["bytes_an_event"], "<40")]


# The command.


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="bench/features.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one round, fewer look-ups, a million events kept in memory")
    add("--rounds", type=int, metavar="N", help="rounds (default 3; quick: 1)")
    add("--folder", type=Path, help="where the data lies while it runs (default: for temporary files)")
    add("--only", choices=("training", "fold", "lookup", "memory"), help="one part")
    add("--json", action="store_true", help="the figures as one JSON object, no table")
    return parser.parse_args(argv)


HEADS = {
    "training": ["keys", "side", "way", "requests", "s", "from", "to", "ns a value", "times ours"],
    "check": ["keys", "values compared", "unequal", "the first of them"],
    "fold": ["keys", "side", "way", "events", "a second", "from", "to"],
    "lookup": ["key", "side", "values", "one: median us", "a hundred: median ms"],
    "memory": ["events", "kept", "MB grown", "bytes an event", "s"],
}


def main() -> int:
    """Run what was asked for, print tables and figures."""
    given = parse()
    plan = Plan(
        given.rounds or (1 if given.quick else 3), 1_000_000, 100_000, 400, 20_000, 5_000, 10_000_000, 2_000
    )
    if given.quick:
        plan = msgspec.structs.replace(plan, streamed=5_000, looks=1_000, kept=1_000_000)
    figures: list[Figure] = []

    def tell(part: str, title: str, found: Told) -> None:
        rows, more = found
        figures.extend(more)
        if not given.json:
            show.table(title, HEADS[part], [["-" if cell is None else cell for cell in row] for row in rows])

    with tempfile.TemporaryDirectory(prefix="bench-features-", dir=given.folder) as made:
        folder = Path(made)
        for form in FORMS:
            make(folder, form, plan.events, plan.requests, KEYS)
        children = {
            name: Child(name, folder) for name in ("ours", "duckdb", "polars", "feast", "storey", "river")
        }
        try:
            say = note if given.json else print
            say(", ".join(child.version for child in children.values() if child.version))
            say(f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores busy before")
            for child in children.values():
                if child.trouble:
                    say(f"{child.name} cannot be started, its figures are left out: {child.trouble}")
            if given.only in (None, "training"):
                tell("training", "training set of 49 values a request", bench_training(children, plan))
                tell("check", "compared with DuckDB's integer sums", check(children, plan))
            if given.only in (None, "fold"):
                tell("fold", "live state", bench_fold(children, plan))
            if given.only in (None, "lookup"):
                tell("lookup", "look-up in process", bench_lookup(children, plan))
        finally:
            for child in children.values():
                child.close()
        if given.only in (None, "memory"):
            tell("memory", "memory of the live state", bench_memory(folder, plan))
    if given.json:
        show.as_json({one.name: {"value": one.value, "target": one.target, "ok": one.ok} for one in figures})
    else:
        for one in figures:
            print(one)
    return 0 if all(one.ok for one in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
