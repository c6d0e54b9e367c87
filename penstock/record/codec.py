"""record: bytes in, bytes out. Values lie on the log as MessagePack; JSON is for the doors.

MessagePack keeps every float's bits, NaN among them, and tells null from NaN, which JSON cannot.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_packer = msgspec.msgpack.Encoder(order="sorted")
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def pack(value: object) -> bytes:
    """A value's bytes; equal values give equal bytes."""
    return _packer.encode(value)


def unpack(data: bytes, type_: type[T]) -> T:
    """The value that `pack` wrote, checked against its type."""
    decoder = _decoders.get(type_)
    if decoder is None:
        decoder = _decoders[type_] = msgspec.msgpack.Decoder(type_)
    value: T = decoder.decode(data)
    return value


def digest(data: bytes) -> str:
    """The content address of bytes: SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def strict(value: Any) -> Any:
    """A value that JSON can carry: NaN and the infinities become null, structs become dicts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    if isinstance(value, msgspec.Struct):
        return strict(msgspec.to_builtins(value))
    return value


def to_json(value: object, *, indent: int = 0) -> bytes:
    """Strict JSON for people and machines."""
    data = msgspec.json.encode(strict(value))
    return msgspec.json.format(data, indent=indent) if indent else data


_TEXT = re.compile(rb'"((?:[^"\\]|\\.)*+)"(\s*+:)?')


def repeats_a_key(data: bytes) -> bool:
    """Whether an object in valid JSON has a key twice: which one counts, each reader decides differently."""
    keys = [text for text, colon in _TEXT.findall(data) if colon]
    if len(set(keys)) == len(keys) and not any(b"\\" in key for key in keys):
        return False
    twice = False

    def noted(pairs: list[tuple[str, Any]]) -> None:
        nonlocal twice
        twice = twice or len(dict(pairs)) < len(pairs)

    json.loads(data, object_pairs_hook=noted, parse_int=len)
    return twice


def repeats_no_key(data: bytes, keys: int) -> bool:
    """Whether a look suffices to see that valid JSON, in which a reader has met `keys` different keys, has no more
    of them: nothing is escaped, and every colon of it ends a key."""
    return data.count(b":") == keys == data.count(b'":') and b"\\" not in data


def millis(at: datetime) -> int:
    """UTC milliseconds; a naive time is taken as UTC."""
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return (at - _EPOCH) // timedelta(milliseconds=1)


def moment(time_ms: int) -> datetime:
    """The UTC time of a number of milliseconds."""
    return _EPOCH + timedelta(milliseconds=time_ms)


_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def span(text: str) -> int:
    """Milliseconds of a span like "90s", "5min", "1h", "30d"; raises ValueError when a unit is missing."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :]
    if unit not in _UNITS or not number.strip():
        raise ValueError(f'"{text}" is not a span of time: write a number and one of {", ".join(_UNITS)}')
    return round(float(number) * _UNITS[unit])


def span_text(span_ms: int) -> str:
    """A span of time in its largest whole unit."""
    for unit in ("w", "d", "h", "min", "s"):
        if span_ms and span_ms % _UNITS[unit] == 0:
            return f"{span_ms // _UNITS[unit]}{unit}"
    return f"{span_ms}ms"
