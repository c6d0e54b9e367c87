"""app: the look-ups of a running system: which sets there are, and threads that keep them and answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from penstock.app.lookup import Lookups, Question, Sets
from penstock.app.pipeline import File
from penstock.feature import FeatureSet
from penstock.feature.lookup import Looked, needs
from penstock.log import Log
from penstock.record.errors import Unavailable
from penstock.serve.desk import Asked

T = TypeVar("T")
PAUSE_S = 0.05
MOST_WAITING = 256
MOST_WAITING_PAST = 8
"""Look-ups that may wait at once: of those that the log must be read for, few."""


class Looks:
    """Look-ups by model or digest. A live state is begun when it is first asked for, and then follows the log
    on a thread. A model's name means the set that the file declares now."""

    def __init__(self, sets: Sets, file: File, log: Log, now_ms: Callable[[], int] | None = None) -> None:
        self.lookups = Lookups(sets, file, log, now_ms)
        self.log = log
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._follower: threading.Thread | None = None
        self._live = _Lane(2, MOST_WAITING)
        self._past = _Lane(1, MOST_WAITING_PAST)

    def told(self) -> list[dict[str, Any]]:
        """Every set with its definitions, those of the file first."""
        current = set(self.lookups.current.values())
        found = [
            {"name": model, "digest": digest, "current": digest in current, **described(features)}
            for digest, (model, features) in self.lookups.sets.items()
        ]
        return sorted(found, key=lambda one: (not one["current"], one["name"]))

    async def ask(self, name: str, asked: Asked, timeout_s: float) -> Looked:
        """Answer a look-up within its time; raises Unavailable where too many wait."""
        until_s = time.monotonic() + timeout_s
        lookup = self.lookups.of(name)
        self._follow()

        def live() -> tuple[Question, Looked | None]:
            question = lookup.question(asked.entities, asked.t, asked.features)
            return question, lookup.live(question, until_s) if asked.o is None else None

        question, found = await self._live.run(live)
        if found is None:
            found = await self._past.run(lambda: lookup.past(question, asked.o, until_s))
        return found

    def _follow(self) -> None:
        """From the first question on the live states follow the log, so that the next need not wait."""
        with self._lock:
            if self._follower is None and not self._stopping.is_set():
                self._follower = threading.Thread(target=self._run, name="penstock-lookup", daemon=True)
                self._follower.start()

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_S):
            end = self.log.end()
            try:
                for lookup in self.lookups.begun():
                    lookup.follow()
            except Exception:  # whoever asks next meets it too, and is told
                self._stopping.wait(1.0)
            self.log.wait(end, 0.25)

    def stop(self) -> None:
        """Answer nothing more."""
        self._stopping.set()
        if self._follower is not None:
            self._follower.join(10)
        self._live.close()
        self._past.close()


def described(features: FeatureSet) -> dict[str, Any]:
    """A feature set for who has never seen its file: what a look-up names, what it needs, and what that means."""
    listed = [
        {
            "name": name,
            "columns": needs(features, [name]),
            **msgspec.structs.asdict(features.about[name]),
        }
        for name in features.names
    ]
    return {"request": features.request.topic, "columns": needs(features, features.names), "features": listed}


class _Lane:
    """Threads for one kind of question, and a bounded number that wait for one. On the event loop."""

    def __init__(self, threads: int, most: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "penstock-look")
        self._most, self._waiting = most, 0

    async def run(self, do: Callable[[], T]) -> T:
        """Do it on a thread of these."""
        if self._waiting >= self._most:
            raise Unavailable(
                "Too many look-ups wait for their answers.", code="busy", hint="Send more slowly."
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, do)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
