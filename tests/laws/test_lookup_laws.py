"""laws: a look-up gives what a request at the same (t, O) would see: live, from a checkpoint, from the log."""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.app.dead import letters as letters_of
from penstock.app.lookup import Lookup
from penstock.app.pipeline import File
from penstock.app.retract import retract
from penstock.dataset import asof
from penstock.dataset.asof import Standing
from penstock.dataset.rows import past
from penstock.feature import Fold, compile, count, feature, last, mean, since, source, sum
from penstock.feature.lookup import Values
from penstock.feature.state.table import Table
from penstock.log.memory import MemoryLog
from penstock.log.sqlite import SqliteLog
from penstock.predict.stage import Means, Predicting, predict_stage
from penstock.predict.verify import same
from penstock.record.decisions import AGAIN, TICKS, Again, Tick, draft
from penstock.record.errors import Refused
from penstock.record.event import Event, key
from penstock.record.record import START, Draft
from penstock.stage import Running

HOUR_MS = 3_600_000
T0_MS = 1_000 * 86_400_000
STAGE = "predict.m"


class Paid(Event):
    payment: str
    card: str | None = key()
    shop: str
    at: int
    amount: float | None


class Ask(Event):
    ask_id: str
    card: str | None = key()
    shop: str
    at: int


paid = source(Paid, id="payment", time="at")
ask = source(Ask, id="ask_id", time="at")


@feature
def share(total: float, total_shop: float) -> float | None:
    """A function of two features."""
    return total / total_shop if total_shop else None


DEFINED: dict[str, Any] = {
    "rows": count(paid, window="1h"),
    "total": sum(paid.amount, window="2h"),
    "total_shop": sum(paid.amount, window="3h", entity="shop"),
    "usual": mean(paid.amount),
    "newest": last(paid.amount, max_age="1h", default=-1.0),
    "ago": since(paid),
    "share": share,
}
FEATURES = compile(list(DEFINED.values()), ask, DEFINED)


class Whole(Event):
    """The same events as an older file declared them: of whole amounts."""

    payment: str
    card: str | None = key()
    amount: int | None


whole = source(Whole, topic="paid", id="payment")
OLDER = {"older": count(whole, window="1h")}
NARROW = compile(list(OLDER.values()), ask, OLDER)
NEVER: Any = None


class _Plan(msgspec.Struct):
    """As much of a plan as a retraction looks at."""

    features: Any


FILE = File("", b"", "", {"m": _Plan(FEATURES)}, {"paid": paid})  # type: ignore[dict-item]
MEANS = Means(NEVER, NEVER, NEVER, lambda features, stop: Fold(features), lambda: 0.0)


def answering(log: Any, narrow: bool) -> Running[Predicting]:
    """The answering stage; without a champion it folds and buries only: what either set cannot take."""
    sets = {FEATURES.digest: FEATURES} | ({NARROW.digest: NARROW} if narrow else {})
    return Running(predict_stage("m", ask, sets, MEANS, snapshot_every=5), log, batch=3)


def serving(log: Any, card: str | None, shop: str, t_ms: int) -> list[Any]:
    """What a request at this time, appended now, would see."""
    asked = ask.draft(Ask(ask_id=f"ask-{log.end()}", card=card, shop=shop, at=t_ms))
    log.append([asked])
    record = log.find("ask", asked.id)
    return past(log, STAGE, FEATURES, [record])[0][1]


CARDS = st.sampled_from(["a", "b", None])
MOVES = st.one_of(
    st.tuples(st.just("paid"), CARDS, st.integers(-8, 3), st.sampled_from([None, 0.5, -2.25, 1e-9, 7.0])),
    st.tuples(st.just("look"), CARDS, st.integers(-140, 2), st.sampled_from(["", "then"])),
    st.tuples(st.just("tick"), st.none(), st.integers(0, 20), st.none()),
    st.tuples(
        st.sampled_from(["poison", "again", "run", "restart", "retract"]),
        st.none(),
        st.integers(0, 3),
        st.none(),
    ),
)


