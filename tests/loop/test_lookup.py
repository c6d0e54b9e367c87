"""loop: on a file that is up: features looked up by a stranger's client, events taken back, bounds that are met."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.app.home import open_home
from penstock.dataset.rows import Row, rows
from penstock.record.decisions import Prediction, predictions, read
from penstock.record.record import Position
from tests.loop.test_up import PIPELINE, Up, infer, output, penstock, until


@pytest.fixture(scope="module")
def up(played: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A file that is up on a home with history."""
    one = Up(Path(shutil.copytree(played, tmp_path_factory.mktemp("look") / "home")))
    yield one
    assert one.close() == 0


def look(up: Up, *entities: Any, status: int = 200, **more: Any) -> Any:
    """A look-up of what needs no column but who."""
    asked = {"features": ["asks_1d", "usual_x"], **more, "entities": entities}
    answer = up.client.post("/v2/features/agree", json=asked)
    assert answer.status_code == status, answer.text
    return answer.json()


def said(up: Up, answer: httpx.Response) -> Prediction:
    """The prediction behind an answer."""
    home = open_home(Path(up.home))
    record = home.log.find(predictions("agree"), output(answer, "prediction_id"))
    home.log.close()
    assert record is not None
    return read(record, Prediction)


def trained_on(up: Up, o: int) -> list[Row]:
    """The rows of a training at a position."""
    home = open_home(Path(up.home))
    found = rows(home.log, home.file().plan("agree").features, "agree", o=Position(n=o), from_ms=0)
    home.log.close()
    return found


def test_an_event_is_seen_at_once(up: Up) -> None:
    """What was appended counts in the next look-up, whose O lies beyond it; repeats and strangers have their rows."""
    infer(up.client, "looked", 2.0, "looked-1")
    infer(up.client, "looked", 4.0, "looked-2")
    found = look(up, {"who": "looked"}, "nobody", {"who": "looked"}, {"who": None})
    assert found["values"] == [[2, 3.0], [0, None], [2, 3.0], [0, None]] and found["odd"] == []
    assert found["names"] == ["asks_1d", "usual_x"]
    assert until(lambda: 0 <= look(up, "nobody")["age_ms"] < 10_000)
    assert found["o"] <= up.client.get("/status").json()["end"]


def test_the_past_is_the_logs(up: Up) -> None:
    """A time of the history, and an older position, give what was so then; by hand it is the same."""
    infer(up.client, "then", 1.0, "then-1")
    before = look(up, "then")
    infer(up.client, "then", 5.0, "then-2")
    assert look(up, "then", t=before["t"], o=before["o"]) == before
    assert look(up, "then")["values"] == [[2, 3.0]]
    old = look(up, *[f"who-{i}" for i in range(20)], t="2024-01-06T12:00:00Z")
    assert sum(row[0] for row in old["values"]) > 50
    by_hand = penstock(
        "features", "get", str(PIPELINE), "--home", up.home, "--t", "2024-01-06T12:00Z", "--o", str(old["o"]),
        "--json", "--feature", "asks_1d", "--feature", "usual_x",
        *[word for i in range(20) for word in ("--entity", f"who=who-{i}")],
    )  # fmt: skip
    assert by_hand.returncode == 0 and json.loads(by_hand.stdout) == old


def test_what_is_wrong_is_told(up: Up) -> None:
    """Each refusal is counted like any other, and shows nobody's values."""
    for asked, status, code in (
        ({"features": []}, 422, "missing_column"),
        ({"features": ["ask_1d"]}, 422, "unknown_feature"),
        ({"o": 10**9}, 422, "position"),
        ({"o": 2**70}, 422, "position"),
        ({"t": 2**60}, 422, "wrong_type"),
    ):
        assert look(up, {"who": "secret"}, status=status, **asked)["code"] == code
    told = look(up, {"whom": "secret"}, status=422)
    assert 'did you mean "who"' in told["error"] and "secret" not in told["error"]
    metrics = up.client.get("/metrics").text
    assert 'penstock_since_start_answers_refused{code="unknown_feature",status="422"}' in metrics


def test_the_sets_are_listed(up: Up) -> None:
    """Each with the digest that answers carry, what it needs and how it is defined; a digest's beginning finds it."""
    (one,) = up.client.get("/v2/features").json()["sets"]
    assert (one["name"], one["current"], one["columns"]) == ("agree", True, ["who", "x", "z"])
    assert {f["name"]: f["text"] for f in one["features"]}["asks_1d"] == 'count(ask, window="1d")'
    asked = {"entities": ["w1"], "features": ["asks_1d"]}
    assert up.client.post(f"/v2/features/{one['digest'][:10]}", json=asked).json()["digest"] == one["digest"]


def test_an_event_taken_back_is_gone_from_then_on(up: Up) -> None:
    """Look-ups and predictions change from that position on; what was said before, and old training rows, do not."""
    end = up.client.get("/status").json()["end"]
    before = trained_on(up, end)
    first = infer(up.client, "gone", 2.0, "gone/1")
    second = infer(up.client, "gone", 4.0, "gone/2")
    assert said(up, second).values[2:] == [1, 2.0] and look(up, "gone")["values"] == [[2, 3.0]]
    answer = up.client.delete("/events/ask/gone%2F1")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["position"] == said(up, first).position and not told["repeated"]
    assert look(up, "gone")["values"] == [[1, 4.0]]
    assert look(up, "gone", o=told["gone_from"])["values"] == [[2, 3.0]]
    assert look(up, "gone", o=told["gone_from"] + 1)["values"] == [[1, 4.0]]
    third = infer(up.client, "gone", 8.0, "gone/3")
    assert said(up, third).values[2:] == [1, 4.0]
    again = up.client.delete("/events/ask/gone%2F1").json()
    assert again == {**told, "repeated": True}
    old = [row.request for row in before][-5:]
    by_hand = penstock("retract", str(PIPELINE), "ask", *old, "--home", up.home, "--json")
    assert by_hand.returncode == 0 and [one["id"] for one in json.loads(by_hand.stdout)] == old
    assert trained_on(up, up.client.get("/status").json()["end"])[: len(before)] == before
    verify = penstock("verify", "--home", up.home)
    assert verify.returncode == 0 and " 0 unequal" in verify.stdout, verify.stderr


def test_what_cannot_be_taken_back(up: Up) -> None:
    """An id that is not there, a topic that is none, and one whose events have none."""
    for path, status, code in (
        ("ask/none", 404, "unknown_id"), ("aks/0-1", 404, "unknown_topic"), ("yes/0-1", 422, "no_id"),
        ("agree.predictions/x", 404, "unknown_topic"),
    ):  # fmt: skip
        answer = up.client.delete(f"/events/{path}")
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert penstock("retract", str(PIPELINE), "ask", "none", "--home", up.home).returncode == 2
