"""cli: `penstock features suggest`: definitions to paste."""

from __future__ import annotations

import argparse

import msgspec

from penstock.app.pipeline import load
from penstock.app.suggest import told
from penstock.cli import show
from penstock.feature.definition.suggest import source_text, suggest
from penstock.record.errors import Refused


def suggested(given: argparse.Namespace) -> int:
    """Proposals for an entity of a file's requests: Python for people, JSON for machines."""
    file = load(given.file)
    if not given.model and len(file.plans) > 1:
        raise Refused("The file has several models.", code="arguments", hint="Name one with --model.")
    found = suggest(told(file, given.model or next(iter(file.plans))), given.entity, depth=given.depth)
    some = found[: given.most]
    if given.json:
        show.as_json({"proposals": len(found), "shown": [msgspec.structs.asdict(one) for one in some]})
        return 0
    if len(some) < len(found):
        print(f"# The first {len(some)} of {len(found)} definitions; --most {len(found)} prints them all.")
    print(source_text(some), end="")
    return 0
