"""The log's peers: Redis Streams and NATS JetStream as a Python program would use them, servers included.

A side appends batches of drafts in one or more ways. A way takes the drafts and gives back the work to
be timed: whatever a client lets one prepare beforehand is prepared beforehand. All of a peer's ways are
tried and its fastest speaks for it:

- Redis: XADDs in a pipeline (one reply each), the same inside MULTI (one write and one sync of the
  append-only file, whatever the batch), and a script that adds them all and answers with the last id only.
  Which of them is fastest depends on the batch, so none is chosen here.
- JetStream: asynchronous publishes whose futures are awaited together; the same with the acknowledgements
  counted on one inbox, which spares the client a future each; atomic batches of at most 1,000 (the
  server's limit), all in flight at once; and fast ingest, where the server acknowledges in steps.
  nats-py has no call for the last two: they are written here as the protocol (ADR-50) has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from penstock.log.sqlite import SqliteLog
from penstock.record.record import Draft

POWER = "power loss (synced)"
READY_S = 10.0
PATIENCE_S = 60.0
ATOMIC_MOST = 1_000  # messages of an atomic batch, by the server's limit
FLOW = 500  # messages of fast ingest between two acknowledgements that we ask for
AHEAD = 4 * FLOW  # messages of fast ingest that may be unacknowledged

Work = Callable[[], object]
Way = Callable[[Sequence[Draft]], Work]


class Side(Protocol):
    """One log with one durability, and one connection to it."""

    name: str
    durable: str  # what an acknowledged event survives
    ids: bool  # whether its drafts carry ids

    def ways(self, n: int) -> dict[str, Way]:
        """The ways of appending a batch of `n`."""

    def count(self) -> int:
        """The events that it holds."""

    def clear(self) -> None:
        """Forget them."""

    def close(self) -> None:
        """Let go of the connection, and end the server."""


class Ours:
    """The embedded engine."""

    name = "penstock"

    def __init__(self, home: Path, *, sync: bool, ids: bool = False) -> None:
        self._home, self._sync, self.ids = home, sync, ids
        self.durable = POWER if sync else "killed process, synced in 20 ms"
        self._log = SqliteLog(home)

    def ways(self, n: int) -> dict[str, Way]:
        """See Side."""
        name = "append, with ids" if self.ids else "append"
        return {name: lambda drafts: partial(self._log.append, drafts, sync=self._sync)}

    def count(self) -> int:
        """See Side."""
        return self._log.end().n

    def clear(self) -> None:
        """See Side."""
        self._log.close()
        shutil.rmtree(self._home)
        self._log = SqliteLog(self._home)

    def close(self) -> None:
        """See Side."""
        self._log.close()
        shutil.rmtree(self._home)


class Bare:
    """No log at all: the same bytes at the end of a file, synced. It says what the disk allows this minute."""

    name = "(a file)"
    durable = POWER
    ids = False

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._n = 0

    def ways(self, n: int) -> dict[str, Way]:
        """See Side."""
        return {"write, fdatasync": self._written}

    def _written(self, drafts: Sequence[Draft]) -> Work:
        data = b"".join(draft.key.encode() + draft.value for draft in drafts)

        def work() -> None:
            self._file.write(data)
            os.fdatasync(self._file.fileno())
            self._n += len(drafts)

        return work

    def count(self) -> int:
        """See Side."""
        return self._n

    def clear(self) -> None:
        """See Side."""
        self._file.truncate(0)

    def close(self) -> None:
        """See Side."""
        self._file.close()


class Server:
    """A server on a free port of loopback, ended by its handle."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return
            if self._process.poll() is not None or time.monotonic() > until:
                self.close()
                raise OSError(f"{Path(command[0]).name} does not answer")
            time.sleep(0.02)

    def close(self) -> None:
        """End it, and wait until it has gone."""
        self._process.terminate()
        try:
            self._process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Redis:
    """Redis Streams by redis-py, appending to its file before it answers."""

    ids = False
    name = "Redis Streams"
    script = (
        "local last for i = 1, #ARGV, 2 do "
        "last = redis.call('XADD', KEYS[1], '*', 'k', ARGV[i], 'v', ARGV[i + 1]) end return last"
    )

    def __init__(self, folder: Path, fsync: str) -> None:
        import redis

        self.durable = POWER if fsync == "always" else "killed process, synced each second"
        port = _free_port()
        folder.mkdir(parents=True)
        # No snapshots and no rewriting of the file beside the measure: both would only slow it.
        self._server = Server(
            [_binary("redis-server"), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder),
             "--save", "", "--appendonly", "yes", "--appendfsync", fsync,
             "--auto-aof-rewrite-percentage", "0"],
            port,
        )  # fmt: skip
        self._client: Any = redis.Redis(port=port)
        self._script = self._client.register_script(self.script)

    def ways(self, n: int) -> dict[str, Way]:
        """See Side."""
        if n == 1:
            return {"XADD": lambda drafts: partial(self._client.xadd, "t", _fields(drafts[0]))}
        return {
            "XADDs, pipeline": lambda drafts: self._pipeline(drafts, False),
            "XADDs, MULTI": lambda drafts: self._pipeline(drafts, True),
            "XADDs, script": self._scripted,
        }

    def _pipeline(self, drafts: Sequence[Draft], whole: bool) -> Work:
        pipeline = self._client.pipeline(transaction=whole)
        for draft in drafts:
            pipeline.xadd("t", _fields(draft))
        return pipeline.execute  # type: ignore[no-any-return]

    def _scripted(self, drafts: Sequence[Draft]) -> Work:
        arguments = [part for draft in drafts for part in (draft.key, draft.value)]
        return lambda: self._script(keys=["t"], args=arguments)

    def count(self) -> int:
        """See Side."""
        return int(self._client.xlen("t"))

    def clear(self) -> None:
        """See Side."""
        self._client.delete("t")

    def close(self) -> None:
        """See Side."""
        self._client.close()
        self._server.close()


