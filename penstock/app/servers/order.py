"""app: what a serving process is given, and what it says of itself."""

from __future__ import annotations

import msgspec

from penstock.app.counters import Count
from penstock.app.models import MODELS_BYTES
from penstock.app.pressure import Bounds


class Serve(msgspec.Struct, frozen=True):
    """Which code to serve from which home, as share `k` of `n`. `elsewhere`: where the rest of
    the system answers what this process does not know."""

    home: str
    code: str
    path: str
    elsewhere: str
    k: int = 0
    n: int = 1
    key_file: str = ""
    hosts: tuple[str, ...] = ()
    bounds: Bounds = Bounds()
    sync: bool = False
    models_bytes: int = MODELS_BYTES


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is said of a serving process, a line each: its number, by who forked it; that it serves, or why it cannot;
    what it has counted since it began, now and then; and the status that it ended with."""

    serves: bool = False
    pid: int = 0
    code: str = ""
    note: str = ""
    counts: list[Count] = []
    ended: int | None = None
