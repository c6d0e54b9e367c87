"""predict: request + features + routed version -> prediction. Every answer there is comes from this stage.

A request is a record; its own place is the log position O that its features see, and the release
records below it say which version answers. So a prediction is a function of the log and the blobs:
after a crash the same request gets the same answer, and a new version takes over between two records.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby

import msgspec

from penstock.feature import FeatureSet, Fold, Past
from penstock.model.fit import told
from penstock.model.pack import Model, Told
from penstock.predict.queue import HOLDS, Queue
from penstock.record.codec import pack, unpack
from penstock.record.decisions import (
    AGAIN,
    RELEASES,
    TICKS,
    Prediction,
    Release,
    Role,
    Tick,
    Value,
    Vector,
    draft,
    predictions,
    read,
    vectors,
)
from penstock.record.errors import PenstockError, Refused
from penstock.record.event import Event, Source
from penstock.record.poison import opened
from penstock.record.record import Draft, Position, Record, Returned, partition
from penstock.release.route import Ref, Route, follow
from penstock.stage import Emitted, Stage, buried, each


class Means(msgspec.Struct, frozen=True):
    """What the stage needs from outside: models by digest, old values from the log, a clock in seconds.

    `know(digest)` asks the log for what `model(digest)` needs: what it raises is no answer to anybody, but a
    step to be tried again.
    `ready(digest)`: whether a version that answers nobody yet is here; while it is not, only the others score.
    `refill(features, stop)` folds a feature set from the log's start, for a set that is new beside a
    running one.
    `newest(after)`: the time of the newest tick on the log beyond a position, 0 without one; `stands(request)`: the
    error of the answer that stands there, None without one: what expired when its turn came has expired for ever,
    and nothing else has. `hold(code)` waits a moment because whoever scores a queue is away; raises Unavailable
    where it cannot.
    """

    know: Callable[[str], None]
    model: Callable[[str], Model]
    past: Callable[[FeatureSet, Record], list[Value]]
    refill: Callable[[FeatureSet, int], Fold]
    clock: Callable[[], float]
    ready: Callable[[str], bool] = lambda digest: True
    newest: Callable[[int], int] = lambda after: 0
    stands: Callable[[Record], str | None] = lambda request: None
    hold: Callable[[str], None] = lambda code: None


class Predicting(msgspec.Struct):
    """The stage's state: one fold per feature set in use, and the route. `seen`: the last position + 1."""

    folds: dict[str, Fold]
    route: Route = Route()
    seen: int = 0


class Saved(msgspec.Struct, frozen=True):
    """The state's bytes."""

    folds: dict[str, bytes]
    route: Route
    seen: int


class Ask(msgspec.Struct):
    """A request in a batch, with its values by feature set (or the code of what went wrong). `request`: its id,
    where it is not its record's: it is scored again."""

    record: Record
    route: Route
    values: dict[str, list[Value]]
    error: str = ""
    request: str = ""


def predict_stage(
    model: str,
    request: Source,
    sets: Mapping[str, FeatureSet],
    means: Means,
    *,
    threshold: float = 0.5,
    snapshot_every: int = 20_000,
    share: tuple[int, int] = (0, 1),
    queue: Queue | None = None,
) -> Stage[Predicting]:
    """The stage `predict.MODEL`. `sets`: the feature sets in use, by digest. `queue`: how it serves one.

    `share` (k, n): it folds everything, so every share's state is the whole stage's, and answers the
    requests whose key (their id, where they have none) is of partition k of n, under the ids that the
    whole stage would give.
    """
    direct, name = vectors(model), f"predict.{model}"
    mine = share_takes(*share)

    def empty() -> Predicting:
        return Predicting({digest: Fold(features) for digest, features in sets.items()})

    def fold(state: Predicting, record: Record) -> Ask | None:
        ask = None
        if record.topic == TICKS:
            now_ms = read(record, Tick).t_ms
            for one in state.folds.values():
                one.tick(now_ms)
        elif record.topic == RELEASES:
            if record.key == model:
                state.route = follow(state.route, read(record, Release))
        elif record.topic == direct:
            if mine(record):
                vector = opened(record, Vector)
                ask = Ask(record, state.route, dict.fromkeys(sets, vector.values), request=vector.request)
        else:
            answered = record.topic == request.topic and mine(record)
            ask = _take(state, record, request.topic, sets, means, answered=answered)
        state.seen = record.o + 1
        return ask

    def take_all(state: Predicting, records: Sequence[Record]) -> tuple[list[Ask], list[Emitted]]:
        asks: list[Ask] = []

        def take(record: Record) -> list[Draft]:
            ask = fold(state, record)
            asks.extend([ask] if ask else [])
            return []

        return asks, each(name, take, records)

    def step_many(state: Predicting, records: Sequence[Record]) -> tuple[Predicting, list[Emitted]]:
        began = means.clock()
        asks, dead = take_all(state, records)
        _expire(queue, asks, state, records, means)
        made = _answer(model, asks, means, threshold, began, held=queue is not None)
        failed = _failed(model, request, made) if queue is not None else []
        return state, [*made, *failed, *dead]

    def refold(state: Predicting, records: Sequence[Record]) -> tuple[Predicting, list[Emitted]]:
        return state, take_all(state, records)[1]

    def load(data: bytes) -> Predicting:
        saved = unpack(data, Saved)
        folds = {
            digest: Fold.load(features, saved.folds[digest])
            if digest in saved.folds
            else means.refill(features, saved.seen)
            for digest, features in sets.items()
        }
        return Predicting(folds, saved.route, saved.seen)

    return Stage(
        share_name(name, *share),
        predict_inputs(model, request, sets),
        empty,
        step_many,
        _dump,
        load,
        snapshot_every,
        sync=False,
        said_as=name,
        refold=refold,
    )


