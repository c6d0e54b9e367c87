"""app: look-ups of a home and of a running system: where they begin, what they keep, what they refuse."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.app.home import Books, Home, open_home
from penstock.app.lookup import Late, Lookup, Lookups
from penstock.app.pipeline import load, load_text
from penstock.app.system import System
from penstock.app.worker import in_process
from penstock.dataset.asof import Standing
from penstock.dataset.kept import Retained
from penstock.feature import Fold
from penstock.predict.verify import same
from penstock.record.codec import moment
from penstock.record.decisions import RETENTION, TICKS, Prediction, Tick, draft, predictions, read
from penstock.record.errors import NotFound, Refused
from penstock.record.record import START, Draft, Position
from penstock.stage import folded

PIPELINE = Path(__file__).parents[2] / "crash" / "pipeline.py"
NAMES = ("asks_1d", "usual_x")
WHOS = [{"who": f"who-{i}"} for i in range(20)]


@pytest.fixture
def home(played: Path, tmp_path: Path) -> Iterator[Home]:
    """A home with eight days of history, to change."""
    one = open_home(Path(shutil.copytree(played, tmp_path / "home")))
    yield one
    one.log.close()


def newest_ms(home: Home) -> int:
    """The newest tick."""
    return max(read(one, Tick).t_ms for one in home.log.read([TICKS], START, limit=10**6)[0])


def test_it_begins_at_the_stages_checkpoint(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It folds what came since only, and says what the log alone says."""
    stood = home.log.load("predict.agree").state_position
    assert stood.n > 1000
    begun: list[Position] = []

    def noted(log: Any, name: str, topics: Any, start: Position = START, **more: Any) -> Any:
        begun.append(start)
        return folded(log, name, topics, start, **more)

    monkeypatch.setattr("penstock.app.lookup.folded", noted)
    lookup = home.features("agree")
    live = lookup.get_many(WHOS, names=NAMES)
    assert begun in ([stood], []) and live[0].o == home.log.end()
    assert live[0].t_ms == newest_ms(home) and live[0].age_ms == 0
    assert live == lookup.get_many(WHOS, live[0].t_ms, o=live[0].o, names=NAMES)
    assert sum(one.values[0] for one in live) > 50  # type: ignore[misc]


def test_it_says_what_predictions_said(home: Home) -> None:
    """At the (t, O) of predictions, near and far, a look-up has the bits of their values."""
    lookup = home.features("agree")
    records = home.log.read([predictions("agree")], START, limit=10**6)[0]
    for record in records[:: len(records) // 5]:
        said = read(record, Prediction)
        asked = {"who": said.entity, "x": said.values[0], "z": said.values[1]}
        got = lookup.get(asked, said.t_ms, o=said.o)
        assert same(got.values, said.values) and got.digest == said.features and got.o == said.o


def test_an_older_time_is_read_from_the_log(home: Home) -> None:
    """Behind the slack of the live state, at the same O; its age is that of the newest tick all the same."""
    lookup, t_ms = home.features("agree"), newest_ms(home) - 5 * 86_400_000
    assert lookup.live(lookup.question(WHOS, t_ms, NAMES)) is None
    then = lookup.get_many(WHOS, moment(t_ms), names=NAMES)
    assert then[0].o == home.log.end() and then[0].age_ms == 0 and then[0].t_ms == t_ms
    assert then != lookup.get_many(WHOS, names=NAMES)
    assert then == lookup.get_many(WHOS, t_ms, o=home.log.end().n, names=NAMES)


def test_its_age_is_that_of_the_newest_tick(home: Home) -> None:
    """How far it lies behind t, whatever the events say; 0 ahead of it."""
    lookup, t_ms = home.features("agree"), newest_ms(home)
    ages = [lookup.get(WHOS[0], t_ms + ms, names=NAMES).age_ms for ms in (-1000, 0, 1, 60_000)]
    assert ages == [0, 0, 1, 60_000]
    row = {"ask_id": "ahead", "who": "who-0", "at": moment(t_ms + 50_000), "x": 1.0, "z": None}
    source = home.file().source("ask")
    home.log.append([source.draft(source.parse(row))])
    assert lookup.get(WHOS[0], t_ms + 60_000, names=NAMES).age_ms == 60_000
    home.log.append([draft(TICKS, Tick(t_ms + 59_000), key="", t_ms=0)])
    assert lookup.get(WHOS[0], t_ms + 60_000, names=NAMES).age_ms == 1000


def test_what_cannot_be_said_is_refused(home: Home) -> None:
    """A position that is not there yet, a time out of this world, and what retention has taken."""
    lookup, t_ms = home.features("agree"), newest_ms(home)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"o": home.log.end().n + 1}, "position"), ({"o": -1}, "position"), ({"t": 2**60}, "wrong_type"),
    ]  # fmt: skip
    for asked, code in wrong:
        with pytest.raises(Refused) as caught:
            lookup.get(WHOS[0], asked.get("t", t_ms), o=asked.get("o"), names=NAMES)
        assert caught.value.code == code
    gone = Retained("ask", Position(n=9), t_ms - 4 * 86_400_000, 9, t_ms)
    home.log.append([draft(RETENTION, gone, key="ask", t_ms=t_ms)])
    with pytest.raises(Refused) as caught:
        lookup.get(WHOS[0], t_ms - 3 * 86_400_000, names=NAMES)
    assert caught.value.code == "log_passed"
    assert lookup.get(WHOS[0], t_ms, names=NAMES).values[0] is not None


