"""laws: a record that a stage cannot take changes nothing, is buried once, and comes back once."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock.stage
from penstock.app.dead import again, letters
from penstock.dataset.outcome import Label, outcome_stage
from penstock.feature import compile, count, last, source, sum
from penstock.feature.fold import Fold
from penstock.log.memory import MemoryLog
from penstock.model.pack import Model
from penstock.monitor.rules import dead
from penstock.monitor.stage import Bucket, Watching, monitor_stage
from penstock.predict.stage import Means, predict_stage
from penstock.record.codec import millis, moment, pack, unpack
from penstock.record.decisions import DEAD, RELEASES, TICKS, DeadLetter, Prediction, Release, Tick, read
from penstock.record.event import Event, key, pii
from penstock.record.poison import opened
from penstock.record.record import START, Draft, Record
from penstock.stage import Running, Stage, each, replay, stage

SECRET = "canary@example.org"
HOUR_MS = 3_600_000
T0_MS = millis(datetime(2024, 1, 1, tzinfo=UTC))


class Ask(Event):
    ask_id: str
    who: str = pii(key())
    at: datetime
    x: float
    more: list[Any] | None


ask = source(Ask, id="ask_id", time="at")
yes = source("yes", key="ask_id", time="at")
features = {"asks": count(ask, window="1d"), "xs": sum(ask.x, window="2d"), "x_before": last(ask.x)}
FEATURES = compile([ask.x, *features.values()], ask, features)  # type: ignore[attr-defined]


class Plain:
    """A model: the sum of a row."""

    def predict_proba(self, x: Any) -> Any:
        return 1 / (1 + abs(x[:, :3]).sum(axis=1))


def text(value: bytes) -> bytes:
    """A short text as MessagePack has it, valid or not."""
    return bytes([0xA0 | len(value)]) + value


POISON = {
    "bad_utf8": b"\x81" + text(b"ask_id") + text(b"\xff\xfe"),
    "wrong_type": pack({"ask_id": SECRET, "who": SECRET, "at": moment(T0_MS), "x": SECRET, "more": None}),
    "missing_column": pack({"ask_id": SECRET, SECRET: 1}),
    "nested": b"\x81" + text(b"more") + b"\x91" * 50_000 + b"\xc0",
    "malformed": b"\x81" + text(b"who") + b"\xdb" + struct.pack(">I", 1 << 30) + SECRET.encode(),
}
"""By code: foreign bytes, a schema that changed, one without its columns, a deep one, a claim of a GB."""


def stages(folds: Any = None) -> list[Stage[Any]]:
    """The stages that read users' events."""
    model = Model(FEATURES.digest, "binary", ["number"] * 4, Plain(), None)
    means = Means(
        lambda digest: None,
        lambda digest: model,
        lambda features, record: [],
        lambda features, stop: Fold(features),
        lambda: 0.0,
    )
    label = Label(yes, lambda event: 1.0, 6 * HOUR_MS, 0.0)
    return [
        predict_stage("m", ask, {FEATURES.digest: FEATURES}, means, snapshot_every=folds or 7),
        msgspec.structs.replace(outcome_stage("m", ask, label), snapshot_every=folds or 5),
        monitor_stage("m", [dead("1d") < 10_000], ask, FEATURES.names),
    ]


def put(log: MemoryLog, events: list[Any], *, calm: bool) -> int:
    """Append events and poison, this in the calm log on a topic that nobody reads; the number of poisons."""
    release = Release("m", 1, "d", "champion", 100, "", "", 0)
    log.append([Draft(RELEASES, "m", 0, pack(release))])
    bad = 0
    for i, (what, who, hour) in enumerate(events):
        at = moment(T0_MS + round(hour * HOUR_MS))
        if what in POISON:
            bad += 1
            topic = "noise" if calm else ("yes" if who == "b" and what != "wrong_type" else "ask")
            log.append([Draft(topic, "k" if topic == "yes" else SECRET, millis(at), POISON[what], f"r{i}")])
        elif what == "tick":
            log.append([Draft(TICKS, "", 0, pack(Tick(T0_MS + i * HOUR_MS)))])
        elif what == "yes":
            log.append([yes.draft(yes.schema(ask_id=f"q{i // 2}", at=at))])
        else:
            log.append([ask.draft(Ask(ask_id=f"q{i}", who=who, at=at, x=hour, more=None))])
    return bad


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "yes", "tick", *POISON]), st.sampled_from("ab"), st.floats(0, 30)
    ),
    max_size=30,
)
TURNS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["run", "run", "crash"])), max_size=25)