class World:
    """A log on which things happen, and a look-up beside them."""

    def __init__(self) -> None:
        self.log: Any = MemoryLog()
        self.running, self.lookup = answering(self.log, True), Lookup(FEATURES, self.log, STAGE)
        self.now_ms, self.n = T0_MS, 0
        self.tick_ms: int | None = None
        self.wrong: list[Any] = []

    def move(self, kind: str, card: str | None, grid: int, more: Any) -> None:
        """One thing."""
        self.n += 1
        t_ms = self.now_ms + grid * HOUR_MS // 2
        shop = f"s{self.n % 2}"
        match kind:
            case "paid":
                made = Paid(payment=str(self.n), card=card, shop=shop, at=t_ms, amount=more)
                self.log.append([paid.draft(made)])
            case "tick":
                self.now_ms = self.tick_ms = t_ms
                self.log.append([draft(TICKS, Tick(t_ms), key="", t_ms=t_ms)])
            case "poison":
                self.log.append([Draft("paid", "a", self.now_ms, b"\xc1", f"bad-{self.n}")])
            case "again":
                self.again(grid)
            case "retract":
                self.retract(grid)
            case "run":
                self.running.advance()
            case "restart":
                self.running = answering(self.log, grid == 0)
                self.lookup = Lookup(FEATURES, self.log, STAGE)
            case _:
                self.look(card, shop, t_ms, more)

    def again(self, back: int) -> None:
        """What was buried comes back, here."""
        letters = letters_of(self.log)
        if letters:
            word = Again("paid", letters[-1 - back % len(letters)].position, [STAGE], "ana", 0)
            self.log.append([draft(AGAIN, word, key="paid", t_ms=0)])

    def retract(self, back: int) -> None:
        """A payment is taken back, from where it counts."""
        found = self.log.read(["paid"], START, limit=1000)[0]
        if found:
            with contextlib.suppress(Refused):  # it counts nowhere
                retract(FILE, self.log, "paid", [found[-1 - back % len(found)].id])

    def look(self, card: str | None, shop: str, t_ms: int, more: str) -> None:
        """Look up, live or as of now, and hold it against what a request sees."""
        entity = {"card": card, "shop": shop}
        got = self.lookup.get(entity, t_ms, o=self.log.end() if more else None)
        want = serving(self.log, card, shop, t_ms)
        again = self.lookup.get(entity, t_ms, o=got.o)
        if self.tick_ms is not None and got.age_ms != max(0, t_ms - self.tick_ms):
            self.wrong.append(("age", got))
        if not (same(got.values, want) and same(again.values, want) and again.age_ms == got.age_ms):
            self.wrong.append((card, t_ms, got, want, again))


def play(moves: list[Any]) -> list[Any]:
    """The disagreements of a world."""
    world = World()
    for one in moves:
        world.move(*one)
    return world.wrong


@given(st.lists(MOVES, max_size=50))
def test_a_lookup_is_what_serving_sees(moves: list[Any]) -> None:
    """Now and then, near and far, after restarts, burials and returns: the same bits, and the same again at its O."""
    assert play(moves) == []


