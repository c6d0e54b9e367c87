"""feature: how large a fold's state is, told from its bytes: no series is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.feature.definition.plan import FeatureSet
from penstock.record.codec import unpack

GONE, TIMES, MORE = 1, 4, 8
"""Places in the row that a table writes of an entity."""


class Size(msgspec.Struct, frozen=True):
    """The state of one series of a set: events held (and rows of hops), whose, how many the largest entity has,
    how many more are known by their sums alone, and bytes on the log."""

    series: str
    topic: str
    events: int
    entities: int
    largest: int
    gone: int
    size_bytes: int


def sizes(features: FeatureSet, data: bytes) -> list[Size]:
    """What stands in the bytes that `Fold.dump` wrote, a line for each series."""
    tables = unpack(unpack(data, list[msgspec.Raw])[2], list[list[msgspec.Raw]])
    return [_size(features, i, rows) for i, rows in enumerate(tables)]


def _size(features: FeatureSet, at: int, rows: Sequence[msgspec.Raw]) -> Size:
    key = features.series[at]
    held, gone, size_bytes = [], 0, 0
    for row in rows:
        parts = unpack(row, list[msgspec.Raw])
        held.append(_length(parts[TIMES]) + (_hops(parts[MORE]) if len(parts) > MORE else 0))
        gone += unpack(parts[GONE], int)
        size_bytes += memoryview(row).nbytes
    return Size(key.label, key.topic, sum(held), len(held), max(held, default=0), gone, size_bytes)


def _hops(more: msgspec.Raw) -> int:
    closed: Any = unpack(more, list[msgspec.Raw])[1]
    return _length(closed)


def _length(raw: msgspec.Raw) -> int:
    """How many items an array has, by its first bytes; 0 for a null."""
    head = bytes(memoryview(raw)[:5])
    first = head[0]
    if first == 0xDC:
        return int.from_bytes(head[1:3])
    if first == 0xDD:
        return int.from_bytes(head[1:5])
    return first & 0x0F if first & 0xF0 == 0x90 else 0
