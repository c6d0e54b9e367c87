"""log: what lies on Kafka: records with native keys, times and headers; entries that name them; answers."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec
from confluent_kafka import Message

from penstock.log import Append, Appended, Commit, Write
from penstock.log.kafka.place import Place
from penstock.log.sqlite import Work
from penstock.record import errors
from penstock.record.errors import Broken, PenstockError
from penstock.record.record import Draft

STATE_BYTES = 512 << 10
OURS = "penstock-"
ID, TIME = f"{OURS}id", f"{OURS}time"

Where = tuple[str, int, int]
"""Kafka topic, partition, offset."""
Headers = list[tuple[str, str | bytes | None]]
Outgoing = tuple[str, int, bytes, bytes | None, int, Headers]
"""Kafka topic, partition, key, value, time, headers."""


class Refs(msgspec.Struct, frozen=True, array_like=True):
    """Records by their place: of record i the topic `topics[which[i]]`, its partition and its offset.

    `crc` is that of their bytes: a topic that was made anew has other records at these offsets."""

    topics: list[str]
    which: list[int]
    partitions: list[int]
    offsets: list[int]
    crc: int
    size_bytes: int

    def places(self) -> list[Where]:
        """Where each record lies."""
        return [
            (self.topics[w], p, at)
            for w, p, at in zip(self.which, self.partitions, self.offsets, strict=True)
        ]


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """Where a state lies on the states topic: in chunks under the keys of a slot of the owner's epoch.

    Nobody else writes under this epoch, and its owner overwrites a slot only when a newer state is
    committed in another: what compaction drops was followed by a newer one."""

    epoch: int
    number: int
    offsets: list[int]


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A write without its bytes, and where those are."""

    write: Write
    records: Refs
    slot: Slot | None


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What one writer did in one go: its n-th. Entries with a number that was seen are stale copies.

    `since` is the offset up to which the writer knew the journal: an entry that comes much later than
    that is void, so numbers need not be remembered for ever."""

    writer: str
    number: int
    since: int
    parts: list[Part]


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What a write's caller is told, in a form that another process can pass on."""

    appended: Appended | None = None
    number: int = 0
    error: tuple[str, str, str, str] | None = None  # kind, what, code, where

    @classmethod
    def of(cls, value: Any) -> Answer:
        """The answer that says a value or an error."""
        if isinstance(value, PenstockError):
            return cls(error=(type(value).__name__, value.what, value.code, value.where))
        if isinstance(value, Appended):
            return cls(appended=value)
        return cls(number=value)

    def give(self, work: Work) -> None:
        """Settle a caller's part."""
        work.answer = self.appended or self.number
        if self.error is not None:
            kind, what, code, where = self.error
            work.error = getattr(errors, kind)(what, code=code, where=where)


def outgoing(draft: Draft, topic: str, part: int) -> Outgoing:
    """A draft as a message. To Kafka time 0 means now, and there is nothing before it."""
    headers: Headers = []
    for name, text in draft.headers.items():
        headers.append((OURS + name if name.startswith(OURS) else name, text.encode()))
    if draft.id:
        headers.append((ID, draft.id.encode()))
    if draft.time_ms <= 0:
        headers.append((TIME, str(draft.time_ms).encode()))
    return topic, part, draft.key.encode(), draft.value, max(0, draft.time_ms), headers


def incoming(message: Message, prefix: str) -> Draft:
    """The draft that a message was made of."""
    id, time_ms, headers = "", message.timestamp()[1], {}
    for name, value in cast("list[tuple[str, bytes]]", message.headers() or []):
        if name == ID:
            id = value.decode()
        elif name == TIME:
            time_ms = int(value)
        else:
            headers[name.removeprefix(OURS) if name.startswith(OURS * 2) else name] = value.decode()
    topic, key = (message.topic() or "").removeprefix(f"{prefix}."), message.key() or b""
    return Draft(topic, bytes(key).decode(), time_ms, bytes(message.value() or b""), id, headers)


def crc_of(drafts: Iterable[Draft]) -> int:
    """The CRC of drafts: of their values, keys and ids."""
    crc = 0
    for draft in drafts:
        crc = zlib.crc32(draft.value, zlib.crc32(f"{draft.key}\0{draft.id}".encode(), crc))
    return crc


def chunks(stage: str, epoch: int, slot: int, state: bytes, topic: str) -> list[Outgoing]:
    """A state as messages."""
    cut = [state[i : i + STATE_BYTES] for i in range(0, len(state), STATE_BYTES)] or [b""]
    return [(topic, 0, state_key(stage, epoch, slot, i), chunk, 0, []) for i, chunk in enumerate(cut)]


def state_key(stage: str, epoch: int, slot: int, chunk: int) -> bytes:
    """The key of a chunk of a state."""
    return f"{stage}/{epoch}/{slot}/{chunk}".encode()


def places(entries: Iterable[Entry], states: str) -> list[Where]:
    """Everything that entries name."""
    found = []
    for entry in entries:
        for part in entry.parts:
            found += part.records.places()
            found += [(states, 0, at) for at in (part.slot.offsets if part.slot else ())]
    return found


def whole(entry: Entry, fetched: dict[Where, Message], place: Place) -> list[Write]:
    """An entry's writes with their bytes."""
    return [_whole(part, fetched, place) for part in entry.parts]


def _whole(part: Part, fetched: dict[Where, Message], place: Place) -> Write:
    if isinstance(part.write, Append):
        return msgspec.structs.replace(part.write, drafts=_drafts(part.records, fetched, place))
    if not isinstance(part.write, Commit):
        return part.write
    outputs = _drafts(part.records, fetched, place)
    state = _state(part.slot, fetched, place.states) if part.slot else None
    return msgspec.structs.replace(part.write, outputs=outputs, state=state)


def _drafts(refs: Refs, fetched: dict[Where, Message], place: Place) -> Sequence[Draft]:
    at = refs.places()
    gone = next((where for where in at if where not in fetched), None)
    if gone is not None:
        raise Broken(
            "The brokers no longer have records that the journal names.", code="log_passed",
            where=f"{gone[0]}/{gone[1]}@{gone[2]}", hint="Start this home from a snapshot of one that has them.",
        )  # fmt: skip
    drafts = [incoming(fetched[where], place.prefix) for where in at]
    if crc_of(drafts) != refs.crc:
        raise Broken(
            "Records are not those that the journal names.", code="log_backwards",
            where=refs.topics[0], hint="Was the topic made anew? Start this home from a snapshot.",
        )  # fmt: skip
    return drafts


def _state(slot: Slot, fetched: dict[Where, Message], states: str) -> bytes | None:
    """A committed state; None when compaction has dropped it, for a newer one follows in the journal."""
    found = [fetched.get((states, 0, at)) for at in slot.offsets]
    values = [bytes(chunk.value() or b"") for chunk in found if chunk is not None]
    return b"".join(values) if len(values) == len(slot.offsets) else None
