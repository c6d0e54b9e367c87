"""feature: a feature set: definitions in the order in which they are worked out, and what each one means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any, get_type_hints

import msgspec

from penstock.feature.definition.evaluate import aware
from penstock.feature.definition.expression import Column, Expression, Op
from penstock.feature.definition.language import QUANTUM, Aggregate, Function
from penstock.feature.definition.meaning import kinds_of, meaning, spelled, types_of
from penstock.feature.definition.source import Derived, Scored
from penstock.record.codec import pack, span_text
from penstock.record.decisions import RETRACTIONS
from penstock.record.event import Event, Source


class Key(msgspec.Struct, frozen=True):
    """What identifies a series of values: whose, of which events, at which grain. `value`, `where`: the bytes of
    what they mean; `column`: how the value is spelled."""

    topic: str
    entity: str
    column: str
    quantum: float
    value: bytes = b""
    where: bytes = b""
    hop_ms: int = 0
    cap: int = 0

    @property
    def label(self) -> str:
        """The series in words."""
        return f"{self.topic}{self.column and '.'}{self.column} by {self.entity}"


class Node(msgspec.Struct, frozen=True, eq=False):
    """One value on the way to a vector: a request's column, an aggregate, a function of earlier nodes, or an
    operation on such. `places`: where the operation's leaves stand, by their identity."""

    name: str
    column: str = ""
    aggregate: Aggregate | None = None
    series: int = -1
    entity: str = ""
    function: Function | None = None
    operation: Op | None = None
    places: Mapping[int, int] = {}
    inputs: tuple[int, ...] = ()


class About(msgspec.Struct, frozen=True):
    """A feature as people read it. `text`: the definition as one would write it; `kind`: "column",
    "function", "expression" or the aggregate's; `topics`: the events behind it; `needs`: what it is made of;
    `window_ms`: how far back it looks (0: over all history, or not at all)."""

    text: str
    kind: str
    topics: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    window_ms: int = 0
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()


class FeatureSet(msgspec.Struct, frozen=True, eq=False):
    """The features of a model, in order. `outputs[i]` is the node of `names[i]`.

    `digest` is over the meaning of the definitions (`meanings`, by name), not over their spelling or place.
    `about`: what people read of each feature.
    """

    names: tuple[str, ...]
    request: Source
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    series: tuple[Key, ...]
    sources: dict[str, Source]
    digest: str
    about: dict[str, About] = {}
    meanings: dict[str, Any] = {}

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that the features read, besides the request."""
        return tuple(sorted({*self.sources, RETRACTIONS} if self.sources else ()))

    def reads(self, topic: str) -> bool:
        """Whether a topic's records are folded."""
        return topic in self.sources or topic == RETRACTIONS


VALUES = frozenset((int, float, bool, str))


@cache
def column_types(schema: type[Event], name: str) -> frozenset[type]:
    """The types of a column, without None."""
    return kinds_of(get_type_hints(schema)[name])


def row_types(one: Any) -> frozenset[type]:
    """The types of a value of a source's row."""

    def leaf(one: Expression) -> frozenset[type]:
        assert isinstance(one, Column)
        return column_types(one.source.schema, one.name)

    return types_of(one, leaf)


def value_types(one: Aggregate) -> frozenset[type]:
    """The types that an aggregate's values may have, besides null."""
    if one.kind in ("count", "distinct"):
        return frozenset((int,))
    if one.kind in ("min", "max") and mixed(one):
        return frozenset((float,))
    if one.kind in ("min", "max", "first", "last", "last_k"):
        return row_types(one.value)
    return frozenset((float,))


def mixed(one: Aggregate) -> bool:
    """Whether numbers of several types are compared: equal ones differ then, so the answer is a float."""
    return len(row_types(one.value)) != 1


def column_of(leaf: Expression) -> Callable[[Any], Any]:
    """How a column of a row is read within an expression: a NaN is a null."""
    assert isinstance(leaf, Column)
    get = attrgetter(leaf.name)
    kinds = column_types(leaf.source.schema, leaf.name)
    if datetime in kinds:
        return lambda event: aware(get(event))
    if float not in kinds:
        return get

    def read(event: Any) -> Any:
        value = get(event)
        return value if value == value else None

    return read


def row_meaning(one: Any) -> Any:
    """What an expression of a source's row means."""

    def leaf(one: Expression) -> Any:
        assert isinstance(one, Column)
        return ["column", one.source.topic, one.name, *derivation_of(one.source, one.name)]

    return meaning(one, leaf)


def derivation_of(source: Source, name: str) -> list[Any]:
    """What a derived column means; nothing of one that comes with the event."""
    while isinstance(source, (Derived, Scored)):
        if isinstance(source, Derived) and name in source.derivation.meanings:
            return [source.derivation.meanings[name]]
        source = source.base if isinstance(source, Scored) else source.derivation.base
    return []


def row_text(leaf: Expression) -> str:
    """A leaf of a row's expression as one would write it."""
    assert isinstance(leaf, Column)
    return f"{leaf.source.topic}.{leaf.name}"


def key_of(one: Aggregate, entity: str) -> Key:
    """The series that an aggregate reads."""
    named = one.value is None or isinstance(one.value, Column)
    plain = one.value is None or (named and not derivation_of(one.source, one.column))
    return Key(
        one.source.topic, entity, one.column if named else spelled(one.value, row_text), one.quantum,
        b"" if plain else pack(row_meaning(one.value)),
        b"" if one.where is None else pack(row_meaning(one.where)), one.hop_ms, one.cap,
    )  # fmt: skip


def written(one: Expression) -> str:
    """An aggregate as one would write it."""
    assert isinstance(one, Aggregate)
    parts = [spelled(one.value, row_text) if one.value is not None else one.source.topic]
    if one.k:
        parts.append(str(one.k))
    options = {
        "window": span_text(one.window_ms) if one.window_ms else None,
        "per": span_text(one.per_ms) if one.per_ms else None,
        "where": one.where,
        "entity": one.entity,
        "hop": span_text(one.hop_ms) if one.hop_ms else None,
        "cap": one.cap or None,
        "default": one.default,
        "quantum": None if one.quantum == QUANTUM or one.exact else one.quantum,
        "exact": True if one.exact else None,
    }
    parts += [f"{name}={spelled(value, row_text)}" for name, value in options.items() if value is not None]
    return f"{one.kind}({', '.join(parts)})"
