"""app: upkeep: what retention lets go, what holds it back, and that what is promised of the rest still holds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.app import upkeep
from penstock.app.home import Books, Home, open_home
from penstock.app.pipeline import File, load, load_text
from penstock.app.upkeep import due, newest, turn
from penstock.app.worker import rebuild
from penstock.dataset.kept import Retained, cuts, horizon_ms
from penstock.dataset.rows import rows
from penstock.log.upkeep.doctor import examine, health
from penstock.log.upkeep.seal import seal
from penstock.record.decisions import RETENTION, TICKS, read
from penstock.record.errors import DefinitionError
from penstock.record.record import START
from penstock.release.registry import registry

TEXT = (Path(__file__).parents[2] / "crash" / "pipeline.py").read_text()
DECLARED = 'source(Ask, id="ask_id", time="at"'
DAY_MS = 86_400_000


def kept(keep: str) -> File:
    """The pipeline of the played home whose requests are kept for so long."""
    return load_text(TEXT.replace(DECLARED, f"{DECLARED}, keep={keep}").encode(), "pipeline.py")


@pytest.fixture
def home(played: Path, tmp_path: Path) -> Iterator[Home]:
    """A copy of the played home."""
    shutil.copytree(played, tmp_path / "home")
    opened = open_home(tmp_path / "home")
    yield opened
    opened.log.close()


def test_what_is_old_goes_and_is_told(home: Home) -> None:
    """Events beyond their age go in the order of the log; the record of it stands; the newer ones stay."""
    file, before = kept('"4d"'), home.log.count("ask")
    now_ms = read(newest(home.log, TICKS), object)["t_ms"]  # type: ignore[arg-type, index]
    (cut,) = due(file, home)
    assert home.log.count("ask") == before and cut.records > 300 and not cut.held
    done = turn(file, home, now_ms)
    assert done.cuts == [cut] and home.log.count("ask") == before - cut.records
    (told,) = home.log.read([RETENTION], START)[0]
    assert read(told, Retained).records == cut.records and cuts(home.log)["ask"] == cut.before_ms
    left = home.log.read(["ask"], START, limit=10_000)[0]
    assert max(r.time_ms for r in left[:1]) >= now_ms - 4 * DAY_MS - 3_600_000
    assert due(file, home)[0].records == 0 and list(examine(home.log)) == []


def test_predictions_and_versions_outlive_their_events(home: Home) -> None:
    """What looks back to dropped events is counted as beyond, nothing is unequal, and an old version is
    rebuilt to the same bytes from its sealed rows."""
    file = kept('"4d"')
    books = Books(load(Path(__file__).parents[2] / "crash" / "pipeline.py"), home.log, home.blobs)
    before = books.verify("agree")
    turn(file, home, 0)
    after = books.verify("agree")
    assert before.beyond == 0 and before.unequal == after.unequal == []
    assert after.predictions == before.predictions and 0 < after.beyond < after.predictions
    first = registry(home.log).models["agree"].versions[1]
    path = str(Path(__file__).parents[2] / "crash" / "pipeline.py")
    assert rebuild(home.path, home.log, path, first, lambda done, total: None) == first.digest


def test_rows_that_look_back_to_what_is_gone_are_left_out(home: Home) -> None:
    """A training set after retention holds no row that is other than it was before."""
    file = kept('"4d"')
    features, end = file.plan("agree").features, home.log.end()
    before = {row.request: row for row in rows(home.log, features, "agree", o=end, from_ms=0)}
    turn(file, home, 0)
    after = rows(home.log, features, "agree", o=end, from_ms=0)
    assert 100 < len(after) < len(before)
    assert all(before[row.request] == row for row in after)
    assert min(row.t_ms for row in after) >= horizon_ms(home.log, features)


def test_a_size_is_kept_to_as_far_as_models_look_back(home: Home) -> None:
    """By size the oldest go first, and never what a model may still ask for."""
    some = due(kept('"50KB"'), home)[0]
    least = due(kept('"1B"'), home)[0]
    assert 0 < some.records < least.records < home.log.count("ask")
    age = due(kept('("4d", "1B")'), home)[0]
    assert age.records >= least.records


def test_an_unsealed_training_set_holds_events_back(home: Home) -> None:
    """A version whose rows are not in the blob store pins the events that they were made of."""
    first = registry(home.log).models["agree"].versions[1]
    (home.path / "blobs" / first.training.digest[:2] / first.training.digest[2:]).unlink()
    (cut,) = due(kept('"4d"'), home)
    assert cut.records == 0 and "agree@v1" in cut.held


@pytest.mark.parametrize("keep", ['"3d"', '"soon"', '("5d", "many")'])
def test_a_keep_that_cannot_be_kept_is_refused_at_load(keep: str) -> None:
    """Too short for what the models look back to, or no age and no size: told with the line."""
    with pytest.raises(DefinitionError) as told:
        kept(keep)
    assert "line 18" in told.value.where


def test_a_model_without_windows_keeps_all(tmp_path: Path) -> None:
    """Where a feature looks back over all of a source, its events cannot go."""
    text = TEXT.replace(DECLARED, f'{DECLARED}, keep="90d"').replace('count(ask, window="1d")', "count(ask)")
    with pytest.raises(DefinitionError, match="looks back over all of it"):
        load_text(text.encode(), "pipeline.py")


def test_a_turn_seals_and_gives_back_the_room(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """After sealing the file is smaller, and everything can still be made again."""
    monkeypatch.setattr(upkeep, "seal", lambda log: seal(log, records=200, tail=100))
    monkeypatch.setattr(upkeep, "SHRINK_BYTES", 0)
    file = load(Path(__file__).parents[2] / "crash" / "pipeline.py")
    done = turn(file, home, 0)
    assert done.sealed > 1000 and done.freed > 0 and health(home.log)["sealed_bytes"] > 0
    assert Books(file, home.log, home.blobs).verify("agree").unequal == [] and list(examine(home.log)) == []
