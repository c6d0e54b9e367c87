"""predict: the consistency stage: what was served, folded a second time and compared, bit for bit.

Its folds are its own, in memory and in its checkpoint: a fold gone wrong beside the answering stage, or
a damaged state that it started from, shows as the first value that differs. It answers nobody and holds
nobody back.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Container, Mapping, Sequence

import msgspec

from penstock.feature import FeatureSet, Fold
from penstock.predict.refold import Kept, Reading, Refold, bits
from penstock.record.codec import pack, span_text, unpack
from penstock.record.decisions import (
    AGAIN,
    ALERTS,
    TICKS,
    Alert,
    Prediction,
    Tick,
    Value,
    draft,
    predictions,
    read,
)
from penstock.record.event import Source
from penstock.record.poison import HIDDEN
from penstock.record.record import Draft, Record
from penstock.stage import Emitted, Stage

TOLD = 10
"""Unequal values between two ticks that have an alert each; of more, one alert says how many."""
STANDING = 100
"""Alerts that stand at once; what comes then is counted, too."""
CLEARED_MS = 86_400_000
"""An alert clears after a day: the report remembers what it was about."""
MORE_MS = 3_600_000
"""Between two alerts about how many more."""
SETS_KEPT = 16
_FINE = 8
"""Cells of the differences' sizes in a factor of two: each is at most an eighth wide."""
_EQUAL = -(2**20)


class Lookups(msgspec.Struct, frozen=True):
    """What the stage needs of the log: old values, a set folded from the start, from which time on events are
    all there, and where the records stand that the answering stage has buried."""

    past: Callable[[FeatureSet, Record], list[Value]]
    refill: Callable[[FeatureSet, int], Fold]
    horizon: Callable[[FeatureSet], int]
    buried: Callable[[], Container[int]]


class Differences(msgspec.Struct):
    """The unequal values of one feature. Left is what was served, right what was folded again; `sizes`: how
    many absolute differences of numbers lie in each cell."""

    left_null: int = 0
    right_null: int = 0
    mismatch: int = 0
    sizes: dict[str, int] = {}
    largest: float = 0.0

    @property
    def unequal(self) -> int:
        """All of them."""
        return self.left_null + self.right_null + self.mismatch


class Compared(msgspec.Struct):
    """A feature set's predictions so far: vectors compared, those of another length, and what differed."""

    names: list[str]
    vectors: int = 0
    lengths: int = 0
    features: dict[str, Differences] = {}


class Checking(msgspec.Struct):
    """The stage's state. `left_out`: predictions that could not be compared, by why; `told` and `more`: unequal
    values since the last tick that had an alert, and that had none so far."""

    reading: Reading
    sets: dict[str, Compared] = {}
    left_out: dict[str, int] = {}
    standing: dict[str, Alert] = {}
    told: int = 0
    more: int = 0
    more_ms: int = -MORE_MS
    now_ms: int = 0
    seen: int = 0


class _Saved(msgspec.Struct, frozen=True):
    reading: Kept
    sets: dict[str, Compared]
    left_out: dict[str, int]
    standing: dict[str, Alert]
    told: int
    more: int
    more_ms: int
    now_ms: int
    seen: int
    share: float = 1.0


def consistency_stage(
    model: str, request: Source, sets: Mapping[str, FeatureSet], lookups: Lookups, share: float = 1.0
) -> Stage[Checking]:
    """The stage `consistency.MODEL` over a share of the keys. It folds what `predict.MODEL` folds, so it goes
    by that name in what was buried and brought back."""
    chosen = sampled(model, share)
    again = Refold(model, request, sets, lookups.past, lambda record: chosen(record.key or record.id))
    check = _Check(model, request, sets, again, chosen)

    def step_many(state: Checking, records: Sequence[Record]) -> tuple[Checking, list[Emitted]]:
        buried = lookups.buried()
        made: list[Emitted] = []
        for record in records:
            if record.o not in buried:
                made += [(record, one) for one in check.take(state, record)]
            state.seen = record.o + 1
        return state, made

    def load(data: bytes) -> Checking:
        saved = unpack(data, _Saved)
        if saved.share < share:  # its folds have left out what is looked at now
            saved = msgspec.structs.replace(saved, reading=msgspec.structs.replace(saved.reading, folds={}))
        kept = again.load(saved.reading, lambda one: (lookups.refill(one, saved.seen), lookups.horizon(one)))
        rest = {name: getattr(saved, name) for name in Checking.__struct_fields__ if name != "reading"}
        return Checking(kept, **rest)

    return Stage(
        f"consistency.{model}", consistency_inputs(model, request, sets),
        lambda: Checking(again.empty(lookups.horizon)), step_many, lambda state: _dump(again, state, share), load,
        snapshot_every=50_000, sync=False, said_as=f"predict.{model}",
    )  # fmt: skip


