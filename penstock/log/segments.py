"""log: segments: old batches of a topic as Parquet files, written once, verified, read as records or columns.

pyarrow is loaded where a segment is written or read, and not before. A file is named by its topic, its
positions and the digest of its bytes, which a handle checks when it first opens it; after that every page
has a checksum. Groups of rows are small, so that whoever reads holds little.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import apsw

from penstock.log import tables
from penstock.log.tables import Body, Segment, Topic
from penstock.record.errors import Broken, Unavailable
from penstock.record.record import NO_HEADERS

GROUP_RECORDS = 4096
GROUP_BYTES = 4 << 20
OPEN_FILES = 8
HELD_GROUPS = 8
TOGETHER = 2  # groups of rows that are read as columns at once
FIELDS = ("position", "id", "key", "time_ms", "value", "headers")

T = TypeVar("T")

Batches = Iterable[tuple[int, Body]]
"""Bases and bodies, in order."""
_NAMES = """
SELECT name FROM fact WHERE kind = 'segment' AND name < ?3 AND name >= coalesce(
  (SELECT max(name) FROM fact WHERE kind = 'segment' AND name >= ?1 AND name <= ?2), ?1) ORDER BY name"""


def segments(db: apsw.Connection, topic: Topic, start: int, below: int) -> Iterator[Segment]:
    """The segments that may have records in [start, below), in order: the first is the newest that does not
    begin after `start`, where there is one."""
    for (name,) in db.execute(_NAMES, [segment_name(topic, at) for at in (0, start, below)]):
        found = tables.fact(db, Segment, name)
        if found is not None:
            yield found


def segment_from(db: apsw.Connection, topic: Topic, base: int) -> Segment | None:
    """The first segment that begins at `base` or later."""
    sql = "SELECT min(name) FROM fact WHERE kind = 'segment' AND name >= ? AND name < ?"
    found = tables.row(db, sql, (segment_name(topic, base), segment_name(topic, tables.SPAN)))
    return tables.fact(db, Segment, found[0]) if found and found[0] else None


def segment_name(topic: Topic, base: int) -> str:
    """What a segment is known by: names are in the order of positions."""
    return f"{topic.number:05}/{base:015}"


class Gone(Broken):
    """A part of the log is missing: retention may have taken it away since the read began."""


class Opened:
    """A file whose digest was right when it was opened, and the positions of its groups of rows."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as parquet

        self.alone = threading.Lock()  # a file has one reader at a time
        self.file = parquet.ParquetFile(path, page_checksum_verification=True)
        about = self.file.metadata
        spans = [about.row_group(i).column(0).statistics for i in range(about.num_row_groups)]
        self.firsts, self.lasts = [s.min for s in spans], [s.max for s in spans]
        self.rows = [about.row_group(i).num_rows for i in range(about.num_row_groups)]

    def groups(self, start: int, below: int) -> range:
        """The groups that have records in [start, below)."""
        return range(bisect_left(self.lasts, start), bisect_left(self.firsts, below))


class Files:
    """The segments of one home, for one handle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._held: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def path(self, topic: str, made: Segment) -> Path:
        """Where a segment's file lies."""
        name = f"{quote(topic, safe='')[:100]}.{made.base}-{made.last}.{made.digest[:32]}.parquet"
        return self.folder / name

    def groups(self, topic: str, made: Segment, start: int, below: int) -> Iterator[tuple[int, int]]:
        """The groups of rows that have records in [start, below), as (first position, number of the group)."""
        found = self.opened(topic, made)
        return ((found.firsts[i], i) for i in found.groups(start, below))

    def body(self, topic: str, made: Segment, group: int) -> Body:
        """The records of a group of rows."""
        return _body(self.read(topic, made, [group], FIELDS))

    def held(self, topic: str, made: Segment, group: int, make: Callable[[Body], T]) -> T:
        """What was made of the records of a group of rows. The newest are held: who goes along a topic in small steps
        asks for each several times, and others go with him."""
        key = made.digest, group
        one = self._held.get(key) or make(self.body(topic, made, group))
        with self._lock:
            self._held[key] = one
            self._held.move_to_end(key)
            if len(self._held) > HELD_GROUPS:
                self._held.popitem(last=False)
        return cast(T, one)

    def columns(
        self, topic: str, made: Segment, start: int, below: int, fields: Sequence[str]
    ) -> Iterator[Any]:
        """The records in [start, below) as Arrow record batches."""
        groups = self.opened(topic, made).groups(start, below)
        wanted = list(dict.fromkeys(("position", *fields)))
        for at in range(0, len(groups), TOGETHER):
            table = self.read(topic, made, groups[at : at + TOGETHER], wanted)
            part = within(table.combine_chunks().to_batches()[0], start, below)
            if len(part):
                yield part.select(list(fields))

    def upto(self, topic: str, made: Segment, position: int) -> tuple[int, int]:
        """How many records lie before a position, at least one, and the place of the last of them."""
        found = self.opened(topic, made)
        begun = bisect_left(found.firsts, position) - 1
        places = self.read(topic, made, [begun], ["position"]).column(0).to_numpy()
        n = int(places.searchsorted(position))
        return sum(found.rows[:begun]) + n, int(places[n - 1])

    def verify(self, topic: str, made: Segment) -> None:
        """Read a segment's bytes and pages anew, whatever was opened before; raises Broken."""
        with self._lock:
            self._opened.pop(made.digest, None)
        found = self.opened(topic, made)
        rows = sum(len(self.read(topic, made, [i], FIELDS)) for i in range(len(found.rows)))
        if rows != made.n or found.firsts[0] != made.base or found.lasts[-1] != made.last:
            raise tables.damaged(topic, made.base)

    def left(self, made: Segment, path: Path) -> Iterator[tuple[int, int, Body]]:
        """What a damaged file still holds: (how many of its records lie before, first position, records) of the
        groups of rows whose pages are right by their own checksums, whose positions and number fit."""
        try:
            found = Opened(path)
        except _odd():
            return
        if sum(found.rows) != made.n:
            return
        for i, n in enumerate(found.rows):
            try:
                table = found.file.read_row_groups([i], columns=list(FIELDS))
                body, base = _body(table), int(table.column(0)[0].as_py())
            except _odd():
                continue
            places = list(body.places(base))
            ordered = all(a < b for a, b in pairwise([made.base - 1, *places, made.last + 1]))
            if len(places) == n and ordered and [places[0], places[-1]] == [found.firsts[i], found.lasts[i]]:
                yield sum(found.rows[:i]), base, body

    def opened(self, topic: str, made: Segment) -> Opened:
        """A segment's file, verified when this handle had not opened it."""
        found = self._opened.get(made.digest) or self._verified(topic, made)
        with self._lock:
            self._opened[made.digest] = found
            self._opened.move_to_end(made.digest)
            if len(self._opened) > OPEN_FILES:
                self._opened.popitem(last=False)
        return found

    def _verified(self, topic: str, made: Segment) -> Opened:
        path = self.path(topic, made)
        try:
            if file_digest(path) == made.digest:
                return Opened(path)
        except FileNotFoundError:
            raise Gone(where=f"{topic}@{made.base}", hint="`penstock repair` says more.") from None
        except _errors() as error:
            _must_pass(error)
        raise tables.damaged(topic, made.base)

    def read(self, topic: str, made: Segment, groups: Sequence[int], fields: Sequence[str]) -> Any:
        """Columns of some groups of rows, as an Arrow table."""
        found = self.opened(topic, made)
        try:
            with found.alone:
                return found.file.read_row_groups(list(groups), columns=list(fields), use_threads=False)
        except _errors() as error:
            _must_pass(error)
            raise tables.damaged(topic, found.firsts[groups[0]]) from None


