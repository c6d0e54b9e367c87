"""client: a file is scored once, however often it breaks off; what does not fit is said before anything is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from penstock.client.score import Job, score
from penstock.client.sync import Client
from penstock.client.tries import Policy
from penstock.record.errors import PenstockError, Refused, Unavailable
from tests.unit.client.planted import Door, Planted

ROWS = [{"ask_id": f"a{i}", "who": f"w{i % 3}", "x": i / 2, "n": i, "flag": bool(i % 2)} for i in range(25)]


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """The real door."""
    made = Door()
    yield made
    made.close()


@pytest.fixture
def front(door: Door) -> Iterator[Planted]:
    """A front of it that fails as it is told to."""
    made = Planted(door.port)
    yield made
    made.close()


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of rows."""
    if path.suffix == ".ndjson":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        csv.write_csv(pa.Table.from_pylist(rows), path)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """A file of answers."""
    if path.suffix == ".ndjson":
        return [json.loads(line) for line in path.read_text().splitlines()]
    table = csv.read_csv(path) if path.suffix == ".csv" else parquet.read_table(path)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def asked(front: Planted) -> int:
    """How often rows were asked about."""
    return sum(head[":path"].endswith("/infer") for head in front.heads)


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".ndjson"])
def test_each_row_has_its_answer(front: Planted, tmp_path: Path, kind: str) -> None:
    """Under its id, in its order, in every kind of file; nothing is left beside the result."""
    job = Job("m", "ask_id", written(tmp_path / f"rows{kind}", ROWS), tmp_path / f"scores{kind}", size=10)
    told: list[tuple[int, int]] = []
    with Client(front.url) as client:
        done = score(client, job, lambda at, total: told.append((at, total)))
    assert (done.rows, done.before, done.failed, done.mean) == (25, 0, 0, 0.25)
    assert [row["ask_id"] for row in read(job.out)] == [row["ask_id"] for row in ROWS]
    assert {row["score"] for row in read(job.out)} == {0.25} and told == [(10, 25), (20, 25), (25, 25)]
    assert asked(front) == 3 and sorted(one.name for one in tmp_path.iterdir()) == [
        f"rows{kind}",
        f"scores{kind}",
    ]


def test_what_broke_off_goes_on_where_it_was(front: Planted, tmp_path: Path) -> None:
    """Only what was not answered is asked; another file, or other batches, begin anew."""
    job = Job("m", "ask_id", written(tmp_path / "rows.parquet", ROWS), tmp_path / "scores.parquet", size=10)
    with Client(front.url, policy=Policy(tries=1)) as client:
        front.faults[:] = ["", "", (503, {})]
        with pytest.raises(Unavailable):
            score(client, job)
        assert not job.out.exists()
        before = asked(front)
        done = score(client, job)
        assert (done.before, asked(front) - before) == (10, 2) and len(read(job.out)) == 25
        front.faults[:] = ["", "", (503, {})]
        with pytest.raises(Unavailable):
            score(client, job)
        written(job.rows, ROWS[:21])
        assert score(client, job).before == 0 and len(read(job.out)) == 21


MISFITS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a strange column": ([{**ROWS[0], "secret": 1}], "unknown_column"),
    "no id": ([{"who": "a", "x": 1.0, "n": 1, "flag": True}], "unknown_column"),
    "an id that is null": ([ROWS[0], {**ROWS[1], "ask_id": None}], "id"),
    "an id twice": ([*ROWS[:15], ROWS[2]], "id"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_said_before_anything_is_asked(
    front: Planted, tmp_path: Path, case: str
) -> None:
    """By column and row."""
    rows, code = MISFITS[case]
    job = Job("m", "ask_id", written(tmp_path / "rows.ndjson", rows), tmp_path / "scores.csv", size=10)
    with Client(front.url) as client, pytest.raises(Refused) as caught:
        score(client, job)
    assert caught.value.code == code and asked(front) == 0


def test_files_that_cannot_be(front: Planted, tmp_path: Path) -> None:
    """Of another kind, absent, empty, no JSON."""
    (tmp_path / "empty.ndjson").write_text("")
    (tmp_path / "odd.ndjson").write_text("7\n")
    with Client(front.url) as client:
        for name, code in (
            ("rows.xml", "file_kind"),
            ("none.csv", "not_found"),
            ("empty.ndjson", "no_rows"),
            ("odd.ndjson", "malformed"),
        ):
            with pytest.raises(PenstockError) as caught:
                score(client, Job("m", "ask_id", tmp_path / name, tmp_path / "scores.csv"))
            assert caught.value.code == code