PAID, LOOK = ("paid", "a", 0, 0.5), ("look", "a", 0, "")
PLANTED = {
    "what was buried later stays in": (Lookup, "_check", [PAID, LOOK, ("run", None, 0, None), LOOK]),
    "of the log only one key": (
        asof, "keys_of", [PAID, LOOK, ("paid", "b", 0, 0.5), LOOK, ("look", "b", 0, "then")]
    ),
    "of another age": (Standing, "age_ms", [("tick", None, 1, None), ("look", "a", 2, "")]),
}  # fmt: skip
BUGS: dict[str, Any] = {
    "_check": lambda *_: None,
    "keys_of": lambda features, entities: {"paid": frozenset(["a"])},
    "age_ms": lambda self, t_ms: self.event_ms,
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The law notices what it is for."""
    where, name, moves = PLANTED[bug]
    assert play(moves) == []
    monkeypatch.setattr(where, name, BUGS[name])
    assert play(moves) != []


class NoLock:
    """Whoever comes may come in."""

    def acquire(self, timeout: float = 0) -> bool:
        """At once."""
        return True

    def release(self) -> None:
        """Nothing."""


def race(folder: Path) -> list[Any]:
    """One appends, one follows, two look up, all at once; the answers that the log does not confirm, and errors."""
    log: Any = SqliteLog(folder, create=True)
    lookup, stop = Lookup(FEATURES, log, STAGE), threading.Event()
    entities = [{"card": f"c{i}", "shop": "s"} for i in range(24)]
    found: list[tuple[int, int, list[Any]]] = []
    wrong: list[Any] = []

    def append() -> None:
        for n in range(60):
            at = T0_MS + n * 60_000
            rows = [
                Paid(payment=f"{n}-{i}", card=f"c{(n + i) % 24}", shop="s", at=at - i, amount=0.1)
                for i in range(6)
            ]
            log.append([*map(paid.draft, rows), draft(TICKS, Tick(at), key="", t_ms=at)], sync=False)

    def look() -> None:
        said = lookup.look(entities)
        found.append((said.o.n, said.t_ms, said.rows))

    def guarded(turn: Any) -> None:
        try:
            while not stop.is_set():
                turn()
        except Exception as error:
            wrong.append(error)

    loops = [threading.Thread(target=guarded, args=(turn,)) for turn in (look, look, lookup.follow)]
    log.append([draft(TICKS, Tick(T0_MS), key="", t_ms=T0_MS)])
    for thread in loops:
        thread.start()
    append()
    stop.set()
    for thread in loops:
        thread.join()
    for o, t_ms, rows in found[:: max(1, len(found) // 40)]:
        want = Lookup(FEATURES, log, STAGE).look(entities, t_ms, o=o).rows
        wrong += [(o, a, b) for a, b in zip(rows, want, strict=True) if not same(a, b)]
    log.close()
    return wrong if found else ["nobody looked"]


def test_many_threads_see_one_state(tmp_path: Path) -> None:
    """Answers while others fold and append stand each at one O."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        assert race(tmp_path / "log") == []
    finally:
        sys.setswitchinterval(usual)


def asked_in_the_middle(monkeypatch: pytest.MonkeyPatch, lock: Any) -> tuple[Any, Any]:
    """What is said while another thread is in the middle of an event, and what the log says of that."""
    log: Any = MemoryLog()
    lookup, middle, go = Lookup(FEATURES, log, STAGE), threading.Event(), threading.Event()
    lookup._lock = lock
    log.append([paid.draft(Paid(payment="p", card="a", shop="s", at=T0_MS, amount=0.5))])
    whole = Table.add

    def halting(self: Table, *event: Any) -> None:
        whole(self, *event)
        if not middle.is_set():
            middle.set()
            assert go.wait(10)

    monkeypatch.setattr(Table, "add", halting)
    folding = threading.Thread(target=lookup.follow)
    folding.start()
    assert middle.wait(10)
    said: list[Values] = []
    asking = threading.Thread(target=lambda: said.append(lookup.get({"card": "a", "shop": "s"}, T0_MS)))
    asking.start()
    asking.join(0.2)
    go.set()
    for thread in (folding, asking):
        thread.join(10)
    return said[0].values, lookup.get({"card": "a", "shop": "s"}, T0_MS, o=said[0].o).values


def test_nobody_looks_in_the_middle_of_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks while another folds waits for the end of it; without the lock half an event is seen."""
    said, want = asked_in_the_middle(monkeypatch, threading.Lock())
    assert same(said, want)
    monkeypatch.undo()
    said, want = asked_in_the_middle(monkeypatch, NoLock())
    assert not same(said, want)
