"""cli: the verbs that keep a home: its backup."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from penstock.app.home import open_home
from penstock.cli import show
from penstock.log.upkeep.backup import backup as copy


def backup(given: argparse.Namespace) -> int:
    """Copy a running home."""
    home = open_home(Path(given.home))
    total = sum(home.log.count(topic) for topic in home.log.topics())
    try:
        with show.bar("read", quiet=given.json) as progress:
            made = copy(home.log, home.blobs.folder, Path(given.out), lambda done: progress(done, total))
    finally:
        home.log.close()
    if given.json:
        show.as_json(msgspec.to_builtins(made))
    else:
        print(
            f"backup: {given.out} holds the log up to position {made.end}, {made.segments} segments and "
            f"{made.blobs} blobs, {made.size_bytes / 1e6:.1f} MB; all of it was read and is whole"
        )
    return 0