def _dump(state: Predicting) -> bytes:
    return pack(Saved({digest: one.dump() for digest, one in state.folds.items()}, state.route, state.seen))


SHARE = "share"
"""The header of a request that says which share answers it: the one that it came to, whatever its key. It tells
shares of another division nothing; what was answered then has its answer on the log."""


SCORING = "score."
"""In whose name, with the model's behind it, a request is a dead letter that no score came of."""
VERSION = "version"
"""The header of a request that says which version is to answer it, as MODEL/NUMBER. While that one scores it does,
whoever would answer else; when it scores no more the request is answered as any other."""


def _wanted(model: str, record: Record, route: Route) -> Role | None:
    """The role of the version that a request asks for, where it scores."""
    text = record.headers.get(VERSION, "") if record.headers else ""
    if not text.startswith(f"{model}/"):
        return None
    return next((role for role, ref in route.versions() if text == f"{model}/{ref.version}"), None)


def share_takes(k: int, n: int) -> Callable[[Record], bool]:
    """Whether share k of n answers a request."""
    mine, division = f"{k + 1}of{n}", f"of{n}"

    def taking(record: Record) -> bool:
        share = record.headers.get(SHARE, "") if record.headers else ""
        if share.endswith(division) and n > 1:
            return share == mine
        return n == 1 or partition(record.key or record.id, n) == k

    return taking


def share_name(name: str, k: int, n: int) -> str:
    """What share k of n of a stage is called on the log: `predict.M`, or `predict.M/2of4`."""
    return name if n == 1 else f"{name}/{k + 1}of{n}"


def predict_inputs(model: str, request: Source, sets: Mapping[str, FeatureSet]) -> tuple[str, ...]:
    """The topics that the stage reads."""
    topics = {topic for features in sets.values() for topic in features.topics}
    return tuple(sorted(topics | {request.topic, vectors(model), RELEASES, TICKS, AGAIN}))


def _take(
    state: Predicting,
    record: Record,
    request: str,
    sets: Mapping[str, FeatureSet],
    means: Means,
    *,
    answered: bool,
) -> Ask | None:
    """Fold an event; the ask that it is, where it is a request to be answered and there is a champion."""
    asked = record.topic == request
    using = [(d, one) for d, one in state.folds.items() if asked or sets[d].reads(record.topic)]
    events = [(d, one, one.event(record)) for d, one in using]  # all are read before any is folded
    due = [(one, one.fit(record, event)) for d, one, event in events if sets[d].reads(record.topic)]
    wanted = answered and state.route.champion is not None
    ask = _ask(state.route, record, events, sets, means) if wanted else None
    for one, fitting in due:
        one.fold(record, fitting)
    return ask


def _ask(
    route: Route,
    record: Record,
    events: Sequence[tuple[str, Fold, Event]],
    sets: Mapping[str, FeatureSet],
    means: Means,
) -> Ask:
    ask = Ask(record, route, {})
    for digest, one, event in events:
        try:
            ask.values[digest] = one.read(record, event)
        except Past:
            try:
                ask.values[digest] = means.past(sets[digest], record)
            except Refused as error:  # retention has taken what it looks back to
                ask.error = error.code
        except Exception:  # a feature function is the user's code: whatever it raises costs this request only
            ask.error = "feature_failed"
    return ask


def _expire(
    queue: Queue | None, asks: Sequence[Ask], state: Predicting, records: Sequence[Record], means: Means
) -> None:
    """Requests that a tick on the log lies beyond the deadline of are not scored; one that was brought back is."""
    if queue is None or not queue.within_ms or not asks:
        return
    folded_ms = max(one.now_ms for one in state.folds.values())
    now_ms = max(folded_ms, means.newest(records[-1].position))
    for ask in asks:
        if ask.record.time_ms + queue.within_ms >= now_ms or ask.request or isinstance(ask.record, Returned):
            continue
        if means.stands(ask.record) in (None, "expired"):
            ask.error = ask.error or "expired"


