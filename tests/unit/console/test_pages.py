"""console: every page renders, of nothing and of much, from here alone, with personal columns hidden."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from penstock.app.home import Books, Views, open_home
from penstock.app.pipeline import load_text
from penstock.console import Sight, pages
from penstock.log.memory import MemoryBlob, MemoryLog
from penstock.record.decisions import (
    FAILURES,
    REFUSED,
    RELEASES,
    VERSIONS,
    Dataset,
    Failure,
    Profile,
    Refusal,
    Release,
    Version,
    draft,
    predictions,
)
from penstock.record.record import START

DATA = Dataset("t", 0, 1, START, 1, 1, "d")
VERSION = Version(
    "agree", 2, "d", "two", "", 0, DATA, DATA, "f", [], "c", "e", {}, 7, 1, {}, Profile(0, {}), ""
)

TEXT = (
    (Path(__file__).parents[2] / "crash" / "pipeline.py")
    .read_text()
    .replace("who: str = key()", "who: str = pii(key())")
    .replace("missing, source", "missing, pii, source")
)


def sight(log: Any, blobs: Any) -> Sight:
    """What the pages need, of a log."""
    file = load_text(TEXT.encode(), "pipeline.py")
    views = Views(file, log, blobs)
    rules = {name: [str(rule) for rule in plan.pipeline.watch] for name, plan in file.plans.items()}
    return Sight(log, blobs, views.status, views.registry, rules, Books(file, log, blobs).trace)


def get(one: Sight, path: str) -> httpx.Response:
    """A page."""
    app: Any = pages(one)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, follow_redirects=True)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def full(played: Path) -> Any:
    """A home with a history."""
    home = open_home(played)
    yield sight(home.log, home.blobs)
    home.log.close()


def test_refused_events_are_counted() -> None:
    """A record that speaks of several events counts as so many on the overview."""
    log = MemoryLog()
    for n in (3, 4):
        refusal = Refusal("ask", "wrong_type", "No number.", 0, n)
        log.append([draft(REFUSED, refusal, key="ask", t_ms=0)])
    row = '<td>ask</td><td>wrong_type</td><td class="n">7</td>'
    assert row in get(sight(log, MemoryBlob()), "/").text


def test_a_training_that_failed_is_shown() -> None:
    """On the overview while it is the newest, on the model's page for good, as text; a version after it ends the
    first, and neither says then that all is well of what is not."""
    log = MemoryLog()
    failure = Failure("one", "agree", 1, 0, "one_class", "All labels are <b>one</b>.")
    log.append([draft(FAILURES, failure, key="agree", t_ms=0)])
    page = sight(log, MemoryBlob())
    first = get(page, "/").text
    assert (
        "agree</a> failed, v1: All labels are &lt;b&gt;one&lt;/b&gt;." in first and "All is well" not in first
    )
    assert '<td class="bad">failed</td>' in get(page, "/models/agree").text
    (home,) = [page.status()["models"]["agree"]]
    assert home["failed"] == "v1: All labels are <b>one</b>."
    log.append([draft(VERSIONS, VERSION, key="agree", t_ms=1)])
    after = get(page, "/").text
    assert "failed" not in after and "All is well" in after
    assert '<td class="bad">failed</td>' in get(page, "/models/agree").text


def test_pages_of_nothing() -> None:
    """An empty log has an overview and a model, and says what is not there yet."""
    empty = sight(MemoryLog(), MemoryBlob())
    for path in ("/", "/models/agree", "/models/agree/predictions", "/static/style.css"):
        assert get(empty, path).status_code == 200, path
    for path in ("/models/other", "/predictions/nothing", "/models/agree/versions/1/report", "/nowhere"):
        answer = get(empty, path)
        assert answer.status_code == 404 and "Back to the overview" in answer.text, path


def test_pages_of_much(full: Sight) -> None:
    """Every page shows its matter, lets nothing in from outside, and forbids it by policy."""
    listed = get(full, "/models/agree/predictions").text
    prediction = re.findall(r'href="(/predictions/[^"]+)"', listed)[0]
    matter = {
        "/": "agree", "/models/agree": "Live loss by version", prediction: "What the features saw",
        "/models/agree/versions/1/report": "Calibration",
    }  # fmt: skip
    for path, words in matter.items():
        page = get(full, path)
        assert page.status_code == 200 and words in page.text, path
        assert page.text.replace("http://www.w3.org/2000/svg", "").count("http") <= page.text.count(
            "http-equiv"
        ), path
        assert "<script" not in page.text and "default-src 'none'" in page.headers["content-security-policy"]
    assert "style-src 'self'" in get(full, "/").headers["content-security-policy"]


def test_personal_columns_are_hidden(full: Sight) -> None:
    """The request's page masks what is tagged, also where it is the entity of a feature."""
    record = full.log.read([predictions("agree")], START, limit=900)[0][-1]
    page = get(full, f"/find?id={record.id}").text
    assert "•••" in page and "who-" not in page


def test_hostile_words_are_text(full: Sight) -> None:
    """What came from outside is never markup."""
    log = MemoryLog()
    evil = "<script>alert(1)</script>"
    log.append(
        [draft(RELEASES, Release("agree", 1, evil, "champion", 100, evil, evil, 0), key="agree", t_ms=0)]
    )
    page = get(
        msgspec.structs.replace(sight(log, MemoryBlob()), rules={"agree": [evil]}), "/models/agree"
    ).text
    assert "<script" not in page and "&lt;script&gt;" in page
