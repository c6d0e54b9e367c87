"""cli: `penstock consistency`: what was served, folded again and compared, a line for each feature."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.consistency import Found
from penstock.app.home import Books, open_home
from penstock.app.pipeline import load
from penstock.cli import show
from penstock.predict.consistency import Line, report
from penstock.record.errors import NotFound
from penstock.record.event import unknown

HEAD = [
    "set",
    "feature",
    "compared",
    "equal",
    "left null",
    "right null",
    "mismatch",
    "p50",
    "p90",
    "p99",
    "largest",
]


def consistency(given: argparse.Namespace) -> int:
    """The report of every model, or one; 1 when a value was unequal."""
    path = Path(given.where)
    is_home = path.is_dir() or not path.suffix
    home = open_home(path if is_home else Path(given.home))
    books = Books(home.file() if is_home else load(path), home.log, home.blobs)
    if given.model and given.model not in books.plans:
        raise NotFound(unknown(given.model, books.plans, "a model of this file"))
    names = [given.model] if given.model else list(books.plans)
    found = {name: books.consistency(name) for name in names}
    lines = {name: report(one.state) for name, one in found.items()}
    if given.json:
        show.as_json({name: _plain(one, lines[name]) for name, one in found.items()})
    else:
        for name, one in found.items():
            _told(name, one, lines[name])
    unequal = any(line.equal < line.compared for some in lines.values() for line in some)
    return int(unequal or any(one.lengths for each in found.values() for one in each.state.sets.values()))


def _plain(one: Found, lines: list[Line]) -> dict[str, Any]:
    state = one.state
    return {
        "position": one.position.n, "end": one.end.n, "left_out": state.left_out,
        "other_lengths": sum(each.lengths for each in state.sets.values()), "standing": list(state.standing),
        "features": [msgspec.structs.asdict(line) for line in lines],
    }  # fmt: skip


def _told(name: str, one: Found, lines: list[Line]) -> None:
    rows = [
        [line.features[:12], line.name, line.compared, line.equal, line.left_null, line.right_null, line.mismatch,
         *("-" if size is None else f"{size:.4g}" for size in (line.p50, line.p90, line.p99, line.largest))]
        for line in lines
    ]  # fmt: skip
    show.table(name, HEAD, rows)
    compared = sum(each.vectors for each in one.state.sets.values())
    lengths = sum(each.lengths for each in one.state.sets.values())
    left = "".join(f", {n:,} left out ({why})" for why, n in sorted(one.state.left_out.items()))
    odd = f", {lengths:,} of another length" if lengths else ""
    show.console().print(
        f"{compared:,} vectors compared up to position {one.position} of {one.end}{odd}{left}."
    )
    for rule in one.state.standing:
        show.console().print(f"standing: {rule}")
