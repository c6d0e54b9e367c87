"""cli: a damaged log repaired: what would be done is said, and done when asked for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from penstock.app.home import wall_ms
from penstock.app.place import Remembered, remember
from penstock.cli import show
from penstock.log.upkeep.rebuild import Repair
from penstock.log.upkeep.repair import repair as mend
from penstock.record.decisions import REPAIRS
from penstock.record.errors import Refused


def repair(given: argparse.Namespace) -> int:
    """Repair a home's log, or say what a repair would do; 1 when something is left to do."""
    home = Path(given.home)
    followed = remember(home, Remembered()).log
    if followed:
        raise Refused(
            f"This home mirrors {followed}, where everything stands.", where=str(home), code="mirror",
            hint="Move log.db, log.db-wal and sealed away: the next start makes them anew from the journal.",
        )  # fmt: skip
    found = mend(home, wall_ms(), mend=given.yes, accept_loss=given.accept_loss)
    if given.json:
        show.as_json(
            {**{name: getattr(found, name) for name in Repair.__struct_fields__}, "loses": found.loses}
        )
    else:
        for line in told(found, home):
            show.console().print(line)
    return int(bool(found.found) and not found.done)


def told(found: Repair, home: Path) -> Iterator[str]:
    """A repair in words."""
    if not found.found:
        yield "repair: nothing to do: all of the log is what was written."
        return
    yield from _listed("Found:", found.found)
    yield from _listed(
        "Made anew, without a loss:" if found.done else "Would be made anew, without a loss:", found.anew
    )
    yield from _listed("Lost:" if found.done else "Would be lost:", [*map(str, found.lost), *found.forgotten])
    if found.done:
        yield f"repair: done; the log goes on at {found.end}, and tells of this in its topic {REPAIRS}."
        yield f"The old files are in {home / found.kept}; nothing needs them any more."
    elif found.loses:
        yield "repair: nothing was changed. --accept-loss repairs the log, without what is lost. Is there a backup?"
    else:
        yield "repair: nothing was changed. --yes repairs the log; nothing is lost."


def _listed(head: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield head
        yield from (f"  {line}" for line in lines)
