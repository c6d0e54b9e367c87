"""dataset: a training set is what serving saw, from any process, in any batches, as rows and as Arrow."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.app.dataset import write
from penstock.app.home import Home, open_home
from penstock.app.pipeline import load
from penstock.dataset import rows as module
from penstock.dataset.rows import Row, batches, rows
from penstock.dataset.table import schema, table
from penstock.feature import Fold, Past, compile, count, feature, last, max, mean, source, sum
from penstock.feature.replay import Decoded, replay
from penstock.log.memory import MemoryLog
from penstock.predict.verify import same
from penstock.record.codec import moment
from penstock.record.decisions import (
    AGAIN,
    DEAD,
    TICKS,
    Again,
    DeadLetter,
    Outcome,
    Prediction,
    Tick,
    draft,
    outcomes,
    predictions,
    read,
)
from penstock.record.errors import Poison, Refused
from penstock.record.event import Event, key
from penstock.record.record import START, Draft, Position, Record
from penstock.stage import folded

PIPELINE = Path(__file__).parents[2] / "crash" / "pipeline.py"
PLAN = load(PIPELINE).plan("agree")
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
T0_MS = 1_000 * DAY_MS


class Paid(Event):
    payment: str
    card: str | None = key()
    at: int
    amount: float | None


paid = source(Paid, id="payment", time="at")


@feature
def odd(rows_1h: int, total: float) -> Any:
    """Of several kinds."""
    return rows_1h if rows_1h % 2 else total / 3 if rows_1h else None


DEFINED = {
    "rows_1h": count(paid, window="1h"), "total": sum(paid.amount, window="5h"), "most": max(paid.amount), "odd": odd,
    "newest": last(paid.card, max_age="2h"), "usual": mean(paid.amount, window="5h", default=0),
}  # fmt: skip
FEATURES = compile([*DEFINED.values(), paid.amount], paid, DEFINED)


def made(moves: list[Any]) -> MemoryLog:
    """A log of payments, which are the requests, too, their labels, ticks, poison, and what came back."""
    log, now_ms = MemoryLog(), T0_MS
    for kind, *what in moves:
        end = log.end().n
        if kind == "paid":
            card, grid, amount = what
            at = now_ms + grid * HOUR_MS // 2
            log.append(
                [paid.draft(Paid(payment=str(end), card=card, at=at, amount=amount)), told(str(end), 1.0)]
            )
        elif kind == "poison":
            log.append([Draft(paid.topic, "a", now_ms, b"\xc1", str(end))])
        elif kind == "tick":
            now_ms += what[0] * HOUR_MS
            log.append([draft(TICKS, Tick(now_ms), key="", t_ms=now_ms)])
        elif end and (record := log.read([paid.topic], START, limit=10_000)[0]):
            one = record[what[0] % len(record)]
            if kind == "label":
                said = Outcome(
                    "m", one.id, one.key, one.position, one.time_ms, now_ms, "observed", what[1], []
                )
                log.append([draft(outcomes("m"), said, key=one.id, t_ms=now_ms)])
            else:
                letter = DeadLetter("predict.m", paid.topic, one.position, one.o, "", "", "x", "", "", now_ms)
                log.append([draft(DEAD, letter, key="predict.m", t_ms=now_ms)])
                if kind == "back":
                    again = Again(paid.topic, one.position, ["predict.m"], "me", now_ms)
                    log.append([draft(AGAIN, again, key="", t_ms=now_ms)])
    return log


def told(request: str, label: float | None) -> Draft:
    """What became of a request, as far as rows ask."""
    said = Outcome("m", request, "", 0, 0, 0, "expired" if label == 0 else "observed", label, [])
    return draft(outcomes("m"), said, key=request, t_ms=0)


def reference(log: MemoryLog, from_ms: int) -> list[Row]:
    """The same, request by request, by the fold that serves."""
    live, whole, found = Fold(FEATURES), Fold(FEATURES, prune=False), []
    labels: dict[str, float | None] = {}
    topics = (paid.topic, TICKS, AGAIN, outcomes("m"))
    for records, _ in folded(log, "predict.m", topics, stop=log.end()):
        for record in records:
            if record.topic == TICKS:
                live.tick(read(record, Tick).t_ms)
            elif record.topic == outcomes("m"):
                labels[read(record, Outcome).request] = read(record, Outcome).label
            else:
                with contextlib.suppress(Poison):
                    due = [(fold, fold.fit(record)) for fold in (live, whole)]
                    found += _seen(live, whole, record) if record.time_ms >= from_ms else []
                    for fold, fitting in due:
                        fold.fold(record, fitting)
    return [
        Row(one.id, one.key, one.time_ms, one.position, values, label, [str(one.key) or "missing"])
        for one, values in found
        if (label := labels.get(one.id)) is not None
    ]


def _seen(live: Fold, whole: Fold, record: Record) -> list[tuple[Record, list[Any]]]:
    try:
        return [(record, live.read(record))]
    except Past:
        return [(record, whole.read(record))]


def bits(found: list[Row]) -> list[Any]:
    """Rows so that they can be compared: null, NaN, 1 and 1.0 are different."""
    return [
        (r.request, r.entity, r.t_ms, r.position, r.label, r.facts, [repr(v) for v in r.values])
        for r in found
    ]


MOVES = st.one_of(
    st.tuples(
        st.just("paid"), st.sampled_from(["a", "b", None]), st.integers(-300, 4),
        st.sampled_from([None, math.nan, 0.0, 1.5, -2.25, 1e9, 1e18]),
    ),
    st.tuples(st.just("paid"), st.just("a"), st.integers(-9, 1), st.just(2.5)),
    st.tuples(st.just("label"), st.integers(0, 60), st.sampled_from([None, 0.0, 1.0])),
    st.tuples(st.just("tick"), st.integers(0, 60)),
    st.tuples(st.just("poison")),
    st.tuples(st.sampled_from(["buried", "back"]), st.integers(0, 60)),
)  # fmt: skip


@given(
    st.lists(MOVES, max_size=60), st.integers(1, 9), st.sampled_from([0, 10**9]), st.sampled_from([0, T0_MS])
)
def test_rows_are_what_the_fold_says(moves: list[Any], size: int, least: int, from_ms: int) -> None:
    """Requests from long ago, buried and brought back, amended labels, batches of any size, compiled or not."""
    log = made(moves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_ROWS", size)
        patch.setattr(module, "BATCH_EVENTS", 2 * size)
        patch.setattr(module, "replay", partial(replay, least=least))
        got = rows(log, FEATURES, "m", o=log.end(), from_ms=from_ms, facts=["card"])
    want = reference(log, from_ms)
    assert [row[:5] + row[6:] for row in bits(got)] == [row[:5] + row[6:] for row in bits(want)]


def test_what_is_forgotten_too_early_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison finds a planted bug: events forgotten that a later batch still sees."""
    log = made([("paid", "a", 0, 1.5)] * 4)
    monkeypatch.setattr(module, "BATCH_ROWS", 1)
    assert bits(rows(log, FEATURES, "m", o=log.end(), from_ms=0, facts=["card"])) == bits(reference(log, 0))
    monkeypatch.setattr(Decoded, "forget", lambda self, now_ms: self.__init__(self.features))
    monkeypatch.setattr(module, "folded", lambda *given, **options: folded(*given, **{**options, "limit": 2}))
    assert bits(rows(log, FEATURES, "m", o=log.end(), from_ms=0, facts=["card"])) != bits(reference(log, 0))


