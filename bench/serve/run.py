"""Our server and its peers in turn, one core each: rounds of the same load on the same model. `make bench-serve`.

Each server is started on one core and asked by a client in C on the other: one-row requests of 30 numbers, every
answer compared with the model's score. A round takes every server in turn: start to first answer, 32 connections
and one, each asking as soon as it is answered (closed loop), then requests due at half and at four fifths of what
it managed (open loop; latency counts from when a request was due). Figures are medians of the rounds; CPU and memory
are those of a server's whole process tree, and for the figure of a worker the memory of that which took the most CPU.
By gRPC each is asked over 32 connections, in the closed loop. Peers that cannot be had are named. `linear` is a
logistic regression, `trees` are 100 boosted trees of depth 3, both scikit-learn's. Ours is started by `penstock up` on
a home with a trained champion: its requests are checked, answered, written to the log, then sent; its figures are of
the form in which the others of the protocol are asked, one tensor, where it takes that.

At the end one line a figure, `name value target ok|short`; the exit code is 1 when one is short.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.log import Figure, note
from bench.serve.data import Case, case, fitted, lookup_case
from bench.serve.process import CORES, Gone, Running, compiled, load, memory_mb, running, worker_mb
from bench.serve.remote import Rate, remote_rate
from bench.serve.servers import ONE_TENSOR, OURS, PEERS, SYNCED, Server, entity, option
from penstock.cli import show

EXAMPLES = """examples:
  make bench-serve                                                     everything; about fifteen minutes
  make bench-serve ARGS='--only us,fastapi --rounds 1 --seconds 1'     two of them, quickly
  make bench-serve ARGS='--models linear --json'                       one model, the figures as one JSON object
