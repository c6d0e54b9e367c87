"""cli: load a server, and say how it took it."""

from __future__ import annotations

import argparse
import asyncio
import random
from pathlib import Path

from penstock.cli import show
from penstock.client.aio import AsyncClient
from penstock.client.load.measure import Percentiles, Report, plot
from penstock.client.load.rows import Asked, made, read
from penstock.client.load.run import Plan, loop, run
from penstock.client.wire import address
from penstock.record.codec import span
from penstock.record.errors import NotFound, Refused

MADE = 1000
"""Different requests that are made up."""


def load(given: argparse.Namespace) -> int:
    """Load a server; 1 when an answer was wrong."""
    try:
        seconds, timeout_s = span(given.seconds) / 1000, span(given.timeout) / 1000
    except ValueError as error:
        raise Refused(f"{error}.", code="arguments") from None
    rate = 0.0 if given.closed else given.rate
    if seconds <= 0 or timeout_s <= 0 or rate < 0 or not (rate or given.closed):
        raise Refused("--rate and --for are more than nothing.", code="arguments")
    plan = Plan(seconds, rate, given.connections, timeout_s, given.tolerance, _key(given))
    with asyncio.Runner(loop_factory=loop) as runner:
        asked = runner.run(_asked(given, plan.key))
        with show.bar("load", quiet=given.json) as progress:
            report = runner.run(run(address(given.url), asked, plan, progress))
    if given.json:
        show.as_json(report)
    else:
        _tell(report)
    return int(bool(report.wrong))


def _key(given: argparse.Namespace) -> str:
    try:
        return Path(given.key).read_text().strip() if given.key else ""
    except OSError:
        raise NotFound("There is no file with a key there.") from None


async def _asked(given: argparse.Namespace, key: str) -> list[Asked]:
    if given.rows:
        path = Path(given.rows)
        if not path.is_file():
            raise NotFound("There is no such file of rows.")
        return read(given.model, path.read_bytes().splitlines(), given.expect)
    if given.expect:
        raise Refused("--expect needs --rows: what is made up has no expected score.", code="arguments")
    async with AsyncClient(given.url, key) as client:
        return await made(client, given.model, MADE, random.Random(given.seed))


def _tell(report: Report) -> None:
    """For people: counts, percentiles, latency over time."""
    counts = [["due", report.due], ["answered", report.answered]]
    for name in ("refused", "failed", "wrong"):
        counts += [[f"{name}: {why}", n] for why, n in sorted(getattr(report, name).items())]
    show.table("", ["requests", ""], counts)
    head = ["ms", "n", "50 %", "90 %", "99 %", "99.9 %", "most"]
    told = (
        ("from due to answer", report.latency_ms),
        ("from due to refusal", report.refusal_ms),
        ("sent late by itself", report.own_late_ms),
    )
    show.table("", head, [_row(name, one) for name, one in told if one.n])
    for line in plot(report.over_time):
        print(line)
    show.console().print(
        f"load: {report.goodput_per_s:,.1f} good answers a second of {report.due / report.seconds:,.1f} due"
    )
    if report.own_cpu > 0.8 or (report.own_late_ms.p99 or 0) > 10:
        show.console().print(
            f"The sender itself was busy ({report.own_cpu:.0%} of a core): take a lower rate, or send from elsewhere."
        )


def _row(name: str, one: Percentiles) -> list[object]:
    return [name, one.n, *("-" if x is None else x for x in (one.p50, one.p90, one.p99, one.p999, one.most))]
