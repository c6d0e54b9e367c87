"""app: look-ups: a set's values for entities at (t, O), from a live state that follows the log, or from the log itself.

The live state is folded and read under one lock by whoever asks: an answer stands at one O, which it tells, and
at the time of asking that is the log's end.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import msgspec

from penstock.app.pipeline import File
from penstock.dataset.asof import Standing, as_of, must_reach
from penstock.feature import FeatureSet, Fold, Past
from penstock.feature.lookup import Choice, Columns, Entity, Looked, Values
from penstock.log import Log
from penstock.predict.stage import Saved
from penstock.record.codec import millis, unpack
from penstock.record.decisions import AGAIN, DEAD, TICKS, DeadLetter, read
from penstock.record.errors import NotFound, Refused, Unavailable
from penstock.record.event import LATEST_MS, unknown
from penstock.record.record import START, Position
from penstock.stage import folded

FOREVER = float("inf")
SURE_S = 0.01
"""How long the log is taken to be where it was, as long as this handle hears of no write."""
DIGEST_AT_LEAST = 6

Sets = dict[str, tuple[str, FeatureSet]]
"""By digest: a model, and a feature set that it uses or has used."""
CHOICES = 64
"""Selections of features that are kept checked."""


class Late(Unavailable):
    """The values were not ready in time; ask again."""

    code = "deadline"


class Question(msgspec.Struct, frozen=True):
    """A look-up that was checked: which features, of whom, when (None: now)."""

    choice: Choice
    entities: list[Columns]
    t_ms: int | None


class _Rebuild(Exception):
    """The stage has buried what this state has folded: begin again, without it."""


class Lookup:
    """A feature set's values for entities, as of now or as of then. Any thread may ask.

    `stage` is the name of the stage that folds the same set (`predict.MODEL`): what it buries is left out
    here, too, and its checkpoint is where this begins. `now_ms` says which time is meant where none is given;
    without it the newest tick.
    """

    def __init__(
        self, features: FeatureSet, log: Log, stage: str, now_ms: Callable[[], int] | None = None
    ) -> None:
        self.features, self.log, self.stage, self.now_ms = features, log, stage, now_ms
        self.digest, self.names = features.digest, features.names
        self._topics = (*features.topics, TICKS, AGAIN, DEAD)
        self._choices: dict[tuple[str, ...], Choice] = {(): Choice(features)}
        self._lock = threading.Lock()
        self._standing: Standing | None = None
        self._base = self._position = START
        self._heard, self._sure_s = -1, 0.0

    def get(
        self,
        entity: Entity,
        t: datetime | int | None = None,
        *,
        o: Position | int | None = None,
        names: Sequence[str] = (),
    ) -> Values:
        """The values of the set (or of `names` of it) for one entity: see `look`."""
        return self.look([entity], t, o=o, names=names).each()[0]

    def get_many(
        self,
        entities: Iterable[Entity],
        t: datetime | int | None = None,
        *,
        o: Position | int | None = None,
        names: Sequence[str] = (),
    ) -> list[Values]:
        """The values for each entity, all at one (t, O), in order, repeats too: see `look`."""
        return self.look(entities, t, o=o, names=names).each()

    def look(
        self,
        entities: Iterable[Entity],
        t: datetime | int | None = None,
        *,
        o: Position | int | None = None,
        names: Sequence[str] = (),
        strict: bool = True,
        until_s: float = FOREVER,
    ) -> Looked:
        """The values for entities at (t, O). O is the log's end as of now (what others write is seen when this
        handle hears of it, or 10 ms later), or `o`: then, and where `t` lies too far back for the live state,
        the answer is read from the log.

        Raises Refused where an entity does not fit, where retention took what it would see, or a function of
        the file's fails; Late at `until_s` of the monotonic clock, and what the live state folded is kept.
        """
        question = self.question(entities, t, names, strict=strict)
        found = self.live(question, until_s) if o is None else None
        return found or self.past(question, o, until_s)

    def question(
        self,
        entities: Iterable[Entity],
        t: datetime | int | None = None,
        names: Sequence[str] = (),
        *,
        strict: bool = True,
    ) -> Question:
        """What is asked, checked."""
        choice = self._choice(tuple(names))
        t_ms = millis(t) if isinstance(t, datetime) else t
        if t_ms is not None and abs(t_ms) > LATEST_MS:
            raise Refused("This time is too far away.", code="wrong_type")
        return Question(choice, [choice.entity(one, strict=strict) for one in entities], t_ms)

    def live(self, question: Question, until_s: float = FOREVER) -> Looked | None:
        """The answer of the live state; None where the time lies too far back for it."""
        standing = self._current(until_s)
        try:
            return self._answer(question, standing, self._meant(question, standing), self._position)
        except Past:
            return None
        finally:
            self._lock.release()

    def past(self, question: Question, o: Position | int | None, until_s: float = FOREVER) -> Looked:
        """The answer of the log: one sweep over it."""
        at = self.log.end() if o is None else o if isinstance(o, Position) else Position(n=o)
        then = as_of(
            self.log, self.stage, self.features, at, question.entities, lambda: _in_time(until_s)
        )  # fmt: skip
        t_ms = self._meant(question, then)
        must_reach(self.log, self.features, t_ms)
        return self._answer(question, then, t_ms, at)

    def follow(self) -> Position:
        """Fold what is new, so that whoever asks next need not; how far it is then."""
        self._current(FOREVER)
        try:
            return self._position
        finally:
            self._lock.release()

    def _choice(self, names: tuple[str, ...]) -> Choice:
        found = self._choices.get(names)
        if found is None:
            if len(self._choices) >= CHOICES:
                self._choices.clear()
            found = self._choices[names] = Choice(self.features, names)
        return found

    def _meant(self, question: Question, standing: Standing) -> int:
        """The time that is asked for."""
        t_ms = question.t_ms
        if t_ms is None:
            t_ms = standing.newest_ms() if self.now_ms is None else self.now_ms()
        if t_ms is None:
            raise Refused("Nothing on the log says what time it is.", code="no_time", hint="Give t.")
        return t_ms

    def _answer(self, question: Question, standing: Standing, t_ms: int, o: Position) -> Looked:
        choice, fold = question.choice, standing.fold
        rows = choice.read(fold, question.entities, t_ms)
        return Looked(choice.names, rows, t_ms, o, standing.age_ms(t_ms), self.digest)

    # Following the log.

    def _current(self, until_s: float) -> Standing:
        """The live state at the log's end, to oneself until the lock is given back."""
        now_s = time.monotonic()
        if not self._lock.acquire(timeout=min(max(0.0, until_s - now_s), threading.TIMEOUT_MAX)):
            raise Late
        try:
            heard = self.log.hear(self._heard, 0.0)
            if self._standing is None or heard != self._heard or now_s >= self._sure_s:
                self._catch_up(until_s)
                self._heard, self._sure_s = heard, now_s + SURE_S
        except BaseException:  # whatever it is, the next one must not wait for this lock for ever
            self._lock.release()
            raise
        assert self._standing is not None
        return self._standing

    def _catch_up(self, until_s: float) -> None:
        end = self.log.end()
        while self._standing is None or self._position.n < end.n:
            with contextlib.suppress(_Rebuild):
                self._fold(end, until_s)

    def _fold(self, end: Position, until_s: float) -> None:
        """Fold up to `end`, from the checkpoint of the stage or from the log's start where nothing is folded yet."""
        if self._standing is None:
            self._standing, self._base = _begun(self.log, self.stage, self.features)
            self._position = self._base
        standing, begun = self._standing, self._position
        for records, position in folded(self.log, self.stage, self._topics, begun, stop=end):
            try:
                for record in records:
                    if record.topic == DEAD:
                        self._check(read(record, DeadLetter), standing, begun)
                    else:
                        standing.take(record)
            except BaseException:  # half a batch is in it
                self._standing = None
                raise
            self._position = position
            _in_time(until_s)

    def _check(self, letter: DeadLetter, standing: Standing, begun: Position) -> None:
        """A letter of a record that was read before it was buried: it must have been poison here, too."""
        mine = letter.stage == self.stage and self._base.n <= letter.o < begun.n
        if mine and letter.o not in standing.poison:
            raise _Rebuild


