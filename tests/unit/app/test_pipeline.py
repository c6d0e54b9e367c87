"""app: a file that cannot work is refused at load, with the line and the mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.app.pipeline import load, load_text
from penstock.record.errors import DefinitionError, NotFound

GOOD = '''from datetime import datetime

from penstock import Event, Pipeline, better, count, every, feature, key, label, missing, source, steps


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float


class Yes(Event):
    ask_id: str = key()
    at: datetime
    sure: float


ask = source(Ask, id="ask_id", time="at")
yes = source(Yes)
asks = count(ask, window="1h")


@feature
def double(x: float) -> float:
    return 2 * x


def fit(data):
    return None


model = Pipeline(
    request=ask, label=yes, wait="1d", features=[asks, double], fit=fit,
    train=every("1d"), gate=better("log_loss"),
)
'''  # fmt: skip

MISTAKES = {
    "a column": ("def double(x:", "def double(xx:", "unknown_column", 'did you mean "x"'),
    "a source's column": ('id="ask_id", time', 'id="ask", time', "unknown_column", 'did you mean "ask_id"'),
    "a unit": ('window="1h"', 'window="60"', "unit", "write a number and one of"),
    "a wait": ('wait="1d"', 'wait="1"', "unit", "wait="),
    "a leak": (
        "def double(x: float)",
        "def double(sure: float)",
        "leak",
        "known only when the label is known",
    ),
    "a topic twice": ("yes = source(Yes)", 'yes = source(Yes, topic="ask")', "topic_taken", "topic="),
    "a topic of ours": ("yes = source(Yes)", 'yes = source(Yes, topic="alerts")', "topic_taken", "topic="),
    "no pipeline": ("model = Pipeline(", "dict(", "definition", "Add NAME = Pipeline"),
    "no id": ('source(Ask, id="ask_id", time="at")', 'source(Ask, time="at")', "no_id", "id="),
    "no key": ("ask_id: str = key()", "ask_id: str", "no_key", "key="),
    "a metric": ('better("log_loss")', 'better("logloss")', "unknown_metric", 'did you mean "log_loss"'),
    "when to train": ('every("1d")', "every()", "definition", "Say when to train"),
    "a slice": ('better("log_loss")', 'better("log_loss", slices=["y"])', "unknown_column", "column"),
    "a rule": (
        'gate=better("log_loss"),',
        'gate=better("log_loss"), watch=[missing("y") < 1],',
        "unknown_column",
        "column",
    ),
    "a share": (
        'gate=better("log_loss"),',
        'gate=better("log_loss"), release=steps(canary=(50, 10)),',
        "definition",
        "canary",
    ),
    "a syntax": ("model = Pipeline(", "model = = Pipeline(", "file", "SyntaxError"),
    "a failure": ("def fit(data):", "1 / 0\n\n\ndef fit(data):", "file", "ZeroDivisionError"),
}


def test_the_good_file_loads() -> None:
    """Else the mistakes below would prove nothing."""
    file = load_text(GOOD.encode(), "good.py")
    assert list(file.plans) == ["model"] and set(file.sources) == {"ask", "yes"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_names_its_line_and_its_mend(mistake: str) -> None:
    """Before anything runs."""
    old, new, code, mend = MISTAKES[mistake]
    assert old in GOOD
    with pytest.raises(DefinitionError) as caught:
        load_text(GOOD.replace(old, new, 1).encode(), "bad.py")
    assert caught.value.code == code and mend in str(caught.value), str(caught.value)
    assert caught.value.where.startswith("bad.py"), caught.value.where
    if mistake not in ("no pipeline", "a wait", "a slice"):
        assert "line " in caught.value.where, caught.value.where


def test_a_label_may_be_a_function() -> None:
    """Of columns of its source, checked like any other."""
    text = GOOD.replace("def fit(", "@label(yes)\ndef truly(sure):\n    return sure > 0.5\n\n\ndef fit(")
    plan = load_text(text.replace("label=yes", "label=truly").encode(), "label.py").plan("model")
    event = plan.label.source.parse({"ask_id": "a", "at": "2024-01-01T00:00:00Z", "sure": 0.7})
    assert plan.label.value(event) == 1.0 and plan.label.silence is None
    with pytest.raises(DefinitionError, match="sure"):
        load_text(
            text.replace("label=yes", "label=truly").replace("truly(sure)", "truly(shure)").encode(), "bad.py"
        )


def test_a_file_must_be_there(tmp_path: Path) -> None:
    """And a name in it: the nearest is told."""
    with pytest.raises(NotFound):
        load(tmp_path / "none.py")
    file = load_text(GOOD.encode(), "good.py")
    with pytest.raises(NotFound, match="model"):
        file.plan("modle")
    with pytest.raises(NotFound, match="ask"):
        file.source("aks")
