"""Our server and its peers under abuse, in one run: what each does, a row a server. `make bench-abuse`.

The model takes 20 ms. In turn, for each server, on one core:

- overload: ten times as many requests as it manages, due at a rate, over a thousand connections; callers wait for 2 s,
  every tenth for 0.1 s, and say so (`timeout-ms`).
- hang: one row makes the model hang for good, then one more every 10 s; eight other clients go on.
- big: 200 MB of JSON, with its length given, in chunks, and compressed; how soon it is refused, and the memory.
- slow: 200 connections that send a byte a second; eight other clients go on.
- odd: bodies that are no JSON, or JSON of the wrong kind; NaN and numbers beyond floats.
- end: SIGTERM with 16 clients under way: requests that were sent and never answered.
- worker: kill -9 of its busiest process below the first; how soon the next answer comes.

At the end one line a figure of ours, `name value target ok|short`; the exit code is 1 when one is short.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.log import Figure, note
from bench.serve.attacks import DEADLINE_S, PARTS, Found, Stand
from bench.serve.data import Case, case, fitted
from bench.serve.process import CORES, Gone, Running, compiled, load, running
from bench.serve.servers import OURS, PEERS, Server
from penstock.cli import show

DELAY_S = 0.02
LIMIT_MB = 16.0  # of a body, ours
OVERLOAD_MB = 128  # for a thousand connections and their requests; what leaks takes more within seconds
CLIENTS = (32, 256)  # what it manages is the better of what it does for so many
EXAMPLES = """examples:
  make bench-abuse                                    everything; about ten minutes
  make bench-abuse ARGS='--only us,fastapi'           two of them
  make bench-abuse ARGS='--parts overload,big --json' two parts, our figures as one JSON object
"""


def figures(found: dict[str, Found]) -> list[Figure]:
    """What ours must do, of the parts that ran."""
    over, stuck, large = (found.get(name, {}) for name in ("overload", "hang", "big"))
    variants = ("length", "chunked", "packed")
    refused = large and all(large[f"{name}_status"] in (400, 411, 413, 415) for name in variants)
    made = {
        "overload": [
            Figure("abuse_overload_goodput", over.get("goodput"), ">=0.8"),
            Figure(
                "abuse_overload_accepted_p99_ms", over.get("accepted_p99_ms"), f"<={DEADLINE_S * 1000:.0f}"
            ),
            Figure("abuse_overload_refusal_p99_ms", over.get("refusal_p99_ms"), "<50"),
            Figure("abuse_overload_health_s", over.get("health_s"), "<1"),
            Figure("abuse_overload_grown_mb", over.get("grown_mb"), f"<{OVERLOAD_MB}"),
            Figure("abuse_overload_back_s", over.get("back_s"), "<5"),
        ],
        "hang": [
            Figure("abuse_hang_share", stuck.get("share"), ">=0.8"),
            Figure("abuse_hang_often_share", stuck.get("often"), ">=0.8"),
        ],
        "big": [
            Figure("abuse_big_refused_s", max(large[f"{n}_s"] for n in variants) if refused else None, "<1"),
            Figure(
                "abuse_big_mb",
                max(large[f"{n}_mb"] for n in variants) if large else None,
                f"<{2 * LIMIT_MB:g}",
            ),
            Figure("abuse_big_health_s", large.get("health_s"), "<1"),
        ],
        "slow": [
            Figure("abuse_slow_share", found.get("slow", {}).get("share"), ">=0.8"),
            Figure("abuse_slow_closed", found.get("slow", {}).get("closed"), ">=200"),
        ],
        "odd": [
            Figure("abuse_odd_bodies", found.get("odd", {}).get("bad"), "<=0"),
            Figure("abuse_odd_numbers", found.get("odd", {}).get("numbers"), "<=0"),
        ],
        "end": [Figure("abuse_end_lost", found.get("end", {}).get("lost"), "<=0")],
        "worker": [Figure("abuse_worker_again_s", found.get("worker", {}).get("again_s"), "<2")],
    }
    return [one for name, some in made.items() if name in found for one in some]


def told(name: str, found: dict[str, Found]) -> list[list[Any]]:
    """The rows of a part: what each server did."""
    return [
        [server, *(_cell(value) for value in parts[name].values())]
        for server, parts in found.items()
        if name in parts
    ]


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return ", ".join(f"{k}: {value[k]}" if isinstance(value, dict) else str(k) for k in value) or "-"
    return "-" if value is None else value


class Abuse:
    """All parts for one server after the other."""

    def __init__(self, folder: Path, one: Case, parts: Sequence[str]) -> None:
        self.folder, self.case, self.parts, self.client = folder, one, parts, compiled(folder)
        self.found: dict[str, dict[str, Found]] = {}
        self.missing: dict[str, str] = {}

    def run(self, server: Server) -> None:
        """One server; a part that it does not survive is noted, and the next begins with a fresh one."""

        def up() -> contextlib.AbstractContextManager[Running]:
            return running(server, self.case, self.folder, DELAY_S)

        try:
            with up() as one:
                load(self.client, one, 32, 1.0)
                capacity = max(load(self.client, one, n, 2.0)["in_window"] / 2.0 for n in CLIENTS)
        except Gone as error:
            self.missing[server.name] = str(error)
            return note(f"{server.name} is left out: {error}")
        note(
            f"{server.name}: {capacity:,.0f} requests a second of a model that takes {DELAY_S * 1000:.0f} ms"
        )
        stand, mine = Stand(self.client, up, max(capacity, 1.0)), self.found.setdefault(server.name, {})
        for name in self.parts:
            note(f"{server.name}: {name}")
            for again in (True, False):  # a start may fail for reasons of its own
                try:
                    mine[name] = PARTS[name](stand)
                    break
                except (Gone, OSError) as error:
                    note(f"{server.name}: {name} could not be tried{', again' if again else ''}: {error}")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="bench/serve/abuse.py", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--only", default="", metavar="NAME,...", help=f"of us, {', '.join(p.name for p in PEERS)}"
    )
    parser.add_argument("--parts", default=",".join(PARTS), metavar="NAME,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", action="store_true", help="our figures as one JSON object, no tables")
    return parser.parse_args(argv)


def main() -> int:
    """Run what was asked for, print tables and figures."""
    given = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are ended, too
    names = [OURS.name if name == "us" else name for name in given.only.split(",") if name]
    if len(CORES) < 2:
        raise SystemExit("bench: it takes two cores, one for the server and one for the client")
    with tempfile.TemporaryDirectory(prefix="bench-abuse-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        slow_case = case("slow", folder, fitted(folder)["linear"], delay_s=DELAY_S)
        abuse = Abuse(folder, slow_case, given.parts.split(","))
        for server in [OURS, *PEERS]:
            if not names or server.name in names:
                abuse.run(server)
    found = figures(abuse.found.get(OURS.name, {}))
    if given.json:
        show.as_json({one.name: {"value": one.value, "target": one.target, "ok": one.ok} for one in found})
        return 0 if all(one.ok for one in found) else 1
    for name in abuse.parts:
        head = next((list(parts[name]) for parts in abuse.found.values() if name in parts), [])
        show.table(
            f"{name}: {(PARTS[name].__doc__ or '').strip()}", ["server", *head], told(name, abuse.found)
        )
    for server, why in abuse.missing.items():
        print(f"{server} could not be had: {why}")
    for one in found:
        print(one)
    return 0 if all(one.ok for one in found) else 1


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