def run(log: MemoryLog, made: list[Stage[Any]], turns: list[Any], batch: int) -> list[Running[Any]]:
    """Advance and crash at random, then to the end, each stage after the one before."""
    running = [Running(one, log, batch=batch) for one in made]
    for which, turn in turns:
        if turn == "run":
            running[which].advance()
        else:
            running[which] = Running(made[which], log, batch=batch)
    for one in running:
        while one.advance() is not None:
            pass
    return running


def dumped(one: Running[Any]) -> bytes:
    """The state's bytes; the monitor's without the dead letters that it counts."""
    state = one.state
    if isinstance(state, Watching):
        for at, bucket in list(state.buckets.items()):
            bucket.dead = 0
            if bucket == Bucket():
                del state.buckets[at]
    return one.stage.dump(state)


def said(log: MemoryLog) -> list[Any]:
    """The predictions with their ids (but which were scored in one call), and all else but dead letters."""
    found = [(r.id, read(r, Prediction)) for r in log.read(["m.predictions"], START, limit=10**6)[0]]
    others = sorted(set(log.topics()) - {DEAD, "noise", "ask", "yes", TICKS, RELEASES, "m.predictions"})
    values = [(r.topic, r.value) for topic in others for r in log.read([topic], START, limit=10**6)[0]]
    return [(id, msgspec.structs.replace(one, batch=0)) for id, one in found] + values


def compared(events: list[Any], turns: list[Any], batch: int) -> None:
    """The law: with poison, crashes and any batches as without."""
    rough, calm = MemoryLog(), MemoryLog()
    bad = put(rough, events, calm=False)
    put(calm, events, calm=True)
    ran, quiet = run(rough, stages(), turns, batch), run(calm, stages(1), [], 10**6)
    yeses = len([r for r in rough.read(["yes"], START, limit=10**6)[0] if r.id.startswith("r")])
    found = [read(r, DeadLetter) for r in rough.read([DEAD], START, limit=10**6)[0]]
    assert len(found) == 3 * (bad - yeses) + yeses
    assert len({(one.stage, one.position) for one in found}) == len(found)
    assert SECRET not in str(found)
    assert all(len(one.sample) <= 200 for one in found)
    for one, other in zip(ran, quiet, strict=True):
        assert one.stage.dump(one.state) == one.stage.dump(replay(one.stage, rough))
        assert dumped(one) == dumped(other), one.stage.name
    assert said(rough) == said(calm)


@given(EVENTS, TURNS, st.integers(1, 9))
def test_poison_changes_nothing(events: list[Any], turns: list[Any], batch: int) -> None:
    """State and outputs are those of a log without it; it is buried once by each stage; no word of it is told."""
    compared(events, turns, batch)


BAD = [(kind, "ab"[i % 2], 1.0) for i, kind in enumerate(POISON)]
STORY = [
    ("ask", "a", 1.0),
    *BAD,
    ("ask", "b", 2.0),
    ("yes", "a", 3.0),
    *BAD,
    ("ask", "a", 3.0),
    ("tick", "", 0.0),
]


def test_the_reasons_are_told() -> None:
    """Each kind has its code, the place and a sample of known columns and types."""
    log = MemoryLog()
    put(log, [(kind, "a", 1.0) for kind in POISON], calm=False)
    run(log, stages()[:1], [], 100)
    found = [read(r, DeadLetter) for r in log.read([DEAD], START)[0]]
    assert [(one.code, one.position) for one in found] == [(kind, i + 1) for i, kind in enumerate(POISON)]
    assert {one.key for one in found} == {"•••"}
    assert "ask_id=str[18], who=•••" in found[1].sample and "x=str[18], more=null" in found[1].sample
    assert "1 unknown" in found[2].sample


