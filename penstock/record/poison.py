"""record: values that are not what their topic promises, and what may be told of them: shapes, no content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from penstock.record.codec import unpack
from penstock.record.errors import Poison
from penstock.record.record import Record

S = TypeVar("S", bound=msgspec.Struct)
HIDDEN = "•••"
SAMPLE_CHARACTERS = 200
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding foreign bytes raises; a length that claims more than there is among them."""


def opened(record: Record, type_: type[S]) -> S:
    """A value that foreigners may have written, checked against its type; raises Poison."""
    try:
        return unpack(record.value, type_)
    except UNREADABLE as error:
        note = f"The value is no {type_.__name__}: {reason(error)}."
        raise poison(record, code_of(error), note, type_.__struct_fields__) from None


def poison(
    record: Record,
    code: str,
    note: str,
    columns: Sequence[str],
    pii: frozenset[str] = frozenset(),
    roles: tuple[str, str] = ("", ""),
) -> Poison:
    """The error that a record is. `roles`: the columns that its id and its key come from."""
    told = zip(roles, (record.id, record.key), strict=True)
    id, key = (HIDDEN if name in pii and text else text[:64] for name, text in told)
    shown = sample(record.value, columns, pii)
    return Poison(note, code=code, where=f"{record.topic}@{record.position}", id=id, key=key, sample=shown)


def reason(error: Exception) -> str:
    """Why bytes could not be read, without any of them: msgspec's own sentence names types and paths only,
    but for one about an enum."""
    if isinstance(error, UnicodeDecodeError):
        return "a text is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return re.sub(r"Invalid enum value .*? - at", "Invalid enum value - at", str(error))


def code_of(error: Exception) -> str:
    """The stable code of what was wrong with bytes."""
    if isinstance(error, UnicodeDecodeError):
        return "bad_utf8"
    if isinstance(error, RecursionError):
        return "nested"
    if isinstance(error, msgspec.ValidationError):
        return "missing_column" if "missing required field" in str(error) else "wrong_type"
    return "malformed"


def sample(value: bytes, columns: Sequence[str], pii: frozenset[str] = frozenset()) -> str:
    """A value's shape: which of the known columns it has, of what type and length. No content, and no
    name that is not ours: a foreign one may be somebody's."""
    try:
        found: Any = msgspec.msgpack.decode(value)
    except UNREADABLE as error:
        return f"{len(value)} bytes: {reason(error)}"[:SAMPLE_CHARACTERS]
    if not isinstance(found, dict):
        return f"{len(value)} bytes: {_kind(found)}"
    parts = [f"{name}={HIDDEN if name in pii else _kind(found[name])}" for name in columns if name in found]
    strange = len(found.keys() - set(columns))
    parts += [f"{strange} unknown"] if strange else []
    return f"{len(value)} bytes: {', '.join(parts)}"[:SAMPLE_CHARACTERS]


def _kind(value: Any) -> str:
    size = f"[{len(value)}]" if isinstance(value, (str, bytes, list, dict)) else ""
    return "null" if value is None else f"{type(value).__name__}{size}"
