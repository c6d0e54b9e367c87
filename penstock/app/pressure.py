"""app: the bounds that producers meet: how far the stages may lag, how full the disk may be.

Where one is passed nothing is taken and nothing is lost: over HTTP the answer is 429 or 507, a producer
in this process waits or is refused, as it has declared.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from penstock.log import Checkpoint, Log
from penstock.record.errors import Unavailable

T = TypeVar("T")
LOOK_S = 0.1
WAIT_S = 60.0
PAUSE_S = 0.2
PRESSED = frozenset({"lag", "log_full", "disk_floor", "log_size", "log_busy", "log_io"})
"""The codes of what passes by itself, or once somebody makes room: a quota that is used up is a `log_io`."""
Pressed = Literal["wait", "refuse"]


class Bounds(msgspec.Struct, frozen=True):
    """What may not be passed; 0 is no bound. `max_lag`: records that the slowest stage has not read yet;
    `min_free_bytes`: what must stay free on the log's disk; `max_log_bytes`: the log's size on it."""

    max_lag: int = 100_000
    min_free_bytes: int = 1 << 30
    max_log_bytes: int = 0


class Disk(msgspec.Struct, frozen=True):
    """What is free where the log lies, and what the log takes."""

    free_bytes: int
    log_bytes: int


def disk_of(home: Path) -> Disk:
    """The disk as it is now."""
    files = [home / name for name in ("log.db", "log.db-wal")]
    taken = sum(file.stat().st_size for file in files if file.exists())
    return Disk(shutil.disk_usage(home).free, taken)


def lags(
    log: Log, inputs: Mapping[str, Sequence[str]], stages: Mapping[str, Checkpoint] | None = None
) -> dict[str, int]:
    """How many records of its inputs each stage has not read; a stage that never ran is not among them. `stages`:
    where they stand, when that was looked up already."""
    stages = log.stages() if stages is None else stages
    there = (
        set(log.topics()) if len(inputs) > 1 else {topic for topics in inputs.values() for topic in topics}
    )
    return {
        name: sum(log.count(topic, stages[name].position) for topic in topics if topic in there)
        for name, topics in inputs.items()
        if name in stages
    }


class Lags:
    """The lags of stages, of some or of all; where all of them stand is looked up every so often only."""

    def __init__(
        self, log: Log, inputs: Mapping[str, Sequence[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.log, self.inputs, self.clock = log, inputs, clock
        self._stages: Mapping[str, Checkpoint] = {}
        self._next_s = float("-inf")

    def __call__(self, names: Collection[str]) -> dict[str, int]:
        """The lags of these stages; of all where none is named."""
        began_s = self.clock()
        if began_s >= self._next_s:
            self._stages = self.log.stages()
            ended_s = self.clock()
            self._next_s = ended_s + max(LOOK_S, 10 * (ended_s - began_s))
        wanted = {name: self.inputs[name] for name in names if name in self.inputs} if names else self.inputs
        return lags(self.log, wanted, self._stages)


class Look(msgspec.Struct, frozen=True):
    """What was found at a look at some stages, until when it holds, and how much had been admitted by then."""

    lags: Mapping[str, int]
    until_s: float
    admitted: int


class Pressure:
    """The bounds as they stand: looked at ten times a second at most, what was admitted since counted in."""

    def __init__(
        self,
        bounds: Bounds,
        lag: Callable[[Collection[str]], Mapping[str, int]],
        disk: Callable[[], Disk],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bounds, self.lag, self.disk, self.clock = bounds, lag, disk, clock
        self._lock = threading.Lock()
        self._looks: dict[tuple[str, ...], Look] = {}
        self._disk = Disk(0, 0)
        self._admitted = self._coming = 0

    @contextlib.contextmanager
    def admit(self, n: int, stages: Iterable[str] = ()) -> Iterator[None]:
        """Within it `n` records may be appended; raises Unavailable. `stages`: whose lag counts (default:
        every one's). Until they are on the log they count as if they were."""
        self._enter(n, stages)
        added = 0
        try:
            yield
            added = n
        finally:
            with self._lock:
                self._coming -= n
                self._admitted += added

    def _enter(self, n: int, stages: Iterable[str]) -> None:
        names = tuple(stages)
        with self._lock:
            began_s, look = self.clock(), self._looks.get(names)
            if look is None or began_s >= look.until_s:
                found, self._disk = self.lag(names), self.disk()
                ended_s = self.clock()
                until_s = ended_s + max(LOOK_S, 10 * (ended_s - began_s))
                look = self._looks[names] = Look(found, until_s, self._admitted)
            self._check(look)
            self._coming += n

    def _check(self, look: Look) -> None:
        bounds, disk = self.bounds, self._disk
        if bounds.min_free_bytes and disk.free_bytes < bounds.min_free_bytes:
            raise Unavailable(
                f"Less than {bounds.min_free_bytes} bytes are free on the log's disk.",
                code="disk_floor", hint="Make room, or lower --min-free.",
            )  # fmt: skip
        if bounds.max_log_bytes and disk.log_bytes > bounds.max_log_bytes:
            raise Unavailable(
                f"The log takes more than {bounds.max_log_bytes} bytes.",
                code="log_size", hint="Let retention drop what is old, or raise --max-log.",
            )  # fmt: skip
        slowest = max(look.lags, key=look.lags.__getitem__, default="")
        lag = look.lags.get(slowest, 0) + self._admitted - look.admitted + self._coming
        if bounds.max_lag and lag > bounds.max_lag:
            raise Unavailable(
                f"{slowest or 'The slowest stage'} is {lag} records behind; {bounds.max_lag} are allowed.",
                code="lag", hint="Send more slowly; `penstock status` shows whether it moves.",
            )  # fmt: skip


def patiently(
    do: Callable[[], T],
    pressed: Pressed,
    told: Callable[[str], None],
    *,
    wait_s: float = WAIT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Do it; under pressure wait for room, `wait_s` at most, or raise Unavailable at once, as declared."""
    until_s = clock() + wait_s
    while True:
        try:
            return do()
        except Unavailable as error:
            if error.code not in PRESSED or pressed == "refuse" or clock() >= until_s:
                raise
            told(str(error))
            sleep(PAUSE_S)


def bytes_of(text: str) -> int:
    """A number of bytes like "1GB", "500MB", "0"; raises ValueError."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "B": 1}
    unit = next((unit for unit in units if text.upper().endswith(unit)), "")
    return round(float(text[: len(text) - len(unit)]) * units.get(unit, 1))
