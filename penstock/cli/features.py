"""cli: `penstock features`: what a file's features are, and what differs between two sets of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.features import sets_of
from penstock.cli import show
from penstock.feature import FeatureSet
from penstock.feature.definition.change import WHOLE, Change, Changed, change
from penstock.record.codec import span_text
from penstock.record.errors import NotFound, Refused
from penstock.record.event import unknown

HEAD = ["feature", "definition", "window", "from", "owner", "tags", "description"]


def listed(given: argparse.Namespace) -> int:
    """The feature sets of a file."""
    found = _chosen(sets_of(given.file, Path(given.home)), given.model)
    if given.json:
        show.as_json({name: _plain(one) for name, one in found.items()})
    else:
        for name, one in found.items():
            _listed(name, one)
    return 0


def _chosen(found: Mapping[str, FeatureSet], model: str) -> dict[str, FeatureSet]:
    if model and model not in found:
        raise NotFound(unknown(model, found, "a model there"))
    return {name: one for name, one in found.items() if model in ("", name)}


def _plain(one: FeatureSet) -> dict[str, Any]:
    return {
        "digest": one.digest, "request": one.request.topic, "topics": list(one.sources),
        "features": [{"name": name, **msgspec.structs.asdict(one.about[name])} for name in one.names],
        "behind": [
            {"name": name, **msgspec.structs.asdict(about)}
            for name, about in one.about.items() if name not in one.names
        ],
    }  # fmt: skip


def _listed(model: str, one: FeatureSet) -> None:
    rows = []
    for name in (*one.names, *(n for n in one.about if n not in one.names)):
        about = one.about[name]
        looks = about.kind not in ("column", "function", "expression")
        window = span_text(about.window_ms) if about.window_ms else WHOLE if looks else "-"
        shown = name if name in one.names else f"({name})"
        rows.append([shown, about.text, window, ", ".join(about.topics), about.owner or "-",
                     ", ".join(about.tags) or "-", about.description or "-"])  # fmt: skip
    show.table(f"{model}: {len(one.names)} features of {one.request.topic}, {one.digest}", HEAD, rows)


def diff(given: argparse.Namespace) -> int:
    """What differs between two: 1 when they mean different things."""
    a, b = (_chosen(sets_of(one, Path(given.home)), given.model) for one in (given.a, given.b))
    if not a.keys() & b.keys():
        raise Refused("The two have no model in common.", code="arguments", hint="Name it with --model.")
    changes = {name: change(a[name], b[name]) for name in a if name in b}
    apart = sorted(a.keys() ^ b.keys()) if _whole(given.a) and _whole(given.b) else []
    different = bool(apart) or any(not one.same for one in changes.values())
    if given.json:
        told = {n: {**msgspec.structs.asdict(one), "same": one.same} for n, one in changes.items()}
        show.as_json({"same": not different, "only_in_one": apart, "models": told})
    else:
        lines = [line for name, one in changes.items() for line in _told(name, one)]
        lines += [f"{name}: only in {given.a if name in a else given.b}" for name in apart]
        show.console().print("\n".join(lines))
    return int(different)


def _whole(text: str) -> bool:
    """Whether all models of a file are meant, and not one by a digest."""
    return Path(text).exists()


def _told(model: str, one: Change) -> list[str]:
    digests = f"{one.before[:12]} -> {one.after[:12]}"
    lines = [
        f"{model}: {'the same meaning, ' + one.before[:12] if one.same else 'another feature set, ' + digests}"
    ]
    if one.request is not None:
        lines.append(f"  ~ asked by {one.request[1]} instead of {one.request[0]}")
    lines += [f"  + {name} = {text}" for name, text in one.added.items()]
    lines += [f"  - {name} = {text}" for name, text in one.removed.items()]
    lines += [f"  = {old} is {new} now, and means the same" for old, new in one.renamed]
    for each in one.changed:
        lines += _changed(each)
    lines += ["  ~ the order is another"] if one.reordered else []
    lines += [f"  . {name} is described in other words; its meaning is the same" for name in one.words]
    return lines


def _changed(one: Changed) -> list[str]:
    behind = "" if one.listed else "  (behind others)"
    lines = [f"  ~ {one.name}{behind}"]
    lines += [f"      - {one.before}", f"      + {one.after}"] if one.before != one.after else []
    for part in one.parts:
        lines.append(
            f"      {part.what}: {part.before} -> {part.after}" if part.before else f"      {part.what}"
        )
    return lines
