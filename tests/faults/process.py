"""faults: processes that start in milliseconds and die where they are told to."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import msgspec

from penstock.log import crash
from penstock.log.crash import Point

KILLED = -signal.SIGKILL
AT_ONCE = 2
T = TypeVar("T")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "tests.faults.lives",
        "tests.crash.player",
        "penstock.app.system",
        "penstock.log.sqlite",
        "pyarrow.parquet",
    ]
)


class Hung(Exception):
    """A process that should have ended did not."""


class Target(msgspec.Struct, frozen=True):
    """Where to die: at the n-th time that the process stands at a point."""

    point: int
    nth: int = 1
    about: str = ""

    def __str__(self) -> str:
        about = f" of {self.about}" if self.about else ""
        return f"{Point(self.point).name.lower()}{about}, reach {self.nth}"


class Died(msgspec.Struct, frozen=True):
    """What came of a process that was to die somewhere."""

    target: Target
    died: bool
    wrong: list[str]


def die_at(target: Target | None) -> None:
    """Let this process kill itself when it stands there: no handler runs, nothing is flushed."""
    if target is None:
        return
    left = target.nth

    def reach(at: Point, about: str) -> None:
        nonlocal left
        if at == target.point and target.about in {"", about}:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    crash.reach = reach


def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that runs a module's function."""
    process = _context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def ended(process: BaseProcess, within_s: float = 120.0) -> int:
    """Wait for a process; its exit code. Raises Hung, and ends it, when it takes too long."""
    process.join(within_s)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
        raise Hung(f"a process did not end within {within_s:g} s")
    process.close()
    return code


def run(function: Callable[..., None], *arguments: Any, within_s: float = 120.0) -> int:
    """Run a module's function in a process of its own; the exit code."""
    return ended(start(function, *arguments), within_s)


def side_by_side(function: Callable[[Any], T], cases: Iterable[Any]) -> Iterator[T]:
    """The results of a module's function, in the cases' order, two at a time, each in a process that may
    start others."""
    with ProcessPoolExecutor(AT_ONCE, mp_context=_context) as pool:
        yield from pool.map(function, cases)
