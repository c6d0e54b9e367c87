"""cli: score a file or a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from penstock.cli import show
from penstock.client.score import Job, Scored
from penstock.client.score import score as score_rows
from penstock.client.sync import Client
from penstock.client.tables import SCHEMES, Table, table
from penstock.record.errors import NotFound, Refused


def score(given: argparse.Namespace) -> int:
    """Score rows by a running server; what broke off goes on where it was."""
    if not 0 < given.batch <= 10_000 or not 0 <= given.most_failed <= 1:
        raise Refused("--batch is 1 to 10000, --most-failed 0 to 1.", code="arguments")
    job = Job(given.model, given.id, _place(given.rows), _place(given.out), given.batch, given.most_failed)
    try:
        key = Path(given.key).read_text().strip() if given.key else ""
    except OSError:
        raise NotFound("There is no file with a key there.") from None
    with Client(given.url, key, timeout_s=60.0) as client, show.bar("rows", quiet=given.json) as progress:
        done = score_rows(client, job, progress)
    if given.json:
        show.as_json(done)
    else:
        out = ".".join(job.out.name) if isinstance(job.out, Table) else job.out
        stood = f", {done.stood} had an answer there already" if done.stood else ""
        was = f", {done.before} of them before" if done.before else ""
        print(f"score: {done.rows} rows{was}, {done.failed} without a score{_range(done)}{stood}: {out}")
    return 0


def _place(text: str) -> Path | Table:
    return table(text) if text.startswith(SCHEMES) else Path(text)


def _range(done: Scored) -> str:
    if done.least is None:
        return ""
    return f"; from {done.least:.6g} to {done.most:.6g}, {done.mean:.6g} in the mean"