@pytest.fixture
def home(played: Path, tmp_path: Path) -> Any:
    """A copy of the played home."""
    shutil.copytree(played, tmp_path / "home")
    opened = open_home(tmp_path / "home")
    yield opened
    opened.log.close()


def test_rows_are_what_was_served(home: Home) -> None:
    """Every labelled request's values are those on its logged predictions, bit for bit."""
    found = {row.request: row for row in rows(home.log, PLAN.features, "agree", o=home.log.end(), from_ms=0)}
    count = 0
    for record in home.log.read([predictions("agree")], START, limit=10**6)[0]:
        said = read(record, Prediction)
        if said.request in found and said.features == PLAN.features.digest:
            assert same(found[said.request].values, said.values)
            count += 1
    assert count > 500


def test_late_events_move_no_old_row(home: Home) -> None:
    """Events of the past that arrive after the predictions change no row of before."""
    before = rows(home.log, PLAN.features, "agree", o=home.log.end(), from_ms=0)
    asked = PLAN.pipeline.request
    late = [
        {"ask_id": f"late{i}", "who": row.entity, "at": moment(row.t_ms - 1000), "x": 9.0, "z": None}
        for i, row in enumerate(before[::3])
    ]
    home.log.append(asked.drafts(late))
    after = rows(home.log, PLAN.features, "agree", o=home.log.end(), from_ms=0)
    assert bits(after) == bits(before)


CHILD = """
import sys; from pathlib import Path
from penstock.app.home import open_home
from tests.unit.dataset.test_rows import fingerprint
print(fingerprint(open_home(Path(sys.argv[1])), int(sys.argv[2])))
"""


def fingerprint(home: Home, least: int) -> str:
    """The digest of a home's training set as Arrow's bytes."""
    module.replay = partial(replay, least=least)  # type: ignore[assignment]
    try:
        found = batches(home.log, PLAN.features, "agree", o=home.log.end(), from_ms=0, facts=["who"])
        made, out = table(PLAN.features, found), pa.BufferOutputStream()
    finally:
        module.replay = replay
    with pa.ipc.new_stream(out, made.schema) as writer:
        writer.write_table(made.combine_chunks())
    return hashlib.sha256(out.getvalue()).hexdigest()