def test_a_step_that_hides_its_poison_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law finds a planted bug: the poison left out without a dead letter."""

    def hiding(name: str, take: Any, records: Any) -> Any:
        return [(r, d) for r, d in each(name, take, records) if d.topic != DEAD]

    for room in ("penstock.predict.stage", "penstock.dataset.outcome", "penstock.monitor.stage"):
        monkeypatch.setattr(f"{room}.each", hiding)
    with pytest.raises(AssertionError):
        compared(STORY, [], 4)


def test_a_step_that_changes_before_it_reads_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law finds a planted bug: the outcome stage asks before it has read the request."""
    import penstock.dataset.outcome as outcome

    compared(STORY, [], 4)
    right = stages
    real = right()[1].step_many

    def step_many(state: Any, records: Any) -> Any:
        for record in records:
            if record.topic == "ask":
                outcome._ask(state, record, Label(yes, lambda event: 1.0, 6 * HOUR_MS, 0.0))
        return real(state, records)

    def planted(folds: Any = None) -> list[Stage[Any]]:
        made = right(folds)
        return [made[0], msgspec.structs.replace(made[1], step_many=step_many), made[2]]

    monkeypatch.setitem(globals(), "stages", planted)
    with pytest.raises(AssertionError):
        compared(STORY, [], 4)


# What comes back.


class Folded(msgspec.Struct, frozen=True):
    """Every record that was folded: its position, and where it counts from."""

    places: tuple[tuple[int, int], ...] = ()


class Small(msgspec.Struct, frozen=True):
    n: int


class Wide(msgspec.Struct, frozen=True):
    n: int | str


def noting(type_: Any, snapshot_every: int) -> Stage[Folded]:
    """A stage that writes down what it folds, and says it; `type_` is what today's code can read."""

    def step(state: Folded, record: Record) -> tuple[Folded, list[Draft]]:
        opened(record, type_)
        return Folded((*state.places, (record.position, record.o))), [Draft("out", "", 0, record.value)]

    return stage("note", ["in", "again"], Folded, step, snapshot_every=snapshot_every)


MOVES = st.lists(
    st.sampled_from(["good", "odd", "broken", "run", "crash", "save", "mend", "again"]), max_size=40
)


def returned(moves: list[str], batch: int, snapshot_every: int) -> None:
    """The law: what comes back is folded once, and any replay by any code folds as was folded live."""
    log, type_ = MemoryLog(), Small
    one = Running(noting(type_, snapshot_every), log, batch=batch)
    for move in [*moves, "mend", "drain", "again", "drain"]:
        match move:
            case "run":
                one.advance()
            case "save":
                one.save()
            case "drain":
                while one.advance() is not None:
                    pass
            case "crash" | "mend":
                type_ = Wide if move == "mend" else type_
                one = Running(noting(type_, snapshot_every), log, batch=batch)
            case "again":
                again(log, [], "me", 0) and again(
                    log, [f"in@{letters(log)[0].position}"] if letters(log) else [], "me", 0
                )
            case _:
                log.append(
                    [Draft("in", "", 0, {"good": pack(Small(1)), "odd": pack(Wide("1"))}.get(move, b"\xc1"))]
                )
        done = replay(noting(Wide, 1), log, one.position)
        assert done == one.state == replay(noting(type_, 1), log, one.position)
    places = [position for position, _ in one.state.places]
    good = [r.position for r in log.read(["in"], START, limit=10**6)[0] if r.value != b"\xc1"]
    assert sorted(places) == good and len(set(places)) == len(places)
    assert [o for _, o in one.state.places] == sorted(o for _, o in one.state.places)
    ids = [r.id for r in log.read(["out"], START, limit=10**6)[0]]
    assert sorted(ids) == sorted(f"note:in:{position}:0" for position in good)
    assert {one.position for one in letters(log)} == {
        r.position for r in log.read(["in"], START, limit=10**6)[0] if r.value == b"\xc1"
    }


@given(MOVES, st.integers(1, 5), st.integers(1, 9))
def test_what_comes_back_is_folded_once(moves: list[str], batch: int, snapshot_every: int) -> None:
    """At the place of the word, under its old id; a replay by the mended code leaves it out before, too."""
    returned(moves, batch, snapshot_every)


def test_a_replay_that_forgets_the_graves_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law finds a planted bug: a replay that folds what today's code can read, wherever it lies."""
    moves = ["good", "odd", "good", "run", "again", "mend", "again"]
    returned(moves, 3, 1)

    def forgetful(
        log: Any, name: str, topics: Any, start: Any = START, *, stop: Any = None, limit: int = 9
    ) -> Any:
        while True:
            records, start = log.read(topics, start, stop=stop, limit=limit)
            yield list(penstock.stage.returned(log, name, topics, records)), start
            if not records:
                return

    monkeypatch.setattr(penstock.stage, "folded", forgetful)
    with pytest.raises(AssertionError):
        returned(moves, 3, 1)


def test_values_unpack() -> None:
    """The odd value is one that only the mended code reads."""
    assert unpack(pack(Wide("1")), Wide).n == "1"
