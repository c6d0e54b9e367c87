"""app: the same expression at ingest, in transit and at the request: one value, wherever it is worked out."""

from __future__ import annotations

import itertools
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.app.append import append
from penstock.app.home import Books, Home, open_home
from penstock.app.pipeline import File, load_text
from penstock.app.replay import replay
from penstock.app.simulation import schedule
from penstock.app.system import System
from penstock.app.train import carry_out
from penstock.dataset.rows import past
from penstock.feature import raw
from penstock.log.memory import MemoryBlob, MemoryLog
from penstock.record.codec import millis, unpack
from penstock.record.decisions import DEAD, DeadLetter, Prediction, predictions, read
from penstock.record.errors import DefinitionError
from penstock.record.record import Draft, Position, output_id
from penstock.release.registry import registry
from penstock.stage import every
from tests.crash.player import history

PIPELINE = (Path(__file__).parents[2] / "crash" / "pipeline.py").read_text()
TEXT = """
from datetime import datetime

from penstock import (
    Event, Pipeline, better, case, derived, distinct, every, hashed, key, last, mean, pii, row, source, tokens
)


class Review(Event):
    review_id: str
    buyer: str = key()
    at: datetime
    words: str | None = pii()
    stars: int


class Order(Event):
    order_id: str
    buyer: str = key()
    at: datetime


@row
def lang(words: str | None) -> str | None:
    return None if words is None else "de" if "nicht" in words else "en"


review = source(Review, id="review_id", time="at")
order = source(Order, id="order_id", time="at")
kept = source("kept", key="order_id", time="at")
PLACED
n_words = mean(N_WORDS, window="3d", entity="buyer")
langs = distinct(LANG, window="3d", entity="buyer")
sour = mean(review.stars, where=MOOD < 0, entity="buyer", window="3d")
first_hash = last(HASH, entity="buyer")
buys = Pipeline(
    request=order, label=kept, wait="1d", features=[n_words, langs, sour, first_hash], fit=len,
    train=every("1d", at_least=10**9), gate=better("log_loss"),
)
"""
WHAT = {
    "N_WORDS": "tokens(review.words, ngrams=(1, 2))", "LANG": "lang(review.words)",
    "MOOD": 'case((review.words.lower().contains("bad"), -1), (review.stars > 3, 1), otherwise=0)',
    "HASH": 'hashed(review.words, 8)["3"]',
}  # fmt: skip


def text(at: str) -> str:
    """The pipeline with its expressions at a place."""
    made, placed = TEXT, ""
    for name, what in WHAT.items():
        made = made.replace(name, what if at == "request" else f"review_.{name.lower()}")
    if at != "request":
        columns = ", ".join(f"{name.lower()}={what}" for name, what in WHAT.items())
        placed = f'review_ = derived(review, at="{at}", {columns})\n'
        made = made.replace("mean(review.stars", "mean(review_.stars")
    return made.replace("PLACED", placed)


def events(seed: int = 5) -> list[tuple[int, str, Any]]:
    """Reviews and orders, one an hour."""
    chance, made = random.Random(seed), []
    words = ["good", "bad", "nicht", "very", "ok", "I", "\u4f60\u597d"]
    for hour in range(240):
        at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
        mine = {"buyer": f"b{chance.randrange(3)}", "at": at}
        if chance.random() < 0.6:
            said = None if chance.random() < 0.1 else " ".join(chance.choices(words, k=chance.randrange(6)))
            row = {**mine, "review_id": f"r{hour}", "words": said, "stars": chance.randrange(1, 6)}
            made.append((millis(at), "review", row))
        else:
            made.append((millis(at), "order", {**mine, "order_id": f"o{hour}"}))
    return made


def played(at: str) -> tuple[File, MemoryLog]:
    """The events in a log, and all that the stages made of them."""
    file, log = load_text(text(at).encode(), "reviews.py"), MemoryLog()
    replay(System(file, log, MemoryBlob(), Path(), time.perf_counter, len), events())
    return file, log


def vectors(file: File, log: MemoryLog) -> dict[str, list[Any]]:
    """The values of every order."""
    orders = list(every(log, ["order"]))
    found = past(log, "predict.buys", file.plan("buys").features, orders)
    return {record.id: values for record, values in found}


def test_three_placements_give_equal_values() -> None:
    """Text, hashes, cases and row functions: at the request, at the door, by a stage."""
    pytest.importorskip("sklearn")
    made = {at: vectors(*played(at)) for at in ("request", "ingest", "transit")}
    assert len(made["request"]) > 80
    assert made["request"] == made["ingest"] == made["transit"]
    columns = list(zip(*made["request"].values(), strict=True))
    assert all(len(set(column)) > 2 for column in columns), "a test that sees no difference proves nothing"


def test_a_stage_in_transit_is_a_stage() -> None:
    """Its topic is no door; its outputs' ids say of which event each was made; a replay makes the same ones."""
    pytest.importorskip("sklearn")
    file, log = played("transit")
    (topic,) = file.derived
    assert set(file.sources) == {"review", "order", "kept"} and topic.startswith("review.derived.")
    assert f"derive.{topic}" in log.stages()
    enriched, reviews = list(every(log, [topic])), list(every(log, ["review"]))
    name = f"derive.{topic}"
    assert [one.id for one in enriched] == [output_id(name, "review", one.position, 0) for one in reviews]
    assert [one.time_ms for one in enriched] == [one.time_ms for one in reviews]
    _, again = played("transit")
    assert [one.value for one in every(again, [topic])] == [one.value for one in enriched]


