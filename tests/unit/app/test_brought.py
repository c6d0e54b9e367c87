"""app: a model of XGBoost from its training to its answers: by its form here, by its library apart."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from penstock.app.home import Books, Home, open_home
from penstock.app.models import Models
from penstock.app.pipeline import File, load_text
from penstock.app.replay import replay
from penstock.app.scoring.apart import Apart
from penstock.app.scoring.order import Scoring
from penstock.app.scoring.piped import house
from penstock.app.scoring.pool import Pool
from penstock.app.system import System
from penstock.app.train import carry_out
from penstock.model.pack import score
from penstock.record.decisions import Version
from penstock.release.registry import registry
from tests.crash.player import history
from tests.unit.app.asker import said

PIPELINE = Path(__file__).parents[2] / "crash" / "pipeline.py"
FIT = """
def fit(data):
    return xgboost.XGBClassifier(n_estimators=20, max_depth=3, n_jobs=1).fit(data.x, data.y)
"""
FILE = PIPELINE.read_text().replace("import numpy as np", "import numpy as np\nimport xgboost")
FILE = FILE.replace("\n\nagree = ", f"\n{FIT}\n\nagree = ")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, File, Version]:
    """A home with a version by XGBoost."""
    home = open_home(tmp_path_factory.mktemp("brought"), create=True)
    file = load_text(FILE.encode(), str(PIPELINE))

    def train(order: Any) -> Version:
        return carry_out(order, home.log, home.blobs, time.perf_counter)

    system = System(file, home.log, home.blobs, home.path, time.perf_counter, train, sync=False)
    system.deploy(0)
    replay(system, itertools.islice(history(11), 900))
    return home, file, registry(home.log).models["agree"].versions[1]


def test_a_version_has_a_form_and_its_librarys_bytes(played: tuple[Home, File, Version]) -> None:
    """What it said is made again, by its form; nothing in its blob is a pickle."""
    home, file, version = played
    assert version.form_kind == "onnx" and version.form_difference < 1e-6 and version.form_rows > 100
    data = home.blobs.get(version.digest)
    assert b"xgboost" in data and b"base_score" in data and b"XGBClassifier" not in data
    verified = Books(file, home.log, home.blobs).verify("agree")
    assert verified.unequal == [] and verified.predictions > 100


def test_its_library_says_the_same_apart(played: tuple[Home, File, Version]) -> None:
    """The scoring process opens the bytes; missing values go the same way."""
    home, file, version = played
    rows = [
        [x, z, n, None if n == 3 else x / 2] for x in (-1.5, 0.0, 0.3) for z in (None, 0.5) for n in (1, 3)
    ]
    here = score(Models(file, home.log, home.blobs).get(version.digest), rows)
    order = Scoring(str(home.path), version.digest, version.code, str(PIPELINE), "agree")
    apart = Apart(Pool(house(order)))
    try:
        there = said(apart, rows)
    finally:
        apart.close()
    assert all(
        a is not None and b is not None and abs(a - b) < 1e-6 for a, (b, _) in zip(here, there, strict=True)
    )
    assert len(set(here)) > 3
