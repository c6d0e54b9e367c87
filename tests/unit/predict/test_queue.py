"""predict: a queue's requests have a deadline that the log tells, and wait for whoever is to score them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import pytest

from penstock.app.dead import again, letters
from penstock.app.parts import newest_tick, standing
from penstock.app.system import clock_draft
from penstock.feature import Fold, compile, count, source
from penstock.log.memory import MemoryLog
from penstock.model.pack import Model, Told
from penstock.predict.answers import Reply, replies, reply_to
from penstock.predict.queue import Queue, queue
from penstock.predict.stage import Means, Predicting, predict_stage
from penstock.predict.verify import verify
from penstock.record.codec import moment, pack, unpack
from penstock.record.decisions import RELEASES, Prediction, Release, draft, predictions, read
from penstock.record.errors import DefinitionError, NotFound, Refused, Unavailable
from penstock.record.event import Event, key
from penstock.record.record import START, Draft
from penstock.stage import Running, every, replay

T0_MS = 1_704_067_200_000


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float


ask = source(Ask, id="ask_id", time="at")
named = {"asks": count(ask, window="1d")}
FEATURES = compile([ask.x, *named.values()], ask, named)


class Mended(Ask):
    """The file once it takes requests without a number."""

    x: float = 1.0


mended = source(Mended, id="ask_id", time="at", topic="ask")
WIDER = compile([mended.x, *(more := {"asks": count(mended, window="1d")}).values()], mended, more)


class Plain:
    """A model: the second value of a row, a hundredth of it."""

    def predict_proba(self, x: Any) -> Any:
        return x[:, [1, 1]] / 100


Apart = Callable[[Any], list[Told]]


def running(
    log: MemoryLog, serves: Queue | None, apart: Apart | None = None, features: Any = FEATURES, **more: Any
) -> Running[Predicting]:
    """The answering stage, one record a batch."""
    model = Model(features.digest, "binary", ["number"] * 2, Plain(), None, apart=apart)
    means = Means(
        lambda digest: None, lambda digest: model, lambda features, record: [], lambda features, stop: Fold(features),
        lambda: 0.0, newest=newest_tick(log), stands=partial(standing, log, "m"),
    )  # fmt: skip
    means = msgspec.structs.replace(means, **more)
    stage = predict_stage(
        "m", features.request, {features.digest: features}, means, queue=serves, snapshot_every=1000
    )
    return Running(stage, log, batch=1)


def log_of(*drafts: Draft) -> MemoryLog:
    """A log with a champion and what follows."""
    log = MemoryLog()
    log.append([draft(RELEASES, Release("m", 1, "d", "champion", 100, "", "", 0), key="m", t_ms=0), *drafts])
    return log


def asked(id: str, at_s: float = 0) -> Draft:
    """A request so long after the start."""
    return ask.draft(Ask(ask_id=id, who="w", at=moment(T0_MS + round(at_s * 1000)), x=1.0))


def tick(at_s: float) -> Draft:
    """Time has come so far."""
    return clock_draft(T0_MS + round(at_s * 1000))


def drain(one: Running[Predicting]) -> dict[str, tuple[float | None, str]]:
    """Fold all; what stands of each request."""
    while one.advance() is not None:
        pass
    found = [read(record, Prediction) for record in every(one.log, [predictions("m")])]
    assert len(found) == len({said.request for said in found})
    return {said.request: (said.score, said.error) for said in found}


def test_a_deadline_is_told_by_the_log() -> None:
    """By any tick that is there when a request's turn comes, also behind it; until then it is scored. It is still an
    event, and verify holds its answer against the ticks."""
    log = log_of(asked("a"), asked("b", 10), tick(5), tick(30.001))
    one = running(log, queue("30s"))
    assert drain(one) == {"a": (None, "expired"), "b": (0.01, "")}
    log.append([asked("c", 20), tick(50.0)])
    assert drain(one)["c"] == (0.02, "")
    assert drain(running(log_of(asked("a"), tick(9e9)), queue()))["a"] == (0.0, "")
    assert drain(running(log_of(asked("a"), tick(9e9)), None))["a"] == (0.0, "")
    records, _ = log.read(one.stage.inputs, START)
    _, emitted = one.stage.step_many(one.stage.empty(), records)
    again = [unpack(output.value, Prediction) for _, output in emitted]
    assert {said.request: (said.score, said.error) for said in again} == drain(one), (
        "in one go, and much later"
    )
    before = one.stage.dump(one.state)
    assert one.stage.dump(replay(one.stage, log)) == before
    model = Model(FEATURES.digest, "binary", ["number"] * 2, Plain(), None)
    made = verify(
        log, "m", ask, {FEATURES.digest: FEATURES}, lambda digest: model, lambda features, record: []
    )
    assert (made.predictions, made.unequal) == (3, [])


def test_nothing_expires_before_its_time() -> None:
    """Verify finds an answer that claims so."""
    log = log_of(asked("a"), tick(0))
    one = running(log, None)
    drain(one)
    (said,) = every(log, [predictions("m")])
    claimed = msgspec.structs.replace(read(said, Prediction), score=None, positive=None, error="expired")
    other = log_of(asked("a"), tick(0))
    other.append([Draft(said.topic, said.key, said.time_ms, pack(claimed), said.id)])
    model = Model(FEATURES.digest, "binary", ["number"] * 2, Plain(), None)
    made = verify(
        other, "m", ask, {FEATURES.digest: FEATURES}, lambda digest: model, lambda features, record: []
    )
    assert [one.what for one in made.unequal] == ["expired before its time"]


def test_what_was_brought_back_has_no_deadline() -> None:
    """A poisoned request is on `dead`; mended and brought back under its id it is scored, late as it is."""
    poison = msgspec.structs.replace(asked("a"), value=pack({"ask_id": "a", "who": "w", "at": moment(T0_MS)}))
    log = log_of(poison, tick(60))
    one = running(log, queue("30s"))
    assert drain(one) == {} and [letter.code for letter in letters(log)] == ["missing_column"]
    assert reply_to(log, "m", "ask", "a") == Reply(3, "a", error="missing_column")
    assert replies(log, "m", 0, 9).answers == [Reply(3, "a", error="missing_column")]
    again(log, [], "me", T0_MS)
    assert drain(one) == {} and len(letters(log)) == 1, "it is poison still"
    again(log, [], "me", T0_MS + 1)
    assert drain(running(log, queue("30s"), features=WIDER)) == {"a": (0.0, "")} and letters(log) == []
    assert reply_to(log, "m", "ask", "a").score == 0.0


class Away:
    """Who scores is away the first times it is asked."""

    def __init__(self, code: str, times: int) -> None:
        self.code, self.times, self.asked = code, times, 0

    def __call__(self, rows: Any) -> list[Told]:
        self.asked += 1
        return [(None, self.code, False) if self.asked <= self.times else (0.5, "", False) for _ in rows]


@pytest.mark.parametrize("code", ["model_away", "model_rests"])
def test_a_queue_waits_for_whoever_scores(code: str) -> None:
    """It is asked again until it is there; at a door the same is an answer, and so is what waiting does not mend."""
    held: list[str] = []
    away = Away(code, 3)
    assert drain(running(log_of(asked("a")), queue(), away, hold=held.append)) == {"a": (0.5, "")}
    assert held == [code] * 3 and away.asked == 4
    assert drain(running(log_of(asked("a")), None, Away(code, 3), hold=held.append)) == {"a": (None, code)}
    died = running(log_of(asked("a")), queue(), Away("model_died", 3), hold=held.append)
    assert drain(died) == {"a": (None, "model_died")} and len(held) == 3


def test_it_does_not_wait_for_who_answers_nobody() -> None:
    """A version in the shadow that is away keeps no queue from its answers."""
    log = log_of(draft(RELEASES, Release("m", 2, "e", "shadow", 0, "", "", 0), key="m", t_ms=0), asked("a"))
    model = Model(FEATURES.digest, "binary", ["number"] * 2, Plain(), None)
    away = msgspec.structs.replace(model, apart=Away("model_away", 9))
    one = running(log, queue(), model=lambda digest: away if digest == "e" else model)
    while one.advance() is not None:
        pass
    said = {
        said.version: (said.served, said.score)
        for said in (read(r, Prediction) for r in every(log, [predictions("m")]))
    }
    assert said == {1: (True, 0.0), 2: (False, None)}
    assert [one.version for one in replies(log, "m", 0, 9).answers] == [1]


def test_a_stop_while_it_waits_loses_nothing() -> None:
    """What was not answered is answered by whoever comes next, under the same id."""

    def stop(code: str) -> None:
        raise Unavailable("Enough.", code=code)

    log = log_of(asked("a"), asked("b"))
    one = running(log, queue(), Away("model_away", 1), hold=stop)
    assert one.advance() == []  # the release
    with pytest.raises(Unavailable):
        one.advance()
    assert list(every(log, [predictions("m")])) == []
    assert drain(running(log, queue())) == {"a": (0.0, ""), "b": (0.01, "")}


def test_a_resumption_asks_no_model() -> None:
    """What was answered is not scored again, be it ever so slow; the state is the same."""
    poison = msgspec.structs.replace(asked("odd"), value=pack({"ask_id": "odd"}))
    log = log_of(*(asked(f"a{i}", i) for i in range(19)), poison, tick(3))
    before = running(log, None)
    drain(before)
    never = Away("model_died", 0)
    after = running(log, None, never)
    assert never.asked == 0 and after.position.n == 22
    assert after.stage.dump(after.state) == before.stage.dump(before.state)


def test_answers_are_read_in_their_order() -> None:
    """From where one was, so many at a time, each once; by the request's id as well."""
    log = log_of(*(asked(f"a{i}", i) for i in range(7)))
    one = running(log, queue())
    with pytest.raises(NotFound) as caught:
        reply_to(log, "m", "ask", "a3")
    assert caught.value.code == "unanswered"
    drain(one)
    seen, after = list[Reply](), 0
    while (found := replies(log, "m", after, 3)).answers:
        seen, after = [*seen, *found.answers], found.after
        assert len(found.answers) <= 3 and len(seen) <= 7
    assert [one.request for one in seen] == [f"a{i}" for i in range(7)]
    assert [one.score for one in seen] == [i / 100 for i in range(7)]
    assert reply_to(log, "m", "ask", "a3") == seen[3]
    assert replies(log, "m", seen[3].position, 9).answers == seen[4:]
    assert unpack(log.find(predictions("m"), seen[3].prediction).value, Prediction).request == "a3"  # type: ignore[union-attr]
    with pytest.raises(NotFound) as caught:
        reply_to(log, "m", "ask", "a9")
    assert caught.value.code == "not_found" and replies(log, "m", after, 3).after == log.end().n - 1
    assert log.read(["m.predictions"], START)[0][3].position == seen[3].position


