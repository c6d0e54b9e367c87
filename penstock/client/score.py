"""client: a file of rows scored in batches, each kept as it comes, so that what broke off goes on where it was.

A row is asked under its own id, so that asking again changes nothing. The answers of a batch lie beside the result
until all are there; then they become it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.client.calls import Answer
from penstock.client.sync import Client
from penstock.record.errors import NotFound, Refused

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = (".parquet", ".csv", ".ndjson")
Progress = Callable[[int, int], None]


class Job(msgspec.Struct, frozen=True):
    """What is scored: rows of a file by a model, `id` being the column of each row's own id, in batches of `size`
    rows; the answers go to another file. Of all rows a share of at most `most_failed` may come to no score."""

    model: str
    id: str
    rows: Path
    out: Path
    size: int = 1000
    most_failed: float = 0.0


class Scored(msgspec.Struct, frozen=True):
    """What came of it: the rows, those that were scored before and now, those without a score, and the scores'
    least, mean and greatest."""

    rows: int
    before: int
    failed: int
    least: float | None
    mean: float | None
    most: float | None


class Kept(msgspec.Struct, frozen=True):
    """What the answers that lie beside the result belong to."""

    digest: str
    model: str
    id: str
    size: int


def score(client: Client, job: Job, progress: Progress = lambda done, total: None) -> Scored:
    """Score a file; raises Refused where its rows do not fit, or too many come to no score: then what was answered
    stays beside the result, and so it does when the server goes away."""
    import pyarrow.parquet as parquet

    total = checked(client, job)
    parts = job.out.with_name(f"{job.out.name}.parts")
    before = done = _begin(parts, job)
    for number, rows in enumerate(batches(job)):
        if number * job.size < before:
            continue
        answers = client.predict_many(job.model, rows, id=job.id)
        table = _table([row[job.id] for row in rows], answers, job.id)
        parquet.write_table(table, parts / "writing")
        (parts / "writing").rename(parts / f"{number:08}")
        done += len(rows)
        progress(done, total)
    return _end(parts, job, total, before)


def checked(client: Client, job: Job) -> int:
    """The number of rows; raises Refused where a column is missing or strange, or an id is null or stands twice."""
    if job.rows.suffix not in KINDS or job.out.suffix not in KINDS:
        raise Refused(f"A file of rows or scores is one of {', '.join(KINDS)}.", code="file_kind")
    if not job.rows.is_file():
        raise NotFound("There is no such file of rows.")
    known = {one["name"] for one in client.metadata(job.model)["inputs"]}
    ids: set[Any] = set()
    total = 0
    for rows in batches(job):
        strange = sorted(rows[0].keys() - known)
        if strange or job.id not in rows[0]:
            what = (
                f'"{strange[0]}" is no column of {job.model}' if strange else f'There is no column "{job.id}"'
            )
            raise Refused(f"{what}.", code="unknown_column", hint=f"It takes {', '.join(sorted(known))}.")
        for i, row in enumerate(rows):
            if row[job.id] is None or row[job.id] in ids:
                why = "has no id" if row[job.id] is None else "has the id of another"
                raise Refused(
                    f"A row {why}: its answer could not be told from others.",
                    code="id",
                    where=f"row {total + i}",
                )
            ids.add(row[job.id])
        total += len(rows)
    if not total:
        raise NotFound("There are no rows to score.", code="no_rows")
    return total


def batches(job: Job) -> Iterator[list[dict[str, Any]]]:
    """The rows of the file, so many at a time."""
    from pyarrow import csv, parquet

    if job.rows.suffix == ".ndjson":
        yield from _lines(job)
        return
    if job.rows.suffix == ".parquet":
        found = parquet.ParquetFile(job.rows).iter_batches(job.size)
    else:
        found = csv.open_csv(job.rows)
    held: list[dict[str, Any]] = []
    for one in found:
        held += one.to_pylist()
        while len(held) >= job.size:
            yield held[: job.size]
            held = held[job.size :]
    if held:
        yield held


def _lines(job: Job) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    with job.rows.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                held.append(msgspec.json.decode(line, type=dict[str, Any]))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                raise Refused("This is no JSON object.", code="malformed", where=f"line {number}") from None
            if len(held) == job.size:
                yield held
                held = []
    if held:
        yield held


def _begin(parts: Path, job: Job) -> int:
    """How many rows were scored before, of this very file and in such batches."""
    with job.rows.open("rb") as file:
        kept = Kept(hashlib.file_digest(file, "sha256").hexdigest(), job.model, job.id, job.size)
    note = parts / "of"
    if note.exists() and msgspec.json.decode(note.read_bytes(), type=Kept) == kept:
        number = 0
        while (parts / f"{number:08}").exists():
            number += 1
        return number * job.size
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    note.write_bytes(msgspec.json.encode(kept))
    return 0


def _table(ids: Sequence[Any], answers: Sequence[Answer], id: str) -> pa.Table:
    import pyarrow as pa

    columns = {
        id: pa.array(ids),
        "score": pa.array([one.score for one in answers], pa.float64()),
        "positive": pa.array([one.positive for one in answers], pa.bool_()),
        "version": pa.array([one.version for one in answers], pa.int64()),
        "prediction_id": pa.array([one.prediction_id for one in answers], pa.string()),
        "error": pa.array([one.error for one in answers], pa.string()),
    }
    return pa.table(columns)


def _end(parts: Path, job: Job, total: int, before: int) -> Scored:
    """The answers become the result, where they are all there and enough of them are scores."""
    import pyarrow as pa
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    names = sorted(one for one in parts.iterdir() if one.name.isdigit())
    whole = pa.concat_tables([parquet.read_table(one) for one in names])
    failed = int(whole["score"].null_count)
    if whole.num_rows != total:
        raise Refused("The file of rows has changed meanwhile.", code="changed", hint="Run it again.")
    if failed > job.most_failed * total:
        raise Refused(
            f"{failed} of {total} rows came to no score.", code="failed", where=str(parts),
            hint="Mend the model, or allow for it with --most-failed.",
        )  # fmt: skip
    _write(whole, job.out)
    shutil.rmtree(parts)
    told = [compute.min, compute.mean, compute.max]
    least, mean, most = (one(whole["score"]).as_py() for one in told)
    return Scored(total, min(before, total), failed, least, mean, most)


def _write(whole: pa.Table, out: Path) -> None:
    from pyarrow import csv, parquet

    made = out.with_name(f"{out.name}.writing")
    if out.suffix == ".parquet":
        parquet.write_table(whole, made)
    elif out.suffix == ".csv":
        csv.write_csv(whole, made)
    else:
        made.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in whole.to_pylist()))
    made.rename(out)
