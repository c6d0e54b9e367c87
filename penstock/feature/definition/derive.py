"""feature: columns worked out before they are needed: at the door (ingest), or by a stage of their own (transit).

The expression is the same one that a feature would be made of at the request, and so are its values. What is
placed earlier is worked out once, is there from its deployment on, and lies on the log.
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from penstock.feature.definition.evaluate import compiled
from penstock.feature.definition.expression import Column, Expression, at_line, here, leaves
from penstock.feature.definition.plan import VALUES, column_of, row_meaning, row_types
from penstock.feature.definition.source import Derivation, Derived, Scored
from penstock.record.codec import digest, pack
from penstock.record.decisions import AGAIN
from penstock.record.errors import DefinitionError, Refused
from penstock.record.event import TOPIC_NAME, Event, Source, unknown
from penstock.record.record import Draft, Record
from penstock.stage import Stage, stage


def derived(source: Source, *, at: Literal["ingest", "transit"], **columns: Expression) -> Derived:
    """A source with further columns, each an expression of its rows.

    `at="ingest"`: the door adds them, and the topic stays the same. `at="transit"`: a stage reads the topic and
    writes another one, named by what the columns mean, so that another meaning begins another topic. At the
    request a column is simply its expression. Events that were there before have null at ingest.
    """
    where = at_line(here())
    if at not in ("ingest", "transit"):
        raise DefinitionError(
            unknown(str(at), ("ingest", "transit"), "a place to derive at"),
            code="arguments", where=where, hint="At the request, use the expression itself.",
        )  # fmt: skip
    if at == "ingest" and isinstance(source, Scored):
        raise DefinitionError(
            f"No door takes events of {source.topic}.",
            code="not_a_source", where=where, hint="Derive from what was scored, or at transit.",
        )  # fmt: skip
    for name, one in columns.items():
        _check(source, name, one, where)
    meanings = {name: [at, row_meaning(one)] for name, one in columns.items()}
    topic = source.topic if at == "ingest" else f"{source.topic}.derived.{digest(pack(meanings))[:8]}"
    if not TOPIC_NAME.fullmatch(topic):
        raise DefinitionError(f'"{topic}" is too long for a topic.', code="topic", where=where)
    schema = _schema(source, columns)
    work = Derivation(source, at, meanings, _work(columns))
    return Derived(topic, schema, source.id, source.key, source.time, here(), source.keep, derivation=work)


def _check(source: Source, name: str, one: Any, where: str) -> None:
    if name in source.columns or name.startswith("_"):
        raise DefinitionError(
            f'"{name}" cannot be a further column of {source.topic}.', code="name_taken", where=where
        )
    found = list(leaves(one)) if isinstance(one, Expression) else []
    if not found or any(not isinstance(leaf, Column) or leaf.source is not source for leaf in found):
        raise DefinitionError(
            f'"{name}" is not an expression of columns of {source.topic}.', code="not_a_row", where=where
        )
    if not row_types(one) <= VALUES:
        raise DefinitionError(f'"{name}" is not a number, a bool or a text.', code="wrong_type", where=where)


def _schema(source: Source, columns: dict[str, Expression]) -> type[Event]:
    """The event type with further columns, null where they were not there yet. What is worked out of personal
    columns is personal."""
    hints = {
        name: functools.reduce(operator.or_, sorted(row_types(one) or VALUES, key=str), None)
        for name, one in columns.items()
    }
    space = {
        "__annotations__": hints, "__module__": source.schema.__module__, **dict.fromkeys(hints),
    }  # fmt: skip
    made: type[Event] = types.new_class(
        source.schema.__name__, (source.schema,), {}, lambda body: body.update(space)
    )
    personal = frozenset(("pii",))
    tags = {n: personal for n, one in columns.items() if source.pii & {leaf.name for leaf in _columns(one)}}
    type.__setattr__(made, "__tags__", {**made.__tags__, **tags})
    return made


def _columns(one: Expression) -> list[Column]:
    return [leaf for leaf in leaves(one) if isinstance(leaf, Column)]


def _work(columns: dict[str, Expression]) -> Callable[[Event], dict[str, Any]]:
    reads = {name: compiled(one, column_of) for name, one in columns.items()}
    return lambda event: {name: read(event) for name, read in reads.items()}


class Nothing(msgspec.Struct, frozen=True):
    """A stage's state, where it needs none."""


def derive_stage(source: Derived) -> Stage[Nothing]:
    """The stage `derive.TOPIC`: an event of the base in, the same event with the further columns out."""
    base = source.derivation.base

    def step(state: Nothing, record: Record) -> tuple[Nothing, list[Draft]]:
        event = base.event(record)
        try:
            made = source.draft(source.filled(event))
        except Refused as error:
            raise base.poison(record, error.code, error.what) from None
        return state, [msgspec.structs.replace(made, id="")]  # an output's id says what it was made of

    return stage(
        f"derive.{source.topic}", (base.topic, AGAIN), Nothing, step, snapshot_every=1000, sync=False
    )
