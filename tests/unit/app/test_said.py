"""app: a model that reads what another one said: from the log, as of its own request, the same in every replay."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import pytest

from penstock.app.append import append
from penstock.app.home import Books, Home, open_home
from penstock.app.pipeline import load_text
from penstock.app.replay import replay
from penstock.app.simulation import schedule
from penstock.app.system import System
from penstock.app.train import carry_out
from penstock.dataset.rows import rows
from penstock.record.decisions import Prediction, predictions, read
from penstock.record.errors import DefinitionError, NotFound
from penstock.record.record import START
from penstock.release.registry import registry
from tests.crash.player import history

PIPELINE = Path(__file__).parents[2] / "crash" / "pipeline.py"
TWO = (
    PIPELINE.read_text().replace("missing, source", "missing, predictions, last, source")
    + """
risk = predictions("agree")
said_before = last(risk.score, where=risk.served, entity=("entity", "who"))
said_1d = mean(risk.score, where=risk.served & risk.score.is_null() == False, window="1d", entity=("entity", "who"))
answers_1d = count(risk, window="1d", entity=("entity", "who"))

above = Pipeline(
    request=ask, label=yes, wait="12h", features=[ask.x, said_before, said_1d, answers_1d], fit=fit,
    train=every("2d", window="3d", at_least=120), gate=better("log_loss"),
    release=steps(shadow="3h", canary=(50,), hold="3h", guard="6h", flips=1.0, at_least=20),
)
"""
)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which one model has read what another said."""
    home = open_home(tmp_path_factory.mktemp("two"), create=True)
    file = load_text(TWO.encode(), str(PIPELINE))

    def train(order):
        return carry_out(order, home.log, home.blobs, time.perf_counter)

    system = System(file, home.log, home.blobs, home.path, time.perf_counter, train, sync=False)
    system.deploy(0)
    replay(system, itertools.islice(history(11), 1500))
    return home


def said(home: Home, model: str) -> list[tuple[int, Prediction]]:
    """What a model said, with the places."""
    found, _ = home.log.read([predictions(model)], START, limit=10**6)
    return [(record.position, read(record, Prediction)) for record in found]


def test_the_values_are_what_was_said(two: Home) -> None:
    """The last served score that lies below the request on the log, of its entity, and no later one."""
    below = said(two, "agree")
    checked = 0
    for _, one in said(two, "above"):
        mine = [
            (other.t_ms, place, other.score)
            for place, other in below
            if other.served and other.entity == one.entity and place < one.o.n and other.t_ms <= one.t_ms
        ]
        assert one.values[1] == (max(mine)[2] if mine else None)
        checked += bool(mine)
    assert checked > 100


def test_they_are_made_again(two: Home) -> None:
    """Verify makes every prediction again; training rows are what the requests saw when they were answered."""
    file = load_text(TWO.encode(), str(PIPELINE))
    for model in ("agree", "above"):
        verified = Books(file, two.log, two.blobs).verify(model)
        assert verified.unequal == [] and verified.predictions > 300
    features = file.plan("above").features
    made = {
        row.request: row.values
        for row in rows(two.log, features, "above", o=two.log.end(), from_ms=-sys.maxsize)
    }
    seen = [one for _, one in said(two, "above") if one.served and one.request in made]
    assert len(seen) > 100 and all(made[one.request] == one.values for one in seen)
    assert registry(two.log).models["above"].versions


def test_nobody_else_writes_there(two: Home) -> None:
    """The topic is no source of the file, so that no door and no made-up history reaches it."""
    file = load_text(TWO.encode(), str(PIPELINE))
    assert set(file.sources) == {"ask", "yes"}
    with pytest.raises(NotFound):
        append(file, two.log, "agree.predictions", [{"request": "x"}], now_ms=0)
    with pytest.raises(DefinitionError, match="Penstock's own"):
        load_text(TWO.replace('source("yes"', 'source("above.predictions"').encode(), "bad.py")


WRONG = {
    "another's name": ('predictions("agree")', 'predictions("agre")', "unknown_model"),
    "its own answers": ('predictions("agree")', 'predictions("above")', "cycle"),
    "as a request": ("request=ask, label", "request=risk, label", "not_a_source"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_told(mistake: str) -> None:
    """A model that is not there, one's own answers, and answers where events belong."""
    old, new, code = WRONG[mistake]
    with pytest.raises(DefinitionError) as caught:
        load_text(TWO.replace(old, new, 1).encode(), "bad.py")
    assert caught.value.code == code


def test_of_another_file() -> None:
    """Where a model is elsewhere, its topic is read as it is."""
    text = TWO.replace('predictions("agree")', 'predictions("other", elsewhere=True)')
    assert "other.predictions" in load_text(text.encode(), "good.py").plan("above").features.topics


APART = (
    TWO.replace(
        "yes = source(",
        """
class Order(Event):
    order_id: str
    who: str = key()
    at: datetime
    x: float


order = source(Order, id="order_id", time="at")
paid = source("paid", key="order_id", time="at")
yes = source(""",
        1,
    )
    .replace("request=ask, label=yes", "request=order, label=paid")
    .replace("[ask.x, said", "[order.x, said")
)


def test_under_faults(tmp_path: Path) -> None:
    """On a virtual clock with faults at random, stages that fall behind and come again: every law holds."""
    path = tmp_path / "two.py"
    path.write_text(APART)
    ground = schedule.ground(str(path))
    assert [run.broken for seed in range(1, 5) if (run := schedule.run(ground, seed)).broken] == []
