"""app: what must hold of a log: after every step (nothing wrong), and once it has drained (nothing missing).

Each law is told by its sentence; the first that breaks raises `Lawless`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from penstock.app.home import Books
from penstock.app.pipeline import File, Plan
from penstock.app.simulation.small import History
from penstock.feature import JOIN, Scored, answers
from penstock.feature.definition.scored import answer_columns
from penstock.log import Blob, Checkpoint, Log
from penstock.record.codec import pack, unpack
from penstock.record.decisions import (
    ALERTS,
    DECISIONS,
    FAILURES,
    INTENTS,
    RELEASES,
    VERDICTS,
    VERSIONS,
    Alert,
    Decision,
    Intent,
    Outcome,
    Prediction,
    Release,
    Verdict,
    Version,
    outcomes,
    predictions,
    read,
)
from penstock.record.record import START, Draft, Position, Record, output_id
from penstock.release.registry import Entry, registry
from penstock.stage import AnyStage, every, with_ids


class Lawless(Exception):
    """A law does not hold; the sentence says which, and where."""


def demand(holds: object, law: str, where: object = "") -> None:
    """Raise Lawless unless it holds."""
    if not holds:
        raise Lawless(f"{law}{f': {where}' if where != '' else ''}")


class Watch:
    """The laws of safety, over each record as it comes to stand on the log."""

    def __init__(self, log: Log, file: File) -> None:
        self.log, self.file = log, file
        self.position = START
        self.stages: dict[str, Checkpoint] = {}
        self.ids: set[tuple[str, str]] = set()
        self.intents: dict[str, Intent] = {}
        self.versions: dict[tuple[str, int], Version] = {}
        self.verdicts: dict[tuple[str, int], tuple[str, Verdict]] = {}
        self.promoted: set[tuple[str, int]] = set()
        self.champions: set[tuple[str, int]] = set()
        self.served: set[tuple[str, int]] = set()
        self.asked: set[tuple[str, str]] = set()
        self.joined: set[tuple[str, str]] = set()
        self.answers: dict[tuple[str, str], bytes] = {}
        self.laws: dict[str, Callable[[Record], None]] = {
            INTENTS: self._intent,
            VERSIONS: self._version,
            VERDICTS: self._verdict,
            DECISIONS: self._decision,
            RELEASES: self._release,
            ALERTS: self._alert,
        }
        for name, plan in file.plans.items():
            self.laws[predictions(name)] = self._prediction
            self.laws[outcomes(name)] = self._outcome
            self.laws[plan.pipeline.request.topic] = self._ask
        self.topics = sorted({*self.laws, *file.sources, FAILURES})
        self.own = frozenset({INTENTS, VERSIONS, VERDICTS, RELEASES}).union(
            *({predictions(name), outcomes(name)} for name in file.plans)
        )

    def look(self) -> None:
        """Hold what is new since the last look against the laws."""
        records, self.position = self.log.read(self.topics, self.position, limit=1_000_000)
        for record in records:
            if record.id:
                place = record.topic, record.id
                demand(place not in self.ids, "An id stands once on a topic", place)
                self.ids.add(place)
            else:
                demand(record.topic not in self.own, "An output has its id", record.topic)
            law = self.laws.get(record.topic)
            if law is not None:
                law(record)
        stages = self.log.stages()
        for name, now in stages.items() if stages != self.stages else ():
            before = self.stages.get(name, Checkpoint())
            demand(now.position.n >= before.position.n, "A stage's position does not go back", name)
            demand(now.epoch >= before.epoch, "An epoch does not go back", name)
        self.stages = stages

    def told(self, model: str, request: str, answer: bytes) -> None:
        """Somebody was told an answer."""
        stands = said(self.log, self.file.plan(model), request)
        demand(stands == answer, "Whoever is told an answer finds it on the log", (model, request))
        first = self.answers.setdefault((model, request), answer)
        demand(first == answer, "A request asked again is answered as it was", (model, request))

    def hold_told(self) -> None:
        """Whatever was told stands still, served once."""
        for (model, request), answer in self.answers.items():
            plan = self.file.plan(model)
            demand(said(self.log, plan, request) == answer, "What was told stands for ever", (model, request))
            served = (model, unpack(answer, Prediction).position) in self.served
            demand(served, "What was told was served", (model, request))

    def joint(self, models: Sequence[str], since: Position) -> None:
        """Of a joint write there stands all or nothing: each request with its answer."""
        for model in models:
            plan = self.file.plan(model)
            for record in self.log.read([plan.pipeline.request.topic], since)[0]:
                entry = registry(self.log, Position(n=record.position)).models.get(model, Entry())
                answered = said(self.log, plan, record.id) is not None or entry.route.champion is None
                demand(answered, "What is answered at once stands with its answer, or not at all", record.id)

    def _ask(self, record: Record) -> None:
        self.asked.add((record.topic, record.id))

    def _intent(self, record: Record) -> None:
        intent = read(record, Intent)
        demand(intent.o.n <= record.position, "A training sees only what was there", intent.id)
        numbers = {(one.model, one.version) for one in self.intents.values()}
        demand((intent.model, intent.version) not in numbers, "A version's number is given once", intent.id)
        self.intents[intent.id] = intent

    def _version(self, record: Record) -> None:
        version = read(record, Version)
        place = version.model, version.version
        demand(version.intent in self.intents, "A version was asked for", place)
        demand(place not in self.versions, "A version is registered once", place)
        self.versions[place] = version

    def _verdict(self, record: Record) -> None:
        verdict = read(record, Verdict)
        place = verdict.model, verdict.version
        demand(place in self.versions, "A verdict is about a registered version", place)
        demand(place not in self.verdicts, "A version is judged once", place)
        self.verdicts[place] = record.id, verdict

    def _decision(self, record: Record) -> None:
        decision = read(record, Decision)
        if decision.kind == "promote":
            self.promoted.add((decision.model, decision.version))

    def _release(self, record: Record) -> None:
        release = read(record, Release)
        place = release.model, release.version
        version = self.versions.get(place)
        demand(version and version.digest == release.digest, "A route names registered versions", place)
        if release.step in ("shadow", "canary", "champion"):
            verdict = self.verdicts.get(place)
            passed = verdict is not None and verdict[1].decision == "ship"
            allowed = passed if release.by == "rule" else place in self.promoted
            demand(allowed, "No release without a passing verdict or a person's decision", place)
        if release.restored:
            back = release.model, release.restored
            demand(back in self.champions, "What is restored was champion before", back)
        if release.step == "champion":
            self.champions.add(place)

    def _alert(self, record: Record) -> None:
        rule = read(record, Alert).rule
        demand(not rule.startswith("consistency"), "What was served is folded again to the same bits", rule)

    def _prediction(self, record: Record) -> None:
        said = read(record, Prediction)
        demand((said.model, said.version) in self.versions, "A registered version answers", record.id)
        if said.served:
            place = said.model, said.position
            demand(place not in self.served, "A request is served at most once", record.id)
            self.served.add(place)

    def _outcome(self, record: Record) -> None:
        outcome = read(record, Outcome)
        topic = self.file.plan(outcome.model).pipeline.request.topic
        demand((topic, outcome.request) in self.asked, "An outcome is of a request", record.id)
        if not outcome.amends:
            place = outcome.model, outcome.request
            demand(place not in self.joined, "A request's outcome comes once, then is amended", record.id)
            self.joined.add(place)


def said(log: Log, plan: Plan, request: str) -> bytes | None:
    """The answer that stands to a request."""
    topic = plan.pipeline.request.topic
    asked = log.find(topic, request)
    if asked is None:
        return None
    found = log.find(predictions(plan.name), output_id(f"predict.{plan.name}", topic, asked.position, 0))
    return None if found is None else found.value


def drained(log: Log, file: File, stages: Sequence[AnyStage], watch: Watch) -> None:
    """Nothing waits: stages, intents, requests after the first champion, requests for an outcome."""
    for one in stages:
        left = sum(log.count(topic, log.load(one.name).position) for topic in one.inputs)
        demand(left == 0, "Every stage reaches the end", f"{one.name} has {left} records left")
    done = {read(r, Version).intent for r in every(log, [VERSIONS])} | {r.id for r in every(log, [FAILURES])}
    demand(watch.intents.keys() == done, "Every intent has a result", sorted(watch.intents.keys() ^ done))
    champions: dict[str, int] = {}
    for record in every(log, [RELEASES]):
        if read(record, Release).step == "champion":
            champions.setdefault(record.key, record.position)
    for name, plan in file.plans.items():
        for record in every(log, [plan.pipeline.request.topic]):
            if record.position > champions.get(name, log.end().n):
                answered = (name, record.position) in watch.served
                demand(answered, "Every request after the first champion is answered", record.id)
            demand((name, record.id) in watch.joined, "Every request has its outcome", record.id)
    for source in file.scored.values():
        _given(log, source)


def _given(log: Log, source: Scored) -> None:
    """Every request that was answered stands once more, with its answer, and no other does."""
    there = {record.id: record for record in every(log, [source.topic])}
    for record in every(log, [source.base.topic]):
        said = next(answers(source, record.id, log.find), None)
        one = there.pop(record.id, None)
        demand((one is None) == (said is None), "A request that was answered is given on with it", record.id)
        if one is not None and said is not None:
            score = getattr(source.event(one), answer_columns(source.model)[0])
            demand(score == read(said, Prediction).score, "What is given on is what was served", record.id)
            demand(one.position > max(record.position, said.position), "It lies above both", record.id)
    demand(not there, "Nothing is given on that was not asked", sorted(there)[:3])


def sent_once(log: Log, sent: Iterable[Draft]) -> None:
    """Every event stands once: what was sent under its id, or as often as it was sent where it has none."""
    wanted: Counter[Any] = Counter()
    said: set[Any] = set()
    for one in sent:
        whole = one.topic, one.id, one.key, one.time_ms, one.value
        said.add(whole)
        if one.id:
            wanted[one.topic, one.id] = 1
        else:
            wanted[whole] += 1
    found: Counter[Any] = Counter()
    for r in every(log, sorted({one[0] for one in said})):
        whole = r.topic, r.id, r.key, r.time_ms, r.value
        demand(whole in said, "An event stands as it was sent", (r.topic, r.id))
        found[(r.topic, r.id) if r.id else whole] += 1
    unequal = [place[:2] for place in wanted.keys() | found.keys() if wanted[place] != found[place]]
    demand(not unequal, "What was sent stands once", sorted(unequal)[:3])


def truths(log: Log, history: History) -> dict[str, dict[str, float | None]]:
    """The final label of every request of which the history is sure."""
    found: dict[str, dict[str, float | None]] = {}
    for name, sure in history.truths.items():
        said = [read(record, Outcome) for record in every(log, [outcomes(name)])]
        found[name] = {one.request: one.label for one in said if one.request in sure}
    return found


def replayed(log: Log, stages: Iterable[tuple[AnyStage, bytes]]) -> None:
    """Folded from the start in one go, every stage ends in its live state and says what stands on the log."""
    records = list(every(log, log.topics()))
    spoken: dict[str, dict[tuple[str, str], Any]] = {}
    joins = {name.removeprefix(f"{JOIN}."): name for name in log.stages() if name.startswith(f"{JOIN}.")}
    for r in records:
        if r.id and r.topic not in (VERSIONS, FAILURES):  # the results of an intent bear the intent's id
            whose = joins.get(r.topic) or r.id.partition(":")[0]  # what is joined bears the request's id
            spoken.setdefault(whose, {})[r.topic, r.id] = _said(r)
    for stage, state in stages:
        inputs = frozenset(stage.inputs)
        folded, emitted = stage.step_many(stage.empty(), [r for r in records if r.topic in inputs])
        demand(stage.dump(folded) == state, "Replay equals live", f"the state of {stage.name}")
        again = {(one.topic, one.id): _said(one) for one in with_ids(stage.name, emitted)}
        stands = spoken.get(stage.name, {})
        unequal = [
            place for place in again.keys() | stands.keys()
            if again.get(place) != stands.get(place) and not _was_away(stands.get(place))
        ]  # fmt: skip
        demand(not unequal, "Outputs made again are those on the log", sorted(unequal)[:3])


def _said(one: Draft | Record) -> Any:
    """What an output says, without what was measured and how requests came to be scored together."""
    if not one.topic.endswith(".predictions"):
        return one.key, one.time_ms, one.value
    said = unpack(one.value, Prediction)
    return one.key, one.time_ms, msgspec.structs.replace(said, batch=0, latency_s=0.0)


def _was_away(said: Any) -> bool:
    """A prediction that says that its model's blob could not be had then."""
    return bool(said) and isinstance(said[2], Prediction) and said[2].error == "blob_away"


def verified(log: Log, blobs: Blob, file: File) -> int:
    """Every prediction made again bit for bit; how many there were."""
    books, count = Books(file, log, blobs), 0
    for name in file.plans:
        found = books.verify(name)
        demand(not found.unequal, "Predictions are made again bit for bit", found.unequal[:2])
        count += found.predictions
    return count


def whole(log: Log) -> bytes:
    """Everything that stands on a log, as bytes."""
    return pack([list(every(log, log.topics())), sorted(log.stages().items())])
