"""cli: the verbs that read a log, and those that put a decision on it."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.home import Books, Home, Views, open_home, wall_ms
from penstock.app.system import decide
from penstock.app.upkeep import Kept, due, turn
from penstock.cli import show
from penstock.gate.report import report as render
from penstock.log.upkeep.doctor import examine, health
from penstock.record.codec import unpack
from penstock.record.decisions import Decision, Evaluation, Version
from penstock.record.errors import NotFound, Refused
from penstock.record.event import unknown
from penstock.release.registry import Entry, Registry, registry

WAL_ALARM_BYTES = 256 << 20


def _home(given: argparse.Namespace) -> Home:
    return open_home(Path(given.home))


def status(given: argparse.Namespace) -> int:
    """How things stand."""
    home = _home(given)
    found = Views(home.file(), home.log, home.blobs).status()
    if given.json:
        show.as_json(found)
        return 0
    show.table("", ["topic", "records"], list(found["topics"].items()))
    show.console().print()
    show.table(
        "",
        ["stage", "epoch", "position", "lag"],
        [[n, one["epoch"], one["position"], one["lag"]] for n, one in found["stages"].items()],
    )
    show.console().print()
    models = [[name, _v(m["champion"]), _v(m["candidate"]), m["predictions"], ", ".join(m["alerts"]) or "none"]
              for name, m in found["models"].items()]  # fmt: skip
    counts = [
        [one["name"], ", ".join(one["labels"].values()), one["value"]]
        for one in found["counters"]
        if one["value"]
    ]
    show.table("", ["counter", "of", "count"], counts)
    show.console().print()
    show.table("", ["model", "champion", "candidate", "predictions", "standing alerts"], models)
    for name, one in found["models"].items():
        if one["failed"]:
            show.console().print(f"The newest training of {name} failed, {one['failed']}")
    return 0


def _v(number: int | None) -> str:
    return f"v{number}" if number else "-"


def models(given: argparse.Namespace) -> int:
    """Every version, and every training that came to none."""
    known = registry(_home(given).log)
    rows = [
        _version_row(known, name, n) if n in entry.versions else _failed_row(entry, name, n)
        for name, entry in known.models.items()
        for n in sorted([*entry.versions, *entry.failures])
    ]
    if given.json:
        show.as_json([dict(zip(_VERSION_HEAD, row, strict=True)) for row in rows])
    else:
        show.table("", _VERSION_HEAD, rows)
    return 0


_VERSION_HEAD = [
    "version",
    "standing",
    "trained at",
    "rows",
    "why",
    "verdict",
    "difference",
    "digest",
    "form",
]


def _version_row(known: Registry, name: str, number: int) -> list[Any]:
    entry = known.models[name]
    version, verdict = entry.versions[number], entry.verdicts.get(number)
    return [
        f"{name}@v{number}", entry.standing(number), show.at(version.t_ms), version.training.rows, version.reason,
        verdict.decision if verdict else "-", verdict.difference if verdict else 0.0, version.digest[:12],
        f"{version.form_kind} ±{version.form_difference:.0e} on {version.form_rows}"
        if version.form
        else version.form_kind or "-",
    ]  # fmt: skip


def _failed_row(entry: Entry, name: str, number: int) -> list[Any]:
    failed = entry.failures[number]
    return [f"{name}@v{number}", "failed", show.at(failed.t_ms), "-", failed.note, "-", "-", "-", "-"]


def doctor(given: argparse.Namespace) -> int:
    """The log's health; 1 when something is wrong."""
    home = _home(given)
    found = health(home.log)
    problems = ["Less than 1 GB is free on the disk."] if found["free_bytes"] < 1 << 30 else []
    if found["wal_bytes"] > WAL_ALARM_BYTES:
        problems.append("The WAL has grown: some process holds a read open, or the disk is slow.")
    if not given.quick:
        total = sum(found["records"].values())
        with show.bar("read", quiet=given.json) as progress:
            looked = examine(home.log, lambda done: progress(done, total))
            problems += [f"{one.where}: {one.what}" for one in looked]
    if given.json:
        show.as_json({**found, "problems": problems})
    else:
        show.table(
            "", ["", ""], [[name, value] for name, value in found.items() if not isinstance(value, dict)]
        )
        show.table("", ["topic", "records"], list(found["records"].items()))
        show.table("", ["stage", "positions behind the end"], list(found["behind"].items()))
        show.console().print("\n".join(problems) or "All is well.")
    return int(bool(problems))


