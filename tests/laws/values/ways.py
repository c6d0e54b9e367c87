"""laws: the ways to a value. Each folds the same log, and gives the values of every request by its position."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from penstock.dataset.rows import past
from penstock.feature import Fold, Past
from penstock.feature.replay import decoded, replay
from penstock.log.memory import MemoryLog
from penstock.predict.verify import same
from penstock.record.codec import pack
from penstock.record.decisions import (
    AGAIN,
    DEAD,
    RETRACTIONS,
    TICKS,
    DeadLetter,
    Retraction,
    Tick,
    Value,
    read,
)
from penstock.record.record import START, Draft, Record
from penstock.stage import Running, Stage, each, folded
from tests.laws.values.oracle import Oracle
from tests.laws.values.worlds import Ask, Move, Paid, Visit, World, ask, moves, only, paid, visit, world

NAME = "predict.m"
TOPICS = ("ask", "paid", "visit", RETRACTIONS)
Values = dict[int, list[Value]]


class Played(msgspec.Struct, frozen=True):
    """A log, and what the live fold said while it came to be."""

    world: World
    log: Any
    live: Values
    dead: dict[int, str]
    state: bytes

    def records(self) -> list[Record]:
        """What the stage has folded, in order."""
        return [record for batch, _ in folded(self.log, NAME, self.world.topics) for record in batch]


def draft(move: Move) -> Draft:
    """The event of a move."""
    whose = {"card": move.card, "at": move.t_ms}
    if move.what == "paid":
        more = {"amount": move.amount, "items": move.items, "country": move.text, "ok": move.ok}
        return paid.draft(Paid(payment=f"p{move.n}", shop=move.shop, **whose, **more))
    if move.what == "visit":
        return visit.draft(Visit(visit=f"v{move.n}", page=move.text, **whose))
    return ask.draft(Ask(ask=f"a{move.n}", shop=move.shop, x=move.amount, **whose))


def play(world: World, moves: Sequence[Move], log: Any = None) -> Played:
    """Play moves through a log and a stage that folds, buries and restarts as the answering one does."""
    log = MemoryLog() if log is None else log
    live: Values = {}
    running = Running(_stage(world, live), log)
    places: dict[int, tuple[Draft, int]] = {}
    for move in moves:
        if move.what == "restart":
            while running.advance() is not None:
                pass
            running.save()
            running = Running(_stage(world, live), log)
        elif move.what == "tick":
            log.append([Draft(TICKS, "", move.t_ms, pack(Tick(move.t_ms)))])
        elif move.what == "retract":
            if move.ref in places:
                log.append([_retraction(move, *places[move.ref])])
        elif move.what == "again":
            if move.ref in places:
                log.append([places[move.ref][0]])
        else:
            made = draft(move)
            places[move.n] = made, log.append([made]).places[0]
    while running.advance() is not None:
        pass
    letters = [read(r, DeadLetter) for r in log.read([DEAD], START, limit=10**9)[0]]
    return Played(world, log, live, {letter.o: letter.code for letter in letters}, running.state.dump())


def _retraction(move: Move, of: Draft, position: int) -> Draft:
    value = Retraction(of.topic, of.id, position, of.time_ms, of.value)
    return Draft(RETRACTIONS, of.key, move.t_ms, pack(value))


def _stage(world: World, live: Values) -> Stage[Fold]:
    """The fold as a stage: requests are read at their own place, then folded like any event."""

    def step_many(fold: Fold, records: Sequence[Record]) -> tuple[Fold, list[Any]]:
        def take(record: Record) -> list[Draft]:
            _step(fold, record, live)
            return []

        return fold, each(NAME, take, records)

    def load(data: bytes) -> Fold:
        return Fold.load(world.features, data)

    def empty() -> Fold:
        return Fold(world.features)

    return Stage(NAME, world.topics, empty, step_many, Fold.dump, load, snapshot_every=10**9)


def _step(
    fold: Fold, record: Record, said: Values, get: Callable[[Fold, Record], list[Value]] | None = None
) -> None:
    if record.topic == TICKS:
        fold.tick(read(record, Tick).t_ms)
        return
    event = fold.event(record)
    due = fold.fit(record, event) if fold.features.reads(record.topic) else None
    if record.topic == "ask":
        with contextlib.suppress(Past):
            said[record.position] = get(fold, record) if get else fold.read(record, event)
    if due is not None:
        fold.fold(record, due)


# The ways.


def live(played: Played) -> Values:
    """The stage itself, with its restarts."""
    return played.live


def unpruned(played: Played) -> Values:
    """A fold that forgets nothing."""
    return _folded(played, Fold(played.world.features, prune=False))


def straight(played: Played) -> Values:
    """The live fold without any restart."""
    return _folded(played, Fold(played.world.features))


def looked_up(played: Played) -> Values:
    """By the request's columns alone."""

    def get(fold: Fold, record: Record) -> list[Value]:
        event = ask.event(record)
        return fold.get({name: getattr(event, name) for name in ask.columns}, record.time_ms)

    return _folded(played, Fold(played.world.features), get)


def replayed(played: Played) -> Values:
    """As the past is read from the log, for training and for requests that come late."""
    requests = [record for record in played.records() if record.topic == "ask"]
    found = past(played.log, NAME, played.world.features, requests) if requests else []
    return {record.position: values for record, values in found}