def test_a_fresh_process_makes_the_same_bytes(home: Home) -> None:
    """Compiled there, in plain Python here: the training set from the log is the same to the bit."""
    run = [sys.executable, "-c", CHILD, str(home.path), "0"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.split()[-1] == fingerprint(home, 10**9)


def test_columns_are_typed_and_nulls_are_not_nan(home: Home) -> None:
    """The definition says a column's type; a null is an Arrow null, and there is no NaN in its place."""
    found = list(batches(home.log, PLAN.features, "agree", o=home.log.end(), from_ms=0, facts=["who"]))
    made = table(PLAN.features, found)
    assert [str(field.type) for field in made.schema] == [
        *("string", "string", "int64", "int64"), *("double", "double", "int64", "double"),
        *("double", "string", "string"),
    ]  # fmt: skip
    assert made.schema.names == [
        "request", "entity", "t_ms", "o", "x", "z", "asks_1d", "usual_x", "label", "label_state", "by_who",
    ]  # fmt: skip
    values = [row for batch in found for row in batch.rows()]
    for at, name in enumerate(PLAN.features.names):
        assert all(
            same([a], [b])
            for a, b in zip(made[name].to_pylist(), [r.values[at] for r in values], strict=True)
        )
    assert 0 < made["z"].null_count < made.num_rows


def nan_and_null() -> tuple[Any, list[Row]]:
    """A table whose column holds a number, a NaN and a null, and one of several kinds."""
    log = made([("paid", "a", -1, 1.5), ("paid", "a", 0, math.nan), ("paid", "a", 0, None)])
    found = list(batches(log, FEATURES, "m", o=log.end(), from_ms=0))
    return table(FEATURES, found), [row for batch in found for row in batch.rows()]


def test_polars_takes_it_without_a_copy() -> None:
    """And tells null from NaN; a column of several kinds of numbers is one of floats."""
    polars = pytest.importorskip("polars")
    made, found = nan_and_null()
    frame = polars.from_arrow(made)
    assert frame["amount"].to_list()[0] == 1.5 and math.isnan(frame["amount"].to_list()[1])
    assert frame["amount"].null_count() == 1 and frame["odd"].dtype == polars.Float64
    assert [row.values[3] for row in found] == [None, 1, 0.5] and frame["odd"].to_list() == [None, 1.0, 0.5]
    address = made["total"].chunk(0).buffers()[1].address
    assert frame["total"].to_arrow().buffers()[1].address == address


def test_pandas_takes_it() -> None:
    """As every library that reads Arrow."""
    pytest.importorskip("pandas")
    frame = nan_and_null()[0].to_pandas()
    assert list(frame["rows_1h"]) == [0, 1, 2]


def test_an_empty_set_has_its_columns() -> None:
    """A table of no rows; a name that the table has itself is refused."""
    assert table(FEATURES, []).num_rows == 0 and "total" in table(FEATURES, []).schema.names
    label = {"label": count(paid)}
    with pytest.raises(Refused, match="of its own"):
        schema(compile([label["label"]], paid, label), module.Batch([], [], [], [], [], {}, [], [], {}))


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow"])
def test_a_file_holds_the_rows(
    home: Home, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written batch by batch, it is the table; what is written says what it is of."""
    monkeypatch.setattr(module, "BATCH_ROWS", 100)
    done: list[tuple[int, int]] = []
    said = write(home.log, PLAN, tmp_path / name, progress=lambda n, total: done.append((n, total)))
    want = table(PLAN.features, batches(home.log, PLAN.features, "agree", o=home.log.end(), from_ms=0))
    got = (
        pq.read_table(tmp_path / name)
        if name.endswith("parquet")
        else pa.ipc.open_file(tmp_path / name).read_all()
    )
    assert got.equals(want) and got.schema.metadata[b"features"].decode() == PLAN.features.digest
    assert said.rows == want.num_rows and said.o == home.log.end() and 0 < said.positives < said.rows
    assert done == sorted(done) and done[-1][0] == done[-1][1] and list(tmp_path.glob(".*part")) == []


def test_a_file_is_refused_where_it_cannot_be(home: Home, tmp_path: Path) -> None:
    """A name that says no format, or no row at all: nothing is left behind."""
    with pytest.raises(Refused, match="parquet"):
        write(home.log, PLAN, tmp_path / "rows.csv")
    with pytest.raises(Refused, match="label"):
        write(home.log, PLAN, tmp_path / "rows.parquet", from_ms=2**52)
    assert list(tmp_path.glob("*rows*")) == []


def test_no_row_is_seen_from_later(home: Home) -> None:
    """Rows as of an earlier position are those, and the labels, that were known then."""
    end = home.log.end()
    early = rows(home.log, PLAN.features, "agree", o=Position(n=end.n // 2), from_ms=0)
    known = {row[0]: row for row in bits(rows(home.log, PLAN.features, "agree", o=end, from_ms=0))}
    assert 0 < len(early) < len(known) and all(known[row[0]] == row for row in bits(early))