def test_another_meaning_is_another_topic_and_another_set() -> None:
    """Nothing that was derived otherwise is taken for it."""
    pytest.importorskip("sklearn")
    for at in ("ingest", "transit"):
        one = load_text(text(at).encode(), "a.py")
        other = load_text(text(at).replace("> 3, 1", "> 4, 1").encode(), "a.py")
        assert one.plan("buys").features.digest != other.plan("buys").features.digest
        assert (set(one.derived) != set(other.derived)) == (at == "transit")


def test_what_cannot_be_worked_out_is_refused_or_buried() -> None:
    """At the door by code, in transit as a dead letter: neither stops the others."""
    pytest.importorskip("sklearn")
    row = {"review_id": "x", "buyer": "b", "at": "2024-01-01T00:00:00Z", "words": "fine", "stars": 3}
    for at in ("ingest", "transit"):
        broken = text(at).replace('None if words is None else "de"', '1 // 0 if words == "boom" else "de"')
        broken = broken.replace('"nicht" in words', '"nicht" in (words or "")')
        file, log = load_text(broken.encode(), "bad.py"), MemoryLog()
        report = append(file, log, "review", [{**row, "words": "boom"}, {**row, "review_id": "y"}], now_ms=0)
        System(file, log, MemoryBlob(), Path(), time.perf_counter, len).drain()
        if at == "ingest":
            assert report.refused == {"row_failed": 1} and report.appended == 1
        else:
            (letter,) = [read(one, DeadLetter) for one in every(log, [DEAD])]
            assert letter.code == "row_failed" and letter.topic == "review" and "boom" not in letter.sample
            (topic,) = file.derived
            (one,) = every(log, [topic])
            assert file.derived[topic].event(one).review_id == "y"


def test_the_door_works_the_columns_out() -> None:
    """Whatever a producer says of them; and events from before they were derived have null."""
    pytest.importorskip("sklearn")
    file, log = load_text(text("ingest").encode(), "a.py"), MemoryLog()
    row = {
        "review_id": "x",
        "buyer": "b",
        "at": "2024-01-01T00:00:00Z",
        "words": "so bad",
        "stars": 3,
        "mood": 7,
    }
    append(file, log, "review", [row], now_ms=0)
    source = file.source("review")
    assert [source.event(one).mood for one in every(log, ["review"])] == [-1]
    assert "words" in source.pii and "mood" in source.pii and "stars" not in source.pii
    assert set(raw(source).columns) == {"review_id", "buyer", "at", "words", "stars"}
    plain = load_text(text("request").encode(), "a.py").source("review")
    old = plain.draft(plain.parse({k: v for k, v in row.items() if k != "mood"}))
    log.append([Draft("review", "b", 0, old.value, "old")])
    assert [source.event(one).mood for one in every(log, ["review"])] == [-1, None]


ASKED = PIPELINE.replace("missing, source", "derived, missing, source").replace(
    "yes = source(", 'asked = derived(ask, at="PLACE", far=ask.x.abs().clip(0, 2), big=ask.x > 1)\nyes = source('
).replace("usual_x = mean(ask.x, window=\"2d\")", 'usual_x = mean(asked.far, window="2d")')  # fmt: skip


@pytest.fixture(params=["ingest", "transit"])
def home(request: Any, tmp_path: Path) -> Home:
    """A home whose model was trained on what was derived."""
    place = request.param
    code = ASKED.replace("PLACE", place)
    if place == "ingest":
        code = code.replace("request=ask,", "request=asked,").replace("ask.z, asks", "asked.big, ask.z, asks")
    home = open_home(tmp_path, create=True)
    file = load_text(code.encode(), "asked.py")

    def train(order: Any) -> Any:
        return carry_out(order, home.log, home.blobs, time.perf_counter)

    system = System(file, home.log, home.blobs, home.path, time.perf_counter, train, sync=False)
    system.deploy(0)
    replay(system, itertools.islice(history(11), 700))
    yield home
    home.log.close()


def test_the_whole_loop_on_derived_columns(home: Home) -> None:
    """The request itself may be derived; predictions are made again to the bit."""
    file = home.file()
    assert registry(home.log).models["agree"].versions
    verified = Books(file, home.log, home.blobs).verify("agree")
    assert verified.predictions > 150 and verified.unequal == []
    said = [read(one, Prediction) for one in every(home.log, [predictions("agree")])]
    usual = [one.values[-1] for one in said]
    assert sum(value is not None and 0 <= value <= 2 for value in usual) > 100
    for one in said if not file.derived else ():
        record = home.log.read(["ask"], Position(n=one.position), limit=1)[0][0]
        assert one.values[1] == (unpack(record.value, dict)["x"] > 1)


MISTAKES = {
    "a place": ('at="ingest"', 'at="request"', "arguments", "use the expression itself"),
    "a name": ("n_words=tokens", "stars=tokens", "name_taken", "stars"),
    "another source's": ("lang=lang(review.words)", "lang=order.at.hour()", "not_a_row", "lang"),
    "a time": ("lang=lang(review.words)", "lang=review.at.coalesce(review.at)", "wrong_type", "lang"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told(mistake: str) -> None:
    """With its line."""
    pytest.importorskip("sklearn")
    old, new, code, mend = MISTAKES[mistake]
    whole = text("ingest")
    assert old in whole
    with pytest.raises(DefinitionError) as caught:
        load_text(whole.replace(old, new, 1).encode(), "bad.py")
    assert caught.value.code == code and mend in str(caught.value) and "line " in caught.value.where


def test_derived_under_faults(tmp_path: Path) -> None:
    """A stage in transit, and columns of the door, on a virtual clock with faults at random: every law holds."""
    for place in ("transit", "ingest"):
        path = tmp_path / f"{place}.py"
        path.write_text(ASKED.replace("PLACE", place))
        ground = schedule.ground(str(path))
        assert [run.broken for seed in range(1, 5) if (run := schedule.run(ground, seed)).broken] == []
