"""log: the engine of several machines: a journal on Kafka, and in each home a mirror that follows it.

Records lie on one Kafka topic for each of ours, in partitions by key, where any Kafka reader finds
them. A one-partition topic, the journal, gives them their one order: each entry is a group of writes
(appends, claims, commits) that names its records by their offsets. Every home applies the entries in
order to its tables, as the SQLite engine does, so ids, fences, sequences and positions are the same
everywhere. A write whose outcome is unknown is sent again, under its number, by a new producer,
until it is read back: of the copies of an entry the first counts.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from penstock.log import Append, Appended, Checkpoint, Commit, Write, tables
from penstock.log.sqlite import SqliteLog, Work
from penstock.log.tables import Writing
from penstock.record import errors
from penstock.record.codec import pack, unpack
from penstock.record.errors import Broken, PenstockError, Refused, Unavailable
from penstock.record.record import Draft, partition

T = TypeVar("T")

PARTITIONS = 4
PATIENCE_S = 30.0
"""How long a write waits for the brokers before it says that it does not know."""
ATTEMPT_S = 5.0
STATE_BYTES = 512 << 10
ENTRY_BYTES = 8 << 20
AHEAD = 50_000
"""Records of one partition that are kept before an entry names them."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS writer(name TEXT PRIMARY KEY, sequence INTEGER NOT NULL, answers BLOB NOT NULL) STRICT;
INSERT OR IGNORE INTO meta VALUES('journal', '-1 0'), ('home', hex(randomblob(8)));
"""
_FOR_EVER = str(2**63 - 1)
_ID, _TIME = "penstock-id", "penstock-time"
_PRODUCER: dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 5,  # `flush` does not wait for it; without it each record would travel alone
    "message.timeout.ms": int(ATTEMPT_S * 1000),
    "message.max.bytes": ENTRY_BYTES + (1 << 20),
    "queue.buffering.max.messages": 2_000_000,
}

_Headers = list[tuple[str, str | bytes | None]]
_Message = tuple[str, int, bytes, bytes, int, _Headers]
"""Topic, partition, key, value, time, headers."""


class Place(msgspec.Struct, frozen=True):
    """Where a log is on Kafka: brokers, the prefix of its topics, librdkafka settings (TLS, SASL)."""

    brokers: str
    prefix: str = "penstock"
    settings: dict[str, str] = {}

    def topic(self, name: str) -> str:
        """The Kafka topic of one of ours."""
        return f"{self.prefix}.{name}"


def place(url: str, settings: str = "") -> Place:
    """A place from `kafka://host:port[,host:port][/prefix]` and the text of a settings file (key=value
    lines, librdkafka's names); raises Refused for anything else."""
    scheme, _, rest = url.partition("://")
    brokers, _, prefix = rest.partition("/")
    if scheme != "kafka" or not brokers or "@" in brokers:
        raise Refused("A log on Kafka is named kafka://HOST:PORT[,HOST:PORT][/PREFIX].", code="log_url")
    lines = [line.strip() for line in settings.splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    if any(not equals for _, equals, _ in pairs):
        raise Refused("A line of the log's settings file is not KEY=VALUE.", code="log_settings")
    return Place(brokers, prefix or "penstock", {key.strip(): value.strip() for key, _, value in pairs})


class _Refs(msgspec.Struct, frozen=True, array_like=True):
    """Records by their place: of record i the topic `topics[which[i]]`, its partition and its offset."""

    topics: list[str]
    which: list[int]
    partitions: list[int]
    offsets: list[int]

    def places(self) -> list[tuple[str, int, int]]:
        """(Kafka topic, partition, offset) of each record."""
        return [
            (self.topics[w], p, at)
            for w, p, at in zip(self.which, self.partitions, self.offsets, strict=True)
        ]


class _Part(msgspec.Struct, frozen=True, array_like=True):
    """A write without its bytes, and where those are. `state`: offsets on the states topic."""

    write: Write
    records: _Refs
    state: list[int] | None


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    """What one writer did in one go: its n-th. Entries with a number that was seen are stale copies."""

    writer: str
    number: int
    parts: list[_Part]


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    """What a write's caller is told, in a form that another process can pass on."""

    appended: Appended | None = None
    checkpoint: Checkpoint | None = None
    number: int = 0
    error: tuple[str, str, str, str] | None = None  # kind, what, code, where

    def give(self, work: Work) -> None:
        """Settle a caller's part."""
        work.answer = self.appended or self.checkpoint or self.number
        if self.error is not None:
            kind, what, code, where = self.error
            work.error = getattr(errors, kind)(what, code=code, where=where)


class _Under(msgspec.Struct):
    """The group of writes that is under way."""

    number: int
    group: list[Work]
    done: bool = False


class KafkaLog(SqliteLog):
    """A log on Kafka whose mirror lies in `home/log.db`. Processes of one home share the mirror."""

    def __init__(self, home: Path, place: Place, *, create: bool = True) -> None:
        super().__init__(home, create=create)
        self.place = place
        self._journal, self._states = place.topic("commits"), place.topic("states")
        self._writer.execute(_SCHEMA)
        self._home = str((tables.row(self._writer, "SELECT value FROM meta WHERE key = 'home'") or ("",))[0])
        self.name = f"{self._home}/{secrets.token_hex(8)}"
        self._number = 0
        self._under: _Under | None = None
        self._applied = threading.Condition()
        self._failed: PenstockError | None = None
        self._producer: Producer | None = None
        self._spread: dict[str, int] = {}  # partitions by Kafka topic
        self._slots: dict[str, int] = {}  # the key of each stage's next state
        self._fetcher = _Fetcher(self._settings())
        try:
            self._make({self._journal: 1, self._states: 1})
            caught_up = self._head()
            self._tailer = threading.Thread(target=self._tailing, name="penstock-kafka", daemon=True)
            self._tailer.start()
            self._catch_up(caught_up)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the brokers, then of the mirror."""
        self._closed.set()
        tailer = getattr(self, "_tailer", None)
        if tailer is not None:
            tailer.join()
        self._fetcher.close()
        super().close()

    # Connecting.

    def _settings(self, **more: Any) -> dict[str, Any]:
        quiet = {"log_level": 0, "error_cb": _ignore, "client.id": "penstock"}
        return {**quiet, **self.place.settings, "bootstrap.servers": self.place.brokers, **more}

    def _make(self, topics: dict[str, int]) -> None:
        """Make the Kafka topics that are missing, and learn how many partitions each has."""
        admin = AdminClient(self._settings())
        known = _patiently(lambda: admin.list_topics(timeout=ATTEMPT_S))
        copies = min(3, len(known.brokers))
        missing = [
            NewTopic(name, n, copies, config=self._config(name, copies))
            for name, n in topics.items()
            if name not in known.topics
        ]
        for made in (admin.create_topics(missing) if missing else {}).values():
            with contextlib.suppress(KafkaException):  # another process was faster; the look below tells
                made.result(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while not all(name in self._spread for name in topics):
            for name, found in _patiently(lambda: admin.list_topics(timeout=ATTEMPT_S)).topics.items():
                if found.partitions and found.error is None:
                    self._spread[name] = len(found.partitions)
            if time.monotonic() > deadline:
                raise Unavailable("The brokers did not make the log's topics.", code="log_away")

    def _config(self, name: str, copies: int) -> dict[str, str]:
        config = {
            "retention.ms": "-1",
            "retention.bytes": "-1",
            "message.timestamp.after.max.ms": _FOR_EVER,  # event time may lie ahead of the broker's clock
            "max.message.bytes": str(ENTRY_BYTES + (1 << 20)),
            "min.insync.replicas": str(max(1, copies - 1)),
        }
        return {**config, "cleanup.policy": "compact"} if name == self._states else config

    def _head(self) -> int:
        """The journal's newest offset; raises Broken when it is not the journal that the mirror followed."""
        applied, _ = self._mark()
        consumer = Consumer(self._settings(**{"group.id": "penstock-look", "enable.auto.commit": False}))
        try:
            journal = TopicPartition(self._journal, 0)
            low, high = _patiently(lambda: consumer.get_watermark_offsets(journal, timeout=ATTEMPT_S))
        finally:
            consumer.close()
        if applied >= high:
            raise Broken(
                f"The journal ends at {high}, before entry {applied} that this home has applied.",
                code="log_backwards", where=self._journal,
                hint="Was it made anew? Move the home's log.db away to follow this one.",
            )  # fmt: skip
        if low > applied + 1:
            raise Broken(
                "The journal no longer has the entries that this home has to apply next.",
                code="log_passed", where=f"{self._journal}@{applied + 1}", hint="Copy log.db from a newer home.",
            )  # fmt: skip
        return high - 1

    def _catch_up(self, offset: int) -> None:
        """Wait until the mirror has applied an offset; there is no limit while it goes on."""
        with self._applied:
            while self._mark()[0] < offset and self._failed is None:
                self._applied.wait(0.2)
        if self._failed is not None:
            raise self._failed

    def _mark(self, db: Any = None) -> tuple[int, int]:
        """The offset of the newest entry that the mirror has applied, and the CRC of its bytes."""
        found = tables.row(db or self._reader(), "SELECT value FROM meta WHERE key = 'journal'")
        offset, crc = str(found[0] if found else "-1 0").split()
        return int(offset), int(crc)

    # Writing: publish the records, then the entry that names them; wait until it is read back.

    def _lead(self, group: list[Work]) -> None:
        """See the SQLite engine; the transaction is an entry of the journal, and each home's own."""
        try:
            if self._failed is not None:
                raise self._failed
            self._number += 1
            deadline = time.monotonic() + PATIENCE_S
            parts = [self._part(work.write, deadline) for work in group]
            data = pack(_Entry(self.name, self._number, parts))
            if len(data) > ENTRY_BYTES:
                raise Refused("One append takes at most about half a million records.", code="too_large")
            self._under = _Under(self._number, group)
            self._settle(self._under, data, deadline)
            for work in group:
                if isinstance(work.write, Commit) and work.write.state is not None and work.error is None:
                    self._slots[work.write.stage] = 1 - self._slots.get(work.write.stage, 0)
        except BaseException as error:
            for work in group:
                work.error = work.error or error
        finally:
            self._under = None
            for work in group:
                work.done = True

    def _part(self, write: Write, deadline: float) -> _Part:
        """Publish what a write brings, and say where it lies."""
        nothing = _Refs([], [], [], [])
        if isinstance(write, Append):
            return _Part(
                msgspec.structs.replace(write, drafts=()), self._records(write.drafts, deadline), None
            )
        if isinstance(write, Commit):
            bare = msgspec.structs.replace(write, outputs=(), state=None)
            records = self._records(write.outputs, deadline)
            return _Part(bare, records, self._state(write, deadline))
        return _Part(write, nothing, None)

    def _records(self, drafts: Sequence[Draft], deadline: float) -> _Refs:
        names = sorted({draft.topic for draft in drafts})
        missing = [name for name in map(self.place.topic, names) if name not in self._spread]
        if missing:
            self._make(dict.fromkeys(missing, PARTITIONS))
        topics = [self.place.topic(name) for name in names]
        spread = [self._spread[topic] for topic in topics]
        number = {name: i for i, name in enumerate(names)}
        which = [number[draft.topic] for draft in drafts]
        parts = [partition(d.key, spread[w]) for d, w in zip(drafts, which, strict=True)]
        messages = [
            (topics[w], p, d.key.encode(), d.value, max(0, d.time_ms), _headers(d))
            for d, w, p in zip(drafts, which, parts, strict=True)
        ]
        return _Refs(topics, which, parts, self._publish(messages, deadline))

    def _state(self, write: Commit, deadline: float) -> list[int] | None:
        """Two keys by turns: compaction keeps the newest of both, so the one that the newest commit names."""
        if write.state is None:
            return None
        chunks = [write.state[i : i + STATE_BYTES] for i in range(0, len(write.state), STATE_BYTES)] or [b""]
        slot = self._slots.get(write.stage, 0)
        messages: list[_Message] = [
            (self._states, 0, f"{write.stage}/{slot}/{i}".encode(), chunk, 0, [])
            for i, chunk in enumerate(chunks)
        ]
        return self._publish(messages, deadline)

    def _settle(self, under: _Under, data: bytes, deadline: float) -> None:
        """Send an entry until it is read back. Nobody knows what became of a copy that was not confirmed,
        and nobody needs to: it is the same entry."""
        again = time.monotonic()
        message: _Message = (self._journal, 0, self.name.encode(), data, 0, [])
        while not under.done:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "The brokers do not answer; the write may have happened.", code="log_unknown"
                )
            if time.monotonic() >= again:
                with contextlib.suppress(Unavailable):
                    self._publish([message], min(deadline, time.monotonic() + ATTEMPT_S))
                again = time.monotonic() + ATTEMPT_S
            with self._applied:
                if not under.done:
                    self._applied.wait(ATTEMPT_S / 10)
            if self._failed is not None:
                raise self._failed

    def _publish(self, messages: Sequence[_Message], deadline: float) -> list[int]:
        """Send messages, each until a broker has confirmed it; their offsets. After a failure the producer
        is a new one: what an old one still holds cannot arrive in its name any more."""
        offsets: dict[int, int] = {}
        while True:
            producer = self._producer = self._producer or Producer(self._settings(**_PRODUCER))
            told: dict[tuple[str, int], list[int]] = {}  # confirmed, by partition: in the order of sending
            sent: dict[tuple[str, int], list[int]] = {}
            left = [i for i in range(len(messages)) if i not in offsets]
            for i in left:
                topic, part, key, value, at_ms, headers = messages[i]
                where = topic, part
                if where not in sent:
                    sent[where], told[where] = [], []
                sent[where].append(i)
                note = partial(_note, told[where])
                _produce(producer, topic, value, key, part, note, timestamp=at_ms, headers=headers)
            producer.flush(ATTEMPT_S * 2)
            for where, numbers in sent.items():
                if len(told[where]) == len(numbers) and min(told[where]) >= 0:
                    offsets.update(zip(numbers, told[where], strict=True))
            if len(offsets) == len(messages):
                return [offsets[i] for i in range(len(messages))]
            with contextlib.suppress(KafkaException):
                producer.purge()
            self._producer = None
            if time.monotonic() > deadline or self._closed.is_set():
                raise Unavailable("The brokers do not take records now.", code="log_away")

    # Following the journal.

    def _tailing(self) -> None:
        try:
            self._tail()
        except PenstockError as error:
            self._failed = error
        except Exception as error:  # whatever it is, this home can follow no further
            self._failed = Broken(
                f"The mirror stopped: {type(error).__name__}: {error}.", where=self._journal
            )
        with self._applied:
            self._applied.notify_all()

    def _tail(self) -> None:
        applied, crc = self._mark()
        begin = max(applied, 0)
        consumer = Consumer(
            self._settings(
                **{
                    "group.id": "penstock-mirror",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "error",
                    "fetch.message.max.bytes": ENTRY_BYTES,
                }
            )
        )
        try:
            consumer.assign([TopicPartition(self._journal, 0, begin)])
            while not self._closed.is_set():
                first = consumer.poll(0.1)
                if first is None:
                    continue
                messages = [m for m in (first, *consumer.consume(499, 0)) if not _failed(m)]
                if messages and messages[0].offset() == applied:
                    if zlib.crc32(messages[0].value() or b"") != crc:
                        raise Broken(
                            f"Entry {applied} of the journal is not the one that this home has applied.",
                            code="log_backwards", where=self._journal,
                        )  # fmt: skip
                    applied = -1
                self._apply(messages)
        finally:
            consumer.close()

    def _apply(self, messages: Sequence[Message]) -> None:
        """Apply entries to the mirror, each once, whichever process of this home comes first."""
        applied, _ = self._mark()
        entries = [
            (m.offset() or 0, zlib.crc32(m.value() or b""), unpack(m.value() or b"", _Entry))
            for m in messages
            if (m.offset() or 0) > applied
        ]
        if entries:
            under = self._under
            mine = {under.number: under.group} if under else {}
            own = [mine.get(entry.number) if entry.writer == self.name else None for _, _, entry in entries]
            foreign = [entry for (_, _, entry), group in zip(entries, own, strict=True) if group is None]
            fetched = self._fetcher.fetch(_places(foreign, self._states))
            writes = [
                [work.write for work in group] if group else _whole(entry, fetched, self.place)
                for (_, _, entry), group in zip(entries, own, strict=True)
            ]
            self._transact(partial(self._enter, entries, writes), sync=False)
        self._answer()

    def _enter(
        self, entries: Sequence[tuple[int, int, _Entry]], writes: Sequence[Sequence[Write]], writing: Writing
    ) -> None:
        """Within the mirror's transaction: the entries that no other process of this home was faster with."""
        applied, crc = self._mark(writing.db)
        for (offset, its_crc, entry), whole in zip(entries, writes, strict=True):
            if offset <= applied:
                continue
            applied, crc = offset, its_crc
            last = tables.row(writing.db, "SELECT sequence FROM writer WHERE name = ?", (entry.writer,))
            if last is not None and entry.number <= last[0]:
                continue
            answers = [self._one(writing, write) for write in whole]
            kept = pack(answers) if entry.writer.startswith(self._home) else b""
            writing.db.execute(
                "INSERT OR REPLACE INTO writer VALUES(?, ?, ?)", (entry.writer, entry.number, kept)
            )
        writing.db.execute("UPDATE meta SET value = ? WHERE key = 'journal'", (f"{applied} {crc}",))

    def _one(self, writing: Writing, write: Write) -> _Answer:
        try:
            answer = writing.apply(write)
        except PenstockError as error:
            return _Answer(error=(type(error).__name__, error.what, error.code, error.where))
        if isinstance(answer, Appended):
            return _Answer(appended=answer)
        return _Answer(checkpoint=answer) if isinstance(answer, Checkpoint) else _Answer(number=answer)

    def _answer(self) -> None:
        """Tell the group under way what came of it, if it was applied, here or by another process."""
        under = self._under
        if under is not None and not under.done:
            found = tables.row(
                self._reader(), "SELECT sequence, answers FROM writer WHERE name = ?", (self.name,)
            )
            if found is not None and found[0] == under.number:
                for work, answer in zip(under.group, unpack(found[1], list[_Answer]), strict=True):
                    answer.give(work)
                under.done = True
        with self._applied:
            self._applied.notify_all()


class _Fetcher:
    """Reads messages by their places. It reads on from where it was, and keeps what comes early."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = {
            **settings,
            "group.id": "penstock-fetch",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
        self._consumer: Consumer | None = None
        self._next: dict[tuple[str, int], int] = {}
        self._early: dict[tuple[str, int], dict[int, Message]] = {}

    def fetch(self, places: Iterable[tuple[str, int, int]]) -> dict[tuple[str, int, int], Message]:
        """The messages at (topic, partition, offset), without those that the brokers no longer have."""
        wanted: dict[tuple[str, int], set[int]] = {}
        for topic, part, offset in places:
            wanted.setdefault((topic, part), set()).add(offset)
        for where, offsets in wanted.items():
            missing = offsets - self._early.setdefault(where, {}).keys()
            if missing:
                self._go(where, min(missing))
        deadline = time.monotonic() + PATIENCE_S
        while any(self._lacks(where, offsets) for where, offsets in wanted.items()):
            assert self._consumer is not None
            first = self._consumer.poll(0.2)
            for message in (first, *self._consumer.consume(5000, 0)) if first is not None else ():
                self._take(message)
            if time.monotonic() > deadline:
                raise Unavailable("The brokers do not give the records of an entry.", code="log_away")
        found = {}
        for where, offsets in wanted.items():
            early = self._early[where]
            found.update({(*where, at): early.pop(at) for at in offsets if at in early})
            for at in sorted(early)[: max(0, len(early) - AHEAD)]:
                del early[at]
        return found

    def close(self) -> None:
        """Let go of the brokers."""
        if self._consumer is not None:
            self._consumer.close()

    def _go(self, where: tuple[str, int], offset: int) -> None:
        """Make sure that a partition is read from `offset` on, without a jump where it soon gets there."""
        if self._consumer is None:
            self._consumer = Consumer(self._settings)
        known = self._next.get(where)
        if known is not None and known <= offset < known + AHEAD:
            return
        target = TopicPartition(*where, offset)
        if known is None:
            self._consumer.incremental_assign([target])
        else:
            self._consumer.seek(target)
        self._next[where] = offset

    def _lacks(self, where: tuple[str, int], offsets: set[int]) -> bool:
        early = self._early[where]
        return any(at not in early and at >= self._next[where] for at in offsets)

    def _take(self, message: Message) -> None:
        where = (message.topic() or "", message.partition() or 0)
        offset = message.offset()
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            return
        if offset is None or where not in self._next or offset < self._next[where]:
            return  # of before a jump
        if error is None:
            self._early[where][offset] = message
            self._next[where] = offset + 1
        else:
            self._next[where] = offset


def _places(entries: Iterable[_Entry], states: str) -> list[tuple[str, int, int]]:
    """Everything that entries name."""
    found = []
    for entry in entries:
        for part in entry.parts:
            found += part.records.places()
            found += [(states, 0, at) for at in part.state or ()]
    return found


def _whole(entry: _Entry, fetched: dict[tuple[str, int, int], Message], place: Place) -> list[Write]:
    """An entry's writes with their bytes. A state that compaction has dropped was followed by a newer one:
    without it the stage would fold its records again, which is right as well."""
    writes: list[Write] = []
    for part in entry.parts:
        write = part.write
        drafts = []
        for at in part.records.places():
            if at not in fetched:
                raise Broken(
                    "The brokers no longer have records that the journal names.",
                    code="log_passed", where=f"{at[0]}/{at[1]}@{at[2]}",
                )  # fmt: skip
            drafts.append(_draft(fetched[at], place.prefix))
        if isinstance(write, Append):
            write = msgspec.structs.replace(write, drafts=drafts)
        elif isinstance(write, Commit):
            chunks = [fetched.get((place.topic("states"), 0, at)) for at in part.state or ()]
            have = part.state is not None and None not in chunks
            state = b"".join(chunk.value() or b"" for chunk in chunks if chunk) if have else None
            write = msgspec.structs.replace(write, outputs=drafts, state=state)
        writes.append(write)
    return writes


def _headers(draft: Draft) -> _Headers:
    headers: _Headers = [(name, text.encode()) for name, text in draft.headers.items()]
    if draft.id:
        headers.append((_ID, draft.id.encode()))
    if draft.time_ms <= 0:  # to Kafka 0 means now, and there is nothing before it
        headers.append((_TIME, str(draft.time_ms).encode()))
    return headers


def _draft(message: Message, prefix: str) -> Draft:
    headers = {
        name: value.decode() for name, value in cast("list[tuple[str, bytes]]", message.headers() or [])
    }
    id = headers.pop(_ID, "")
    time_ms = int(headers.pop(_TIME, message.timestamp()[1]))
    topic, key = (message.topic() or "").removeprefix(f"{prefix}."), message.key() or b""
    return Draft(topic, key.decode(), time_ms, bytes(message.value() or b""), id, headers)


def _produce(producer: Producer, *message: Any, **more: Any) -> None:
    while True:
        try:
            producer.produce(*message, **more)
        except BufferError:
            producer.poll(0.1)
        except KafkaException as error:  # of this producer, not of the record: it has ended itself
            raise Unavailable(
                f"The brokers cannot be used: {error.args[0].name()}.", code="log_away"
            ) from None
        else:
            return


def _note(offsets: list[int], error: KafkaError | None, message: Message) -> None:
    offsets.append(-1 if error else message.offset() or 0)


def _failed(message: Message) -> bool:
    """Whether a message is a note of trouble: what passes is waited for, what does not is raised."""
    error = message.error()
    if error is None:
        return False
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        raise Broken("The journal has lost entries that this home needs next.", code="log_backwards")
    if error.code() in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,
    ):
        raise Refused("The brokers do not let us read.", code="log_denied")
    return True


def _patiently(ask: Callable[[], T]) -> T:
    """What brokers answer, asked again while they move leaders or are away; raises Unavailable."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            name = error.args[0].name() if error.args else "unknown"
            if time.monotonic() > deadline:
                raise Unavailable(f"The brokers cannot be used: {name}.", code="log_away") from None
            time.sleep(0.05)


def _ignore(error: KafkaError) -> None:
    """Troubles on the way to a broker show in the write or the wait that needs it."""