class JetStream:
    """A stream of NATS on files by nats-py. One subject: each more of them slows it, and it can hold a key."""

    name = "NATS JetStream"
    ids = False

    def __init__(self, folder: Path, *, always: bool) -> None:
        import nats
        from nats.js.api import StorageType, StreamConfig

        self.durable = POWER if always else "killed process, synced in 2 minutes"
        port = _free_port()
        folder.mkdir(parents=True)
        store = "\n  ".join([f'store_dir: "{folder / "store"}"', *(["sync_interval: always"] * always)])
        settings = folder / "server.conf"
        settings.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{\n  {store}\n}}\n')
        self._server = Server([_binary("nats-server"), "-c", str(settings)], port)
        self._loop = asyncio.new_event_loop()
        self._names = (f"b{n}" for n in itertools.count())

        async def connect() -> None:
            address = f"nats://127.0.0.1:{port}"
            # Room for a whole batch, so that the client never stops to let its buffer drain.
            self._client = await nats.connect(address, pending_size=64 << 20, allow_reconnect=False)
            self._stream = self._client.jetstream(publish_async_max_pending=20_000)
            made = StreamConfig(
                "T", subjects=["t.>"], storage=StorageType.FILE, allow_atomic=True, allow_batched=True
            )
            await self._stream.add_stream(made)
            self._inbox = self._client.new_inbox()
            await self._client.subscribe(f"{self._inbox}.>", cb=self._heard)

        try:
            self._run(connect())
        except Exception as error:  # the client's errors share no root with the system's
            self._server.close()
            raise OSError(f"its client: {error}") from error

    def ways(self, n: int) -> dict[str, Way]:
        """See Side."""
        ways: dict[str, Way] = {"publish, futures": self._futures, "publish, one inbox": self._acknowledged}
        if n > 1:
            ways |= {"atomic batches": self._atomic, "fast ingest": self._fast}
        return ways

    def _futures(self, drafts: Sequence[Draft]) -> Work:
        prepared = [(f"t.{draft.key}", draft.value) for draft in drafts]

        async def work() -> None:
            publish = self._stream.publish_async
            await asyncio.gather(*[await publish(subject, value) for subject, value in prepared])

        return lambda: self._run(work())

    def _acknowledged(self, drafts: Sequence[Draft]) -> Work:
        prepared = [(f"t.{draft.key}", draft.value) for draft in drafts]
        reply = f"{self._inbox}.ack"

        async def work() -> None:
            self._expect(len(prepared))
            for subject, value in prepared:
                await self._client.publish(subject, value, reply=reply)
            await asyncio.wait_for(self._done, PATIENCE_S)

        return lambda: self._run(work())

    def _atomic(self, drafts: Sequence[Draft]) -> Work:
        prepared: list[tuple[str, bytes, str, dict[str, str]]] = []
        for at in range(0, len(drafts), ATOMIC_MOST):
            batch, name = drafts[at : at + ATOMIC_MOST], next(self._names)
            for i, draft in enumerate(batch, 1):
                headers = {"Nats-Batch-Id": name, "Nats-Batch-Sequence": str(i)}
                if i == len(batch):
                    headers["Nats-Batch-Commit"] = "1"
                reply = f"{self._inbox}.ack" if i == len(batch) else ""
                prepared.append((f"t.{draft.key}", draft.value, reply, headers))

        async def work() -> None:
            self._expect(-(-len(prepared) // ATOMIC_MOST))
            for subject, value, reply, headers in prepared:
                await self._client.publish(subject, value, reply=reply, headers=headers)
            await asyncio.wait_for(self._done, PATIENCE_S)

        return lambda: self._run(work())

    def _fast(self, drafts: Sequence[Draft]) -> Work:
        """The reply subject carries the protocol: inbox, flow, what a gap does, sequence, operation."""
        batch, n = f"{self._inbox}.fast.{next(self._names)}", len(drafts)
        prepared = [
            (
                f"t.{draft.key}",
                draft.value,
                f"{batch}.{FLOW}.fail.{i}.{0 if i == 1 else 2 if i == n else 1}.$FI",
            )
            for i, draft in enumerate(drafts, 1)
        ]

        async def work() -> None:
            self._expect(1)
            for i, (subject, value, reply) in enumerate(prepared):
                while i - self._flowed >= AHEAD:
                    self._moved.clear()
                    await asyncio.wait_for(self._moved.wait(), PATIENCE_S)
                await self._client.publish(subject, value, reply=reply)
            await asyncio.wait_for(self._done, PATIENCE_S)

        return lambda: self._run(work())

    def _expect(self, answers: int) -> None:
        self._left, self._flowed = answers, 0
        self._done, self._moved = self._loop.create_future(), asyncio.Event()

    async def _heard(self, message: Any) -> None:
        """An answer that something is stored, or how far fast ingest has come; a refusal ends the work."""
        if b'"error"' in message.data or b'"gap"' in message.data:
            self._done.set_exception(OSError(message.data.decode()))
        elif b'"stream"' in message.data:
            self._left -= 1
            if self._left == 0:
                self._done.set_result(None)
        elif b'"type"' in message.data:
            self._flowed = json.loads(message.data).get("seq", 0)
            self._moved.set()

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    def count(self) -> int:
        """See Side."""
        return int(self._run(self._stream.stream_info("T")).state.messages)

    def clear(self) -> None:
        """See Side."""
        self._run(self._stream.purge_stream("T"))

    def close(self) -> None:
        """See Side."""
        with contextlib.suppress(OSError, TimeoutError):
            self._run(self._client.close())
        self._loop.close()
        self._server.close()


def start_peers(folder: Path) -> tuple[list[Side], list[str]]:
    """The peers that start here, each as durable as ours and with its lighter setting, and who does not."""
    makers: list[tuple[str, Callable[[], Side]]] = [
        (Redis.name, lambda: Redis(folder / "redis-always", "always")),
        (JetStream.name, lambda: JetStream(folder / "nats-always", always=True)),
        (Redis.name, lambda: Redis(folder / "redis-everysec", "everysec")),
        (JetStream.name, lambda: JetStream(folder / "nats-default", always=False)),
    ]
    started: list[Side] = []
    missing: dict[str, str] = {}
    for name, make in makers:
        if name not in missing:
            try:
                started.append(make())
            except (ImportError, OSError) as error:
                missing[name] = f"{name} cannot be started, its rows are left out: {error}"
            except BaseException:
                for one in started:
                    one.close()
                raise
    return started, list(missing.values())


def _fields(draft: Draft) -> dict[str, Any]:
    return {"k": draft.key, "v": draft.value}


def _binary(name: str) -> str:
    """Where a server's program is: a package's script of this interpreter, or on the path."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise OSError(f"{name} is not installed")
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])
