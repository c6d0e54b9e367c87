"""Play the demo on the embedded log and on another, each as a user does, and hold their digests together.

python tools/kafka/beside.py python tools/demo_twice.py --log BROKER/demo
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.digest import digests
from penstock.app.home import open_home
from penstock.log import Log
from penstock.record.codec import pack
from penstock.record.decisions import Outcome, Prediction, outcomes, predictions, read
from penstock.record.record import Position, Record
from penstock.stage import every

Told = tuple[list[str], int, dict[str, str]]
"""The story's lines, where the log ends, its digests."""


def play(home: Path, *words: str) -> Told:
    """Play the demo in a home, in a process of its own; raises CalledProcessError when it fails."""
    command = [sys.executable, "-m", "penstock.cli", "demo", "--exit", "--home", str(home), *words]
    story = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    opened = open_home(home)
    with closing(opened.log):
        models = list(opened.file().plans)
        return story.splitlines(), opened.log.end().n, digests(opened.log, models)


class Changed:
    """A log in which one record has another value."""

    def __init__(self, log: Log, record: Record, value: bytes) -> None:
        self.log, self.place, self.value = log, (record.topic, record.position), value

    def read(self, *words: Any, **more: Any) -> tuple[list[Record], Position]:
        """See the port."""
        records, position = self.log.read(*words, **more)
        return [self._changed(one) for one in records], position

    def _changed(self, record: Record) -> Record:
        changed = (record.topic, record.position) == self.place
        return msgspec.structs.replace(record, value=self.value) if changed else record

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


def planted(home: Path) -> int:
    """How many are noticed of two changes: a score that is one bit off, a truth that is another."""
    opened = open_home(home)
    with closing(opened.log):
        models = list(opened.file().plans)
        before = digests(opened.log, models)
        said, came = (list(every(opened.log, [topic(models[0])]))[-1] for topic in (predictions, outcomes))
        prediction, outcome = read(said, Prediction), read(came, Outcome)
        score = math.nextafter(prediction.score or 0.0, 1.0)
        changes: list[tuple[str, Any]] = [
            (
                "predictions",
                Changed(opened.log, said, pack(msgspec.structs.replace(prediction, score=score))),
            ),
            ("outcomes", Changed(opened.log, came, pack(msgspec.structs.replace(outcome, label=0.5)))),
        ]
        return sum(digests(log, models)[name] != before[name] for name, log in changes)


def main() -> int:
    """Print both sides and the figures; 1 when one is short."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--log", required=True, metavar="URL", help="kafka://HOST:PORT[/PREFIX]")
    parser.add_argument("--log-settings", default="", metavar="FILE")
    parser.add_argument("--seed", default="7")
    given = parser.parse_args()
    there = ["--log", given.log, "--log-settings", given.log_settings]
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        began = time.monotonic()
        story, end, expected = play(Path(folder) / "embedded", "--seed", given.seed)
        middle = time.monotonic()
        retold, its_end, found = play(Path(folder) / "apart", "--seed", given.seed, *there)
        seconds = middle - began, time.monotonic() - middle
        caught = planted(Path(folder) / "embedded")
    for name, value in expected.items():
        print(f"digest of {name}: embedded {value}\n{'':{len(name) + 11}}kafka    {found[name]}")
    print(retold[-1])
    figures: list[tuple[str, float, str, bool]] = [
        ("embedded_s", round(seconds[0], 1), "-", True),
        ("kafka_s", round(seconds[1], 1), "-", True),
        ("records", its_end, str(end), its_end == end),
        ("story_lines_equal", sum(map(str.__eq__, story, retold)), str(len(story)), story == retold),
        *((f"digest_{name}_equal", int(found[name] == value), "1", found[name] == value)
          for name, value in expected.items()),
        ("planted_caught", caught, "2", caught == 2),
    ]  # fmt: skip
    for name, figure, target, ok in figures:
        print(f"{name} {figure:g} {target} {'ok' if ok else 'short'}")
    return int(not all(ok for *_, ok in figures))


if __name__ == "__main__":
    sys.exit(main())
