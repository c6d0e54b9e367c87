"""feature: what differs between two sets is told in the words of the definitions, and nothing else is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from penstock.app.pipeline import load_text
from penstock.cli import main
from penstock.feature import FeatureSet
from penstock.feature.definition import evaluate, meaning
from penstock.feature.definition.change import Change, change

HEAD = """
from datetime import datetime
from penstock import *

class Paid(Event):
    paid_id: str
    card: str = key()
    shop: str
    at: datetime
    amount: float
    country: str

paid = source(Paid, id="paid_id", time="at")
back = source("back", key="paid_id", time="at")
RATE = 2.0

def tax(x):
    return RATE * x
"""
TAIL = """
def fit(data):
    return None

m = Pipeline(
    request=paid, label=back, wait="1d", features=[FEATURES], fit=fit, train=every("1d"), gate=better("log_loss")
)
"""
BODY = """
usual = mean(paid.amount, window="1d")
seen = count(paid, window="1h")
local = count(paid, window="7d", where=paid.at.hour("Europe/Paris") < 6)

@feature
def ratio(amount: float, usual: float | None) -> float:
    return amount / usual if usual else tax(1.0)
"""
LISTED = "paid.amount, usual, seen, local, ratio"


def made(body: str = BODY, listed: str = LISTED, head: str = HEAD) -> FeatureSet:
    """The feature set of a file."""
    text = head + body + TAIL.replace("FEATURES", listed)
    return load_text(text.encode(), "pipeline.py").plan("m").features


def told(found: Change) -> dict[str, list[tuple[str, str, str]]]:
    """The changed definitions, and their parts."""
    return {one.name: [(p.what, p.before, p.after) for p in one.parts] for one in found.changed}


def test_the_same_is_the_same() -> None:
    """Spelling, comments and place are no change."""
    other = BODY.replace("\n\n", "\n\n# a comment\n").replace('window="1d"', 'window="24h"')
    found = change(made(), made(other))
    assert found.same and not (found.added or found.removed or found.changed or found.renamed or found.words)


CHANGES = {
    "window": (("1d", "2d"), {"usual": [("window", "1d", "2d")], "ratio": [("made of another usual", "", "")]}),
    "all history": (("(paid.amount, window=\"1d\")", "(paid.amount)"), {
        "usual": [("window", "1d", "all history")], "ratio": [("made of another usual", "", "")],
    }),
    "kind": (("mean(", "std("), {"usual": [("kind", "mean", "std")], "ratio": [("made of another usual", "", "")]}),
    "of": (("mean(paid.amount", "mean(paid.amount * 2"), {
        "usual": [("of", "paid.amount", "paid.amount * 2")], "ratio": [("made of another usual", "", "")],
    }),
    "where": (("< 6", "< 7"), {
        "local": [("where", "paid.at.hour('Europe/Paris') < 6", "paid.at.hour('Europe/Paris') < 7")],
    }),
    "entity": (('window="1h"', 'window="1h", entity="shop"'), {"seen": [("entity", "card", "shop")]}),
    "hop": (('window="1h"', 'window="1h", hop="5min"'), {"seen": [("hop", "-", "5min")]}),
    "cap": (('window="1h"', 'window="1h", cap=100'), {"seen": [("cap", "-", "100")]}),
    "quantum": (('amount, window="1d"', 'amount, window="1d", exact=True'), {
        "usual": [("quantum", repr(2.0**-20), "exact")], "ratio": [("made of another usual", "", "")],
    }),
    "body": (("amount / usual", "usual / amount"), {"ratio": [("the function's body", "", "")]}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_named(name: str) -> None:
    """Which definition, which part of it, before and after; and what is made of it."""
    (old, new), expected = CHANGES[name]
    assert BODY.count(old) == 1
    found = change(made(), made(BODY.replace(old, new)))
    parts = {
        n: [(what, *(x.replace('"', "'") for x in sides)) for what, *sides in some]
        for n, some in told(found).items()
    }
    assert parts == expected
    assert not found.same and not (found.added or found.removed or found.renamed or found.reordered)


def test_what_a_function_uses_is_part_of_it() -> None:
    """A constant in a function that the feature calls is another: the feature is."""
    found = change(made(), made(head=HEAD.replace("RATE = 2.0", "RATE = 3.0")))
    assert told(found) == {"ratio": [("the function uses another tax", "", "")]}


def test_the_time_zones_are_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another version of the time zones' rules a calendar feature is another."""
    before = made()
    monkeypatch.setattr(meaning, "zones_version", lambda: "2099z")
    found = change(before, made())
    assert (
        told(found) == {"local": [("time-zone data", evaluate.zones_version(), "2099z")]} and not found.same
    )


