"""client: rows of a file or a table scored in batches, each kept as it comes, so that what broke off goes on.

A row is asked under its own id, so that asking again changes nothing. The answers of a batch lie beside the result
until all are there; then they become it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from penstock.client import calls, files, tables
from penstock.client.kept import COLUMNS, Kept
from penstock.client.sync import Client
from penstock.client.tables import Table
from penstock.record.errors import NotFound, Refused

Progress = Callable[[int, int], None]


class Job(msgspec.Struct, frozen=True):
    """What is scored: rows of a file or a table by a model, `id` being the column of each row's own id, in batches
    of `size` rows; the answers go to another file or table. Of all rows a share of at most `most_failed` may come to
    no score."""

    model: str
    id: str
    rows: Path | Table
    out: Path | Table
    size: int = 1000
    most_failed: float = 0.0


class Scored(msgspec.Struct, frozen=True):
    """What came of it: the rows, those that were scored before and now, those without a score, the scores' least,
    mean and greatest; and those whose answer stood in the table of results already, which keeps it."""

    rows: int
    before: int
    failed: int
    least: float | None
    mean: float | None
    most: float | None
    stood: int = 0


def score(client: Client, job: Job, progress: Progress = lambda done, total: None) -> Scored:
    """Score the rows; raises Refused where they do not fit, or too many come to no score: then what was answered
    stays beside the result, and so it does when the server goes away."""
    if job.id in COLUMNS:
        raise Refused("The answers have a column of that name: the id needs another.", code="id")
    with closing(_rows(job)) as rows, closing(_results(job)) as results:
        total, kept = checked(client, job, rows)
        before = results.begin(kept)
        for number, some in enumerate(rows.batches(job.size)):
            if number < before:
                continue
            answers = client.predict_many(job.model, some, id=job.id)
            results.keep(number, job.id, [row[job.id] for row in some], answers)
            progress(number * job.size + len(some), total)
        found = results.told()
        if found.rows != total:
            raise Refused("The rows have changed meanwhile.", code="changed", hint="Run it again.")
        if found.failed > job.most_failed * total:
            raise Refused(
                f"{found.failed} of {total} rows came to no score.", code="failed", where=results.place,
                hint="Mend the model, or allow for it with --most-failed.",
            )  # fmt: skip
        stood = results.finish()
        return Scored(
            total, min(before * job.size, total), found.failed, found.least, found.mean, found.most, stood
        )


def _rows(job: Job) -> files.Rows | tables.Rows:
    return tables.Rows(job.rows, job.id) if isinstance(job.rows, Table) else files.Rows(job.rows)


def _results(job: Job) -> files.Results | tables.Results:
    return tables.Results(job.out, job.id) if isinstance(job.out, Table) else files.Results(job.out)


def checked(client: Client, job: Job, rows: files.Rows | tables.Rows) -> tuple[int, Kept]:
    """The number of rows, and what tells them from others; raises Refused where a column is missing, strange or of
    another type, or an id is null or stands twice."""
    known = {one["name"]: one["datatype"] for one in client.metadata(job.model)["inputs"]}
    content, kinds = hashlib.sha256(), set[str]()
    ids: set[Any] = set()
    total = 0
    for some in rows.batches(job.size):
        _fit(job, some, known)
        for i, row in enumerate(some):
            if row[job.id] is None or row[job.id] in ids:
                why = "has no id" if row[job.id] is None else "has the id of another"
                raise Refused(
                    f"A row {why}: its answer could not be told from others.",
                    code="id",
                    where=f"row {total + i}",
                )
            ids.add(row[job.id])
        kinds.update(type(row[job.id]).__name__ for row in some)
        content.update(msgspec.msgpack.encode(some))
        total += len(some)
    if not total:
        raise NotFound("There are no rows to score.", code="no_rows")
    return total, Kept(content.hexdigest(), "/".join(sorted(kinds)), job.model, job.id, job.size)


def _fit(job: Job, some: Sequence[Mapping[str, Any]], known: Mapping[str, str]) -> None:
    strange = sorted(some[0].keys() - known)
    if strange or job.id not in some[0]:
        what = f'"{strange[0]}" is no column of {job.model}' if strange else f'There is no column "{job.id}"'
        raise Refused(f"{what}.", code="unknown_column", hint=f"It takes {', '.join(sorted(known))}.")
    for one in calls.columns(some):
        holds, takes = _sort(one.datatype), _sort(known[one.name])
        if holds != takes and any(value is not None for value in one.data):
            raise Refused(
                f"The model takes {takes} here, and the rows hold {holds}.", code="wrong_type", where=one.name
            )


def _sort(datatype: str) -> str:
    return {"BYTES": "texts or times", "BOOL": "true and false"}.get(datatype, "numbers")
