"""loop: the client and the load at a file that is up: repeats are one request, made-up rows fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.cli import main
from penstock.client import Client
from tests.loop.test_up import Up


@pytest.fixture(scope="module")
def url(played: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a file that is up on a home with history."""
    one = Up(Path(shutil.copytree(played, tmp_path_factory.mktemp("client") / "home")))
    yield str(one.client.base_url)
    assert one.close() == 0


def test_the_same_id_is_the_same_request(url: str) -> None:
    """Asked again under its id, a request gets the answer that it had, whatever has come between."""
    with Client(url) as client:
        row = {"who": "w-again", "x": 2.0, "z": None}
        first = client.predict("agree", {**row, "ask_id": "again-1"}, id="ask_id")
        drawn = client.predict("agree", row, id="ask_id")
        assert client.predict("agree", {**row, "ask_id": "again-1"}, id="ask_id") == first
        assert (
            drawn.request_id != first.request_id == "again-1" and drawn.prediction_id != first.prediction_id
        )


def test_look_and_append(url: str) -> None:
    """Events that were appended are in the features that are looked up then."""
    with Client(url) as client:
        (before,) = client.look("agree", ["w-new"], names=["asks_1d"]).values
        assert client.predict("agree", {"who": "w-new", "x": 1.0, "z": 0.5}, id="ask_id").score is not None
        assert client.append("yes", [{"ask_id": "nobody", "at": "2026-01-01T00:00:00Z"}]).appended == 1
        (after,) = client.look("agree", ["w-new"], names=["asks_1d"]).values
        assert (before, after) == ([0], [1]) and client.health().ready


def test_made_up_rows_fit(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The load finds out what to send by itself, and every answer is right."""
    assert main(["load", url, "--model", "agree", "--rate", "50", "--for", "1s", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["answered"] == report["due"] == 50
