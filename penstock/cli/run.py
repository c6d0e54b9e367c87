"""cli: the verbs that run something: demo, up, run, append, check, and keys to open a door."""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.append import Report
from penstock.app.append import append as append_rows
from penstock.app.home import open_home, pressure, wall_ms
from penstock.app.pressure import Bounds, bytes_of, patiently
from penstock.cli import show
from penstock.record.errors import NotFound, Refused, Unavailable
from penstock.serve.identity import key_line, new_key

BATCH = 1000


def _until_asked() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def demo(given: argparse.Namespace) -> int:
    """The shop."""
    from penstock.demo.play import play

    return play(
        Path(given.home) if given.home else None,
        given.seed,
        given.port,
        leave=given.exit,
        stop=_until_asked(),
        log=(given.log, given.log_settings),
    )


def up(given: argparse.Namespace) -> int:
    """Serve a file until asked to stop."""
    from penstock.app.up import Settings
    from penstock.app.up import up as bring_up

    settings = Settings(
        given.host, given.port, given.key_file, given.webhook, tuple(given.allow_host),
        log=given.log, log_settings=given.log_settings, bounds=_bounds(given), workers=given.workers, sync=given.sync,
        grpc_port=given.grpc_port, models_bytes=_bytes(given.models_memory),
    )  # fmt: skip

    def said(address: str) -> None:
        print(f"penstock: {given.file} is up at {address} (Ctrl-C ends it)", flush=True)

    bring_up(given.file, Path(given.home), settings, said, _until_asked())
    return 0


def run_stages(given: argparse.Namespace) -> int:
    """Run stages of a file until asked to stop."""
    from penstock.app.processes.crew import Crew, Settings, run

    def said(crew: Crew) -> None:
        names = ", ".join([*crew.mine, *crew.works, *(["tick"] if crew.ticks else [])])
        print(f"penstock: runs {names} of {given.file}, in {crew.shares} shares (Ctrl-C ends it)", flush=True)

    settings = Settings(tuple(given.stages), given.shares, given.in_turn, name=given.name)
    log = given.log, given.log_settings
    run(given.file, Path(given.home), settings, said, _until_asked(), log=log, blobs=given.blobs)
    return 0


def key(given: argparse.Namespace) -> int:
    """Make a key: shown once, kept as a digest."""
    made = new_key(secrets.token_bytes(24))
    line = key_line(given.name, made)
    descriptor = os.open(given.key_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a") as file:
        file.write(line)
    print(made)
    print("This key is shown once. Send it as `Authorization: Bearer KEY`.", file=sys.stderr)
    return 0


def _bounds(given: argparse.Namespace) -> Bounds:
    return Bounds(given.max_lag, _bytes(given.min_free), _bytes(given.max_log))


def _bytes(text: str) -> int:
    try:
        return bytes_of(text)
    except ValueError:
        raise Refused('A size is a number with a unit, such as "500MB".', code="arguments") from None


def append(given: argparse.Namespace) -> int:
    """Append a file's events; 1 when some were refused, 2 when all were."""
    home = open_home(Path(given.home))
    file = home.file()
    total = {"appended": 0, "duplicates": 0}
    refused: dict[str, int] = {}
    notes: list[str] = []
    strict = Path(given.path).suffix != ".csv"
    bounds = pressure(file, home, _bounds(given))

    def taken(first: int, rows: list[Any]) -> Report:
        with bounds.admit(len(rows)):
            return append_rows(
                file, home.log, given.topic, rows, now_ms=wall_ms(), first=first, strict=strict
            )

    def waiting(note: str) -> None:
        print(f"append: {total['appended']} appended, waiting: {note}", file=sys.stderr)

    for first, rows in _batches(_rows(given.path)):
        try:
            report = patiently(partial(taken, first, rows), given.pressure, waiting)
        except Unavailable:
            print(
                f"append: {total['appended']} appended of the {first - 1} rows before these:", file=sys.stderr
            )
            raise
        total["appended"] += report.appended
        total["duplicates"] += report.duplicates
        for code, n in report.refused.items():
            refused[code] = refused.get(code, 0) + n
        notes += report.notes[: 20 - len(notes)]
    home.log.close()
    if given.json:
        show.as_json({**total, "refused": refused, "notes": notes})
    else:
        for note in notes:
            print(f"  {note}", file=sys.stderr)
        counted = ", ".join(f"{n} {code}" for code, n in sorted(refused.items())) or "none"
        print(f"append: {total['appended']} appended, {total['duplicates']} duplicates, refused: {counted}")
    return 0 if not refused else 1 if total["appended"] else 2


def _batches(rows: Iterable[Any]) -> Iterator[tuple[int, list[Any]]]:
    walk, first = iter(rows), 1
    while batch := list(itertools.islice(walk, BATCH)):
        yield first, batch
        first += len(batch)


def _rows(path: str) -> Iterator[Mapping[str, Any] | bytes]:
    """The rows of a file by its ending: .csv, .json (an array or one object), else JSON lines."""
    if path == "-":
        yield from (line for line in sys.stdin.buffer if line.strip())
        return
    where = Path(path)
    if not where.is_file():
        raise NotFound("There is no such file to append from.")
    if where.suffix == ".csv":
        with where.open(newline="") as file:
            yield from ({n: v or None for n, v in row.items()} for row in csv.DictReader(file))
    elif where.suffix == ".json":
        yield from _array(where.read_bytes())
    else:
        with where.open("rb") as lines:
            yield from (line for line in lines if line.strip())


def _array(data: bytes) -> list[bytes]:
    if not data.lstrip().startswith(b"["):
        return [data]
    try:
        return [bytes(one) for one in msgspec.json.decode(data, type=list[msgspec.Raw])]
    except msgspec.DecodeError:
        raise Refused("The file is not valid JSON.", code="malformed") from None


def check(given: argparse.Namespace) -> int:
    """Check a file; 1 when something would break."""
    from penstock.app.check import check as run_checks

    findings = run_checks(given.file, Path(given.data) if given.data else None)
    failed = [one for one in findings if not one.ok]
    if given.json:
        show.as_json(findings)
    else:
        for one in findings:
            print(f"{'ok    ' if one.ok else 'BROKEN'}  {one.what}{': ' + one.note if one.note else ''}")
        print("check: " + (f"{len(failed)} of {len(findings)} would break" if failed else "all is well"))
    return int(bool(failed))
