"""The log and its peers in turn, in one run: medians of rounds, and ratios. `make bench-log`, or with `ARGS=--json`.

- append: 200-byte events a second in batches of 1, 100 and 10,000, against Redis Streams and NATS JetStream,
  each by one client process on one connection; what a client can prepare beforehand is not timed. The ratios
  are of sides with equal durability: synced before the answer. The rest is printed with what it survives.
- propagation: from just before an append in one process to a reader in another, at 5,000 events a second.
- history: rows a second from sealed segments into columns.
- growth: the same costs at 10^5, 10^6, ... records; the fitted slope says what to expect at 10^8. And the
  most memory of a process that tails, appends and replays.

At the end one line a figure, `name value target ok|short`; the exit code is 1 when one is short.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.child_log import EVENT_BYTES, values
from bench.peers_log import POWER, Bare, JetStream, Ours, Redis, Side, Way, start_peers
from penstock.cli import show
from penstock.log.machine import file_system
from penstock.record.record import Draft

BATCHES = (1, 100, 10_000)
RATE = 5_000
THREE = "position,key,time_ms"
ALL = "position,id,key,time_ms,value,headers"
FAR = 100_000_000  # the length that growth is extrapolated to
CHILD_S = 1_800.0  # far more than any part takes
CHILD = Path(__file__).with_name("child_log.py")
EXAMPLES = """examples:
  make bench-log                               everything; about six minutes, 5 GB of disk for a while
  make bench-log ARGS=--quick                  fewer rounds, growth to 10^6 only; about a minute
  make bench-log ARGS='--records 1000000'      all rounds, a shorter history
  make bench-log ARGS='--folder ~/bench'       on another file system than the one for temporary files
  make bench-log ARGS='--json --only append'   one part's figures as one JSON object
"""


class Plan(msgspec.Struct, frozen=True):
    """How long to measure. `trial_s` is spent on each way of a peer before the rounds."""

    rounds: int
    append_s: float
    trial_s: float
    propagation_rounds: int
    propagation_s: float
    costs_s: float
    records: int
    fill: int


class Figure(msgspec.Struct, frozen=True):
    """A value and what it must reach; without a value it is short."""

    name: str
    value: float | None
    target: str

    @property
    def ok(self) -> bool:
        """Whether the value reaches the target."""
        if self.value is None:
            return False
        wanted = float(self.target.lstrip("<>="))
        if self.target.startswith(">="):
            return self.value >= wanted
        return self.value <= wanted if self.target.startswith("<=") else self.value < wanted

    def __str__(self) -> str:
        value = self.value
        told = "-" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
        return f"{self.name} {told} {self.target} {'ok' if self.ok else 'short'}"


class Row(msgspec.Struct, frozen=True):
    """Events a second of one side in its fastest way."""

    batch: int
    side: str
    durable: str
    way: str
    rates: list[float]

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rates)


def note(text: str) -> None:
    """A line about what is under way."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


# Append.


class Source:
    """Batches of drafts: the same events again, or each with an id that was never used before."""

    def __init__(self) -> None:
        self._plain = {n: [Draft("t", "k", i, value) for i, value in enumerate(values(n))] for n in BATCHES}
        self._used = 0

    def batch(self, n: int, ids: bool) -> list[Draft]:
        """A batch of `n`."""
        plain = self._plain.get(n) or self._plain[BATCHES[-1]][:n]
        if not ids:
            return plain
        self._used += n
        return [Draft(d.topic, d.key, d.time_ms, d.value, f"e{self._used - i}") for i, d in enumerate(plain)]


def rate(side: Side, way: Way, source: Source, n: int, seconds: float) -> float:
    """Events a second of one way, in batches of `n`; what it makes of the drafts beforehand is not timed."""
    small = min(n, BATCHES[1])
    way(source.batch(small, side.ids))()  # the first one wakes the server's and the client's buffers
    gc.collect()
    before, done, taken = side.count(), 0, 0.0
    while taken < seconds:
        work = way(source.batch(n, side.ids))
        began = time.perf_counter()
        work()
        taken += time.perf_counter() - began
        done += n
    assert side.count() - before == done, f"{side.name} lost events"
    return done / taken


