"""app: a model is loaded once, beside what answers; who is in a hurry waits for none."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from penstock.app.home import open_home
from penstock.app.models import Models, Slow
from penstock.app.pipeline import load
from penstock.release.registry import registry
from tests.faults.served import MODEL, PIPELINE, prepare


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose champion has a form."""
    return prepare(tmp_path_factory.mktemp("models"))


def test_a_version_is_fetched_beside_what_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is here it is not ready, and who is in a hurry is not kept; it is made once, whoever asks."""
    opened = open_home(home)
    version = registry(opened.log).models[MODEL].versions[1]
    models, made, gate = (
        Models(load(PIPELINE), opened.log, opened.blobs, home),
        list[str](),
        threading.Event(),
    )
    kept = models._made

    def slowly(digest: str) -> Any:
        made.append(digest)
        assert gate.wait(5)
        return kept(digest)

    monkeypatch.setattr(models, "_made", slowly)
    assert not models.ready(version.digest) and not models.ready(version.digest)
    assert models.is_quick(version.digest)  # it keeps nobody waiting: those that are here answer without it
    with models.in_a_hurry(), pytest.raises(Slow):
        models.get(version.digest)
    found: list[Any] = []
    waits = threading.Thread(target=lambda: found.append(models.get(version.digest)))
    waits.start()
    time.sleep(0.05)
    gate.set()
    waits.join()
    assert made == [version.digest] and found[0].quick and models.ready(version.digest)
    with models.in_a_hurry():
        assert models.get(version.digest) is found[0]
    opened.log.close()


def test_without_a_home_it_is_loaded_when_it_is_asked_for(home: Path) -> None:
    """As in a replay, where nothing happens beside."""
    opened = open_home(home)
    version = registry(opened.log).models[MODEL].versions[1]
    models = Models(load(PIPELINE), opened.log, opened.blobs)
    assert models.ready(version.digest) and models.is_quick(version.digest)
    assert models.get(version.digest).quick and not models.is_quick("0" * 64)
    opened.log.close()
