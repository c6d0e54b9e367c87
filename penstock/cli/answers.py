"""cli: a model's answers, one after the other."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from penstock.app.home import open_home
from penstock.predict.answers import MOST, replies, reply_to
from penstock.record.codec import to_json
from penstock.record.record import Position

WAIT_S = 0.5


def answers(given: argparse.Namespace) -> int:
    """Print answers as lines of JSON: those after a place, or the one to a request."""
    home = open_home(Path(given.home))
    plan = home.file().plan(given.model)
    if given.request:
        _print(to_json(reply_to(home.log, plan.name, plan.pipeline.request.topic, given.request)))
        return 0
    after, left = given.after, given.most or sys.maxsize
    while left:
        found = replies(home.log, plan.name, after, min(MOST, left))
        for one in found.answers:
            _print(to_json(one))
        after, left = found.after, left - len(found.answers)
        if not found.answers:
            if not given.follow:
                break
            home.log.wait(Position(n=after + 1), WAIT_S)
    return 0


def _print(line: bytes) -> None:
    sys.stdout.write(line.decode() + "\n")
    sys.stdout.flush()
