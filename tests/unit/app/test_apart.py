"""app: a model in a process of its own may raise, hang, fall or grow: each row is told its own fate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from penstock.app.pipeline import load_text
from penstock.app.place import blobs_of
from penstock.app.scoring.apart import Apart
from penstock.app.scoring.order import Limits, Scoring
from penstock.app.scoring.piped import Piped, house
from penstock.model.pack import Model, dump
from tests.unit.app.asker import ends_with

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
            if value == 2:
                time.sleep(60)
            if value == 3:
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
Make = Callable[..., Apart]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Make]:
    """The model apart, and what is noted of it."""
    blobs = blobs_of(tmp_path)
    file = load_text(TEXT, "odd.py")
    blobs.put(file.text)
    model = Model(
        file.plans["odd"].features.digest, "binary", ["number"], file.plans["odd"].pipeline.fit(None), None
    )  # type: ignore[arg-type]
    order = Scoring(str(tmp_path), blobs.put(dump(model)), file.code, "odd.py", "odd")
    started: list[Apart] = []

    def make(limits: Limits = LIMITS, noted: Callable[[str], None] = lambda code: None, **more: str) -> Apart:
        speech = house(msgspec.structs.replace(order, **more))
        started.append(Apart(Piped(speech), limits, noted=noted))
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
    assert apart(rows(0, 5, 7, 6)) == [(0.0, ""), (0.5, ""), (0.7, ""), (None, "model_failed")]
    assert apart(rows(1)) == [(None, "model_failed")] and apart([]) == []
    assert apart(rows(7, 1, 0)) == [(0.7, ""), (None, "model_failed"), (0.0, "")]


@pytest.mark.parametrize(("value", "code"), [(2.0, "model_late"), (3.0, "model_died")])
def test_the_others_of_its_batch_are_answered(made: Make, value: float, code: str) -> None:
    """The row that a process hangs on or falls over is told so; it is tried once more, alone."""
    noted: list[str] = []
    apart = made(noted=noted.append)
    apart.start()
    began = time.monotonic()
    assert apart(rows(7, value, 0)) == [(0.7, ""), (None, code), (0.0, "")]
    assert noted == [code, code] and time.monotonic() - began < 10
    assert apart(rows(7)) == [(0.7, "")]


def test_who_keeps_falling_rests(made: Make) -> None:
    """Nothing is started for a while, and nobody waits; then it is tried again."""
    apart = made()
    assert [apart(rows(3))[0][1] for _ in range(5)] == ["model_died"] * 3 + ["model_rests"] * 2
    began = time.monotonic()
    assert apart(rows(7, 7)) == [(None, "model_rests")] * 2 and time.monotonic() - began < 0.1
    time.sleep(1.0)
    assert apart(rows(7)) == [(0.7, "")]


def test_who_grows_is_replaced_between_two_batches(made: Make) -> None:
    """No row is lost by it."""
    noted: list[str] = []
    apart = made(noted=noted.append)
    said = [apart(rows(4, 7)) for _ in range(8)]
    assert said == [[(0.4, ""), (0.7, "")]] * 8 and noted and set(noted) == {"model_grew"}


def test_it_outlives_the_thread_that_began_it(made: Make) -> None:
    """A version is fetched on a thread that ends then."""
    noted: list[str] = []
    apart = made(noted=noted.append)
    begins = threading.Thread(target=apart.start)
    begins.start()
    begins.join()
    time.sleep(0.3)
    assert apart(rows(7)) == [(0.7, "")] and noted == []


def test_a_model_that_cannot_be_loaded_says_why(made: Make) -> None:
    """By its code, to each row."""
    assert made(digest="0" * 64)(rows(7)) == [(None, "not_found")]


def test_it_ends_with_who_asks(made: Make, tmp_path: Path) -> None:
    """Even while it hangs."""
    order = made.order  # type: ignore[attr-defined]
    code = (
        "import sys, os, threading, msgspec\n"
        "from penstock.app.scoring.apart import Apart\n"
        "from penstock.app.scoring.order import Scoring\n"
        "from penstock.app.scoring.piped import Piped, house\n"
        "one = Apart(Piped(house(msgspec.json.decode(sys.argv[1], type=Scoring)))); one.start()\n"
        "print(one.asks.process.pid, flush=True)\n"
        "threading.Thread(target=one, args=([[2.0]],), daemon=True).start()\n"
        "sys.stdin.read(); os._exit(0)\n"
    )
    assert ends_with(code, msgspec.json.encode(order).decode())