def _errors() -> tuple[type[Exception], ...]:
    """What reading a damaged file may raise."""
    import pyarrow as pa

    return OSError, pa.ArrowException


def _must_pass(error: Exception) -> None:
    """Raise Unavailable where it was the system that did not give the bytes: they may be right."""
    if isinstance(error, OSError) and error.errno is not None:
        raise Unavailable(f"A segment cannot be read: {type(error).__name__}.", code="log_io") from error


def _odd() -> tuple[type[Exception], ...]:
    """What making sense of a file may raise whose digest is wrong."""
    return *_errors(), ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError


def described(path: Path, digest: str) -> tuple[str, Segment]:
    """The topic of a file that is right, and the segment that it is, but for how many records lie ahead."""
    found = Opened(path)
    topic = found.file.schema_arrow.metadata[b"topic"].decode()
    newest_ms = int(found.file.read(["time_ms"]).column(0).to_numpy().max())
    n, size = sum(found.rows), path.stat().st_size
    return topic, Segment(found.firsts[0], found.lasts[-1], n, tables.NOWHERE, size, newest_ms, digest)


def file_digest(path: Path) -> str:
    """The digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Columns.


def schema(topic: str) -> Any:
    """The columns of a topic's records."""
    import pyarrow as pa

    texts = pa.map_(pa.string(), pa.string())
    types = (pa.int64(), pa.string(), pa.string(), pa.int64(), pa.binary(), texts)
    return pa.schema(list(zip(FIELDS, types, strict=True)), {"topic": topic})


def groups(topic: str, batches: Batches) -> Iterator[Any]:
    """Batches as Arrow record batches of neither many records nor many bytes: the groups of rows of a file."""
    held: list[list[Any]] = [[] for _ in FIELDS]
    size = 0
    for base, one in batches:
        n, bytes_ = len(one.keys), sum(map(len, one.values))
        headers = [list(texts.items()) or None for texts in one.headers] if one.headers else [None] * n
        whole = (one.places(base), one.ids or [""] * n, one.keys, one.times, one.values, headers)
        step = max(1, min(GROUP_RECORDS, n * GROUP_BYTES // max(1, bytes_)))
        for at in range(0, n, step):
            for column, more in zip(held, whole, strict=True):
                column.extend(more[at : at + step])
            size += bytes_ * min(step, n - at) // n
            if len(held[0]) >= GROUP_RECORDS or size >= GROUP_BYTES:
                yield _batch(topic, held)
                held, size = [[] for _ in FIELDS], 0
    if held[0]:
        yield _batch(topic, held)


def _batch(topic: str, columns: Sequence[Sequence[Any]]) -> Any:
    import pyarrow as pa

    form = schema(topic)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, form.types, strict=True)]
    return pa.record_batch(arrays, form)


def _body(table: Any) -> Body:
    place, id, key, time_ms, value = (table.column(name).to_numpy().tolist() for name in FIELDS[:-1])
    texts, base = table.column("headers"), place[0]
    none = texts.null_count == len(place)
    return Body(
        None if place[-1] - base == len(place) - 1 else [at - base for at in place],
        id if any(id) else None,
        key,
        time_ms,
        value,
        None if none else [dict(pairs) if pairs else NO_HEADERS for pairs in texts.to_pylist()],
    )


def within(batch: Any, start: int, below: int) -> Any:
    """The rows of a record batch with positions in [start, below)."""
    first, end = batch.column("position").to_numpy().searchsorted([start, below])
    return batch.slice(first, end - first)
