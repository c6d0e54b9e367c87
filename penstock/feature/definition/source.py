"""feature: sources as a pipeline file declares them: topics of events whose columns are expressions."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from penstock.feature.definition.expression import Column, here
from penstock.record.errors import DefinitionError, Refused
from penstock.record.event import TOPIC_NAME, Event, Source, unknown


class NoColumn(DefinitionError, AttributeError):
    """The source has no column of this name."""


class Declared(Source, frozen=True, eq=False):
    """A source as a pipeline file names it: its columns are expressions."""

    def __getattr__(self, name: str) -> Column:
        if name.startswith("_") or name not in self.schema.__struct_fields__:
            text = unknown(name, self.columns, f"a column of {self.topic}")
            raise NoColumn(text, code="unknown_column")
        return Column(source=self, name=name)

    def column(self, name: str) -> Column:
        """A column by name, for names that collide with a field of `Source` (`id`, `key`, `time`)."""
        if name not in self.columns:
            raise DefinitionError(
                unknown(name, self.columns, f"a column of {self.topic}"), code="unknown_column"
            )
        return Column(source=self, name=name)


class Derivation(msgspec.Struct, frozen=True, eq=False):
    """How a source's further columns come to be: of which source, where, by what they mean."""

    base: Source
    at: Literal["ingest", "transit"]
    meanings: dict[str, Any]
    work: Callable[[Event], dict[str, Any]]


class Derived(Declared, frozen=True, eq=False, kw_only=True):
    """A source with further columns, worked out of a row before it lies on the topic. See `derive.derived`."""

    derivation: Derivation

    def parse(self, row: Mapping[str, Any] | bytes, *, strict: bool = True) -> Event:
        """See `Source`. Whatever a row says of the further columns is not taken: they are worked out."""
        return self.filled(self.derivation.base.parse(row, strict=strict))

    def filled(self, event: Event) -> Event:
        """An event of the base with the further columns; raises Refused where a row function fails."""
        try:
            made = self.derivation.work(event)
            return msgspec.convert({**msgspec.structs.asdict(event), **made}, self.schema)
        except Exception:  # a row function is the user's code, whatever it raises or returns
            raise Refused(
                "A derived column cannot be worked out.", code="row_failed", where=self.topic
            ) from None


class Scored(Declared, frozen=True, eq=False, kw_only=True):
    """Requests with what a model answered them as further columns. See `scored.scored`."""

    base: Source
    model: str


def lineage(one: Source) -> Iterator[Source]:
    """A source and those that it derives from on the same topic."""
    yield one
    if isinstance(one, Derived) and one.derivation.at == "ingest":
        yield from lineage(one.derivation.base)


def descent(one: Source) -> Iterator[Source]:
    """A source and all that its rows have the columns of: what it derives from at the door, and what was scored."""
    yield from lineage(one)
    if isinstance(one, Scored):
        yield from descent(one.base)


def raw(one: Source) -> Source:
    """What producers send of a source."""
    return list(lineage(one))[-1]


def wider(one: Source, other: Source) -> Source | None:
    """Of two sources of one topic the one that derives from the other; None: neither does."""
    return one if other in lineage(one) else other if one in lineage(other) else None


def source(
    schema: type[Event] | str,
    *,
    topic: str = "",
    id: str = "",
    key: str = "",
    time: str = "",
    keep: str | tuple[str, ...] = (),
) -> Declared:
    """Declare a topic of events. A text alone is a topic whose events have nothing but their key and time.

    `id` names the column that tells one event from another (a repeat is dropped), `key` the entity
    (default: the column tagged `key()`), `time` the event time (default: the only `datetime` column;
    an event type without one is a fact that holds always), `keep` how long or how much of it is kept
    ("90d", "10GB", or both; default: all of it). Raises DefinitionError with the line.
    """
    line = here()
    if isinstance(schema, str):
        bare, topic = _bare(schema, key or id, time, line), topic or schema
        return Declared(topic, bare, id, key or id, time, line, keep)
    hints = typing.get_type_hints(schema)
    columns = schema.__struct_fields__
    tagged = [name for name in columns if "key" in schema.__tags__.get(name, ())]
    moments = [name for name in columns if hints[name] is datetime]
    if not time and len(moments) > 1:
        raise DefinitionError(
            f"{schema.__name__} has several datetime columns ({', '.join(moments)}).",
            code="which_time", where=f"line {line}",
            hint=f'Say which is the event time: time="{moments[0]}".',
        )  # fmt: skip
    chosen = {
        "id": id,
        "key": key or (tagged[0] if tagged else id),
        "time": time or (moments[0] if moments else ""),
    }
    for role, name in chosen.items():
        if name and name not in columns:
            text = unknown(name, columns, f"a column of {schema.__name__}")
            raise DefinitionError(text, code="unknown_column", where=f"line {line}, {role}=")
    if chosen["time"] and hints[chosen["time"]] not in (datetime, int):
        raise DefinitionError(
            f'"{chosen["time"]}" must be a datetime or an int of UTC milliseconds to be an event time.',
            code="which_time", where=f"line {line}",
        )  # fmt: skip
    name = topic or schema.__name__.lower()
    if not TOPIC_NAME.fullmatch(name):
        raise DefinitionError(
            f'"{name}" cannot be a topic: use a-z, 0-9, ".", "_", "-".', where=f"line {line}"
        )
    return Declared(name, schema, chosen["id"], chosen["key"], chosen["time"], line, keep)


def _bare(topic: str, key: str, time: str, line: int) -> type[Event]:
    """The type of events that say only whose they are and when."""
    if not key or not time:
        raise DefinitionError(
            f'"{topic}" has no columns of its own, so say which it has.',
            code="no_key", where=f"line {line}", hint=f'source("{topic}", key="payment_id", time="at"), for example.',
        )  # fmt: skip
    hints = {"__annotations__": {key: str, time: datetime}, "__module__": __name__}
    made: type[Event] = types.new_class(topic, (Event,), {}, lambda space: space.update(hints))
    return made