def compiled(played: Played) -> Values:
    """The columnar replay, its kernels compiled."""
    return _columns(played, least=0)


def columns(played: Played) -> Values:
    """The columnar replay in plain Python."""
    return _columns(played, least=10**9)


def _columns(played: Played, least: int) -> Values:
    records = played.records()
    found = replay(decoded(played.world.features, [r for r in records if r.topic in TOPICS]), least=least)
    places = [record.position for record in records if record.topic == "ask"]
    rows = zip(*(found[name].tolist() for name in played.world.features.names), strict=True)
    return {place: list(row) for place, row in zip(places, rows, strict=True)}


def oracle(played: Played) -> Values:
    """SQL."""
    return told(played).values(played.world.meant)


WAYS: dict[str, Callable[[Played], Values]] = {
    "live": live,
    "straight": straight,
    "unpruned": unpruned,
    "look-up": looked_up,
    "replay": replayed,
    "compiled": compiled,
    "columns": columns,
}
"""What must equal the oracle. A way leaves out the requests that it need not answer."""


def _folded(played: Played, fold: Fold, get: Any = None) -> Values:
    said: Values = {}
    for record in played.records():
        _step(fold, record, said, get)
    return said


def told(played: Played, *, everything: bool = False) -> Oracle:
    """The log's records as tables; `everything`: with what was buried."""
    records = played.log.read(played.world.topics, START, limit=10**9)[0]
    rows: dict[str, list[dict[str, Any]]] = {"paid": [], "visit": [], "ask": [], "gone": []}
    for record in records:
        if record.topic in (TICKS, AGAIN) or (record.position in played.dead and not everything):
            continue
        if record.topic == RETRACTIONS:
            taken = read(record, Retraction)
            rows["gone"].append({"topic": taken.topic, "position": taken.position, "o": record.position})
        else:
            event = msgspec.msgpack.decode(record.value)
            nulled = {n: None if v != v else v for n, v in event.items()}
            rows[record.topic].append({**nulled, "o": record.position, "t": record.time_ms})
    return Oracle({name: pa.Table.from_pylist(rows[name], schema=SCHEMAS[name]) for name in rows})


_PLACE = [("o", pa.int64()), ("t", pa.int64())]
SCHEMAS = {
    "paid": pa.schema([
        *_PLACE, ("card", pa.string()), ("shop", pa.int64()), ("amount", pa.float64()), ("items", pa.int64()),
        ("country", pa.string()), ("ok", pa.bool_()),
    ]),
    "visit": pa.schema([*_PLACE, ("card", pa.string()), ("page", pa.string())]),
    "ask": pa.schema([*_PLACE, ("card", pa.string()), ("shop", pa.int64()), ("x", pa.float64())]),
    "gone": pa.schema([("topic", pa.string()), ("position", pa.int64()), ("o", pa.int64())]),
}  # fmt: skip


class Wrong(msgspec.Struct, frozen=True):
    """A value that is not what it must be."""

    way: str
    feature: str
    position: int
    got: Value
    want: Value


def compared(played: Played) -> tuple[int, list[Wrong]]:
    """How many values were compared with the oracle's, and those that differ; what was buried, too."""
    want, count, wrong = oracle(played), 0, list[Wrong]()
    names = list(played.world.meant)
    order = [played.world.features.names.index(name) for name in names]
    for way, values in WAYS.items():
        for position, got in values(played).items():
            mine = [got[i] for i in order]
            count += len(mine)
            if not same(mine, want[position]):
                wrong += [Wrong(way, n, position, a, b) for n, a, b in zip(names, mine, want[position], strict=True)
                          if not same([a], [b])]  # fmt: skip
    return count, wrong + _graves(played) + _state(played)


def _state(played: Played) -> list[Wrong]:
    """Folded in one go, and with restarts: the same bytes."""
    fold = Fold(played.world.features)
    _folded(played, fold)
    return (
        [] if fold.dump() == played.state else [Wrong("state", "", -1, len(fold.dump()), len(played.state))]
    )


def _graves(played: Played) -> list[Wrong]:
    """An event is buried where some sum cannot take it, and nowhere else."""
    due = told(played, everything=True).unsummable(played.world.meant)
    buried = {o for o, code in played.dead.items() if code == "too_large"}
    return [Wrong("dead", "", o, o in buried, o in due) for o in sorted(due ^ buried)]


def shrunk(world: World, moves: list[Move], wrong: list[Wrong]) -> tuple[World, list[Move]]:
    """A smaller log on which one of the values is still wrong."""
    name = wrong[0].feature
    if name and played_wrong(small := only(world, [name]), moves):
        world = small
    step = len(moves) // 2
    while step:
        at = 0
        while at < len(moves):
            fewer = moves[:at] + moves[at + step :]
            if played_wrong(world, fewer):
                moves = fewer
            else:
                at += step
        step //= 2
    return world, moves


def played_wrong(world: World, moves: list[Move]) -> bool:
    """Whether any value is wrong."""
    return bool(compared(play(world, moves))[1])


def seeded(seed: int, *, features: int = 36, size: int = 300) -> tuple[World, list[Move]]:
    """A world and what happens in it, by a seed."""
    chance = random.Random(seed)
    return world(chance, features), moves(chance, size, huge=chance.choice([0.0, 0.0, 0.3, 1.0]))
