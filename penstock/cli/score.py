"""cli: score a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from penstock.cli import show
from penstock.client.score import Job
from penstock.client.score import score as score_file
from penstock.client.sync import Client
from penstock.record.errors import NotFound, Refused


def score(given: argparse.Namespace) -> int:
    """Score a file by a running server; what broke off goes on where it was."""
    if not 0 < given.batch <= 10_000 or not 0 <= given.most_failed <= 1:
        raise Refused("--batch is 1 to 10000, --most-failed 0 to 1.", code="arguments")
    job = Job(given.model, given.id, Path(given.rows), Path(given.out), given.batch, given.most_failed)
    try:
        key = Path(given.key).read_text().strip() if given.key else ""
    except OSError:
        raise NotFound("There is no file with a key there.") from None
    with Client(given.url, key, timeout_s=60.0) as client, show.bar("rows", quiet=given.json) as progress:
        done = score_file(client, job, progress)
    if given.json:
        show.as_json(done)
    else:
        was = f", {done.before} of them before" if done.before else ""
        print(
            f"score: {done.rows} rows{was}, {done.failed} without a score; from {done.least:.6g} to {done.most:.6g}, "
            f"{done.mean:.6g} in the mean: {job.out}"
        )
    return 0
