"""client: rows read from a file, and answers that become one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.client.calls import Answer
from penstock.client.kept import COLUMNS, Kept, Told
from penstock.record.errors import NotFound, Refused

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = (".parquet", ".csv", ".ndjson")


def _kind(path: Path) -> str:
    if path.suffix not in KINDS:
        raise Refused(f"A file of rows or scores is one of {', '.join(KINDS)}.", code="file_kind")
    return path.suffix


class Rows:
    """The rows of a file, in its order."""

    def __init__(self, path: Path) -> None:
        self._path, self._kind = path, _kind(path)
        if not path.is_file():
            raise NotFound("There is no such file of rows.")

    def batches(self, size: int) -> Iterator[list[dict[str, Any]]]:
        """All of them, so many at a time."""
        held: list[dict[str, Any]] = []
        for some in self._lines() if self._kind == ".ndjson" else self._tables(size):
            held += some
            while len(held) >= size:
                yield held[:size]
                held = held[size:]
        if held:
            yield held

    def _tables(self, size: int) -> Iterator[list[dict[str, Any]]]:
        from pyarrow import csv, parquet

        found = (
            parquet.ParquetFile(self._path).iter_batches(size)
            if self._kind == ".parquet"
            else csv.open_csv(self._path)
        )
        return (one.to_pylist() for one in found)

    def _lines(self) -> Iterator[list[dict[str, Any]]]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield [msgspec.json.decode(line, type=dict[str, Any])]
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    raise Refused(
                        "This is no JSON object.", code="malformed", where=f"line {number}"
                    ) from None

    def close(self) -> None:
        """Nothing is held."""


class Results:
    """Answers, each batch a file in a folder beside the result, until they become it."""

    def __init__(self, out: Path) -> None:
        self._out, self._kind = out, _kind(out)
        self.place = str(out.with_name(f"{out.name}.parts"))
        self._parts = Path(self.place)

    def begin(self, kept: Kept) -> int:
        """How many batches of these very rows are there already; others' are taken away."""
        note = self._parts / "of"
        if note.exists() and note.read_bytes() == msgspec.json.encode(kept):
            number = 0
            while (self._parts / f"{number:08}").exists():
                number += 1
            return number
        shutil.rmtree(self._parts, ignore_errors=True)
        self._parts.mkdir(parents=True)
        note.write_bytes(msgspec.json.encode(kept))
        return 0

    def keep(self, number: int, id: str, ids: Sequence[Any], answers: Sequence[Answer]) -> None:
        """A batch is answered."""
        import pyarrow as pa
        from pyarrow import parquet

        types = (pa.float64(), pa.bool_(), pa.int64(), pa.string(), pa.string())
        columns = {
            name: pa.array([getattr(one, name) for one in answers], type_)
            for name, type_ in zip(COLUMNS, types, strict=True)
        }
        parquet.write_table(pa.table({id: pa.array(ids), **columns}), self._parts / "writing")
        (self._parts / "writing").rename(self._parts / f"{number:08}")

    def told(self) -> Told:
        """What is kept."""
        import pyarrow.compute as compute

        scores = self._whole()["score"]
        least, mean, most = (one(scores).as_py() for one in (compute.min, compute.mean, compute.max))
        return Told(len(scores), int(scores.null_count), least, mean, most)

    def finish(self) -> int:
        """They become the result; none stood there that would be kept."""
        from pyarrow import csv, parquet

        whole, made = self._whole(), self._out.with_name(f"{self._out.name}.writing")
        if self._kind == ".parquet":
            parquet.write_table(whole, made)
        elif self._kind == ".csv":
            csv.write_csv(whole, made)
        else:
            made.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in whole.to_pylist()))
        made.rename(self._out)
        shutil.rmtree(self._parts)
        return 0

    def _whole(self) -> pa.Table:
        import pyarrow as pa
        from pyarrow import parquet

        names = sorted(one for one in self._parts.iterdir() if one.name.isdigit())
        return pa.concat_tables([parquet.read_table(one) for one in names])

    def close(self) -> None:
        """Nothing is held."""
