"""app: a changed file on an old log: the champion keeps its own features, a new version brings the new ones."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from penstock.app.append import append
from penstock.app.home import Books, open_home
from penstock.app.pipeline import load_text
from penstock.app.system import System, decide
from penstock.app.worker import in_process
from penstock.model import pack
from penstock.record.codec import millis, moment
from penstock.record.decisions import Decision, Prediction, predictions, read
from penstock.record.record import START
from penstock.release.registry import registry

PIPELINE = Path(__file__).parents[2] / "crash" / "pipeline.py"
CHANGED = (
    PIPELINE.read_text()
    .replace("usual_x = ", 'asks_2h = count(ask, window="2h")\nusual_x = ')
    .replace("asks_1d, usual_x]", "asks_1d, asks_2h, usual_x]")
)


def test_new_features_beside_old_ones(played: Path, tmp_path: Path) -> None:
    """Both are filled from the log, each version sees its own, and every prediction can be made again."""
    home = open_home(Path(shutil.copytree(played, tmp_path / "home")))
    old = registry(home.log).champion("agree")
    file = load_text(CHANGED.encode(), str(PIPELINE))
    assert file.plan("agree").features.digest != old.features
    system = System(file, home.log, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    system.deploy(0)
    last = moment(max(r.time_ms for r in home.log.read(["ask"], START, limit=10**6)[0]))

    def ask(name: str, hours: float) -> list[Prediction]:
        """Ask, and what every version said."""
        at = last + timedelta(hours=hours)
        append(
            file, home.log, "ask", [{"ask_id": name, "who": "who-1", "at": at, "x": 1.0, "z": 0.5}], now_ms=0
        )
        system.tick(millis(at))
        system.drain()
        found = [read(r, Prediction) for r in home.log.read([predictions("agree")], START, limit=10**6)[0]]
        return [one for one in found if one.request == name]

    (before,) = [one for one in ask("before", 1) if one.served]
    assert before.version == old.version and len(before.values) == 4
    decide(home.log, Decision("agree", "train", "ana", "new features", millis(last)))
    ask("between", 2)
    newest = max(registry(home.log).models["agree"].versions)
    assert registry(home.log).version(f"agree@v{newest}").features == file.plan("agree").features.digest
    decide(home.log, Decision("agree", "promote", "ana", "they are good", millis(last), newest))
    system.drain()
    said = {one.version: one for one in ask("after", 3)}
    assert said[newest].served and len(said[newest].values) == 5 and said[newest].values[3] == 1
    assert len(said[old.version].values) == 4  # the champion before scores on with its own features
    checked = Books(file, home.log, home.blobs).verify("agree")
    home.log.close()
    assert checked.unequal == [] and checked.predictions > 500


ODD = """
def oddly(model, x):
    return 1 - model.predict_proba(x)


agree = Pipeline("""
COMMENTED = PIPELINE.read_text() + "# the same in other words\n"
OTHER_PREDICT = (
    PIPELINE.read_text().replace("\nagree = Pipeline(", ODD).replace("fit=fit,", "fit=fit, predict=oddly,")
)


@pytest.mark.parametrize("text", [COMMENTED, OTHER_PREDICT], ids=["comment", "predict"])
def test_a_model_keeps_the_code_it_was_trained_by(
    text: str, played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same features in a changed file the champion is found, and scores as before; all can be made again."""
    home = open_home(Path(shutil.copytree(played, tmp_path / "home")))
    old = registry(home.log).champion("agree")
    monkeypatch.delitem(sys.modules, f"penstock_file_{old.code[:16]}", raising=False)  # as in a new process
    file = load_text(text.encode(), str(PIPELINE))
    assert file.code != old.code and file.plan("agree").features.digest == old.features
    system = System(file, home.log, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    system.deploy(0)
    last = home.log.read(["ask"], START, limit=10**6)[0][-1].time_ms
    row = {"ask_id": "now", "who": "who-1", "at": moment(last), "x": 1.0, "z": 0.5}
    append(file, home.log, "ask", [row], now_ms=0)
    system.drain()
    found = [read(r, Prediction) for r in home.log.read([predictions("agree")], START, limit=10**6)[0]]
    (said,) = [one for one in found if one.request == "now" and one.served]
    model = pack.load(home.blobs.get(old.digest))
    assert said.digest == old.digest and said.score == pack.score(model, [said.values])[0]
    checked = Books(file, home.log, home.blobs).verify("agree")
    home.log.close()
    assert checked.unequal == [] and checked.predictions > 500
