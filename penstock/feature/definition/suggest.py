"""feature: definitions proposed from what sources are: as text that the user pastes, in the manner of Featuretools.

By these rules, in this order, over every source whose events name the entity: how many there were (two windows and
their ratio), and how long ago the last one was; the calendar of the request's time, and the newest value of each
column of a source of facts; of each number its mean, and how the request's own number of that name compares, of
each truth its share. At depth 2 the means over each other entity that such a source and the request both name (a
plane's carrier), and how the entity differs from it. Then spreads and newest values, counts by the other entities,
and of each text how many different ones there were, and the newest. What the file has already, by its meaning, is
left out; what would be refused (the request's own truth, say) never comes up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from penstock.feature.definition import language
from penstock.feature.definition.compiler import compile
from penstock.feature.definition.evaluate import NUMBERS, TRUTH, WHEN, WORD
from penstock.feature.definition.expression import Expression
from penstock.feature.definition.plan import column_types
from penstock.feature.definition.source import Declared
from penstock.record.codec import pack
from penstock.record.errors import DefinitionError
from penstock.record.event import Source, unknown

WINDOWS = ("1d", "7d")
WINDOW = "7d"


class Told(msgspec.Struct, frozen=True):
    """What a file is, as far as proposals need it. `sources`: by how the file calls them; `words`: what it has
    imported; `names`: what it calls anything; `meanings`: of the features it has, packed."""

    sources: dict[str, Source]
    request: Source
    label: Source
    label_column: str
    words: Collection[str]
    names: Collection[str]
    meanings: Collection[bytes]


class Proposal(msgspec.Struct, frozen=True):
    """A definition: its name, and its text."""

    name: str
    text: str


Made = tuple[int, str, str, Any]
"""A rule's rank, a name, a text, and what the text makes."""
COUNTED, FACTS, USUAL, OTHERS, APART, SPREAD, MANY, TEXTS = range(8)


def suggest(told: Told, entity: str, *, depth: int = 2) -> list[Proposal]:
    """Proposals for an entity, a column of the request. Raises DefinitionError where there is no such."""
    if entity not in told.request.columns:
        text = unknown(entity, told.request.columns, f"a column of the request {told.request.topic}")
        raise DefinitionError(text, code="unknown_column")
    found, names, known = [], set(told.names), set(told.meanings)
    made = [*_near(told, entity), *(_calendar(told)), *(_far(told, entity) if depth > 1 else ())]
    for _, name, text, one in sorted(made, key=lambda one: one[0]):
        meaning = _meaning(told, name, one)
        if meaning and name not in names and meaning not in known:
            names.add(name)
            known.add(meaning)
            found.append(Proposal(name, f"{name} = {text}"))
    return found


def source_text(proposals: list[Proposal]) -> str:
    """Proposals as one pastes them."""
    whole = any("penstock." in one.text for one in proposals)
    return "\n".join([*(["import penstock", ""] if whole else []), *(one.text for one in proposals)]) + "\n"


def _meaning(told: Told, name: str, one: Any) -> bytes:
    """What a proposal means; nothing where it would be refused."""
    space = {name: one}
    try:
        made = compile([one], told.request, space, label=told.label, label_column=told.label_column)
    except DefinitionError:
        return b""
    return pack(made.meanings[name])


# The rules.


def _near(told: Told, entity: str) -> Iterator[Made]:
    for called, source in _naming(told, entity):
        if not source.time:
            yield from _facts(told, called, source, entity)
            continue
        stem = _flat(called)
        yield from _counts(told, called, source, entity, COUNTED)
        new, usual = (_count(told, called, source, entity, window) for window in WINDOWS)
        yield COUNTED, f"{stem}_lately_by_{entity}", f"{new[0]} / {usual[0]}", new[1] / usual[1]
        since = language.since(source, entity=entity)
        yield (
            COUNTED,
            f"{stem}_since_by_{entity}",
            f'{_word(told, "since")}({called}, entity="{entity}")',
            since,
        )
        for column in _columns(source, entity):
            yield from _of_column(told, called, source, column, entity)


def _far(told: Told, entity: str) -> Iterator[Made]:
    """Through other entities that a source names together with this one."""
    others = [
        name
        for name in told.request.columns
        if name not in (entity, told.request.id)
        and column_types(told.request.schema, name) <= WORD
        and any(name in source.columns for _, source in _naming(told, entity))
    ]
    for other in others:
        for called, source in _naming(told, other):
            if not source.time:
                continue
            yield from _counts(told, called, source, other, MANY)
            for column in _columns(source, other):
                if not _kinds(source, column) <= NUMBERS:
                    continue
                stem = f"{_flat(called)}_{column}"
                text, whole = _aggregate(told, "mean", called, source, column, other, window=WINDOW)
                yield OTHERS, f"{stem}_by_{other}", text, whole
                if entity in source.columns:
                    mine = _aggregate(told, "mean", called, source, column, entity, window=WINDOW)
                    yield APART, f"{stem}_{entity}_in_{other}", f"{mine[0]} - {text}", mine[1] - whole


