"""record: the users' events: typed, tagged, validated at the door, sources of topics."""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from penstock.record.codec import millis, pack
from penstock.record.errors import DefinitionError, Refused
from penstock.record.record import Draft

TOPIC_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Tag(msgspec.Struct, frozen=True):
    """What a column is besides its type: `key`, `pii`. Tags nest: `pii(key())`."""

    names: frozenset[str] = frozenset()


def key(inner: Any = None) -> Any:
    """The column that identifies whose event it is; it is also the topic's key."""
    return _tag("key", inner)


def pii(inner: Any = None) -> Any:
    """A column that tells who a person is; it is masked wherever values are shown."""
    return _tag("pii", inner)


def _tag(name: str, inner: Any) -> Tag:
    names = inner.names if isinstance(inner, Tag) else frozenset()
    return Tag(names | {name})


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(key, pii))
class _EventMeta(msgspec.StructMeta):
    """Takes the tags out of a class body before msgspec would read them as default values."""

    def __new__(mcls, name: str, bases: tuple[type, ...], space: dict[str, Any], **options: Any) -> Any:
        tags = {column: space.pop(column).names for column in list(space) if isinstance(space[column], Tag)}
        options.setdefault("kw_only", True)
        options.setdefault("frozen", True)
        options.setdefault("gc", False)
        cls = super().__new__(mcls, name, bases, space, **options)
        type.__setattr__(cls, "__tags__", {**getattr(cls, "__tags__", {}), **tags})
        return cls


class Event(msgspec.Struct, metaclass=_EventMeta, kw_only=True, frozen=True, gc=False):
    """Base of the users' events: columns with types, and tags such as `key()` and `pii()`."""

    __tags__: typing.ClassVar[dict[str, frozenset[str]]]


class NoColumn(DefinitionError, AttributeError):
    """The source has no column of this name."""


class Column(msgspec.Struct, frozen=True):
    """One column of a source, as the definitions of features name it."""

    source: Source
    name: str


class Source(msgspec.Struct, frozen=True, eq=False):
    """A topic of the user's events: what they look like, and which columns are id, key and time."""

    topic: str
    schema: type[Event]
    id: str
    key: str
    time: str
    line: int = 0

    def __getattr__(self, name: str) -> Column:
        if name.startswith("_") or name not in self.schema.__struct_fields__:
            text = unknown(name, self.columns, f"a column of {self.topic}")
            raise NoColumn(text, code="unknown_column")
        return Column(self, name)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of the class."""
        return self.schema.__struct_fields__

    def column(self, name: str) -> Column:
        """A column by name, for names that collide with a field of `Source` (`id`, `key`, `time`)."""
        if name not in self.columns:
            raise DefinitionError(
                unknown(name, self.columns, f"a column of {self.topic}"), code="unknown_column"
            )
        return Column(self, name)

    @property
    def pii(self) -> frozenset[str]:
        """The columns tagged `pii`."""
        return frozenset(name for name, tags in self.schema.__tags__.items() if "pii" in tags)

    def parse(self, row: Mapping[str, Any] | bytes, *, strict: bool = True) -> Event:
        """An event from a mapping or from JSON; raises Refused naming the column, never its value.
        Not `strict`: texts are read as what the column's type says, as a CSV file needs."""
        try:
            if isinstance(row, bytes):
                return msgspec.json.decode(row, type=self.schema)
            return msgspec.convert(row, self.schema, strict=strict)
        except msgspec.ValidationError as error:
            raise Refused(
                _sentence(self, str(error)), code=_code(self, str(error)), where=self.topic
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Refused("The event is not valid JSON.", code="malformed", where=self.topic) from None

    def draft(self, event: Event) -> Draft:
        """The draft of one event. A key that is null is an empty key: such an event belongs to nobody."""
        key_value = getattr(event, self.key) if self.key else None
        at = getattr(event, self.time) if self.time else 0
        return Draft(
            topic=self.topic,
            key="" if key_value is None else str(key_value),
            time_ms=millis(at) if isinstance(at, datetime) else int(at),
            value=pack(event),
            id=str(getattr(event, self.id)) if self.id else "",
        )

    def drafts(self, rows: Iterable[Mapping[str, Any] | bytes]) -> list[Draft]:
        """The drafts of many rows; raises at the first that is refused."""
        return [self.draft(self.parse(row)) for row in rows]


def _code(source: Source, text: str) -> str:
    missing = re.search(r"missing required field `(\w+)`", text)
    if missing:
        return "no_key" if missing.group(1) == source.key else "missing_column"
    if f"`$.{source.key}`" in text and "null" in text:
        return "no_key"
    return "wrong_type"


def _sentence(source: Source, text: str) -> str:
    """msgspec's own sentence names types and paths, no values; one about an enum would show the value."""
    shown = re.sub(r"Invalid enum value .*? - at", "Invalid enum value - at", text)
    return f"The event does not fit {source.schema.__name__}: {shown}."


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """The sentence for a wrong name, with the nearest right one."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    mend = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(names)}."
    return f'"{name}" is not {what}; {mend}'


def source(
    schema: type[Event] | str,
    *,
    topic: str = "",
    id: str = "",
    key: str = "",
    time: str = "",
    _depth: int = 1,
) -> Source:
    """Declare a topic of events. A text alone is a topic whose events have nothing but their key and time.

    `id` names the column that tells one event from another (a repeat is dropped), `key` the entity
    (default: the column tagged `key()`), `time` the event time (default: the only `datetime` column;
    an event type without one is a fact that holds always). Raises DefinitionError with the line.
    """
    line = sys._getframe(_depth).f_lineno
    if isinstance(schema, str):
        bare, topic = _bare(schema, key or id, time, line), topic or schema
        return Source(topic, bare, id, key or id, time, line)
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
    return Source(name, schema, chosen["id"], chosen["key"], chosen["time"], line)


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
