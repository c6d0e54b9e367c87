"""app: models share what memory they are given: who was asked longest ago goes, and comes again."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from penstock.app.home import Home, open_home
from penstock.app.models import Models
from penstock.app.pipeline import load
from penstock.model.forms import Form
from penstock.model.forms.linear import Linear
from penstock.model.pack import Model, dump
from penstock.record.codec import pack
from penstock.record.decisions import VERSIONS, draft
from penstock.release.registry import registry
from tests.faults.served import MODEL, PIPELINE, prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose champion has a form."""
    return prepare(tmp_path_factory.mktemp("budget"))


@pytest.fixture
def home(prepared: Path) -> Any:
    """It, open."""
    opened = open_home(prepared)
    yield opened
    opened.log.close()


class Wide:
    """A model without a form, that holds some memory."""

    def __init__(self, size: int, seed: int) -> None:
        self.data = np.full(size, seed, dtype=np.uint8)

    def predict_proba(self, x: Any) -> Any:
        """One number for all."""
        return np.full((len(x), 2), 0.5)


def versions(home: Home, n: int, **changed: Any) -> list[str]:
    """More versions of the champion's kind: their digests."""
    first = registry(home.log).models[MODEL].versions[1]
    made = []
    for i in range(n):
        form = Form("linear", pack(Linear([float(i)] * 4, 0.0, [0.0] * 4, True)))
        data = dump(Model(first.features, "binary", ["number"] * 4, {"seed": i, **changed}, None))
        more = {"digest": home.blobs.put(data), "form": home.blobs.put(pack(form)), "version": 100 + i}
        made.append(msgspec.structs.replace(first, **more))
    home.log.append([draft(VERSIONS, one, key=MODEL, t_ms=0) for one in made])
    return [one.digest for one in made]


def test_who_was_asked_longest_ago_goes(home: Home) -> None:
    """Sizes are summed up to the budget; what is asked stays, what went is loaded again and says the same."""
    a, b, c, d = versions(home, 4)
    gone = list[int]()
    models = Models(
        load(PIPELINE), home.log, home.blobs, home.path, most_bytes=300, size=lambda model, n: 100
    )
    models.gone = gone.append
    for digest in (a, b, c):
        models.get(digest)
    before = models.get(a)  # so that b was asked longest ago
    models.get(d)
    assert set(models.loaded) == {a, c, d} and gone == [1]
    again = models.get(b)
    assert set(models.loaded) == {a, b, d} and again.quick and models.get(a) is before
    models.size = lambda model, n: 1000  # one that is larger than all there is answers all the same, alone
    models.get(c)
    assert set(models.loaded) == {c} and sum(gone) == 5


def test_a_process_ends_with_the_last_use_of_its_model(home: Home) -> None:
    """What scores apart counts with its process; who is just asking it is answered before it goes."""
    (quick,) = versions(home, 1, other=True)
    first = registry(home.log).models[MODEL].versions[1]
    models = Models(load(PIPELINE), home.log, home.blobs, home.path, most_bytes=10 << 20)
    models._trained[first.digest] = msgspec.structs.replace(
        first, form="", form_kind=""
    )  # as if none had been found
    model = models.get(first.digest)
    apart: Any = model.apart
    pid = apart.asks.all[0].process.pid
    assert apart.memory() > models.most_bytes  # its interpreter alone is larger
    models.get(quick)
    assert set(models.loaded) == {quick} and Path(f"/proc/{pid}").exists()
    assert model.apart is not None and model.apart([[0.1, 1.0, 1.0, 0.0]])[0][1] == ""
    del model, apart
    gc.collect()
    until_s = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until_s:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


def test_the_memory_is_given_back(home: Home) -> None:
    """Of models that hold 40 MB each, no more stays with the process than the budget says."""
    held: list[Model] = []
    models = Models(load(PIPELINE), home.log, home.blobs, most_bytes=100 << 20)
    first = registry(home.log).models[MODEL].versions[1]

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20

    digests = [
        home.blobs.put(dump(Model(first.features, "binary", ["number"] * 4, Wide(40 << 20, i), None)))
        for i in range(6)
    ]
    before = resident()
    for digest in digests:
        held = [models.get(digest)]
    assert len(models.loaded) == 2 and held[0].predict is None
    assert resident() - before < 150
