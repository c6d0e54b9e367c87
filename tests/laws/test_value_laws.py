"""laws: live fold = restarted = unpruned = looked up = replayed through the log = SQL, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.feature import Fold
from penstock.feature.state import hops as hops_module
from penstock.feature.state import looks as looks_module
from penstock.feature.state import reading as reading_module
from penstock.feature.state import written as written_module
from penstock.feature.state.series import Series
from penstock.feature.state.table import Table, Take
from penstock.record.record import Record
from tests.laws.values.ways import compared, play, seeded

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_way_gives_the_same_bits(seed: int) -> None:
    """Random definitions over random logs: late, tied, future, null, retracted, repeated, restarted."""
    count, wrong = compared(play(*seeded(seed, features=30, size=250)))
    assert wrong == []
    assert count > 5_000


# Planted bugs. Each must be seen on one of the seeds above.


def closed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event exactly at a window's start is counted in."""
    right = written_module.bisect_right

    def inside(times: Any, at: int, low: int, high: int | None = None) -> int:
        return right(times, at, low) if high is None else right(times, at - 1, low, high)

    monkeypatch.setattr(written_module, "bisect_right", inside)


def open_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request sees its own place, not only what lies below it."""
    read = Fold.read

    def reading(self: Fold, record: Record, event: Any = None) -> Any:
        if self.features.reads(record.topic):
            self.fold(record, self.fit(record, event))
            self.seen -= 1
        return read(self, record, event)

    monkeypatch.setattr(Fold, "read", reading)


def squares_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of squares comes to one too many."""
    squares = Series.squares
    monkeypatch.setattr(
        Series, "squares", lambda self, at: [z + n // 4 for z, n in zip(squares(self, at), at, strict=True)]
    )


def hop_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window's start is rounded up to a whole hop."""
    for module in (reading_module, written_module):
        monkeypatch.setattr(module, "start_ms", lambda t, w, h: -(-(t - w) // h) * h if h else t - w)


def hop_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event exactly at a whole hop goes to the hop that begins there."""
    add = hops_module.Hops.add
    monkeypatch.setattr(hops_module.Hops, "add", lambda self, time_ms, *rest: add(self, time_ms + 1, *rest))


def cap_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """One event more than the cap is kept."""
    push_out = Series.push_out
    monkeypatch.setattr(
        Series, "push_out", lambda self, t, position, cap: push_out(self, t, position, cap + 1)
    )


def forgets_retractions(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart nothing is taken out any more."""
    load = Fold.load

    def loading(features: Any, data: bytes) -> Fold:
        fold = load(features, data)
        fold.taken = _Everything()
        return fold

    monkeypatch.setattr(Fold, "load", staticmethod(loading))


class _Everything(set[int]):
    def __contains__(self, position: object) -> bool:
        return True


def twice_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is taken back twice is subtracted twice."""
    init = Fold.__init__

    def forgetful(self: Fold, *args: Any, **named: Any) -> None:
        init(self, *args, **named)
        self.taken = _Nothing()

    monkeypatch.setattr(Fold, "__init__", forgetful)


class _Nothing(set[int]):
    def add(self, position: int) -> None:
        pass


def late_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late event is inserted, and the sums behind it are left."""
    replace = Series._replace
    monkeypatch.setattr(
        Series, "_replace", lambda self, at, units: replace(self, at, [*units[1:], *units[:1]])
    )


def counted_nans(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN counts as a value."""
    take = Table.take

    def taking(self: Table, event: Any) -> Take | None:
        made = take(self, event)
        whose = self.entity(event)
        if made is None and whose is not None and self.value is not None and self.where is None:
            return (
                Take(whose, 0, 0)
                if getattr(event, "amount", None) != getattr(event, "amount", None)
                else None
            )
        return made

    monkeypatch.setattr(Table, "take", taking)


def negative_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of 0.0 and -0.0 is the one that came first."""
    monkeypatch.setattr(looks_module, "plain", lambda value: value)


def null_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's events are those of somebody called null."""
    init = Table.__init__

    def naming(self: Table, *args: Any) -> None:
        init(self, *args)
        entity = self.entity
        self.entity = lambda event: "a" if (whose := entity(event)) is None else whose

    monkeypatch.setattr(Table, "__init__", naming)


def lost_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was forgotten of all history is not counted after a restart."""
    row = Table._row
    monkeypatch.setattr(Table, "_row", lambda self, entity: [*(made := row(self, entity))[:1], 0, *made[2:]])


def late_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late event goes to the end, in order of arrival."""
    insert = Series._insert
    monkeypatch.setattr(Series, "_insert", lambda self, at, *rest: insert(self, len(self.times), *rest))


BUGS: list[Callable[[pytest.MonkeyPatch], None]] = [
    closed_start, open_end, squares_off, hop_off, hop_edge, cap_off, forgets_retractions, twice_taken, late_sums,
    counted_nans, negative_zero, null_keys, lost_history, late_unseen,
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_caught(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each bug, put into the fold, is seen by the law."""
    bug(monkeypatch)
    assert any(compared(play(*seeded(seed, features=30, size=250)))[1] for seed in SEEDS)