def _counts(told: Told, called: str, source: Source, entity: str, rank: int) -> Iterator[Made]:
    for window in WINDOWS:
        yield rank, f"{_flat(called)}_{window}_by_{entity}", *_count(told, called, source, entity, window)


def _count(told: Told, called: str, source: Source, entity: str, window: str) -> tuple[str, Any]:
    text = f'{_word(told, "count")}({called}, entity="{entity}", window="{window}")'
    return text, language.count(source, entity=entity, window=window)


def _of_column(told: Told, called: str, source: Source, column: str, entity: str) -> Iterator[Made]:
    kinds, stem = _kinds(source, column), f"{_flat(called)}_{column}"
    if kinds <= TRUTH:
        yield (
            USUAL,
            f"{stem}_share_by_{entity}",
            *_aggregate(told, "mean", called, source, column, entity, window=WINDOW),
        )
    elif kinds <= NUMBERS:
        usual = _aggregate(told, "mean", called, source, column, entity, window=WINDOW)
        yield USUAL, f"{stem}_usual_by_{entity}", *usual
        yield SPREAD, f"{stem}_spread_by_{entity}", *_aggregate(
            told, "std", called, source, column, entity, window=WINDOW
        )  # fmt: skip
        yield SPREAD, f"{stem}_last_by_{entity}", *_aggregate(told, "last", called, source, column, entity)
        if column in told.request.columns and _kinds(told.request, column) <= NUMBERS:
            mine = next((name for name, one in told.sources.items() if one is told.request), "")
            own = _column(told.request, column)
            if mine:
                text = f"{_spelled(mine, told.request, column)} / {usual[0]}"
                yield USUAL, f"{stem}_to_usual_by_{entity}", text, own / usual[1]
    elif kinds <= WORD:
        yield (
            TEXTS,
            f"{stem}s_by_{entity}",
            *_aggregate(told, "distinct", called, source, column, entity, window=WINDOW),
        )
        yield TEXTS, f"{stem}_last_by_{entity}", *_aggregate(told, "last", called, source, column, entity)


def _facts(told: Told, called: str, source: Source, entity: str) -> Iterator[Made]:
    for column in _columns(source, entity):
        if _kinds(source, column) <= NUMBERS | WORD:
            yield (
                FACTS,
                f"{_flat(called)}_{column}",
                *_aggregate(told, "last", called, source, column, entity),
            )


def _calendar(told: Told) -> Iterator[Made]:
    at = told.request.time
    mine = next((name for name, one in told.sources.items() if one is told.request), "")
    if mine and at and _kinds(told.request, at) <= WHEN:
        for part in ("hour", "weekday"):
            whole = getattr(_column(told.request, at), part)()
            yield FACTS, f"{_flat(mine)}_{part}", f"{_spelled(mine, told.request, at)}.{part}()", whole


# What they are made of.


def _naming(told: Told, entity: str) -> list[tuple[str, Source]]:
    """The sources whose events name an entity as the request does."""
    kinds = column_types(told.request.schema, entity)
    return [
        (called, one)
        for called, one in told.sources.items()
        if entity in one.columns and column_types(one.schema, entity) == kinds
    ]


def _columns(source: Source, entity: str) -> list[str]:
    """The columns that say something: not who, when, or which event."""
    return [name for name in source.columns if name not in (entity, source.id, source.key, source.time)]


def _kinds(source: Source, column: str) -> frozenset[type]:
    return column_types(source.schema, column)


def _column(source: Source, column: str) -> Expression:
    assert isinstance(source, Declared)
    return source.column(column)


def _spelled(called: str, source: Source, column: str) -> str:
    plain = isinstance(getattr(source, column), Expression)
    return f"{called}.{column}" if plain else f'{called}.column("{column}")'


def _aggregate(
    told: Told, kind: str, called: str, source: Source, column: str, entity: str, **options: str
) -> tuple[str, Any]:
    given: Mapping[str, str] = {"entity": entity, **options}
    text = ", ".join([_spelled(called, source, column), *(f'{n}="{value}"' for n, value in given.items())])
    return f"{_word(told, kind)}({text})", getattr(language, kind)(_column(source, column), **given)


def _word(told: Told, kind: str) -> str:
    """A word of the language as the file may call it: `sum`, `min` and `max` may mean Python's there."""
    return kind if kind in told.words else f"penstock.{kind}"


def _flat(called: str) -> str:
    return called.replace(".", "_")