class Lookups:
    """Look-ups by model or digest, each begun when it is first asked for. A model's name means the set that the
    file declares now."""

    def __init__(self, sets: Sets, file: File, log: Log, now_ms: Callable[[], int] | None = None) -> None:
        self.sets, self.log, self.now_ms = sets, log, now_ms
        self.current = {name: plan.features.digest for name, plan in file.plans.items()}
        self._lookups: dict[str, Lookup] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Lookup:
        """The look-up of a model's set, or of the one whose digest begins so; raises NotFound, or Refused where
        several do."""
        digest = self.current.get(name) or self._digest(name)
        with self._lock:
            if digest not in self._lookups:
                model, features = self.sets[digest]
                self._lookups[digest] = Lookup(features, self.log, f"predict.{model}", self.now_ms)
            return self._lookups[digest]

    def _digest(self, name: str) -> str:
        found = [one for one in self.sets if one.startswith(name)] if len(name) >= DIGEST_AT_LEAST else []
        if len(found) > 1:
            raise Refused("Several feature sets have a digest that begins so.", code="ambiguous")
        if not found:
            raise NotFound(unknown(name[:64], self.current, "a model of this file, or how a digest begins"))
        return found[0]

    def begun(self) -> list[Lookup]:
        """Those that were asked for."""
        with self._lock:
            return list(self._lookups.values())


def _begun(log: Log, stage: str, features: FeatureSet) -> tuple[Standing, Position]:
    """The state in the newest checkpoint of a stage's shares that has folded this set, or an empty one."""
    shares = [(one.position.n, name) for name, one in log.stages().items() if name.partition("/")[0] == stage]
    for _, name in sorted(shares, reverse=True):
        found = log.load(name)
        saved = unpack(found.state, Saved).folds.get(features.digest) if found.state else None
        if saved is not None:
            fold = Fold.load(features, saved)
            if fold.now_ms > -LATEST_MS:  # else it knows of events only, and not until when
                return Standing(fold, fold.now_ms), found.state_position
    return Standing(Fold(features)), START


def _in_time(until_s: float) -> None:
    if time.monotonic() > until_s:
        raise Late
