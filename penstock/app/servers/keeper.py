"""app: the serving processes, started, watched, replaced and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from penstock.app.counters import Count, Labels, labelled
from penstock.app.servers.nursery import Nursery
from penstock.app.servers.order import Serve, Word
from penstock.record.errors import Unavailable

WATCH_S = 0.1
"""How soon a process that ended is replaced."""
END_S, NOTHING_S = 12.0, 0.5
SOON_S, LONGEST_PAUSE_S = 0.5, 5.0
"""A process that ends sooner than this has not served; how long it is left alone then, at most."""


class Serving:
    """A serving process, as it speaks: a thread hears its words until it ends."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel, self.began_s = channel, time.monotonic()
        self.pid = 0  # until whoever forked it has said so
        self.first = Word()  # that it serves, or why it cannot
        self.counts: list[Count] = []
        self.status: int | None = None
        self.spoke, self.ended = threading.Event(), threading.Event()
        threading.Thread(target=self._hear, name="penstock-counts", daemon=True).start()

    def _hear(self) -> None:
        with contextlib.suppress(OSError), self.channel.makefile("rb") as lines:
            for text in lines:
                word = msgspec.json.decode(text, type=Word)
                if word.pid:
                    self.pid = word.pid
                    continue
                if not self.spoke.is_set():
                    self.first = word
                    self.spoke.set()
                self.counts = word.counts or self.counts
                self.status = word.ended if word.ended is not None else self.status
        self.ended.set()
        self.spoke.set()

    def end(self) -> None:
        """Let it answer what it has begun, and end."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)

    def wait(self, timeout_s: float) -> None:
        """Until it has ended, by force if need be: one that has not served yet has nothing to answer."""
        if not self.ended.wait(timeout_s if self.spoke.is_set() else NOTHING_S) and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.ended.wait()
        self.channel.close()


class Keeper:
    """`n` serving processes on the same sockets: each that ends is replaced. `lost` is told where that cannot be."""

    def __init__(
        self,
        nursery: Nursery,
        order: Serve,
        listens: Sequence[socket.socket],
        n: int,
        told: Callable[[str], None],
        lost: Callable[[Unavailable], None],
    ) -> None:
        self.orders = [msgspec.structs.replace(order, k=k, n=n) for k in range(n)]
        self.nursery, self.listens, self.told, self.lost = nursery, listens, told, lost
        self.processes: list[Serving] = []
        self.replaced = 0
        self._gone: Counter[tuple[str, Labels]] = Counter()  # what those that ended had counted
        self._pause_s = [0.0] * n
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="penstock-servers", daemon=True)

    def start(self, stop: threading.Event) -> None:
        """Start all and wait until they serve; raises Unavailable where one cannot, or it is to stop meanwhile."""
        self.processes = [Serving(self.nursery.begin(order, self.listens)) for order in self.orders]
        for one in self.processes:
            while not one.spoke.wait(WATCH_S):
                if stop.is_set():
                    self.stop()
                    raise Unavailable("It was asked to end before it served.", code="stopped")
            if not one.first.serves:
                self.stop()
                word = one.first
                raise Unavailable(
                    word.note or "A serving process ended as it began.", code=word.code or "worker"
                )
        self._thread.start()

    def counts(self) -> list[Count]:
        """What all serving processes have counted, those that ended among them, and how often one was replaced."""
        total = Counter(self._gone)
        for one in list(self.processes):
            total.update({labelled(count): count.value for count in one.counts})
        made = [Count(name, dict(labels), n) for (name, labels), n in sorted(total.items())]
        return [*made, Count("workers_replaced", {}, self.replaced)]

    def stop(self) -> None:
        """Let each answer what it has begun, and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        until_s = time.monotonic() + END_S
        for one in self.processes:
            one.end()
        for one in self.processes:
            one.wait(max(0.1, until_s - time.monotonic()))

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            for k, one in enumerate(self.processes):
                if one.ended.is_set():
                    try:
                        self._replace(k, one)
                    except Unavailable as error:
                        return self.lost(error)

    def _replace(self, k: int, one: Serving) -> None:
        """Start another; after a pause that grows, where it ended as soon as it began."""
        now_s = time.monotonic()
        if now_s < one.began_s + self._pause_s[k]:
            return
        lived = now_s - one.began_s > SOON_S + self._pause_s[k]
        self._pause_s[k] = 0.0 if lived else min(2 * self._pause_s[k] + 0.2, LONGEST_PAUSE_S)
        self.told(f"serving process {k + 1} ended with {one.status}; it is replaced.")
        self.processes[k] = Serving(self.nursery.begin(self.orders[k], self.listens))
        self.replaced += 1
        self._gone.update({labelled(count): count.value for count in one.counts})
        one.channel.close()


@contextlib.contextmanager
def passage() -> Iterator[tuple[str, socket.socket]]:
    """A socket that only this user's processes reach, and its path."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:  # of mode 0700
        path = f"{folder}/elsewhere"
        listens = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listens.bind(path)
        listens.listen(256)
        yield path, listens
        listens.close()
