"""app: a training set written to a file, batch by batch, as the file's name says: Parquet or Arrow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.pipeline import Plan
from penstock.app.threads import spread
from penstock.dataset.rows import Progress, batches
from penstock.dataset.table import arrow_batches
from penstock.log import Log
from penstock.record.errors import Refused
from penstock.record.record import Position


class Written(msgspec.Struct, frozen=True):
    """What lies in the file: rows of one model's requests, as they were seen below each one's own `o`."""

    path: str
    model: str
    features: str
    o: Position
    rows: int
    positives: int
    columns: list[str]
    size_bytes: int


def write(
    log: Log,
    plan: Plan,
    path: Path,
    *,
    from_ms: int = -sys.maxsize,
    progress: Progress = lambda done, total: None,
) -> Written:
    """Write the labelled requests of a model, with its features, as known now. The file has its name when it is whole;
    memory is that of the fold's windows and of one batch. Raises Refused where there is none."""
    if path.suffix not in _OPEN:
        raise Refused(f"A dataset is written as {', '.join(_OPEN)}.", code="file_type", where=path.name)
    o, part = log.end(), path.with_name(f".{path.name}.part")
    found = batches(
        log,
        plan.features,
        plan.name,
        o=o,
        from_ms=from_ms,
        facts=plan.pipeline.gate.slices,
        progress=progress,
        spread=spread(),
    )
    rows = positives = 0
    columns: list[str] = []
    try:
        with _writing(part, path.suffix) as put:
            for batch in arrow_batches(plan.features, found):
                put(batch)
                columns = batch.schema.names
                rows += batch.num_rows
                positives += sum(label == 1.0 for label in batch.column("label").to_pylist())
        if not rows:
            raise Refused(f"No request of {plan.name} has a label yet.", code="no_rows")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return Written(
        str(path), plan.name, plan.features.digest, o, rows, positives, columns, path.stat().st_size
    )


@contextmanager
def _writing(path: Path, suffix: str) -> Iterator[Any]:
    """What takes record batches; the file is opened with the first one's columns."""
    writer: Any = None

    def put(batch: Any) -> None:
        nonlocal writer
        writer = writer or _OPEN[suffix](path, batch.schema)
        writer.write_batch(batch)

    try:
        yield put
    finally:
        if writer is not None:
            writer.close()


def _parquet(path: Path, schema: Any) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetWriter(path, schema, compression="zstd")


def _arrow(path: Path, schema: Any) -> Any:
    import pyarrow as pa

    return pa.ipc.new_file(path, schema)


_OPEN = {".parquet": _parquet, ".arrow": _arrow}
