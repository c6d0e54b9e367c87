"""app: everything that was dropped or repeated, counted in one place.

What must survive a restart is a fold of the log: refusals and dead letters from their topics, what the
stages leave out from their checkpoints (as of these). The rest counts since the process began, and says so.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.feature.fold import dropped
from penstock.log import Log
from penstock.record.codec import unpack
from penstock.record.decisions import DEAD, REFUSED, DeadLetter, Refusal, read
from penstock.record.record import Draft, Record
from penstock.stage import Stage, View, stage

STATES_S = 10.0
"""How often the stages' checkpoints are read, at most: a state may be large."""
UNKNOWN = "(unknown)"
"""Every topic that the file does not have: their names are the senders', and without number."""
Labels = tuple[tuple[str, str], ...]


class Count(msgspec.Struct, frozen=True):
    """One number under its name and labels."""

    name: str
    labels: dict[str, str]
    value: int


def labelled(one: Count) -> tuple[str, Labels]:
    """What a count counts."""
    return one.name, tuple(sorted(one.labels.items()))


class Counted(msgspec.Struct):
    """Refused events by topic and code, dead letters by stage and code."""

    refused: dict[tuple[str, str], int] = {}
    dead: dict[tuple[str, str], int] = {}


def counting(topics: Iterable[str]) -> Stage[Counted]:
    """The fold; `topics` are the file's."""
    known = frozenset(topics)

    def step(state: Counted, record: Record) -> tuple[Counted, list[Draft]]:
        if record.topic == REFUSED:
            one = read(record, Refusal)
            at = one.topic if one.topic in known else UNKNOWN, one.code
            state.refused[at] = state.refused.get(at, 0) + one.count
        else:
            letter = read(record, DeadLetter)
            state.dead[letter.stage, letter.code] = state.dead.get((letter.stage, letter.code), 0) + 1
        return state, []

    return stage("counters", (REFUSED, DEAD), Counted, step)


class _Joined(msgspec.Struct):
    """What the checkpoint of an outcome stage counts."""

    waiting: dict[str, msgspec.Raw] = {}
    parked: dict[str, msgspec.Raw] = {}
    observed: int = 0
    expired: int = 0
    amended: int = 0
    unknown: int = 0
    repeated: int = 0


class _Answered(msgspec.Struct):
    """The folds in the checkpoint of an answering stage, as bytes."""

    folds: dict[str, bytes] = {}


class Counters:
    """The counts that survive, as of now. One thread at a time."""

    def __init__(
        self,
        log: Log,
        topics: Iterable[str],
        models: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log, self.models, self.clock = log, models, clock
        self._view = View(counting(topics), log)
        self._states: list[Count] = []
        self._until_s = float("-inf")

    def read(self) -> list[Count]:
        """Every count, by name and labels."""
        found = self._view.read()
        if self.clock() >= self._until_s:
            self._states = [one for model in self.models for one in self._model(model)]
            self._until_s = self.clock() + STATES_S
        return [
            *(Count("refused", {"topic": t, "code": c}, n) for (t, c), n in sorted(found.refused.items())),
            *(Count("dead_letters", {"stage": s, "code": c}, n) for (s, c), n in sorted(found.dead.items())),
            *self._states,
        ]

    def _model(self, model: str) -> list[Count]:
        outcome = self.log.load(f"outcome.{model}").state
        joined = unpack(outcome, _Joined) if outcome else _Joined()
        made = [
            Count("labels", {"model": model, "state": name}, getattr(joined, name))
            for name in ("observed", "expired", "amended", "unknown", "repeated")
        ]
        made.append(Count("labels_parked", {"model": model}, len(joined.parked)))
        answering = self.log.load(f"predict.{model}").state
        left: Counter[tuple[str, str]] = Counter()
        for data in unpack(answering, _Answered).folds.values() if answering else ():
            for why, n in dropped(data):
                topic, _, reason = why.partition(": ")
                left[topic, reason] = max(left[topic, reason], n)
        made += [
            Count("left_out", {"model": model, "topic": t, "why": w}, n) for (t, w), n in sorted(left.items())
        ]
        return made


class Tally:
    """Counts since the process began. Any thread may add."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, labels: Mapping[str, str], n: int = 1) -> None:
        """Count."""
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += n

    def read(self) -> list[Count]:
        """Every count, by name and labels."""
        with self._lock:
            return [Count(name, dict(labels), n) for (name, labels), n in sorted(self._counts.items())]


def plain(counts: Iterable[Count]) -> list[dict[str, Any]]:
    """Counts as builtins."""
    return [msgspec.structs.asdict(one) for one in counts]
