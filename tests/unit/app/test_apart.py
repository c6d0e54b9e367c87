"""app: a model in a process of its own may raise, hang, fall or grow: each row is told its own fate."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.app.pipeline import load_text
from penstock.app.place import blobs_of
from penstock.app.scoring import process
from penstock.app.scoring.apart import Apart
from penstock.app.scoring.order import Limits, Scoring
from penstock.app.scoring.piped import house
from penstock.app.scoring.pool import Pool
from penstock.model.pack import Model, dump
from tests.unit.app.asker import ends_with, lives, said

TEXT = b'''
"""A model with manners that depend on what it is asked."""
import os, time
from datetime import datetime

from penstock import Event, Pipeline, better, every, key, source, steps


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float


ask = source(Ask, id="ask_id", time="at")
yes = source("yes", key="ask_id", time="at")
kept = []


class Odd:
    def predict_proba(self, x):
        for value in x[:, 0]:
            if value == 1:
                raise ValueError("secret")
            if 2 <= value < 3:
                time.sleep(0.9 if value == 2.5 else 60)
            if 3 <= value < 4:
                os.abort()
            if value == 4:
                kept.append(bytearray(64 << 20))
            if value == 5:
                print("this is no answer", flush=True)
        out = x[:, [0, 0]] / 10
        out[x[:, 0] == 6] = float("nan")
        return out


def fit(data):
    return Odd()


odd = Pipeline(
    request=ask, label=yes, wait="1d", features=[ask.x], fit=fit, train=every("7d"), gate=better("log_loss"),
    release=steps(),
)
'''
LIMITS = Limits(batch_s=0.6, tries_s=3.0, strikes=3, rest_s=0.8, most_bytes=200 << 20)
HASTY = Limits(batch_s=2.5, tries_s=6.0)
Make = Callable[..., Apart]


def ordered(folder: Path, text: bytes = TEXT) -> Scoring:
    """What tells of the model of a file."""
    blobs = blobs_of(folder)
    file = load_text(text, "odd.py")
    blobs.put(file.text)
    plan = file.plans["odd"]
    model = Model(plan.features.digest, "binary", ["number"], plan.pipeline.fit(None), None)  # type: ignore[arg-type]
    return Scoring(str(folder), blobs.put(dump(model)), file.code, "odd.py", "odd")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Make]:
    """Makes the model apart."""
    order = ordered(tmp_path)
    started: list[Apart] = []

    def make(
        limits: Limits = LIMITS,
        noted: Callable[[str], None] = lambda code: None,
        most: int = 1,
        waiting: Callable[[], int] = lambda: 0,
        **more: str,
    ) -> Apart:
        speech = house(msgspec.structs.replace(order, **more))
        started.append(Apart(Pool(speech, most, waiting), limits, noted=noted))
        return started[-1]

    make.order = order  # type: ignore[attr-defined]
    yield make
    for one in started:
        one.close()


def rows(*values: float) -> list[list[float]]:
    """Rows of one feature."""
    return [[value] for value in values]


def test_what_a_model_says_comes_back(made: Make) -> None:
    """Scores in order, by one process; what it prints is no answer, what is not finite no score."""
    apart = made()
    apart.start()
    assert said(apart, rows(0, 5, 7, 6)) == [(0.0, ""), (0.5, ""), (0.7, ""), (None, "model_failed")]
    assert said(apart, rows(1)) == [(None, "model_failed")] and apart([]) == []
    assert said(apart, rows(7, 1, 0)) == [(0.7, ""), (None, "model_failed"), (0.0, "")]


@pytest.mark.parametrize(("value", "code"), [(2.0, "model_late"), (3.0, "model_died")])
def test_the_others_of_its_batch_are_answered(made: Make, value: float, code: str) -> None:
    """The row that a process hangs on or falls over is told so; it is tried once more, alone."""
    noted: list[str] = []
    apart = made(noted=noted.append)
    apart.start()
    began = time.monotonic()
    assert said(apart, rows(7, value, 0)) == [(0.7, ""), (None, code), (0.0, "")]
    assert noted == [code, code] and time.monotonic() - began < 10
    assert said(apart, rows(7)) == [(0.7, "")]


def test_who_keeps_falling_rests(made: Make) -> None:
    """Nothing is started for a while, and nobody waits; then it is tried again."""
    apart = made()
    found = [said(apart, rows(3 + n / 8))[0][1] for n in range(5)]
    assert found == ["model_died"] * 3 + ["model_rests"] * 2
    began = time.monotonic()
    assert said(apart, rows(7, 7)) == [(None, "model_rests")] * 2 and time.monotonic() - began < 0.1
    time.sleep(1.0)
    assert said(apart, rows(7)) == [(0.7, "")]


def test_who_grows_is_replaced_between_two_batches(made: Make) -> None:
    """No row is lost by it."""
    noted: list[str] = []
    apart = made(msgspec.structs.replace(LIMITS, batch_s=5.0), noted=noted.append)
    told = [said(apart, rows(4, 7)) for _ in range(8)]
    assert told == [[(0.4, ""), (0.7, "")]] * 8 and noted and set(noted) == {"model_grew"}


def pids(apart: Apart) -> list[int]:
    """The processes that live."""
    pool = apart.asks
    assert isinstance(pool, Pool)
    return [one.process.pid for one in pool.all if one.process is not None]


def ready(made: Make, most: int, waiting: int, limits: Limits = HASTY, **more: Any) -> Apart:
    """A model with so many processes, whose pace is known, while so many rows wait for it."""
    apart = made(limits, most=most, waiting=lambda: waiting, **more)
    assert said(apart, rows(7)) == [(0.7, "")]
    for _ in range(3):
        assert said(apart, rows(7, 0)) == [(0.7, ""), (0.0, "")]
    eventually(lambda: len(apart.asks._ready) == most)  # type: ignore[union-attr]
    return apart


def hangs(apart: Apart) -> bool:
    """Whether a process is still at a row that it was left with."""
    assert isinstance(apart.asks, Pool)
    return bool(apart.asks._left)


def eventually(so: Callable[[], bool]) -> None:
    """Wait until it is so."""
    until_s = time.monotonic() + 10
    while not so():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_who_hangs_delays_nobody(made: Make) -> None:
    """While others wait a row is given up when it is overdue, long before its deadline, and the spare process goes on;
    the one that hangs is ended and replaced, and the row is not asked again."""
    apart = ready(made, 2, 2)
    before = set(pids(apart))
    assert said(apart, rows(2)) == [(None, "model_late")]
    assert said(apart, rows(7)) == [(0.7, "")]
    assert said(apart, rows(7, 2, 0)) == [(0.7, ""), (None, "row_rests"), (0.0, "")]
    assert set(pids(apart)) == before and hangs(
        apart
    )  # it is left until its deadline, and nobody waited for that
    eventually(lambda: len(apart.asks._ready) == 2)  # type: ignore[union-attr]
    assert len(before & set(pids(apart))) == 1 and sum(map(lives, before)) == 1


def test_who_hangs_delays_its_own_batch_only_until_it_is_overdue(made: Make) -> None:
    """Its neighbours are asked one by one, and say that they were; what is all right is a batch as ever."""
    apart = ready(made, 3, 3)
    assert apart(rows(7, 2.1, 0)) == [(0.7, "", True), (None, "model_late", True), (0.0, "", True)]
    assert apart(rows(7, 2.1, 0)) == [(0.7, "", False), (None, "row_rests", False), (0.0, "", False)]
    assert hangs(apart)


def test_who_holds_up_nobody_has_its_whole_time(made: Make) -> None:
    """A slow row that nobody waits behind is no hung one, and neither is one of a model with a single process."""
    for most, waiting in ((2, 1), (1, 9)):
        assert said(ready(made, most, waiting), rows(2.5)) == [(0.25, "")]


def test_a_slow_row_that_was_given_up_is_answered_when_it_is_asked_again(made: Make) -> None:
    """What its process said in the end is kept."""
    apart = ready(made, 2, 2)
    before = set(pids(apart))
    assert said(apart, rows(2.5)) == [(None, "model_late")] and said(apart, rows(2.5)) == [
        (None, "row_rests")
    ]
    eventually(lambda: len(apart.asks._ready) == 2)  # type: ignore[union-attr]
    assert apart(rows(7, 2.5)) == [(0.7, "", True), (0.25, "", True)] and set(pids(apart)) == before


def test_where_all_hang_the_first_one_is_ended(made: Make) -> None:
    """Somebody is asked again in the time of a start."""
    apart = ready(made, 2, 2, msgspec.structs.replace(HASTY, batch_s=60.0, strikes=9))
    before = set(pids(apart))
    assert [said(apart, rows(2 + n / 8))[0][1] for n in (1, 2)] == ["model_late"] * 2
    assert said(apart, rows(7)) == [(0.7, "")] and len(before & set(pids(apart))) == 1


def test_a_row_is_known_for_a_while(made: Make) -> None:
    """Then it is asked again, and so it is where it is alone; another value is another row."""
    wait = [2]
    apart = made(msgspec.structs.replace(HASTY, known_s=0.5, strikes=9), waiting=lambda: wait[0])
    assert [said(apart, rows(x))[0][1] for x in (3, 3, 3.5)] == ["model_died", "row_rests", "model_died"]
    wait[0] = 1
    assert said(apart, rows(3)) == [(None, "model_died")]
    wait[0] = 2
    assert said(apart, rows(3)) == [(None, "row_rests")]
    time.sleep(0.6)
    assert said(apart, rows(3)) == [(None, "model_died")]


def test_there_is_no_spare_where_there_is_no_room(made: Make) -> None:
    """The processes of a model are within its memory together."""
    apart = made(msgspec.structs.replace(HASTY, most_bytes=1 << 20), most=2)
    noted: list[str] = []
    apart.noted = noted.append
    assert said(apart, rows(7)) == [(0.7, "")] and noted == ["model_grew"]
    apart = ready(made, 2, 2, msgspec.structs.replace(HASTY, batch_s=0.7))
    most = apart.memory() - (1 << 20)
    apart.limits = msgspec.structs.replace(apart.limits, most_bytes=most)
    assert said(apart, rows(7)) == [(0.7, "")] and len(pids(apart)) == 1 and apart.memory() < most
    assert said(apart, rows(2)) == [(None, "model_late")] and said(apart, rows(7)) == [(0.7, "")]
    time.sleep(0.3)
    assert len(pids(apart)) == 1


def test_all_end_when_it_is_closed(made: Make) -> None:
    """The one that hangs, and the one that is being begun, too; whoever asks then is told at once."""
    apart = ready(made, 2, 2, msgspec.structs.replace(HASTY, batch_s=60.0))
    known = pids(apart)
    assert said(apart, rows(2)) == [(None, "model_late")]
    apart.close()
    eventually(lambda: not any(map(lives, known)) and pids(apart) == [])
    assert said(apart, rows(7)) == [(None, "model_died")]
    apart = made(HASTY, most=2)
    assert said(apart, rows(7)) == [(0.7, "")]
    apart.close()  # its spare has not come yet
    eventually(lambda: pids(apart) == [] and not apart.asks._coming)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "more",
    [
        b"",
        b"import threading; threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        b"open_file = open(os.devnull)",
    ],
)
def test_they_are_forked_where_that_is_safe(tmp_path: Path, made: Make, more: bytes) -> None:
    """Of one process that has loaded the model; where a library has begun threads, or holds a file open, there is none
    but those that score. Either way another goes on, none is left at the end, and none waits to be reaped."""
    order = ordered(tmp_path, TEXT + more)
    apart = ready(made, 2, 2, **msgspec.structs.asdict(order))
    parents = {
        int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids(apart)
    }
    assert (parents == {os.getpid()}) is bool(more) and len(parents) == 1
    before = pids(apart)
    os.kill(before[0], signal.SIGKILL)
    first = apart.asks.all[0]  # type: ignore[union-attr]
    eventually(lambda: first.process is None or first.process.poll() is not None)
    assert said(apart, rows(7)) == [(0.7, "")] and not Path(f"/proc/{before[0]}").exists()
    eventually(lambda: len(apart.asks._ready) == 2)  # type: ignore[union-attr]
    known = {*pids(apart), *(parents - {os.getpid()})}
    apart.close()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in known))


def test_it_outlives_the_thread_that_began_it(made: Make) -> None:
    """A version is fetched on a thread that ends then."""
    noted: list[str] = []
    apart = made(noted=noted.append)
    begins = threading.Thread(target=apart.start)
    begins.start()
    begins.join()
    time.sleep(0.3)
    assert said(apart, rows(7)) == [(0.7, "")] and noted == []


def test_a_model_that_cannot_be_loaded_says_why(made: Make) -> None:
    """By its code, to each row."""
    assert said(made(digest="0" * 64), rows(7)) == [(None, "not_found")]


def test_it_ends_with_who_asks(made: Make, tmp_path: Path) -> None:
    """Even while it hangs."""
    order = made.order  # type: ignore[attr-defined]
    code = (
        "import sys, os, threading, msgspec\n"
        "from penstock.app.scoring.apart import Apart\n"
        "from penstock.app.scoring.order import Scoring\n"
        "from penstock.app.scoring.piped import house\n"
        "from penstock.app.scoring.pool import Pool\n"
        "one = Apart(Pool(house(msgspec.json.decode(sys.argv[1], type=Scoring)))); one.start()\n"
        "print(one.asks.all[0].process.pid, flush=True)\n"
        "threading.Thread(target=one, args=([[2.0]],), daemon=True).start()\n"
        "sys.stdin.read(); os._exit(0)\n"
    )
    assert ends_with(code, msgspec.json.encode(order).decode())


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is a thread's on Linux only")
def test_a_model_is_loaded_behind_those_that_answer() -> None:
    """On a thread that others come before; who scores afterwards is as he was."""

    def mine(order: Any) -> Any:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = mine(None)
    behind: Any = process._behind(mine, Scoring("home", "digest", "code", "path", "m"))
    assert (behind, mine(None)) == (max(before, process.BEHIND), before)
