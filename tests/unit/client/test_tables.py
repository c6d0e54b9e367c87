"""client: rows of a table are scored once, however often the run dies; what does not fit is said before anything is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.cli import main
from penstock.client.kept import Kept
from penstock.client.score import Job, score
from penstock.client.sync import Client
from penstock.client.tables import Results, table
from penstock.client.tries import Policy
from penstock.record.errors import NotFound, PenstockError, Refused, Unavailable
from tests.postgres import database
from tests.unit.client.planted import Door, Planted
from tests.unit.client.test_score import asked, read

ROWS = 25


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


@pytest.fixture(scope="module")
def server() -> str:
    """A real database."""
    return database("scores")


@pytest.fixture
def db(server: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A schema of its own, with a table of rows in no order."""
    with psycopg.connect(server, autocommit=True) as made:
        made.execute("drop schema if exists own cascade; create schema own; set search_path = own")
        made.execute(
            "create table asks as select 'a' || i as ask_id, 'w' || i % 3 as who, i / 2.0 as x, i as n,"
            " i % 2 = 1 as flag, timestamptz '2026-01-01T00:00Z' + i * interval '1 minute' as at"
            f" from generate_series(1, {ROWS}) i order by md5(i::text)"
        )
        yield made


def job(server: str, out: str = "own.scores", rows: str = "own.asks", **more: Any) -> Job:
    """Rows of a table to a table."""
    return Job("m", "ask_id", table(f"{server}?table={rows}"), table(f"{server}?table={out}"), 10, **more)


def tables(db: psycopg.Connection[tuple[Any, ...]]) -> set[str]:
    """What lies in the schema."""
    return {name for (name,) in db.execute("select tablename from pg_tables where schemaname = 'own'")}


def test_a_table_is_scored_into_a_table(front: Planted, server: str, db: psycopg.Connection[Any]) -> None:
    """Each id has its answer, under a key; nothing is left beside it."""
    with Client(front.url) as client:
        done = score(client, job(server))
    assert (done.rows, done.before, done.failed, done.mean, done.stood) == (25, 0, 0, 0.25, 0)
    rows = db.execute("select ask_id, score, positive, version, error from scores").fetchall()
    assert {row[0] for row in rows} == {f"a{i}" for i in range(1, 26)} and len(rows) == 25
    assert {row[1:] for row in rows} == {(0.25, False, 3, "")}
    assert tables(db) == {"asks", "scores"} and asked(front) == 3


def test_what_stands_in_the_table_stays(front: Planted, server: str, db: psycopg.Connection[Any]) -> None:
    """A second run changes no row of the first, and the user's own columns are his."""
    db.execute(
        "create table scores (note text default 'mine', ask_id varchar(20) unique, score double precision,"
        " positive boolean, version bigint, prediction_id text, error text)"
    )
    db.execute("insert into scores (ask_id, score, note) values ('a7', 0.5, 'before')")
    with Client(front.url) as client:
        assert score(client, job(server)).stood == 1
        assert score(client, job(server)).stood == 25
    found = db.execute(
        "select note, score, count(*) from scores group by note, score order by note"
    ).fetchall()
    assert found == [("before", 0.5, 1), ("mine", 0.25, 24)]