def _failed(model: str, request: Source, made: Sequence[Emitted]) -> list[Emitted]:
    """The dead letters of requests that came to no score though they had all their values: they may be scored
    again. Of what a stage folds they say nothing: they are of another name."""
    letters: list[Emitted] = []
    for record, output in made:
        said = unpack(output.value, Prediction)
        if said.served and said.error not in ("", "expired") and said.values:
            asked = msgspec.structs.replace(record, id=said.request)
            why = request.poison(asked, said.error, "The model came to no score.")
            letters.append((record, buried(f"{SCORING}{model}", asked, why)))
    return letters


class Said(msgspec.Struct, frozen=True, gc=False):
    """One version's score of one request in a batch."""

    batch: int
    features: str
    score: float | None
    error: str


def _answer(
    model: str, asks: Sequence[Ask], means: Means, threshold: float, began: float, *, held: bool
) -> list[Emitted]:
    """Score every ask with every version on its route, one call a version, and write what they said. Whoever
    answers comes first. `held`: who answers is waited for where it is away."""
    groups: dict[Ref, list[int]] = {}
    awaited: set[Ref] = set()
    wanted = [_wanted(model, ask.record, ask.route) for ask in asks]
    for route, some in groupby(range(len(asks)), lambda i: asks[i].route):
        mine = list(some)
        for role, ref in _scoring(route, means, {wanted[i] for i in mine}):
            groups.setdefault(ref, []).extend(mine)
            awaited |= {ref} if held and role in _answering(route) else set()
    said = {
        ref: dict(zip(group, _say(ref, [asks[i] for i in group], means, ref in awaited), strict=True))
        for ref, group in groups.items()
    }
    latency_s = means.clock() - began if asks else 0.0
    topic, made = predictions(model), []
    for route, some in groupby(range(len(asks)), lambda i: asks[i].route):
        versions = [(role, ref, said[ref]) for role, ref in route.versions() if ref in said]
        for i in some:
            ask = asks[i]
            answering = wanted[i] or route.answers(model, ask.record.key)
            for role, ref, scores in sorted(versions, key=lambda one: one[0] != answering):
                value = _prediction(model, ask, ref, role, role == answering, scores[i], threshold, latency_s)
                said_of = draft(topic, value, key=value.request, t_ms=ask.record.time_ms)
                made.append((ask.record, _traced(said_of, ask.record)))
    return made


def _traced(made: Draft, record: Record) -> Draft:
    """What a request caused is traced as the request was."""
    trace = record.headers.get("traceparent") if record.headers else None
    return msgspec.structs.replace(made, headers={"traceparent": trace}) if trace else made


def _scoring(route: Route, means: Means, wanted: Collection[Role | None]) -> list[tuple[Role, Ref]]:
    """The versions that score: all but those that answer nobody and are still on their way here."""
    answering = {*_answering(route), *wanted}
    return [(role, ref) for role, ref in route.versions() if role in answering or means.ready(ref.digest)]


def _answering(route: Route) -> set[Role]:
    return {"champion", "candidate"} if route.share else {"champion"}


def _say(ref: Ref, asks: Sequence[Ask], means: Means, awaited: bool) -> list[Said]:
    """One version on its requests, in one call; again where it is `awaited` and was away."""
    batch = asks[0].record.o
    means.know(ref.digest)
    try:
        model = means.model(ref.digest)
    except PenstockError as error:
        return [Said(batch, "", None, error.code) for _ in asks]
    able = [ask for ask in asks if not ask.error and model.features in ask.values]
    rows = [ask.values[model.features] for ask in able]
    found = _told(model, rows)
    while awaited and (why := next((code for _, code, _ in found if code in HOLDS), "")):
        means.hold(why)
        found = _told(model, rows)
    if len(able) == len(asks):
        return [
            Said(ask.record.o if alone else batch, model.features, score, why)
            for ask, (score, why, alone) in zip(asks, found, strict=True)
        ]
    said, out = iter(found), []
    for ask in asks:
        if ask.error or model.features not in ask.values:
            out.append(Said(batch, model.features, None, ask.error or "features_unknown"))
            continue
        score, why, alone = next(said)
        out.append(Said(ask.record.o if alone else batch, model.features, score, why))
    return out


def _told(model: Model, rows: Sequence[Sequence[Value]]) -> list[Told]:
    try:
        return told(model, rows) if rows else []
    except PenstockError as error:
        return [(None, error.code, False) for _ in rows]


def _prediction(
    model: str, ask: Ask, ref: Ref, role: Role, served: bool, said: Said, threshold: float, latency_s: float
) -> Prediction:
    record = ask.record
    return Prediction(
        model=model,
        version=ref.version,
        digest=ref.digest,
        role=role,
        served=served,
        request=ask.request or record.id,
        entity=record.key,
        source=record.topic,
        position=record.position,
        t_ms=record.time_ms,
        o=Position(n=record.o),
        features=said.features,
        values=ask.values.get(said.features, []),
        batch=said.batch,
        score=said.score,
        positive=None if said.score is None else said.score >= threshold,
        error=said.error,
        latency_s=latency_s,
    )