def consistency_inputs(model: str, request: Source, sets: Mapping[str, FeatureSet]) -> tuple[str, ...]:
    """The topics that the stage reads: all that the answering stage reads, and what it said."""
    again = Refold(model, request, sets, lambda features, record: [])
    return tuple(sorted({*again.inputs, predictions(model), AGAIN}))


def _dump(again: Refold, state: Checking, share: float) -> bytes:
    rest = {name: getattr(state, name) for name in state.__struct_fields__ if name != "reading"}
    return pack(_Saved(again.dump(state.reading), share=share, **rest))


class _Peeked(msgspec.Struct):
    sets: dict[str, Compared] = {}


def peek(data: bytes) -> dict[str, Compared]:
    """What a state's bytes say was compared, by feature set; nothing else of them is read."""
    return unpack(data, _Peeked).sets


def sampled(model: str, share: float) -> Callable[[str], bool]:
    """Whether a key is in the sample: always the same keys, the more the larger the share."""
    if share >= 1:
        return lambda key: True
    most = int(share * 2**64)

    def chosen(key: str) -> bool:
        text = f"consistency/{model}/{key}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) < most

    return chosen


class _Check:
    """What the stage was declared with, and its step."""

    def __init__(
        self,
        model: str,
        request: Source,
        sets: Mapping[str, FeatureSet],
        again: Refold,
        chosen: Callable[[str], bool],
    ) -> None:
        self.model, self.request, self.sets, self.again, self.chosen = model, request, sets, again, chosen
        self.topic = predictions(model)

    def take(self, state: Checking, record: Record) -> list[Draft]:
        """Take one record: read it again, or compare what was served."""
        if record.topic == self.topic:
            return self.compare(state, record, read(record, Prediction))
        self.again.take(state.reading, record)
        return self.tick(state, record, read(record, Tick).t_ms) if record.topic == TICKS else []

    def compare(self, state: Checking, record: Record, said: Prediction) -> list[Draft]:
        """Count a prediction's values; the alerts of those that differ."""
        values = self.again.folded(state.reading, said)
        if values is None:
            why = self.unknown(state, said)
            state.left_out[why] = state.left_out.get(why, 0) + 1
            return []
        into = state.sets.get(said.features)
        if into is None:
            into = _added(state.sets, said.features, self.sets[said.features])
        into.vectors += 1
        if pack(values) == pack(said.values):
            return []
        if len(values) != len(said.values):
            into.lengths += 1
            return self.alert(state, record, said, -1)
        made = []
        for i, (served, folded) in enumerate(zip(said.values, values, strict=True)):
            if bits(served) != bits(folded):
                _differ(into.features.setdefault(into.names[i], Differences()), served, folded)
                made += self.alert(state, record, said, i)
        return made

    def unknown(self, state: Checking, said: Prediction) -> str:
        """Why the values of a prediction are not known here."""
        if said.error and not said.values:
            return "served nothing"
        if not self.chosen(said.entity or said.request):
            return "not in the sample"
        if said.features not in self.sets:
            return "another feature set"
        return "beyond retention" if self.again.beyond(state.reading, said) else "not kept"

    def alert(self, state: Checking, record: Record, said: Prediction, at: int) -> list[Draft]:
        """The alert of one unequal value, -1: of a vector; or it is counted for the alert of many."""
        features = self.sets[said.features]
        window_ms = window_of(features, at) if at >= 0 else None
        rule = self.rule(said, features.names[at] if at >= 0 else "the vector", window_ms)
        if state.told >= TOLD or (len(state.standing) >= STANDING and rule not in state.standing):
            state.more += 1
            return []
        state.told += 1
        rows = sum(one.vectors for one in state.sets.values())
        t_ms = state.now_ms or record.time_ms
        one = Alert(self.model, rule, "raised", 1.0, 0.0, window_ms or 0, rows, t_ms)
        state.standing[rule] = one
        return [self.said(one, f"{record.topic}:{record.position}:{at}")]

    def rule(self, said: Prediction, name: str, window_ms: int | None) -> str:
        """What an alert is about: feature, window, key and place."""
        over = (
            "" if window_ms is None else f" over {span_text(window_ms)}" if window_ms else " over all history"
        )
        column = self.request.key or self.request.id
        key = HIDDEN if column in self.request.pii else said.entity if self.request.key else said.request
        return f"consistency: {name}{over} of {column} {key} at {said.source}@{said.position}"

    def said(self, one: Alert, place: str) -> Draft:
        """An alert under an id of its own."""
        id = f"consistency.{self.model}:{place}:{one.state}"
        return draft(ALERTS, one, key=self.model, t_ms=one.t_ms, id=id)

    def tick(self, state: Checking, record: Record, now_ms: int) -> list[Draft]:
        """Say how many more there were, and clear what is a day old."""
        state.told, state.now_ms = 0, max(state.now_ms, now_ms)
        place = f"{record.topic}:{record.position}"
        made = []
        if state.more and now_ms >= state.more_ms + MORE_MS:
            rule = "consistency: further unequal values"
            more = Alert(self.model, rule, "raised", float(state.more), 0.0, 0, state.more, now_ms)
            state.standing[rule] = more
            state.more, state.more_ms = 0, now_ms
            made.append(self.said(more, place))
        due = [rule for rule, one in state.standing.items() if now_ms >= one.t_ms + CLEARED_MS]
        for n, rule in enumerate(due):
            one = msgspec.structs.replace(state.standing.pop(rule), state="cleared", t_ms=now_ms)
            made.append(self.said(one, f"{place}:{n}"))
        return made