def test_files_to_tables_and_back(
    front: Planted, server: str, db: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """Any kind of rows, any kind of answers; ids that are numbers stay numbers."""
    rows, out = tmp_path / "rows.ndjson", tmp_path / "scores.ndjson"
    rows.write_text(
        "".join(json.dumps({"ask_id": f"f{i}", "who": "w", "x": 1, "n": i}) + "\n" for i in range(12))
    )
    with Client(front.url) as client:
        assert score(client, Job("m", "ask_id", rows, table(f"{server}?table=own.scores"))).rows == 12
        assert score(client, Job("m", "ask_id", table(f"{server}?table=own.asks"), out)).rows == 25
        assert score(client, Job("m", "n", rows, table(f"{server}?table=own.numbered"))).rows == 12
    assert [row["ask_id"] for row in read(out)] == sorted(f"a{i}" for i in range(1, 26))
    assert db.execute("select sum(n) from numbered").fetchone() == (66,)
    assert db.execute("select count(*) from scores where ask_id like 'f%%'").fetchone() == (12,)


def test_a_run_that_is_killed_goes_on(front: Planted, server: str, db: psycopg.Connection[Any]) -> None:
    """Half-way it leaves no result; again, it asks only what was not answered, and each id stands once."""
    front.faults[:] = ["", "", "", 60.0]  # of the model, two batches, and a third that hangs
    at = f"{server}?table=own."
    words = ["score", "m", "--url", front.url, "--id", "ask_id", "--in", f"{at}asks", "--out", f"{at}scores"]
    words += ["--batch", "10"]
    run = subprocess.Popen([sys.executable, "-m", "penstock.cli", *words])
    until = time.monotonic() + 30
    while asked(front) < 3 and time.monotonic() < until and run.poll() is None:
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert tables(db) == {"asks", "scores_parts"}
    assert db.execute("select count(*), count(distinct part) from scores_parts").fetchone() == (20, 2)
    before = asked(front)
    done = subprocess.run(
        [sys.executable, "-m", "penstock.cli", *words, "--json"], capture_output=True, check=True
    )
    assert json.loads(done.stdout) == {
        "rows": 25, "before": 20, "failed": 0, "least": 0.25, "mean": 0.25, "most": 0.25, "stood": 0,
    }  # fmt: skip
    assert asked(front) - before == 1 and tables(db) == {"asks", "scores"}
    assert db.execute("select count(*), count(distinct ask_id) from scores").fetchone() == (25, 25)


def test_other_rows_begin_anew(
    front: Planted, server: str, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept of rows that have changed since is taken away; rows are those of the moment of the check."""
    with Client(front.url, policy=Policy(tries=1)) as client:
        front.faults[:] = ["", "", (503, {})]
        with pytest.raises(Unavailable):
            score(client, job(server))
        db.execute("update asks set x = x + 1 where ask_id = 'a3'")
        begin = Results.begin

        def meanwhile(results: Results, kept: Kept) -> int:
            db.execute("delete from asks where n > 20")
            return begin(results, kept)

        monkeypatch.setattr(Results, "begin", meanwhile)
        done = score(client, job(server))
    assert (done.rows, done.before) == (25, 0)
    assert db.execute("select count(*) from scores").fetchone() == (25,)


def test_two_runs_of_one_table(
    front: Planted, server: str, db: psycopg.Connection[Any], monkeypatch: Any
) -> None:
    """The second is told so."""
    monkeypatch.setattr("penstock.client.tables.LOCK_S", 0.1)
    caught = list[str]()

    def meanwhile(done: int, total: int) -> None:
        with Client(front.url) as other, pytest.raises(Unavailable) as error:
            score(other, job(server))
        caught.append(error.value.code)

    with Client(front.url) as client:
        score(client, job(server), meanwhile)
    assert caught == ["locked"] * 3


RESULTS = "create table scores (ask_id {}, score {}, positive boolean, version bigint, prediction_id text, error text)"
MISFITS = {
    "an id twice": ("insert into asks (ask_id) values ('a1')", "id"),
    "an id that is null": ("update asks set ask_id = null where n = 3", "id"),
    "a strange column": ("alter table asks add secret text", "unknown_column"),
    "no column of ids": ("alter table asks drop ask_id", "unknown_column"),
    "texts for numbers": ("alter table asks alter x type text", "wrong_type"),
    "what is no value": ("alter table asks alter x type json using '{}'", "wrong_type"),
    "no rows": ("delete from asks", "no_rows"),
    "no table": ("drop table asks", "no_table"),
    "results of another type": (RESULTS.format("text primary key", "real"), "columns"),
    "results without a key": (RESULTS.format("text", "double precision"), "no_key"),
    "somebody's table of parts": ("create table scores_parts (ask_id text)", "table"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_said_before_anything_is_asked(
    front: Planted, server: str, db: psycopg.Connection[Any], case: str
) -> None:
    """By its code, and nothing is left behind or taken away."""
    change, code = MISFITS[case]
    db.execute(change)
    before = tables(db)
    with Client(front.url) as client, pytest.raises(PenstockError) as caught:
        score(client, job(server))
    assert caught.value.code == code and asked(front) == 0 and tables(db) == before


def test_too_many_without_a_score(front: Planted, server: str, db: psycopg.Connection[Any]) -> None:
    """There is no result then; what was answered stays beside it, and is a result where the user allows for it."""
    said = {
        "model_name": "m",
        "outputs": [
            {"name": name, "datatype": "FP64", "shape": [10], "data": [value] * 10}
            for name, value in {
                "score": None, "positive": None, "version": 3, "prediction_id": "p", "request_id": "r",
                "error": "model_failed",
            }.items()
        ],
    }  # fmt: skip
    body = json.dumps(said).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with Client(front.url) as client:
        front.faults[:] = ["", answer]
        with pytest.raises(Refused) as caught:
            score(client, job(server))
        assert (caught.value.code, caught.value.where) == ("failed", "own.scores_parts")
        assert tables(db) == {"asks", "scores_parts"}
        assert score(client, job(server, most_failed=0.5)).failed == 10
    assert db.execute("select count(*) from scores where error = 'model_failed'").fetchone() == (10,)


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("postgresql://me:hunter2@db/x?table=asks", "secret"),
        ("postgresql://db/x?table=asks&password=hunter2", "secret"),
        ("postgresql://db/x", "table"),
        ("postgresql://db/x?table=a.b.c", "table"),
        ("postgresql://db/x?table=" + "n" * 60, "table"),
    ],
)
def test_addresses(address: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A secret, or no table, is told so, without the secret."""
    assert (
        main(["score", "m", "--id", "i", "--in", address, "--out", "o.csv", "--url", "http://127.0.0.1:9"])
        == 2
    )
    said = capsys.readouterr().err
    assert f"[{code}]" in said and "hunter2" not in said


def test_a_database_that_is_away() -> None:
    """Is not there now: no word of the driver's."""
    with Client("http://127.0.0.1:9") as client, pytest.raises(Unavailable) as caught:
        score(client, job("postgresql://127.0.0.1:9/none"))
    assert caught.value.code == "database"


def test_the_rest_of_an_address_is_libpqs(
    server: str, db: psycopg.Connection[Any], front: Planted, monkeypatch: Any
) -> None:
    """A host and a name may come from the environment; what the address says beside the table goes on to it."""
    at = psycopg.conninfo.conninfo_to_dict(server)
    monkeypatch.setenv("PGPORT", str(at["port"]))
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    here = f"postgresql://?table=asks&user=penstock&dbname=scores&options={'-c search_path=own'.replace(' ', '%20')}"
    with Client(front.url) as client:
        assert (
            score(client, Job("m", "ask_id", table(here), table(here.replace("asks", "scores")))).rows == 25
        )
        with pytest.raises(NotFound):
            score(client, Job("m", "ask_id", table(here.replace("own", "pg_catalog")), table(here)))
