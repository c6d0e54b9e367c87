"""record: the users' events: typed, tagged, validated at the door, sources of topics."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from penstock.record.codec import millis, pack, repeats_a_key, unpack
from penstock.record.errors import Poison, Refused
from penstock.record.poison import UNREADABLE, code_of, poison, reason
from penstock.record.record import Draft, Record

LATEST_MS = 2**53
"""No event time lies further from 1970, either way."""
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


class Source(msgspec.Struct, frozen=True, eq=False):
    """A topic of the user's events: what they look like, and which columns are id, key and time."""

    topic: str
    schema: type[Event]
    id: str
    key: str
    time: str
    line: int = 0
    keep: str | tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of the class."""
        return self.schema.__struct_fields__

    @property
    def pii(self) -> frozenset[str]:
        """The columns tagged `pii`."""
        return frozenset(name for name, tags in self.schema.__tags__.items() if "pii" in tags)

    def parse(self, row: Mapping[str, Any] | bytes, *, strict: bool = True) -> Event:
        """An event from a mapping or from JSON; raises Refused naming the column, never its value.
        Not `strict`: texts are read as what the column's type says, as a CSV file needs."""
        try:
            if isinstance(row, bytes):
                row.isascii() or row.decode()  # msgspec skips what stands in columns that it does not know
                event = msgspec.json.decode(row, type=self.schema)
            else:
                event = msgspec.convert(row, self.schema, strict=strict)
        except msgspec.ValidationError as error:
            code = "no_key" if _keyless(self, str(error)) else code_of(error)
            raise Refused(self._misfit(error), code=code, where=self.topic) from None
        except UNREADABLE as error:
            raise Refused(
                f"The event is not valid JSON: {reason(error)}.", code=code_of(error), where=self.topic
            ) from None
        if isinstance(row, bytes) and repeats_a_key(row):
            raise Refused("The event names a column twice.", code="duplicate_key", where=self.topic)
        return event

    def event(self, record: Record) -> Event:
        """The event of a record; raises Poison where its bytes are none."""
        try:
            return unpack(record.value, self.schema)
        except UNREADABLE as error:
            raise self.poison(record, code_of(error), self._misfit(error)) from None

    def poison(self, record: Record, code: str, note: str) -> Poison:
        """The error that a record of this topic is, masked."""
        return poison(record, code, note, self.columns, self.pii, (self.id, self.key))

    def _misfit(self, error: Exception) -> str:
        return f"The event does not fit {self.schema.__name__}: {reason(error)}."

    def draft(self, event: Event) -> Draft:
        """The draft of one event; raises Refused where a number or a text of it cannot be written down.
        A key that is null is an empty key: such an event belongs to nobody."""
        key_value = getattr(event, self.key) if self.key else None
        at = getattr(event, self.time) if self.time else 0
        time_ms = millis(at) if isinstance(at, datetime) else int(at)
        try:
            value = pack(event)
        except (OverflowError, UnicodeEncodeError, RecursionError):
            time_ms = LATEST_MS + 1
        if abs(time_ms) > LATEST_MS:
            raise Refused(
                "A number of the event is too large, or a text of it is no text.",
                code="wrong_type", where=self.topic,
            )  # fmt: skip
        key = "" if key_value is None else str(key_value)
        return Draft(self.topic, key, time_ms, value, str(getattr(event, self.id)) if self.id else "")

    def drafts(self, rows: Iterable[Mapping[str, Any] | bytes]) -> list[Draft]:
        """The drafts of many rows; raises at the first that is refused."""
        return [self.draft(self.parse(row)) for row in rows]


def _keyless(source: Source, text: str) -> bool:
    """Whether an event was refused because it names nobody."""
    return f"missing required field `{source.key}`" in text or (
        f"`$.{source.key}`" in text and "null" in text
    )


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """The sentence for a wrong name, with the nearest right one."""
    import difflib

    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, 1)
    mend = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(names)}."
    return f'"{name}" is not {what}; {mend}'