"""
MANY = 32
SHARES = (0.5, 0.8)
STAY, STAY_S = 6, 3.0


class Round(msgspec.Struct, frozen=True):
    """What one server did in one round. Rates a second, latencies in milliseconds, of right answers."""

    per_s: float
    p50: float
    p99: float
    cpu_us: float
    one_per_s: float
    one_p50: float
    half_p99: float
    most_p99: float
    memory_mb: float
    worker_mb: float
    cold_start_s: float
    bad: int
    client_cpu: float


class Plan(msgspec.Struct, frozen=True):
    """How much to measure."""

    rounds: int
    seconds: float


def bad(found: dict[str, Any]) -> int:
    """Requests that came to anything but a right answer."""
    return int(found["due"] - found["right"])


def measured(client: Path, one: Running, seconds: float) -> Round:
    """One round of a server that has just come up."""
    load(client, one, MANY, min(1.0, seconds))  # the first requests wake caches and threads
    many = load(client, one, MANY, seconds)
    alone = load(client, one, 1, seconds)
    rate = many["in_window"] / many["seconds"]
    half, most = (
        load(client, one, 4 * MANY, seconds, max(1.0, rate * share), timeout_s=2.0) for share in SHARES
    )
    return Round(
        rate, many["ms"].get("p50", 0.0), many["ms"].get("p99", 0.0),
        many["server_cpu_s"] / max(many["right"], 1) * 1e6,
        alone["in_window"] / alone["seconds"], alone["ms"].get("p50", 0.0),
        half["ms"].get("p99", 0.0), most["ms"].get("p99", 0.0),
        memory_mb(one.process.pid), worker_mb(one.process.pid), one.cold_start_s,
        sum(bad(found) for found in (many, alone, half, most)), many["cpu_s"] / many["seconds"],
    )  # fmt: skip


class Bench:
    """All rounds of all servers on all cases; a peer that fails is left out from then on, and why is kept."""

    def __init__(self, folder: Path, plan: Plan, names: Sequence[str]) -> None:
        self.folder, self.plan, self.client = folder, plan, compiled(folder)
        self.names = names
        self.rounds: dict[tuple[str, str], list[Round]] = {}
        self.remote: dict[str, list[Rate]] = {}
        self.missing: dict[str, str] = {}
        self.stayed: list[list[float]] = []

    def servers(self) -> list[Server]:
        """Those that were asked for, ours first, in both forms."""
        known = [OURS, ONE_TENSOR, *PEERS]
        return [one for one in known if not self.names or one.name.partition(",")[0] in self.names]

    def us(self, name: str) -> str:
        """Ours, asked as the others are, where it takes that form."""
        return ONE_TENSOR.name if (name, ONE_TENSOR.name) in self.rounds else OURS.name

    def turns(self, cases: Sequence[Case]) -> None:
        """Round after round, each server in turn."""
        for i in range(self.plan.rounds):
            for one in cases:
                for server in self.servers():
                    self.turn(i, one.name, server, one)

    def turn(self, i: int, name: str, server: Server, one: Case, more: tuple[str, ...] = ()) -> None:
        """One server once."""
        if server.name in self.missing:
            return
        note(f"round {i + 1} of {self.plan.rounds}, {name}: {server.name}")
        try:
            with running(server, one, self.folder, more=more) as up:
                self.rounds.setdefault((name, server.name), []).append(
                    measured(self.client, up, self.plan.seconds)
                )
                if name == "linear" and server.grpc:
                    rate = remote_rate(up, self.plan.seconds)
                    if rate is not None:
                        self.remote.setdefault(server.name, []).append(rate)
        except Gone as error:
            self.missing[server.name] = str(error)
            note(f"{server.name} is left out: {error}")

    def stay(self, one: Case) -> None:
        """Ours for longer: what it does after as much has come as a round never brings."""
        server = ONE_TENSOR if self.us(one.name) == ONE_TENSOR.name else OURS
        note(f"{server.name} for {STAY} times {STAY_S:g} s")
        with running(server, one, self.folder) as up:
            for _ in range(STAY):
                found = load(self.client, up, MANY, STAY_S)
                self.stayed.append(
                    [
                        found["in_window"] / STAY_S,
                        found["ms"].get("p99", 0.0),
                        memory_mb(up.process.pid),
                    ]
                )

    def median(self, name: str, server: str, field: str) -> float | None:
        """Over the rounds; None without any."""
        found = self.rounds.get((name, server))
        return statistics.median(getattr(one, field) for one in found) if found else None

    def by_grpc(self, server: str, field: str) -> float | None:
        """The same of what it did by gRPC."""
        found = self.remote.get(server)
        return statistics.median(getattr(one, field) for one in found) if found else None

    def best(self, name: str) -> tuple[str, float] | None:
        """The fastest of the Python products."""
        rates = [(one.name, self.median(name, one.name, "per_s")) for one in PEERS if one.product]
        known = [(server, rate) for server, rate in rates if rate is not None]
        return max(known, key=lambda pair: pair[1], default=None)

    def rows(self, name: str) -> list[list[Any]]:
        """The table of a case."""
        best = self.best(name)
        return [
            [server, *(self.median(name, server, field) for field in Round.__struct_fields__[:-2]),
             sum(one.bad for one in found), f"{found[-1].client_cpu:.0%}",
             self.median(name, server, "per_s") / best[1] if best else "-"]  # type: ignore[operator]
            for (case_name, server), found in self.rounds.items() if case_name == name
        ]  # fmt: skip


HEAD = [
    "server", "req/s", "p50 ms", "p99 ms", "CPU us", "alone req/s", "p50 ms", "p99 at 50 %", "p99 at 80 %", "MB",
    "MB, worker",
    "cold start s", "not right", "client's core", "times best product",
]  # fmt: skip


def figures(bench: Bench, names: Sequence[str]) -> list[Figure]:
    """What the product must reach. A median that is missing is short."""
    made = []
    for name in names:
        us = bench.us(name)
        best, mine = bench.best(name), bench.median(name, us, "per_s")
        triton = bench.median(name, "triton", "per_s")
        alone, theirs = bench.median(name, us, "one_per_s"), bench.median(name, "fastapi", "one_per_s")
        found = bench.rounds.get((name, us), [])
        made += [
            Figure(f"serve_{name}_per_s", mine, ">=30000"),
            Figure(f"serve_{name}_times_best_product", _ratio(mine, best[1] if best else None), ">=10"),
            Figure(f"serve_{name}_times_triton", _ratio(mine, triton), ">=1"),
            Figure(f"serve_{name}_alone_times_fastapi", _ratio(alone, theirs), ">=1"),
            Figure(f"serve_{name}_p99_ms", bench.median(name, us, "p99"), "<=5"),
            Figure(f"serve_{name}_cpu_us", bench.median(name, us, "cpu_us"), "<=30"),
            Figure(f"serve_{name}_worker_mb", bench.median(name, us, "worker_mb"), "<70"),
            Figure(f"serve_{name}_cold_start_s", bench.median(name, us, "cold_start_s"), "<0.6"),
            Figure(f"serve_{name}_not_right", sum(one.bad for one in found) if found else None, "<=0"),
        ]
    made.append(Figure("serve_synced_per_s", bench.median("synced", bench.us("synced"), "per_s"), ">=15000"))
    made.append(Figure("serve_lookup_per_s", bench.median("lookup", OURS.name, "per_s"), ">=10000"))
    stayed = bench.stayed
    made.append(Figure("serve_stays", _ratio(stayed[-1][0], stayed[0][0]) if stayed else None, ">=0.9"))
    mine = bench.by_grpc(ONE_TENSOR.name, "per_s")
    made += [
        Figure(f"serve_grpc_times_{peer}", _ratio(mine, bench.by_grpc(peer, "per_s")), ">=5")
        for peer in ("kserve", "mlserver")
    ]
    return made


def _ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top is not None and bottom else None


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="bench/serve/run.py", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--only", default="", metavar="NAME,...", help=f"of us, {', '.join(one.name for one in PEERS)}")
    add("--models", default="linear,trees", metavar="NAME,...", help="of linear, trees")
    add("--rounds", type=int, default=3, metavar="N")
    add("--seconds", type=float, default=2.0, metavar="S", help="of each load (default: 2)")
    add("--plain", action="store_true", help="without the runs that are synced, with look-ups, or by gRPC")
    add("--json", action="store_true", help="the figures as one JSON object, no table")
    return parser.parse_args(argv)


def main() -> int:
    """Run what was asked for, print tables and figures."""
    given = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are ended, too
    names = [OURS.name if name == "us" else name for name in given.only.split(",") if name]
    if len(CORES) < 2:
        raise SystemExit("bench: it takes two cores, one for the server and one for the client")
    with tempfile.TemporaryDirectory(prefix="bench-serve-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        note(f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores busy before; fitting, and preparing homes")
        bench = Bench(folder, Plan(given.rounds, given.seconds), names)
        models = fitted(folder)
        cases = [case(name, folder, models[name]) for name in given.models.split(",")]
        bench.turns(cases)
        if not given.plain and (not names or OURS.name in names):
            bench.stay(cases[0])
            synced, looked = option(SYNCED), lookup_case(folder, models["linear"])
            by_entity = msgspec.structs.replace(OURS, body=entity)
            for i in range(given.rounds):
                if synced:
                    form = OURS if ONE_TENSOR.name in bench.missing else ONE_TENSOR
                    bench.turn(i, "synced", form, cases[0], (synced,))
                bench.turn(i, "lookup", by_entity, looked)
            if not synced:
                bench.missing["synced answers"] = f"penstock up has none of {', '.join(SYNCED)}"
    found = figures(bench, given.models.split(","))
    if given.json:
        show.as_json({one.name: {"value": one.value, "target": one.target, "ok": one.ok} for one in found})
        return 0 if all(one.ok for one in found) else 1
    for name in dict.fromkeys(name for name, _ in bench.rounds):
        show.table(
            f"{name}: {MANY} connections, then one, then requests due at a rate", HEAD, bench.rows(name)
        )
    if bench.stayed:
        rows = [[f"{i * STAY_S:g} s", *one] for i, one in enumerate(bench.stayed)]
        show.table(f"ours for longer, {MANY} connections", ["from", "req/s", "p99 ms", "MB"], rows)
    if bench.remote:
        fields = Rate.__struct_fields__
        rows = [[server, *(bench.by_grpc(server, field) for field in fields)] for server in bench.remote]
        show.table(f"gRPC: {MANY} connections", ["server", "calls/s", "p50 ms", "p99 ms", "CPU us"], rows)
    for server, why in bench.missing.items():
        print(f"{server} could not be had: {why}")
    for one in found:
        print(one)
    return 0 if all(one.ok for one in found) else 1


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
