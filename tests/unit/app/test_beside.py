"""app: definitions in modules beside the pipeline file: the same as in it, and deployed with it."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import pytest

from penstock.app.beside import gathered, opened
from penstock.app.home import open_home
from penstock.app.pipeline import load, load_text
from penstock.app.replay import replay
from penstock.app.system import System
from penstock.app.worker import in_process, rebuild
from penstock.record.errors import DefinitionError
from penstock.release.registry import registry
from tests.crash.player import history

EVENTS = """
from datetime import datetime

from penstock import Event, count, key, mean, source


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float
    z: float | None


ask = source(Ask, id="ask_id", time="at")
yes = source("yes", key="ask_id", time="at")
asks_1d = count(ask, window="1d")
usual_x = mean(ask.x, window="2d")
"""
SCALE = """
from . import numbers


def scaled(x):
    return x * numbers.BY
"""
FIT = """
import numpy as np


class Line:
    def __init__(self, weights):
        self.weights = weights

    def predict_proba(self, x):
        return 1 / (1 + np.exp(-(np.nan_to_num(x) @ self.weights)))


def fit(data):
    weights = np.zeros(data.x.shape[1])
    for _ in range(50):
        weights += 0.3 * np.nan_to_num(data.x).T @ (data.y - 0.5) / len(data.y)
    return Line(weights)
"""
PIPELINE = """
import lines
import shared.asks as asks
from penstock import Pipeline, better, every, feature
from shared.asks import usual_x
from shared.maths import scale


@feature
def big(x):
    return scale.scaled(x)


agree = Pipeline(
    request=asks.ask, label=asks.yes, wait="12h", features=[asks.ask.x, asks.asks_1d, usual_x, big], fit=lines.fit,
    train=every("2d", window="3d", at_least=60), gate=better("log_loss"),
)
"""
FILES = {
    "pipeline.py": PIPELINE, "lines.py": FIT, "shared/__init__.py": "", "shared/asks.py": EVENTS,
    "shared/maths/__init__.py": "", "shared/maths/scale.py": SCALE, "shared/maths/numbers.py": "BY = 2\n",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline file, with modules beside it."""
    for name, text in FILES.items():
        path = tmp_path / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "code"


def test_where_a_definition_lies_does_not_matter(folder: Path) -> None:
    """Features by name, and behind a module's name, are the same set as in one file; the sources are known."""
    apart = load(folder / "pipeline.py")
    one = EVENTS + PIPELINE.replace("import lines\nimport shared.asks as asks\n", "").replace("asks.a", "a")
    one = (
        one.replace("asks.yes", "yes")
        .replace("lines.fit", "len")
        .replace("from shared.asks import usual_x\n", "")
    )
    whole = load_text(
        one.replace("from shared.maths import scale\n", "").replace("scale.scaled(x)", "x * 2").encode(),
        "one.py",
    )
    mine, other = apart.plan("agree").features, whole.plan("agree").features
    assert mine.names == other.names == ("x", "asks_1d", "usual_x", "big")
    assert set(apart.sources) == {"ask", "yes"}
    assert {n: mine.meanings[n] for n in mine.names[:3]} == {n: other.meanings[n] for n in other.names[:3]}
    assert "cards" not in sys.modules and "lines" not in sys.modules


def test_all_that_is_imported_is_kept(folder: Path) -> None:
    """The modules of the folder, and what those import; none of anywhere else, and of a plain file nothing."""
    bundle = opened(gathered(folder / "pipeline.py"))
    assert bundle.text.decode() == PIPELINE and set(bundle.modules) == set(FILES) - {"pipeline.py"}
    assert gathered(folder / "shared" / "asks.py") == EVENTS.encode()


def test_what_a_module_holds_is_part_of_the_meaning(folder: Path) -> None:
    """Another number behind a function's function is another feature; another comment is none; and the old
    text still means what it meant."""
    path = folder / "pipeline.py"
    before, text = load(path), gathered(path)
    (folder / "shared/maths/numbers.py").write_text("# twice\nBY = 2\n")
    remarked = load(path)
    (folder / "shared/maths/numbers.py").write_text("BY = 3\n")
    after = load(path)
    digests = [
        one.plan("agree").features.digest for one in (before, remarked, after, load_text(text, str(path)))
    ]
    assert digests[0] == digests[1] == digests[3] != digests[2]
    assert len({before.code, remarked.code, after.code}) == 3


def test_a_version_is_rebuilt_from_the_modules_that_it_was_trained_with(folder: Path, tmp_path: Path) -> None:
    """Trained in a process of its own; then the folder is another, and the same bytes come out all the same."""
    path = folder / "pipeline.py"
    home = open_home(tmp_path / "home", create=True)
    system = System(load(path), home.log, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    system.deploy(0)
    replay(system, itertools.islice(history(11), 700))
    (version, *_) = registry(home.log).models["agree"].versions.values()
    for name in FILES:
        (folder / name).write_text("raise RuntimeError\n")
    assert rebuild(home.path, home.log, str(path), version, lambda done, total: None) == version.digest
    assert home.file().code == version.code
    home.log.close()


def test_a_mistake_in_a_module_is_told(folder: Path) -> None:
    """With the file and the line where it lies."""
    (folder / "shared/asks.py").write_text(EVENTS.replace('window="2d"', 'window="2"'))
    with pytest.raises(DefinitionError) as caught:
        load(folder / "pipeline.py")
    line = 1 + EVENTS.splitlines().index('usual_x = mean(ask.x, window="2d")')
    assert caught.value.where == f"{folder / 'shared/asks.py'}, line {line}"
    (folder / "shared/asks.py").unlink()
    with pytest.raises(DefinitionError, match="ModuleNotFoundError"):
        load(folder / "pipeline.py")
