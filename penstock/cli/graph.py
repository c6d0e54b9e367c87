"""cli: `penstock graph`: a file's topics, features and stages: who reads and who writes what."""

from __future__ import annotations

import argparse
from pathlib import Path

from penstock.app.graph import diagrams, drawn, told
from penstock.app.pipeline import load
from penstock.cli import show
from penstock.record.errors import NotFound, Refused
from penstock.record.event import unknown


def graph(given: argparse.Namespace) -> int:
    """The diagram of a file's models, as text, JSON or SVG."""
    found = {one.model: one for one in diagrams(load(given.file))}
    if given.model and given.model not in found:
        raise NotFound(unknown(given.model, found, "a model of this file"))
    chosen = [found[given.model]] if given.model else list(found.values())
    if given.svg:
        if len(chosen) > 1:
            names = ", ".join(found)
            raise Refused("One SVG shows one model.", code="arguments", hint=f"Say which: --model ({names}).")
        Path(given.svg).write_text(drawn(chosen[0]))
    if given.json:
        show.as_json(chosen)
    else:
        show.console().print("\n\n".join(map(told, chosen)))
    return 0
