"""console: the page of a feature set: definitions, lineage, values, age and size; of nothing, and of hostile words."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.app.home import Books, open_home
from penstock.app.pipeline import load_text
from penstock.console import Sight
from penstock.console.features import ages, found_by, state, view
from penstock.console.tail import newest
from penstock.feature import Fold
from penstock.log.memory import MemoryBlob, MemoryLog
from penstock.record.decisions import TICKS, Tick, draft
from penstock.record.record import START, Draft, Position
from penstock.release.registry import Entry
from tests.unit.console.test_pages import TEXT, get, sight

DESCRIBED = (
    TEXT.replace('asks_1d = count(ask, window="1d")', 'asks_1d = count(ask, window="1d").described(ABOUT)')
    .replace("ABOUT", '"how <b>busy</b> somebody is", owner="ana & co", tags=("<i>hot</i>",)')
)  # fmt: skip


def with_sets(one: Sight, books: Books) -> Sight:
    """The same with the feature sets of its models."""
    return msgspec.structs.replace(one, sets={name: books.sets(name) for name in books.plans})


@pytest.fixture(scope="module")
def full(played: Path) -> Iterator[tuple[Sight, str]]:
    """A home with a history, and the digest of its only set."""
    home = open_home(played)
    books = Books(load_text(TEXT.encode(), "pipeline.py"), home.log, home.blobs)
    yield with_sets(sight(home.log, home.blobs), books), next(iter(books.sets("agree")))
    home.log.close()


def test_the_page_shows_all_of_it(full: tuple[Sight, str]) -> None:
    """Every definition, where they come from, values, versions, age and state; linked from the overview."""
    one, digest = full
    assert f'href="/features/agree/{digest[:12]}"' in get(one, "/").text
    assert f'href="/features/agree/{digest[:12]}"' in get(one, "/models/agree").text
    page = get(one, f"/features/agree/{digest[:12]}")
    text = page.text.replace("&#34;", '"')
    assert page.status_code == 200 and digest in text
    for word in ("ask.x", 'count(ask, window="1d")', 'mean(ask.x, window="2d")', "From events to features", "champion",
                 "every value equal", "ask by who", "by who"):  # fmt: skip
        assert word in text, word
    assert text.count("<svg") == 1 + 4 + 4 + 1  # lineage, spreads, means, and one column has missing values
    assert "default-src 'none'" in page.headers["content-security-policy"] and "<script" not in text
    assert " style=" not in text and text.replace("http://www.w3.org/2000/svg", "").count("http") == 0


def test_values_are_counted_in_the_cells_of_training(full: tuple[Sight, str]) -> None:
    """The shares of the newest values and of the training rows each are a whole; a null is missing, in no cell."""
    one, digest = full
    features = one.sets["agree"][digest]
    entry = one.registry().models["agree"]
    shown = view(one.log, "agree", features, entry, [], one.log.end())
    assert [line.name for line in shown["lines"]] == list(features.names) and shown["rows"] > 100
    for line in shown["lines"]:
        now, before = (
            sum(float(n) for n in re.findall(pattern, str(line.now)))
            for pattern in (r": ([\d.]+)%, in", r"training ([\d.]+)%")
        )
        assert abs(now - 100) < 1 and abs(before - 100) < 1, line.name
    gone = {line.name: line.missing_now for line in shown["lines"]}
    assert gone["x"] == 0 and 0.2 < gone["z"] < 0.5


def test_the_state_is_that_of_the_fold(full: tuple[Sight, str]) -> None:
    """Events and bytes are those of the answering stage's checkpoint."""
    one, digest = full
    features = one.sets["agree"][digest]
    found = state(one.log, "agree", features)
    assert found is not None
    saved: Any = msgspec.msgpack.decode(one.log.load("predict.agree").state)["folds"][digest]
    assert found.size_bytes == len(saved)
    told = {each.series: each.events for each in found.series}
    assert told == Fold.load(features, saved).sizes() and sum(told.values()) > 100


def test_age_is_that_of_the_newest_folded_event() -> None:
    """What lies beyond the stage's position waits, and makes nothing younger."""
    log = MemoryLog()
    features = load_text(TEXT.encode(), "pipeline.py").plan("agree").features
    assert [(one.topic, one.position, one.age_ms) for one in ages(log, features, START)] == [
        ("ask", None, None)
    ]
    drafts = [Draft("ask", "w", t_ms, b"", f"a{t_ms}") for t_ms in (1000, 5000, 3000, 9000)]
    log.append([*drafts, draft(TICKS, Tick(10_000), key="", t_ms=10_000)])
    (one,) = ages(log, features, Position(n=3))
    assert (one.position, one.t_ms, one.age_ms, one.waiting) == (2, 3000, 7000, 1)


def test_the_newest_are_found_from_the_end() -> None:
    """However far back they lie, and no more than were asked for."""
    log = MemoryLog()
    log.append([Draft("a", "", i, b"", f"{i}") for i in range(5)])
    log.append([Draft("b", "", i, b"", f"{i}") for i in range(3000)])
    assert [record.id for record in newest(log, "a", 3)] == ["2", "3", "4"]
    assert [record.id for record in newest(log, "a", 9)] == ["0", "1", "2", "3", "4"]
    assert [record.id for record in newest(log, "a", 2, Position(n=4))] == ["2", "3"]
    assert newest(log, "c", 2) == [] and len(newest(log, "b", 2500)) == 2500


def test_a_page_of_nothing_and_of_hostile_words() -> None:
    """An empty log has the page; what people say of a feature is text, wherever it stands."""
    log, blobs = MemoryLog(), MemoryBlob()
    file = load_text(DESCRIBED.encode(), "pipeline.py")
    one = with_sets(sight(log, blobs), Books(file, log, blobs))
    digest = file.plan("agree").features.digest
    text = get(one, f"/features/agree/{digest[:12]}").text
    assert (
        "how &lt;b&gt;busy" in text
        and "ana &amp; co" in text
        and "<i>hot" not in text
        and "no data yet" in text
    )
    for path in (
        f"/features/agree/{digest[:6]}",
        "/features/agree/0123456789ab",
        f"/features/other/{digest[:12]}",
    ):
        assert get(one, path).status_code == 404, path
    assert found_by(one.sets["agree"], digest) is not None
    assert view(log, "agree", file.plan("agree").features, Entry(), [], START)["rows"] == 0


def test_the_comparison_says_so_where_it_found_something(played: Path, tmp_path: Path) -> None:
    """A home whose comparison found an unequal value shows it on the page."""
    home = open_home(Path(shutil.copytree(played, tmp_path / "home")))
    books = Books(load_text(TEXT.encode(), "pipeline.py"), home.log, home.blobs)
    digest = next(iter(books.sets("agree")))
    kept = home.log.load("consistency.agree", claim=True)
    saved = msgspec.msgpack.decode(kept.state)
    saved["sets"][digest]["features"] = {"x": {"mismatch": 1}}
    from penstock.log import Commit

    home.log.commit(Commit("consistency.agree", kept.epoch, kept.position, [], msgspec.msgpack.encode(saved)))
    one = with_sets(sight(home.log, home.blobs), books)
    assert "1 features with unequal values" in get(one, f"/features/agree/{digest[:12]}").text
    home.log.close()