def test_late_is_late_and_keeps_what_it_folded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """When time is over it says so; the next question goes on from there, and gets the same as ever."""
    monkeypatch.setattr(
        "penstock.app.lookup._begun", lambda log, stage, features: (Standing(Fold(features)), START)
    )

    def few(log: Any, name: str, topics: Any, start: Position = START, **more: Any) -> Any:
        return folded(log, name, topics, start, limit=50, **more)

    want = home.features("agree").get_many(WHOS, names=NAMES)
    monkeypatch.setattr("penstock.app.lookup.folded", few)
    lookup, late = home.features("agree"), 0
    while lookup._position != home.log.end():
        try:
            lookup.look(WHOS, names=NAMES, until_s=time.monotonic() + 0.001)
        except Late:
            late += 1
    assert late > 1 and lookup.get_many(WHOS, names=NAMES) == want
    with pytest.raises(Late):
        lookup.look(WHOS, o=home.log.end(), names=NAMES, until_s=time.monotonic() - 1)


def test_an_empty_log_has_no_time(tmp_path: Path) -> None:
    """Unless it is given; then nobody has a history, and nothing is known of its age."""
    one = open_home(tmp_path / "new", create=True)
    lookup = one.features("agree", load(PIPELINE))
    with pytest.raises(Refused) as caught:
        lookup.get(WHOS[0], names=NAMES)
    assert caught.value.code == "no_time"
    got = lookup.get(WHOS[0], 1000, names=NAMES)
    assert got.values == [0, None] and got.age_ms is None and got.o == START
    one.log.close()


def test_a_batch_that_breaks_is_not_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a batch is no state: whatever broke it, the next question begins again."""
    lookup = home.features("agree")
    want = lookup.get_many(WHOS, names=NAMES)
    t_ms, source = want[0].t_ms, home.file().source("ask")
    rows = [{"ask_id": f"b{i}", "who": "who-1", "at": moment(t_ms), "x": 1.0, "z": None} for i in range(3)]
    home.log.append([source.draft(source.parse(row)) for row in rows])
    whole = type(lookup._standing).take  # type: ignore[union-attr]

    def breaks(self: Any, record: Any) -> None:
        whole(self, record)
        if record.id == "b1":
            raise OSError("planted")

    monkeypatch.setattr("penstock.dataset.asof.Standing.take", breaks)
    with pytest.raises(OSError, match="planted"):
        lookup.get_many(WHOS, names=NAMES)
    monkeypatch.undo()
    got = lookup.get_many(WHOS, names=NAMES)
    assert got[1].values[0] == want[1].values[0] + 3  # type: ignore[operator]


def test_sets_are_found_by_model_and_by_digest(home: Home) -> None:
    """A changed file's model is its new set; the old one, which versions were bound to, by its digest."""
    text = PIPELINE.read_text().replace('window="1d"', 'window="3h"')
    file = load_text(text.encode(), str(PIPELINE))
    old, new = home.file().plan("agree").features, file.plan("agree").features
    lookups = Lookups(Books(file, home.log, home.blobs).all_sets(), file, home.log)
    assert lookups.of("agree").digest == new.digest != old.digest
    assert lookups.of(old.digest[:8]).digest == lookups.of(old.digest).digest == old.digest
    assert lookups.of(old.digest[:8]) is lookups.of(old.digest)
    now, before = (lookups.of(one).get(WHOS[3], names=NAMES).values for one in ("agree", old.digest))
    assert before[0] > now[0]  # type: ignore[operator]
    for name in ("agre", old.digest[:5], "0" * 64, ""):
        with pytest.raises(NotFound):
            lookups.of(name)


def test_a_running_system_has_them(home: Home) -> None:
    """The same values as the home's, and what is appended is seen at once."""
    system = System(home.file(), home.log, home.blobs, home.path, time.perf_counter, in_process, sync=False)
    lookup = system.features("agree")
    assert isinstance(lookup, Lookup) and lookup is system.features("agree")
    before = lookup.get(WHOS[2], names=NAMES)
    assert before == home.features("agree").get(WHOS[2], names=NAMES)
    bad = Draft("ask", "who-2", before.t_ms, b"\xc1", "bad")
    row = {"ask_id": "one", "who": "who-2", "at": moment(before.t_ms), "x": 1.0, "z": None}
    source = home.file().source("ask")
    home.log.append([bad, source.draft(source.parse(row))])
    after = lookup.get(WHOS[2], names=NAMES)
    assert after.values[0] == before.values[0] + 1 and after.o.n == before.o.n + 2  # type: ignore[operator]