def contenders(side: Side, source: Source, n: int, seconds: float) -> dict[str, Way]:
    """A side's ways that come within half of its fastest in a short trial."""
    ways = side.ways(n)
    if len(ways) == 1:
        return ways
    tried = {name: rate(side, way, source, min(n, 1_000), seconds) for name, way in ways.items()}
    side.clear()
    return {name: way for name, way in ways.items() if tried[name] >= max(tried.values()) / 2}


def bench_append(folder: Path, plan: Plan) -> tuple[list[Row], list[str], list[Figure]]:
    """All sides in turn, a batch size at a time; and which peers are missing."""
    peers, missing = start_peers(folder / "peers")
    sides: list[Side] = []
    rows: list[Row] = []
    source = Source()
    try:
        sides = [
            Ours(folder / "ours", sync=True),
            *(peer for peer in peers if peer.durable == POWER),
            Bare(folder / "bare"),
            Ours(folder / "ours-ids", sync=True, ids=True),
            Ours(folder / "ours-light", sync=False),
            *(peer for peer in peers if peer.durable != POWER),
        ]
        for n in BATCHES:
            note(f"appends in batches of {n:,}: {plan.rounds} rounds of {len(sides)} sides")
            chosen = [(side, contenders(side, source, n, plan.trial_s)) for side in sides]
            rates: dict[tuple[int, str], list[float]] = {}
            for _ in range(plan.rounds):
                for i, (side, ways) in enumerate(chosen):
                    for name, way in ways.items():
                        rates.setdefault((i, name), []).append(rate(side, way, source, n, plan.append_s))
                    side.clear()
            for i, (side, ways) in enumerate(chosen):
                best = max(ways, key=lambda name, i=i: statistics.median(rates[i, name]))  # type: ignore[misc]
                rows.append(Row(n, side.name, side.durable, best, rates[i, best]))
    finally:
        for side in [*peers, *(side for side in sides if side not in peers)]:
            side.close()
        shutil.rmtree(folder / "peers", ignore_errors=True)
    return rows, missing, [Figure(f"append_{n}_ratio", _ratio(rows, n), ">=3") for n in BATCHES[1:]]


def _ratio(rows: Sequence[Row], n: int) -> float | None:
    """Ours to the better of the two peers, all synced; none unless both were there."""
    synced = [row for row in rows if row.batch == n and row.durable == POWER]
    ours = next(row for row in synced if row.side == Ours.name)
    peers = [row.rate for row in synced if row.side in (Redis.name, JetStream.name)]
    return ours.rate / max(peers) if len(peers) == len((Redis, JetStream)) else None


# The parts with processes of their own.