def test_names_and_order() -> None:
    """Added, removed, renamed with the same meaning, in another order; a model would notice each."""
    base = made()
    added = change(made(listed="usual, seen"), made(listed="usual, seen, local"))
    assert list(added.added) == ["local"] and added.added["local"].startswith("count(paid") and not added.same
    removed = change(made(listed="usual, seen, local"), made(listed="usual, local"))
    assert list(removed.removed) == ["seen"]
    renamed = change(base, made(BODY.replace("seen =", "asked ="), LISTED.replace("seen", "asked")))
    assert renamed.renamed == [("seen", "asked")] and not (renamed.added or renamed.removed or renamed.same)
    turned = change(made(listed="usual, seen"), made(listed="seen, usual"))
    assert turned.reordered and not (turned.changed or turned.added or turned.removed or turned.same)


def test_words_are_no_meaning() -> None:
    """Who owns a feature and what it is for changes no digest, and is told."""
    said = BODY.replace(
        'seen = count(paid, window="1h")', 'seen = count(paid, window="1h").described("so many", owner="ana")'
    )
    found = change(made(), made(said))
    assert found.same and found.words == ["seen"]


def test_what_is_behind_is_told() -> None:
    """A definition that is not listed itself changes what is made of it."""
    found = change(made(listed="ratio"), made(BODY.replace('"1d"', '"3d"'), "ratio"))
    assert [(one.name, one.listed) for one in found.changed] == [("ratio", True), ("usual", False)]


def test_a_difference_is_never_silent() -> None:
    """Over random pairs: the digests are equal if and only if nothing is told."""
    pool = [
        "paid.amount", "usual", "seen", "local", "ratio",
    ]  # fmt: skip
    edits = [
        ("", ""),
        ('"1d"', '"2d"'),
        ("< 6", "< 5"),
        ("amount / usual", "amount - usual"),
        ('"1h"', '"60min"'),
    ]
    chance = random.Random(3)
    sets = []
    for _ in range(25):
        listed = chance.sample(pool, chance.randrange(1, 5))
        sets.append(made(BODY.replace(*chance.choice(edits)), ", ".join(listed)))
    seen = {True: 0, False: 0}
    for a in sets:
        for b in sets:
            found = change(a, b)
            silent = not (found.added or found.removed or found.changed or found.renamed or found.reordered)
            assert found.same == (a.digest == b.digest) == silent
            assert all(one.parts for one in found.changed)
            seen[found.same] += 1
    assert min(seen.values()) > 20


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It lists a file's sets; its diff ends with 1 where they differ, as diff does, and says so to machines."""
    paths = {"a": tmp_path / "a.py", "b": tmp_path / "b.py"}
    tail = TAIL.replace("FEATURES", LISTED)
    paths["a"].write_text(HEAD + BODY + tail)
    paths["b"].write_text(HEAD + BODY.replace('"1d"', '"2d"') + tail)
    a, b = map(str, paths.values())
    assert main(["features", "list", a]) == 0
    assert 'mean(paid.amount, window="1d")' in capsys.readouterr().out
    assert main(["features", "list", a, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["m"]
    assert [one["name"] for one in listed["features"]] == ["amount", "usual", "seen", "local", "ratio"]
    assert main(["features", "diff", a, a]) == 0
    assert main(["features", "diff", a, b]) == 1
    assert "window: 1d -> 2d" in capsys.readouterr().out
    assert main(["features", "diff", a, b, "--json"]) == 1
    found: Any = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["models"]["m"]["changed"]] == ["usual", "ratio"] and not found[
        "same"
    ]
    assert main(["features", "diff", a, "nothing.py"]) == 2


def test_a_home_and_a_digest(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A home means the sets that are up there; a digest means a set that a version of it was bound to."""
    file = str(Path(__file__).parents[2] / "crash" / "pipeline.py")
    assert main(["features", "diff", file, str(played)]) == 0
    digest = load_text(Path(file).read_bytes(), file).plan("agree").features.digest
    assert main(["features", "diff", digest[:8], file, "--home", str(played)]) == 0
    assert main(["features", "diff", "0123456789", file, "--home", str(played)]) == 2
    capsys.readouterr()