def _added(sets: dict[str, Compared], digest: str, features: FeatureSet) -> Compared:
    if len(sets) >= SETS_KEPT:
        del sets[next(iter(sets))]
    sets[digest] = Compared(list(features.names))
    return sets[digest]


def window_of(features: FeatureSet, at: int) -> int | None:
    """The longest window behind a feature, 0 for all history; None where it looks at the request alone."""
    found: list[int] = []
    todo = [features.outputs[at]]
    while todo:
        node = features.nodes[todo.pop()]
        found += [node.aggregate.window_ms] if node.aggregate is not None else []
        todo += node.inputs
    return None if not found else max(found) if all(found) else 0


def _differ(into: Differences, served: Value, folded: Value) -> None:
    """Count one unequal value."""
    if served is None:
        into.left_null += 1
    elif folded is None:
        into.right_null += 1
    else:
        into.mismatch += 1
        if isinstance(served, (int, float)) and isinstance(folded, (int, float)):
            size = abs(served - folded)
            if math.isfinite(size):
                cell = str(_cell(size))
                into.sizes[cell] = into.sizes.get(cell, 0) + 1
                into.largest = max(into.largest, float(size))


def _cell(size: float) -> int:
    """The cell of a difference, by its exponent and the first bits of its fraction: no rounding of a logarithm."""
    if not size:  # 1 and 1.0, or the two zeros
        return _EQUAL
    fraction, exponent = math.frexp(size)
    return exponent * _FINE + int((fraction - 0.5) * 2 * _FINE)


def quantile(one: Differences, share: float) -> float | None:
    """A quantile of the absolute differences, at most an eighth too high; None where no numbers differed."""
    total, below = sum(one.sizes.values()), 0
    for cell in sorted(map(int, one.sizes)):
        below += one.sizes[str(cell)]
        if below >= share * total:
            exponent, step = divmod(cell, _FINE)
            return (
                0.0
                if cell == _EQUAL
                else min(one.largest, math.ldexp(0.5 + (step + 1) / 2 / _FINE, exponent))
            )
    return None


class Line(msgspec.Struct, frozen=True):
    """What the report says of one feature. Left null: served null, folded not; right null: the other way."""

    features: str
    name: str
    compared: int
    equal: int
    left_null: int
    right_null: int
    mismatch: int
    p50: float | None
    p90: float | None
    p99: float | None
    largest: float | None


def report(state: Checking) -> list[Line]:
    """A line for each feature of each set, in order."""
    lines = []
    for digest, one in state.sets.items():
        compared = one.vectors - one.lengths
        for name in one.names:
            found = one.features.get(name, Differences())
            p50, p90, p99 = (quantile(found, share) for share in (0.5, 0.9, 0.99))
            largest = found.largest if found.sizes else None
            lines.append(Line(
                digest, name, compared, compared - found.unequal, found.left_null, found.right_null,
                found.mismatch, p50, p90, p99, largest,
            ))  # fmt: skip
    return lines
