"""faults: a small pipeline whose truth is simple, and the check that tells whether a log still tells it.

Producers append numbered batches, each a pure function of (producer, sequence), to two topics; what
they tried and what was acknowledged stands in a file beside the log. One stage folds per key a count, a
sum and a hash chain, and says a line for each event and a sum for each seventh of a key. `check`
computes all of it again, plainly, from what the log holds. Only the `Log` port is used.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from penstock.log import Log
from penstock.record.codec import pack, unpack
from penstock.record.record import START, Draft, Position, Record
from penstock.stage import Running, restore, stage

INPUTS = ("ledger.left", "ledger.right")
LINES, SUMS = "ledger.lines", "ledger.sums"
KEYS = 8
SUM_EVERY = 7


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An event's value: who sent it, and a number to add."""

    producer: str
    sequence: int
    i: int
    number: int


class Account(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a key."""

    count: int = 0
    total: int = 0
    chain: bytes = b""


class Accounts(msgspec.Struct, frozen=True):
    """The stage's state."""

    accounts: dict[str, Account] = {}


def drafts(producer: str, sequence: int) -> list[Draft]:
    """A producer's batch of a sequence: the same whenever it is asked for. Half the producers' events have ids."""
    chance = zlib.crc32(f"{producer}/{sequence}".encode())
    named = zlib.crc32(producer.encode()) % 2 == 0
    out = []
    for i in range(1 + chance % 5):
        own = zlib.crc32(f"{chance}/{i}".encode())
        id = f"{producer}/{sequence}/{i}" if named else ""
        value = pack(Entry(producer, sequence, i, own % 1000))
        out.append(Draft(INPUTS[own % 2], f"k{own // 7 % KEYS}", sequence * 1000 + i, value, id))
    return out


def _chained(chain: bytes, record: Record) -> bytes:
    return sha256(chain + f"{record.topic}@{record.position}:".encode() + record.value).digest()[:16]


def _step(state: Accounts, record: Record) -> tuple[Accounts, list[Draft]]:
    old = state.accounts.get(record.key, Account())
    number = unpack(record.value, Entry).number
    new = Account(old.count + 1, old.total + number, _chained(old.chain, record))
    said = [Draft(LINES, record.key, record.time_ms, pack([record.topic, record.position, number]))]
    if new.count % SUM_EVERY == 0:
        said.append(Draft(SUMS, record.key, record.time_ms, pack(new)))
    return Accounts(state.accounts | {record.key: new}), said


LEDGER = stage("ledger", INPUTS, Accounts, _step)
LAZY = msgspec.structs.replace(LEDGER, snapshot_every=40)
"""The same stage with a state that is written now and then: between two of them a restart folds again."""


class Sent:
    """What producers tried and what was acknowledged to them, in a file that outlives their process.

    A line is `tried`, `kept` (acknowledged, safe against a killed process) or `safe` (synced as well).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, word: str, producer: str, sequence: int) -> None:
        """Add a line in one write."""
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{word} {producer} {sequence}\n".encode())
        finally:
            os.close(handle)

    def said(self, *words: str) -> set[tuple[str, int]]:
        """The (producer, sequence) pairs of all lines with one of the words."""
        if not self.path.exists():
            return set()
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return {(producer, int(sequence)) for word, producer, sequence in lines if word in words}


def send(log: Log, sent: Sent, producer: str, sequence: int, *, sync: bool = True) -> None:
    """Append a producer's batch and keep book of it. What raises may be sent again under the same sequence."""
    sent.say("tried", producer, sequence)
    log.append(drafts(producer, sequence), producer=producer, sequence=sequence, sync=sync)
    sent.say("safe" if sync else "kept", producer, sequence)


def finish(log: Log, batch: int = 64) -> Running[Accounts]:
    """Run the stage until nothing is new."""
    running = Running(LEDGER, log, batch=batch)
    while running.advance() is not None:
        pass
    running.save()
    return running


def everything(log: Log, topics: Sequence[str], stop: Position | None = None) -> list[Record]:
    """All records of some topics."""
    found: list[Record] = []
    position = START
    while True:
        records, position = log.read(topics, position, limit=1000, stop=stop, passing=True)
        if not records:
            return found
        found += records


def check(log: Log, sent: Sent | None = None, *, words: tuple[str, ...] = ("kept", "safe")) -> list[str]:
    """The differences between what the log holds and the plain truth; [] when there is none.

    `words`: which acknowledgements must have been kept.
    """
    records = everything(log, log.topics())
    inputs = [r for r in records if r.topic in INPUTS]
    wrong = _dense(records, whole=all(log.first(topic) == START for topic in log.topics()))
    wrong += _as_sent(inputs)
    if sent is not None:
        wrong += _acknowledged(inputs, sent.said(*words), sent.said("tried"))
    checkpoint = log.load(LEDGER.name)
    truth, expected = _plain([r for r in inputs if r.position < checkpoint.position.n])
    wrong += _same(restore(LEDGER, log, checkpoint), truth, "state at the stage's position")
    if checkpoint.state:
        until = [r for r in inputs if r.position < checkpoint.state_position.n]
        wrong += _same(LEDGER.load(checkpoint.state), _plain(until)[0], "saved state")
    for topic in (LINES, SUMS):
        found = [(r.id, r.key, r.value) for r in records if r.topic == topic]
        wanted = [(id, key, value) for t, id, key, value in expected if t == topic]
        wrong += _outputs(topic, found, wanted)
    return wrong


def digest(log: Log) -> str:
    """The digest of everything that the ledger's topics hold and of its state: two logs with one are equal."""
    records = everything(log, (*INPUTS, LINES, SUMS))
    rows = [(r.topic, r.position, r.id, r.key, r.time_ms, r.value) for r in records]
    return sha256(pack(rows) + state_bytes(restore(LEDGER, log, log.load(LEDGER.name)))).hexdigest()


def state_bytes(state: Accounts) -> bytes:
    """A state as bytes that do not depend on the order in which its keys came."""
    return pack(sorted(state.accounts.items()))


def _dense(records: Sequence[Record], *, whole: bool) -> list[str]:
    places = [r.position for r in records]
    if places != sorted(set(places)):
        return ["positions do not grow"]
    if whole and places != list(range(len(places))):
        at = next(i for i, place in enumerate(places) if place != i)
        return [f"positions are not dense: {places[at]} where {at} should be"]
    return []


def _as_sent(inputs: Iterable[Record]) -> list[str]:
    """Nothing stands there that its producer did not make."""
    wrong = []
    for r in inputs:
        entry = unpack(r.value, Entry)
        own = drafts(entry.producer, entry.sequence)
        made = own[entry.i] if entry.i < len(own) else None
        if made != Draft(r.topic, r.key, r.time_ms, r.value, r.id):
            wrong.append(f"the event at {r.topic}@{r.position} was never sent like this")
    return wrong


def _acknowledged(
    inputs: Iterable[Record], kept: set[tuple[str, int]], tried: set[tuple[str, int]]
) -> list[str]:
    """Every acknowledged batch is there whole and once; one that was tried, at most once; no other."""
    seen: dict[tuple[str, int], list[int]] = {}
    for r in inputs:
        entry = unpack(r.value, Entry)
        seen.setdefault((entry.producer, entry.sequence), []).append(entry.i)
    wrong = [f"{p}/{s} was acknowledged and is not there" for p, s in sorted(kept - seen.keys())]
    wrong += [f"{p}/{s} is there and was never sent" for p, s in sorted(seen.keys() - tried)]
    for (p, s), parts in sorted(seen.items()):
        whole = list(range(len(drafts(p, s))))
        if parts != whole:
            wrong.append(f"{p}/{s} is there as {parts}, not {whole}")
    return wrong


def _plain(inputs: Iterable[Record]) -> tuple[Accounts, list[tuple[str, str, str, bytes]]]:
    """The state and the outputs (topic, id, key, value) of events, by a loop over plain dicts."""
    count: dict[str, int] = {}
    total: dict[str, int] = {}
    chain: dict[str, bytes] = {}
    out = []
    for r in inputs:
        number = unpack(r.value, Entry).number
        count[r.key] = count.get(r.key, 0) + 1
        total[r.key] = total.get(r.key, 0) + number
        link = chain.get(r.key, b"") + f"{r.topic}@{r.position}:".encode() + r.value
        chain[r.key] = sha256(link).digest()[:16]
        out.append((LINES, f"ledger:{r.topic}:{r.position}:0", r.key, pack([r.topic, r.position, number])))
        if count[r.key] % SUM_EVERY == 0:
            value = pack([count[r.key], total[r.key], chain[r.key]])
            out.append((SUMS, f"ledger:{r.topic}:{r.position}:1", r.key, value))
    return Accounts({key: Account(count[key], total[key], chain[key]) for key in count}), out


def _same(state: Accounts, truth: Accounts, what: str) -> list[str]:
    if state_bytes(state) == state_bytes(truth):
        return []
    keys = sorted(state.accounts.keys() | truth.accounts.keys())
    off = [key for key in keys if state.accounts.get(key) != truth.accounts.get(key)]
    return [f"{what}: {key} is {_brief(state, key)}, not {_brief(truth, key)}" for key in off]


def _brief(state: Accounts, key: str) -> str:
    account = state.accounts.get(key, Account())
    return f"({account.count}, {account.total}, {account.chain.hex()[:6]})"


def _outputs(topic: str, found: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]]) -> list[str]:
    if found == wanted:
        return []
    ids, due = [one[0] for one in found], [one[0] for one in wanted]
    wrong = [f"{topic}: {id} is missing" for id in due if id not in set(ids)]
    wrong += [f"{topic}: {id} should not be there" for id in ids if id not in set(due)]
    wrong += [f"{topic}: {len(ids) - len(set(ids))} ids stand twice"] if len(ids) != len(set(ids)) else []
    return wrong or [f"{topic}: the records differ in order or value"]
