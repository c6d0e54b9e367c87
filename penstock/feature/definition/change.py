"""feature: what differs between two feature sets, in the words of their definitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from penstock.feature.definition.evaluate import CALENDAR
from penstock.feature.definition.language import Aggregate
from penstock.feature.definition.meaning import spelled
from penstock.feature.definition.plan import FeatureSet, Node, row_text
from penstock.record.codec import pack, span_text

WHOLE = "all history"


class Part(msgspec.Struct, frozen=True):
    """One part of a definition that is another: which, and how it is written before and after."""

    what: str
    before: str
    after: str


class Changed(msgspec.Struct, frozen=True):
    """A definition of the same name that means something else. `listed`: whether the model sees it itself, and
    not only what is made of it."""

    name: str
    before: str
    after: str
    parts: list[Part]
    listed: bool


class Change(msgspec.Struct, frozen=True):
    """From one feature set to another: names with their definitions, pairs of names that mean the same, and
    whether what both list stands in another order. `words`: descriptions, owners or tags only; no meaning."""

    before: str
    after: str
    added: dict[str, str]
    removed: dict[str, str]
    changed: list[Changed]
    renamed: list[tuple[str, str]]
    reordered: bool
    request: tuple[str, str] | None
    words: list[str]

    @property
    def same(self) -> bool:
        """Whether both mean the same: a model of one can be given the other's values."""
        return self.before == self.after


def change(a: FeatureSet, b: FeatureSet) -> Change:
    """What leads from one feature set to the other."""
    only_a = [name for name in a.names if name not in b.names]
    only_b = [name for name in b.names if name not in a.names]
    renamed = _renamed(a, b, only_a, only_b)
    gone, new = {old for old, _ in renamed}, {name for _, name in renamed}
    both = [name for name in a.names if name in b.names]
    own = {n for n in a.meanings if n in b.meanings and pack(a.meanings[n]) != pack(b.meanings[n])}
    other = _reached(a, own) | _reached(b, own)
    known = [*both, *(n for n in a.meanings if n in b.meanings and n not in both)]
    return Change(
        a.digest,
        b.digest,
        {name: b.about[name].text for name in only_b if name not in new},
        {name: a.about[name].text for name in only_a if name not in gone},
        [_changed(a, b, name, other, listed=name in both) for name in known if name in other],
        renamed,
        both != [name for name in b.names if name in a.names],
        None if a.request.topic == b.request.topic else (a.request.topic, b.request.topic),
        [name for name in both if _words(a, name) != _words(b, name)],
    )


def _reached(features: FeatureSet, names: set[str]) -> set[str]:
    """Names, and all that is made of them."""
    found = set(names)
    for node in features.nodes:  # what a node needs stands before it
        if any(features.nodes[place].name in found for place in node.inputs):
            found.add(node.name)
    return found


def _renamed(a: FeatureSet, b: FeatureSet, gone: list[str], new: list[str]) -> list[tuple[str, str]]:
    """Names that went and came with one meaning; of several with the same, in order."""
    left = list(new)
    found = []
    for old in gone:
        twin = next((name for name in left if pack(a.meanings[old]) == pack(b.meanings[name])), None)
        if twin is not None:
            left.remove(twin)
            found.append((old, twin))
    return found


def _words(features: FeatureSet, name: str) -> tuple[str, str, tuple[str, ...]]:
    one = features.about[name]
    return one.description, one.owner, one.tags


def _changed(a: FeatureSet, b: FeatureSet, name: str, other: set[str], *, listed: bool) -> Changed:
    before, after = _parts(a, name), _parts(b, name)
    parts = [
        Part(what, before.get(what, "-"), after.get(what, "-"))
        for what in dict.fromkeys((*before, *after))
        if before.get(what) != after.get(what)
    ]
    parts += [Part(what, "", "") for what in _inside(a.meanings[name], b.meanings[name])]
    parts += [Part(f"made of another {need}", "", "") for need in b.about[name].needs if need in other]
    return Changed(name, a.about[name].text, b.about[name].text, parts, listed)


def _parts(features: FeatureSet, name: str) -> dict[str, str]:
    """A definition taken apart: what is not said has no entry."""
    node = next(one for one in features.nodes if one.name == name)
    meant = features.meanings[name]
    zones = ", ".join(sorted(set(_zones(meant))))
    found = {"kind": features.about[name].kind, **_own(node, features.about[name].text)}
    return {what: text for what, text in {**found, "time-zone data": zones}.items() if text}


def _own(node: Node, text: str) -> dict[str, str]:
    if node.aggregate is not None:
        return _aggregate(node.aggregate, node.entity)
    if node.function is not None:
        return {"arguments": ", ".join(node.function.arguments)}
    return {"definition": text}


def _aggregate(one: Aggregate, asked: str) -> dict[str, str]:
    entity = one.entity or one.source.key
    mine = entity if isinstance(entity, str) else entity[0]
    return {
        "source": one.source.topic,
        "of": "" if one.value is None else spelled(one.value, row_text),
        "where": "" if one.where is None else spelled(one.where, row_text),
        "window": span_text(one.window_ms) if one.window_ms else WHOLE,
        "entity": mine if mine == asked else f"{mine} as {asked}",
        "hop": span_text(one.hop_ms) if one.hop_ms else "",
        "cap": str(one.cap or ""),
        "k": str(one.k or ""),
        "per": span_text(one.per_ms) if one.per_ms else "",
        "default": "" if one.default is None else repr(one.default),
        "quantum": "exact" if one.exact else repr(one.quantum),
    }


def _opened(meant: Any) -> Any:
    """A meaning as plain lists, with the packed ones in it opened."""
    if isinstance(meant, bytes) and meant:
        return _opened(msgspec.msgpack.decode(meant))
    if isinstance(meant, Mapping):
        return [[name, _opened(one)] for name, one in sorted(meant.items())]
    return [_opened(one) for one in meant] if isinstance(meant, (list, tuple)) else meant


def _zones(meant: Any) -> Iterator[str]:
    """The versions of the time zones' rules in a meaning."""
    opened = _opened(meant)
    todo = [opened]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            if one and isinstance(one[0], str) and one[0] in CALENDAR and isinstance(one[-1], str):
                yield one[-1]
            todo += one


def _inside(a: Any, b: Any) -> list[str]:
    """What of the code behind two meanings is another: a function's own body, or what of its module it uses."""
    one, other = _bodies(_opened(a)), _bodies(_opened(b))
    found = ["the function's body"] if [body for body, _ in one] != [body for body, _ in other] else []
    used, now = ({name: pack(meant) for _, uses in bodies for name, meant in uses} for bodies in (one, other))
    names = sorted(name for name in used.keys() | now.keys() if used.get(name) != now.get(name))
    return [*found, *(f"the function uses another {name}" for name in names)]


def _bodies(opened: Any) -> list[tuple[str, list[Any]]]:
    """Functions in a meaning, outermost first: the tree of each, and what it uses by name."""
    found: list[tuple[str, list[Any]]] = []
    todo = [opened]
    while todo:
        one = todo.pop(0)
        if isinstance(one, list):
            if len(one) == 2 and isinstance(one[0], str) and one[0].startswith("Module("):
                found.append((one[0], one[1]))
            else:
                todo += one
    return found