def child(part: str, home: Path, *given: object) -> subprocess.Popen[str]:
    """Start a part; its answer is the last line that it prints."""
    command = [sys.executable, str(CHILD), part, str(home), *(str(one) for one in given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a part's answer."""
    try:
        printed, _ = process.communicate(timeout=CHILD_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode:
        raise SystemExit(f"bench: {' '.join(map(str, process.args[2:]))} failed")  # type: ignore[index]
    answered: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return answered


def bench_propagation(folder: Path, plan: Plan) -> tuple[list[list[Any]], list[str], list[Figure]]:
    """A writer and a reader, each a process; the figures are those of synced appends, medians of rounds."""
    kinds = {True: POWER, False: "killed process, synced in 20 ms"}
    found: dict[bool, list[list[float]]] = {sync: [] for sync in kinds}
    disk: list[list[float]] = []
    for i in range(plan.propagation_rounds):
        note(f"propagation, round {i + 1} of {plan.propagation_rounds}: {plan.propagation_s:g} s twice")
        disk.append(answer(child("disk", folder, 1.0))["ms"])
        for sync, rounds in found.items():
            rounds.append(propagated(folder / "propagation", plan.propagation_s, sync))
    rows: list[list[Any]] = [[kinds[sync], *_medians(rounds)] for sync, rounds in found.items()]
    p50, p99 = _medians(disk)
    said = [f"the disk alone, {RATE // 1000} events written and synced: p50 {p50:.3g} ms, p99 {p99:.3g} ms"]
    rate, _, *marks = _medians(found[True])
    reached = rate >= 0.98 * RATE
    if not reached:
        said.append(f"synced appends reach {rate:,.0f} events/s here, so {RATE:,} were not measured")
    names = (("propagation_p50_ms", "<2"), ("propagation_p99_ms", "<10"))
    return rows, said, [
        Figure(name, marks[i] if reached else None, target) for i, (name, target) in enumerate(names)
    ]  # fmt: skip


def propagated(home: Path, seconds: float, sync: bool) -> list[float]:
    """Events a second, events a batch, and what 50 and 99 % of them took: since the append, since due."""
    home.mkdir()
    reader = child("read", home, seconds + 30.0)
    started = [reader]
    try:
        assert reader.stdout is not None
        reader.stdout.readline()
        started.append(child("write", home, float(seconds), RATE, int(sync)))
        wrote, heard = answer(started[1]), answer(reader)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(home)
    return [wrote["per_s"], wrote["batch"], *heard["since_append"], *heard["since_due"]]


def _medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def bench_growth(folder: Path, plan: Plan) -> tuple[list[list[Any]], list[str], list[Figure]]:
    """Costs, memory and history at each length of one log that grows; costs beside a log that stays short."""
    home, kept, short = folder / "growth", folder / "kept", folder / "short"
    home.mkdir()
    rows: list[list[Any]] = []
    ratios: dict[str, list[tuple[int, float]]] = {"append": [], "tail": []}
    cost: dict[str, float] = {}
    try:
        for n in lengths(plan.records):
            note(f"growth: filling to {n:,} records")
            filled = answer(child("fill", home, n, plan.fill))
            if not kept.exists():
                shutil.copytree(home, kept)
            shutil.copytree(kept, short)
            _settle(folder)
            cost = answer(child("costs", home, short, float(plan.costs_s)))
            shutil.rmtree(short)
            for name, points in ratios.items():
                points.append((n, cost[f"{name}_us"] / cost[f"short_{name}_us"]))
            away = answer(child("put_away", home))
            note(f"growth: replaying {n:,} records")
            walked = answer(child("walk", home))
            size = sum(file.stat().st_size for file in home.rglob("*") if file.is_file())
            rows.append([
                n, cost["append_us"], ratios["append"][-1][1], cost["tail_us"], ratios["tail"][-1][1],
                max(away["peak_mb"], walked["peak_mb"]), away["sealed"], size / n,
                round(filled["per_s"]), round(walked["per_s"]),
            ])  # fmt: skip
        three, all_six = (answer(child("read_columns", home, fields, 5)) for fields in (THREE, ALL))
    finally:
        for made in (home, kept, short):
            shutil.rmtree(made, ignore_errors=True)
    said = [
        f"history: {one['rows']:,} sealed records, {one['per_s'] or 0:,.0f} a second as columns {fields}, "
        f"{one['peak_mb']:.0f} MB"
        for fields, one in ((THREE, three), (ALL, all_six))
    ]
    said += [_slope(name, points, cost[f"short_{name}_us"]) for name, points in ratios.items()]
    return rows, said, [
        Figure("history_columns_per_s", three["per_s"], ">=5000000"),
        Figure("memory_mb", max(*(row[5] for row in rows), three["peak_mb"], all_six["peak_mb"]), "<150"),
        *(Figure(f"growth_{name}_ratio", points[-1][1], "<=1.5") for name, points in ratios.items()),
    ]  # fmt: skip


def lengths(records: int) -> list[int]:
    """10^5, 10^6, ... up to the given number, which is the last."""
    return [*(10**i for i in range(5, 12) if 10**i < records), records]


def _slope(name: str, points: Sequence[tuple[int, float]], short_us: float) -> str:
    """The line through the logarithms of lengths and ratios, told as a factor a decade, and where it leads."""
    xs, ys = zip(*((math.log10(n), math.log10(ratio)) for n, ratio in points), strict=True)
    slope, start = statistics.linear_regression(xs, ys)
    there = 10 ** (start + slope * math.log10(FAR))
    return (
        f"{name}: x{10**slope:.3f} a decade; by this slope x{there:.3g} at 10^8 records, "
        f"{short_us * there:.3g} us a record where 10^5 cost {short_us:.3g}"
    )


def _settle(home: Path) -> None:
    """Wait until the disk has what was filled in: its writing is not part of what is measured next."""
    for file in home.rglob("*.db*"):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


# The command.


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="bench/log.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="few and short rounds, growth to 10^6 records")
    add("--records", type=int, metavar="N", help="length of the growing log (default 10,000,000; 1,000,000)")
    add(
        "--fill",
        type=int,
        default=100,
        metavar="N",
        help="batch that the growing log is filled in (default 100)",
    )
    add("--folder", type=Path, help="where the data lies while it runs (default: for temporary files)")
    add("--only", choices=("append", "propagation", "growth"), help="one part")
    add("--json", action="store_true", help="the figures as one JSON object, no table")
    given = parser.parse_args(argv)
    given.records = given.records or (1_000_000 if given.quick else 10_000_000)
    if given.records < 1_000_000:
        parser.error("--records: growth needs a factor of ten at least, 1,000,000 records")
    return given


def place(asked: Path | None) -> Path:
    """The folder for the data: as asked, or where temporary files lie unless that is memory."""
    if asked is not None:
        return asked.expanduser()
    usual = Path(tempfile.gettempdir())
    return Path.cwd() if file_system(usual) in ("tmpfs", "ramfs") else usual


def check_room(folder: Path, records: int) -> None:
    """Leave, with a sentence, when the disk has no room for the growing log and 2 GB besides."""
    free, needed = shutil.disk_usage(folder).free, records * (EVENT_BYTES + 100) + 2_000_000_000
    if free < needed:
        raise SystemExit(
            f"bench: {needed / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} are free. "
            "Name another --folder, or fewer --records."
        )


def main() -> int:
    """Run what was asked for, print tables and figures."""
    given = parse()
    plan = (
        Plan(3, 0.08, 0.01, 1, 2.0, 0.3, given.records, given.fill)
        if given.quick
        else Plan(5, 1.0, 0.2, 3, 5.0, 3.0, given.records, given.fill)
    )
    base = place(given.folder)
    base.mkdir(parents=True, exist_ok=True)
    check_room(base, plan.records)
    figures: list[Figure] = []
    say: Callable[[str], None] = note if given.json else print

    def tell(title: str, head: list[str], rows: list[list[Any]], lines: list[str]) -> None:
        if not given.json:
            show.table(title, head, rows)
        for line in lines:
            say(line)

    with tempfile.TemporaryDirectory(prefix="bench-log-", dir=base) as made:
        folder = Path(made)
        busy = (
            f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores busy before"  # a sync waits for a core too
        )
        say(f"data on {file_system(folder)}, events of {EVENT_BYTES} bytes, {busy}")
        if given.only in (None, "append"):
            found, lines, more = bench_append(folder, plan)
            figures += more
            head = ["batch", "log", "an answered event survives", "its fastest way", "events/s", "from", "to"]
            told = [
                [r.batch, r.side, r.durable, r.way, round(r.rate), round(min(r.rates)), round(max(r.rates))]
                for r in found
            ]
            tell("append", head, told, lines)
        if given.only in (None, "propagation"):
            rows, lines, more = bench_propagation(folder, plan)
            figures += more
            head = [
                "an answered event survives",
                "events/s",
                "a batch",
                "p50 ms",
                "p99 ms",
                "due p50",
                "due p99",
            ]
            tell("propagation to another process, since the append and since it was due", head, rows, lines)
        if given.only in (None, "growth"):
            rows, lines, more = bench_growth(folder, plan)
            figures += more
            head = [
                "records", "append us", "to 10^5", "tail us", "to 10^5", "peak MB", "newly sealed", "disk bytes",
                "filled/s", "replayed/s",
            ]  # fmt: skip
            tell(
                "growth: a record in batches of 100, and its ratio to one of 10^5 in turn", head, rows, lines
            )
    if given.json:
        show.as_json({one.name: {"value": one.value, "target": one.target, "ok": one.ok} for one in figures})
    else:
        for one in figures:
            print(one)
    return 0 if all(one.ok for one in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
