"""cli: the dead letters: listed, and brought back."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path

from penstock.app.dead import again, letters
from penstock.app.home import open_home, wall_ms
from penstock.cli import show


def dead(given: argparse.Namespace) -> int:
    """List the dead letters that stand open, or bring their records back; 1 when one stands open."""
    home = open_home(Path(given.home))
    if given.again is not None:
        words = again(home.log, given.again, given.who or getpass.getuser(), wall_ms())
        if given.json:
            show.as_json(words)
        else:
            print(
                f"dead: {len(words)} records brought back; `penstock dead` shows which could not be taken again"
            )
        return 0
    found = letters(home.log)
    if given.json:
        show.as_json(found)
    else:
        head = ["record", "stage", "code", "id", "key", "what was wrong", "sample"]
        rows = [
            [f"{one.topic}@{one.position}", one.stage, one.code, one.id, one.key, one.note, one.sample]
            for one in found
        ]
        show.table("", head, rows)
        print(f"dead: {len(found)} dead letters stand open")
    return int(bool(found))