@pytest.mark.parametrize("within", ["soon", "30", "-1s"])
def test_a_deadline_that_is_none(within: str) -> None:
    """Is told when the file is loaded."""
    with pytest.raises((DefinitionError, Refused)) as caught:
        queue(within)
    assert caught.value.code == "unit"


class Crowd:
    """A model whose scores depend on who is asked together."""

    def predict_proba(self, x: Any) -> Any:
        return x[:, [0, 0]] * 0 + len(x) / 100


def test_what_was_asked_alone_is_a_batch_of_one() -> None:
    """Where one row of a batch was late the others were asked by themselves; verify asks them so again."""
    log = log_of(*(asked(id) for id in "abc"))
    crowd = Model(FEATURES.digest, "binary", ["number"] * 2, Crowd(), None)

    def apart(rows: Any) -> list[Told]:
        return [(None, "model_late", True) if i == 1 else (0.01, "", True) for i in range(len(rows))]

    one = running(log, None, model=lambda digest: msgspec.structs.replace(crowd, apart=apart))
    one.batch = 9
    while one.advance() is not None:
        pass
    said = [read(record, Prediction) for record in every(log, [predictions("m")])]
    assert [(one.score, one.batch) for one in said] == [
        (s, one.o.n) for s, one in zip((0.01, None, 0.01), said, strict=True)
    ]
    sets = {FEATURES.digest: FEATURES}
    assert verify(log, "m", ask, sets, lambda digest: crowd, lambda features, record: []).unequal == []
