"""tests: fresh logs of every engine, a real Kafka broker among them, started once when the first test asks."""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.log import Write
from penstock.log.memory import MemoryLog
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.seal import seal
from tools.kafka.broker import Cluster, Down, Missing
from tools.kafka.secure import Doors, lines

ENGINES = ("memory", "sqlite", "sealed", "kafka")
SHARED = ("kafka",)
"""Those to which others write from other machines: nobody can be alone with such a log."""
EXAMPLES = {"memory": 50, "sqlite": 50, "sealed": 20, "kafka": 3}
"""How many random cases each gets: a fresh log takes no time, 20 ms, a file for each write, and more than a second."""


class SealedLog(SqliteLog):
    """The engine of one machine where each write, but a topic's newest batch, is sealed at once."""

    def _write(self, write: Write, sync: bool) -> Any:
        answer = super()._write(write, sync)
        seal(self, records=1, tail=0)
        return answer


ending = ExitStack()
_numbers = itertools.count(1)


@functools.cache
def _broker() -> Cluster | str:
    try:
        folder = ending.enter_context(tempfile.TemporaryDirectory(prefix="penstock-kafka-"))
        found = _doors()
        cluster = Cluster(Path(folder), more=found.more if isinstance(found, Doors) else None)
        ending.callback(cluster.stop)
        cluster.start()
        if isinstance(found, Doors):
            found.admit(cluster.address, "log")
    except (Missing, Down, ImportError) as error:
        return str(error)
    return cluster


@functools.cache
def _doors() -> Doors | str:
    try:
        folder = ending.enter_context(tempfile.TemporaryDirectory(prefix="penstock-doors-"))
        return Doors(Path(folder) / "doors")
    except Missing as error:
        return str(error)


def kafka() -> str:
    """The address of a fresh log on a broker; skips the test where there can be none, and says why."""
    found = _broker()
    if isinstance(found, str):
        pytest.skip(f"the tests of the Kafka engine need a broker: {found}")
    return f"kafka://{found.address}/log{next(_numbers)}"


def doors() -> Doors:
    """The listeners of that broker that ask who comes; skips the test where there can be none."""
    kafka()
    found = _doors()
    if isinstance(found, str):
        pytest.skip(f"the tests of a Kafka that asks who comes need certificates: {found}")
    return found


def _contract() -> tuple[str, str]:
    """A fresh log for the contract and its settings, by the door that PENSTOCK_KAFKA_DOOR names, if it does."""
    url, door = kafka(), os.environ.get("PENSTOCK_KAFKA_DOOR")
    if not door:
        return url, ""
    at = doors()
    address, settings = {"sasl": (at.address, at.sasl), "tls": (at.mutual, at.tls)}[door]
    return f"kafka://{address}/{url.rpartition('/')[2]}", lines(settings)


@contextmanager
def handles(engine: str) -> Iterator[Callable[[], Any]]:
    """What opens handles on one fresh log of an engine; on Kafka each has a home of its own."""
    url, settings = _contract() if engine == "kafka" else ("", "")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        memory = MemoryLog()
        homes = itertools.count(1)

        def opening() -> Any:
            if engine == "memory":
                return memory
            if engine in ("sqlite", "sealed"):
                log = (SealedLog if engine == "sealed" else SqliteLog)(Path(folder))
            else:
                from penstock.log.kafka import KafkaLog, place

                log = KafkaLog(Path(folder) / str(next(homes)), place(url, settings))
            stack.callback(log.close)
            return log

        yield opening


@contextmanager
def opened(engine: str) -> Iterator[Any]:
    """A fresh log of an engine."""
    with handles(engine) as opening:
        yield opening()