def upkeep(given: argparse.Namespace) -> int:
    """Retention, sealing, room given back."""
    home = _home(given)
    file = home.file()
    done = Kept(due(file, home), 0, 0) if given.dry_run else turn(file, home, wall_ms())
    if given.json:
        show.as_json(done)
        return 0
    rows = [[one.topic, one.records, one.size, show.at(one.before_ms), one.held or "-"] for one in done.cuts]
    show.table(
        "", ["topic", "would go" if given.dry_run else "went", "bytes", "from before", "held back"], rows
    )
    if not given.dry_run:
        show.console().print(f"{done.sealed:,} records sealed, {done.freed:,} bytes given back.")
    return 0


def _evaluated(home: Home, name: str) -> tuple[Version, str]:
    """A version and the page that the gate wrote of it."""
    known = registry(home.log)
    version = known.version(name)
    verdict = known.models[version.model].verdicts.get(version.version)
    if verdict is None:
        raise NotFound("The gate has not judged this version yet.", code="no_verdict")
    return version, render(version, verdict, unpack(home.blobs.get(version.evaluation), Evaluation))


def report(given: argparse.Namespace) -> int:
    """The gate's report as a page."""
    home = _home(given)
    version, page = _evaluated(home, given.version)
    out = Path(given.out or f"{version.model}-v{version.version}.html")
    out.write_text(page)
    if given.json:
        show.as_json(registry(home.log).models[version.model].verdicts[version.version])
    else:
        show.console().print(f"Written to {out}.")
    return 0


def trace(given: argparse.Namespace) -> int:
    """Everything about one prediction."""
    home = _home(given)
    found = Books(home.file(), home.log, home.blobs).trace(given.prediction)
    if given.json:
        show.as_json(found)
    else:
        show.console().print(_told(found))
    return 0


def _told(found: Any) -> str:
    from penstock.predict.trace import told

    return told(found)


def _who(given: argparse.Namespace) -> str:
    return str(given.who or getpass.getuser())


def _ask(home: Home, given: argparse.Namespace, decision: Decision) -> int:
    if decision.model not in home.file().plans:
        raise NotFound(unknown(decision.model, home.file().plans, "a model that is up"))
    decide(home.log, decision)
    if given.json:
        show.as_json(decision)
    else:
        show.console().print(
            f"Asked for: {decision.kind} {decision.model}. `penstock models` shows what becomes of it."
        )
    return 0


def train(given: argparse.Namespace) -> int:
    """Ask for a training."""
    params = {}
    for text in given.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise Refused("--set takes NAME=VALUE.", code="arguments")
        try:
            params[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            params[name] = value
    decision = Decision(given.model, "train", _who(given), given.reason or "by hand", wall_ms(), 0, params)
    return _ask(_home(given), given, decision)


def promote(given: argparse.Namespace) -> int:
    """Make a version champion."""
    home = _home(given)
    version = registry(home.log).version(given.version)
    decision = Decision(version.model, "promote", _who(given), given.reason, wall_ms(), version.version)
    return _ask(home, given, decision)


def rollback(given: argparse.Namespace) -> int:
    """Take the newest step back."""
    return _ask(_home(given), given, Decision(given.model, "rollback", _who(given), given.reason, wall_ms()))


def verify(given: argparse.Namespace) -> int:
    """Make every prediction again; 1 when one differs."""
    home = _home(given)
    books = Books(home.file(), home.log, home.blobs)
    names = [given.model] if given.model else list(books.plans)
    count, elsewhere, unequal = 0, 0, []
    with show.bar("verify", quiet=given.json) as progress:
        for name in names:
            found = books.verify(name, progress)
            count += found.predictions
            unequal += found.unequal
            elsewhere += found.elsewhere
    if given.json:
        show.as_json({"predictions": count, "unequal": unequal, "elsewhere": elsewhere})
    else:
        print(f"verify: {count} predictions, {len(unequal)} unequal")
        if elsewhere:
            print(f"of {elsewhere} another server made the score: only their features were made again")
    if unequal:
        first = unequal[0]
        print(f"first: {first.id} at position {first.position}: {first.what}", file=sys.stderr)
    return int(bool(unequal))


def rebuild(given: argparse.Namespace) -> int:
    """Train a version again; 1 when its digest differs."""
    from penstock.app.worker import rebuild as again

    home = _home(given)
    known = registry(home.log)
    version = known.version(given.version)
    with show.bar(f"rebuild {version.model}@v{version.version}", quiet=given.json) as progress:
        digest = again(home.path, home.log, home.file().path, version, progress)
    same = digest == version.digest
    if given.json:
        show.as_json({"version": f"{version.model}@v{version.version}", "digest": digest, "same": same})
    else:
        print(f"rebuild: {version.model}@v{version.version} {'same' if same else 'another'} digest {digest}")
    return int(not same)
