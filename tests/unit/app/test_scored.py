"""app: requests with another model's answer: what a file may say of them, and the stage that joins them."""

from __future__ import annotations

import itertools
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock.app.check import check
from penstock.app.live import Live
from penstock.app.pipeline import File, load_text
from penstock.app.simulation import schedule
from penstock.app.system import System, own
from penstock.feature import join_stage
from penstock.log import Checkpoint
from penstock.log.memory import MemoryBlob, MemoryLog
from penstock.record.codec import pack
from penstock.record.decisions import Prediction, draft, predictions
from penstock.record.errors import DefinitionError
from penstock.record.record import Draft, Position, output_id
from penstock.stage import Running, every, replay

PIPELINE = Path(__file__).parents[2] / "crash" / "pipeline.py"
TEXT = (
    PIPELINE.read_text().replace("missing, source", "missing, scored, source, derived, predictions")
    + """
options = dict(label=yes, wait="12h", fit=fit, train=every("2d", window="2d"), gate=better("log_loss"))
other = Pipeline(request=ask, features=[ask.x], **options)
judged = scored(ask, "agree")
above = Pipeline(request=judged, features=[ask.x, judged.agree_score, usual_x], **options)
both = scored(judged, "other")
last = Pipeline(request=both, features=[both.agree_score, both.other_score], **options)
"""
)


def made(text: str = TEXT) -> File:
    """The file of a text."""
    return load_text(text.encode(), "file.py")


def test_what_a_file_says() -> None:
    """Callers give the event; the answer's columns are further ones; no door takes the topic; who comes before whom."""
    file = made()
    assert set(file.sources) == {"ask", "yes"} and list(file.scored) == [
        "ask.scored.agree",
        "ask.scored.agree.scored.other",
    ]
    assert file.scored["ask.scored.agree"].columns[-3:] == ("agree_score", "agree_positive", "agree_version")
    assert file.order("last") == ["agree", "other", "last"] and file.order("agree") == ["agree"]
    assert file.plan("above").features.topics == ("ask", "retractions")


OTHER = "other = Pipeline(request=ask, features=[ask.x]"
WRONG = {
    "a model that is not there": ("both = ", 'odd = scored(ask, "agre")\nboth = ', "unknown_model"),
    "each other's answers": ("request=ask,\n    label", 'request=scored(ask, "above"),\n    label', "cycle"),
    "its own answers": (
        OTHER,
        'own = mean(scored(ask, "other").other_score)\nother = Pipeline(request=ask, features=[own]',
        "cycle",
    ),
    "its child's answers, as they were": (
        OTHER,
        'own = mean(predictions("last").score, entity=("entity", "who"))\nother = Pipeline(request=ask, features=[own]',
        "cycle",
    ),
    "answers to other requests": (
        OTHER,
        'b = source(Ask, topic="b", id="ask_id", time="at")\nother = Pipeline(request=b, features=[b.x]',
        "not_its_request",
    ),
    "what a stage writes": ("scored(ask, ", 'scored(derived(ask, at="transit", y=ask.x * 2), ', "not_a_source"),
    "what a model said": ("scored(ask, ", 'scored(predictions("agree"), ', "not_a_source"),
    "a column of another's name": ("x: float", "agree_score: float\n    x: float", "name_taken"),
    "a place that no event passes": (
        "scored(judged, ", 'scored(derived(judged, at="ingest", y=judged.x * 2), ', "not_a_source",
    ),
    "an answer as the truth": ("dict(label=yes", 'dict(label=scored(ask, "agree").agree_score', "not_a_source"),
    "one topic, other columns": (
        "both = ", 'odd = scored(derived(ask, at="ingest", y=ask.x * 2), "agree")\nboth = ', "topic_taken",
    ),
    "a topic of the stage's": ('source("yes"', 'source("ask.scored.agree"', "topic_taken"),
    "less time than is looked back": ('source(Ask, id="ask_id"', 'source(Ask, keep="3d", id="ask_id"', "keep"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_told(mistake: str) -> None:
    """At load, by a code, with the mend."""
    old, new, code = WRONG[mistake]
    assert old in TEXT
    with pytest.raises(DefinitionError) as caught:
        made(TEXT.replace(old, new, 1))
    assert caught.value.code == code, caught.value


def test_a_column_means_what_it_means_where_it_was_derived() -> None:
    """A column that the door derives is part of the meaning of whoever is asked by what was scored of it."""
    one, other = (
        made(
            TEXT.replace("judged = scored(ask,", f'more = derived(ask, at="ingest", y={what})\njudged = scored(more,')
            .replace("[ask.x, judged.agree_score", "[judged.y, judged.agree_score")
        )
        for what in ("ask.x * 2", "ask.x * 3")
    )  # fmt: skip
    assert one.plan("above").features.digest != other.plan("above").features.digest
    assert one.scored["ask.scored.agree"].columns[-4:-2] == ("y", "agree_score")


class Story:
    """A log on which two models are asked and answer."""

    def __init__(self) -> None:
        self.log, self.file = MemoryLog(), made()
        stages = {topic: join_stage(one, self.log.find) for topic, one in self.file.scored.items()}
        self.stages = stages
        self.running = {topic: Running(one, self.log) for topic, one in stages.items()}

    def ask(self, id: str) -> int:
        """A request; where it came to lie."""
        row = {"ask_id": id, "who": "w", "at": "2024-01-01T00:00:00Z", "x": 1.5, "z": None}
        one = self.file.sources["ask"].draft(self.file.sources["ask"].parse(row))
        return self.log.append(
            [Draft(one.topic, one.key, one.time_ms, one.value, one.id, {"traceparent": id})]
        ).places[0]

    def answer(
        self, model: str, id: str, place: int, score: float | None, n: int = 0, source: str = "ask"
    ) -> None:
        """What a model says of it; the first output is the served one."""
        said = Prediction(
            model, 7 + n, "d", "champion", n == 0, id, "w", source, place, 0, Position(n=place), "f", [], place, score,
            None if score is None else score > 0.5,
        )  # fmt: skip
        made = draft(
            predictions(model), said, key=id, t_ms=0, id=output_id(f"predict.{model}", source, place, n)
        )
        self.log.append([made])

    def join(self) -> None:
        """Every stage folds what there is."""
        while sum(one.advance() is not None for one in self.running.values()):
            pass

    def joined(self, topic: str) -> list[Any]:
        """What stands on a topic."""
        return [(r.id, r.headers, self.file.scored[topic].event(r)) for r in every(self.log, [topic])]


JUDGED, BOTH = "ask.scored.agree", "ask.scored.agree.scored.other"


def test_a_request_and_its_answer_are_one_record() -> None:
    """Under the request's id and with what it carries; only served answers to what was asked, null ones too."""
    story = Story()
    first, second = story.ask("a"), story.ask("b")
    story.answer("agree", "a", first, 0.25, n=1)  # nobody was served this
    story.answer("agree", "a", 99, 0.25, source="agree.vectors")
    story.join()
    assert story.joined(JUDGED) == []
    story.answer("agree", "a", first, 0.75)
    story.answer("agree", "b", second, None)
    story.join()
    (a, carried, event), (b, _, failed) = story.joined(JUDGED)
    assert (a, carried, b) == ("a", {"traceparent": "a"}, "b") and event.x == 1.5
    assert (event.agree_score, event.agree_positive, event.agree_version) == (0.75, True, 7)
    assert (failed.agree_score, failed.agree_positive, failed.agree_version) == (None, None, 7)


@pytest.mark.parametrize("first", ["agree", "other"])
@pytest.mark.parametrize("between", [True, False])
def test_two_answers_in_either_order(first: str, between: bool) -> None:
    """Who answers last makes the record, once, whenever the stages get to it; folded again it is the same."""
    story = Story()
    place = story.ask("a")
    for model in (first, "other" if first == "agree" else "agree"):
        assert story.joined(BOTH) == []
        story.answer(model, "a", place, 0.25 if model == "agree" else 0.5)
        if between:
            story.join()
    story.join()
    ((id, _, event),) = story.joined(BOTH)
    assert (id, event.agree_score, event.other_score) == ("a", 0.25, 0.5)
    for topic, one in story.stages.items():
        records = [record for record in every(story.log, story.log.topics()) if record.topic in one.inputs]
        _, emitted = one.step_many(one.empty(), records)
        assert [pack(event) for _, _, event in story.joined(topic)] == [made.value for _, made in emitted]
        assert one.dump(replay(one, story.log)) == one.dump(one.empty())  # nothing waits in it


def test_it_begins_with_its_deployment() -> None:
    """What was answered before is left alone, for its labels have come by; from then on nothing is left out."""
    story = Story()
    story.answer("agree", "before", story.ask("before"), 0.5)
    own(story.stages[JUDGED], story.log)
    story.answer("agree", "after", story.ask("after"), 0.5)
    again = own(story.stages[JUDGED], story.log)  # killed before its first turn
    while again.advance() is not None:
        pass
    assert [id for id, _, _ in story.joined(JUDGED)] == ["after"]


class Behind(MemoryLog):
    """The log as a home sees it that has not followed yet: only a claim tells it how far a stage has come."""

    def load(self, stage: str, *, claim: bool = False) -> Checkpoint:
        return super().load(stage, claim=claim) if claim else Checkpoint()


def test_who_is_behind_begins_where_the_one_before_it_ended() -> None:
    """Of what was answered in between nothing is left out: it was begun already, though one has not seen that."""
    story = Story()
    own(story.stages[JUDGED], story.log)
    story.answer("agree", "between", story.ask("between"), 0.5)
    story.log.__class__ = Behind
    again = own(story.stages[JUDGED], story.log)
    while again.advance() is not None:
        pass
    assert [id for id, _, _ in story.joined(JUDGED)] == ["between"]


def test_a_stage_that_is_kept_busy_keeps_nobody_waiting() -> None:
    """Each has its turn up to the log's end as it was then, however fast more comes."""
    story = Story()
    system = System(story.file, story.log, MemoryBlob(), Path(), time.perf_counter, None)
    first, last = system.folding[0], system.folding[-1]
    advance, turns = first.advance, itertools.count()

    def busy() -> Any:
        story.ask(f"more {next(turns)}")
        return advance() if next(turns) < 100 else None

    first.advance = busy  # type: ignore[method-assign]
    story.ask("a")
    assert system.fold() and last.position.n > 0 and next(turns) < 10


def test_who_is_told_to_end_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that is far behind ends with its batch, not with what there is to fold; and of one that is in the middle
    of a batch all the same nothing is written: the others' states are."""
    story = Story()
    system = System(story.file, story.log, MemoryBlob(), Path(), time.perf_counter, None)
    first, *others = system.folding
    for n in range(30):
        story.ask(str(n))
    first.batch, live = 1, Live(system, lambda: 0)
    advance, turns = first.advance, itertools.count(1)

    def ending() -> Any:
        outputs = advance()
        if next(turns) == 5:
            live.stopping.set()
        return outputs

    monkeypatch.setattr(first, "advance", ending)
    assert system.fold() and next(turns) == 6 and not system.fold()

    taken = list[str]()
    for one in (first, others[0]):
        monkeypatch.setattr(one, "save", partial(taken.append, one.stage.name))
    with system.turns[first.stage.name]:
        live.stop()
    assert taken == [others[0].stage.name]


def test_the_check_plays_one_generation_after_the_other(tmp_path: Path) -> None:
    """A model learns from what the one before it has answered, on events made up from the types."""
    path = tmp_path / "file.py"
    path.write_text(TEXT.partition("both = ")[0].replace("other = ", "# "))
    found = check(str(path), None)
    assert [f"{one.what}: {one.note}" for one in found if not one.ok] == []
    assert "above answers the same again" in [one.what for one in found]


def test_under_faults(tmp_path: Path) -> None:
    """On a virtual clock with faults at random, killed and late: what was answered is given on, and every law holds."""
    path = tmp_path / "file.py"
    path.write_text(TEXT)
    ground = schedule.ground(str(path))
    assert [run.broken for seed in (7, 38, 54, 56) if (run := schedule.run(ground, seed)).broken] == []
