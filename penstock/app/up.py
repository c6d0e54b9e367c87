"""app: bring a pipeline file up: its stages on threads, its doors on a port, its alerts to a webhook."""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.beside import gathered
from penstock.app.child import Line
from penstock.app.collector import staying
from penstock.app.counters import Count
from penstock.app.deferred import deferred
from penstock.app.home import DEPLOYED, Books, Home, Views, open_home, pressure, wall_ms
from penstock.app.live import Live
from penstock.app.looks import Looks
from penstock.app.models import MODELS_BYTES
from penstock.app.pipeline import File, load
from penstock.app.pressure import Bounds
from penstock.app.servers import process
from penstock.app.servers.desk import desk, keys_of, note
from penstock.app.servers.keeper import Keeper, passage
from penstock.app.servers.listening import Listening, address, bind
from penstock.app.servers.nursery import Nursery
from penstock.app.servers.order import Serve
from penstock.app.system import Serving, System
from penstock.app.train import Order
from penstock.app.upkeep import Caretaker
from penstock.app.worker import in_process
from penstock.console import Sight, pages
from penstock.monitor.rules import watched
from penstock.record.codec import digest, to_json
from penstock.record.decisions import ALERTS, DELIVERIES, Alert, Delivery, Failure, Version, draft, read
from penstock.record.errors import Unavailable
from penstock.record.record import START, Record
from penstock.serve.door import Door
from penstock.serve.http import create
from penstock.serve.identity import may_bind
from penstock.stage import View

WEBHOOK_S = 5.0
WEBHOOK_TRIES = 5


class Settings(msgspec.Struct, frozen=True):
    """Where and how to serve. `hosts`: names besides loopback to answer under; `log`: see `open_home`; `workers`:
    processes that serve requests, 0 for this one; `sync`: each answer is on the disk before it leaves;
    `models_bytes`: what the models in memory may take, in all processes together."""

    host: str = "127.0.0.1"
    port: int = 8411
    key_file: str = ""
    webhook: str = ""
    hosts: tuple[str, ...] = ()
    tick_s: float = 1.0
    log: str = ""
    log_settings: str = ""
    bounds: Bounds = Bounds()
    workers: int = 0
    sync: bool = False
    grpc_port: int | None = None
    models_bytes: int = MODELS_BYTES


class Server:
    """The doors of a live system on a thread of their own."""

    def __init__(
        self,
        live: Live,
        home: Home,
        settings: Settings,
        training: Mapping[str, float] | None = None,
        listens: socket.socket | None = None,
        remote: socket.socket | None = None,
        elsewhere: Callable[[], Sequence[Count]] = tuple,
    ) -> None:
        file = live.system.file
        views = Views(file, home.log, home.blobs)
        books = Books(file, home.log, home.blobs)
        self._looks = Looks(books.all_sets(), file, home.log, live.now_ms)
        self.desk = desk(live, file, views, self._looks, {} if training is None else training, elsewhere)
        rules = {
            name: [str(rule) for rule in watched(plan.pipeline.watch)] for name, plan in file.plans.items()
        }
        sets = {name: books.sets(name) for name in file.plans}
        sight = Sight(home.log, home.blobs, self.desk.status, self.desk.registry, rules, books.trace, sets)
        app, hosts = create(self.desk, pages(sight), note), (*settings.hosts, settings.host)
        keys = (
            None if listens else keys_of(settings.key_file)
        )  # who comes by a socket of the machine has shown one
        may_bind(settings.host, keys_of(settings.key_file))
        self._socket = listens or bind(settings.host, settings.port)
        self._door = Listening(
            lambda: Door(self.desk, app, keys, hosts, note, inner=listens is not None), self._socket, remote
        )

    def start(self) -> str:
        """Open the door; returns its address."""
        self._door.start()
        return address(self._socket)

    def stop(self) -> None:
        """Let the requests under way finish, then close."""
        self._door.stop()
        self._looks.stop()


def up(
    path: str, home_path: Path, settings: Settings, said: Callable[[str], None], stop: threading.Event
) -> None:
    """Bring a file up and stay until `stop` is set or the system breaks."""
    may_bind(settings.host, keys_of(settings.key_file))
    forked = contextlib.closing(Nursery(process.begin)) if settings.workers else contextlib.nullcontext()
    with forked as nursery:
        _up(path, home_path, settings, said, stop, nursery)


def _up(
    path: str,
    home_path: Path,
    settings: Settings,
    said: Callable[[str], None],
    stop: threading.Event,
    nursery: Nursery | None,
) -> None:
    training: dict[str, float] = {}
    with staying():
        home = open_home(home_path, create=True, log=settings.log, settings=settings.log_settings)
        file = _loaded(path, home)
        system = System(
            file, home.log, home.blobs, home_path, time.perf_counter, functools.partial(_watched, training),
            shares=max(1, settings.workers),
            serving=Serving(_no_answers if settings.workers else _all, settings.sync, True, settings.models_bytes),
        )  # fmt: skip
    system.deploy(wall_ms())
    bounds = pressure(file, home, settings.bounds)
    live = Live(system, wall_ms, tick_s=settings.tick_s, admit=bounds.admit)
    with _doors(live, home, settings, training, nursery, stop) as where:
        said(where)
        hook = Webhook(home, settings.webhook, stop) if settings.webhook else None
        if hook:
            hook.start()
        Caretaker(home_path, home.log, stop).start()
        while not stop.wait(0.2) and not live.broken:
            pass
        stop.set()
    home.log.close()
    if live.broken:
        raise Unavailable(f"The system stopped itself: {live.broken}", code="broken")


def _loaded(path: str, home: Home) -> File:
    """The file; where this very text was up before, its names are right, and what only `fit` needs is loaded by the
    processes that fit."""
    newest = View(DEPLOYED, home.log).read().newest
    known = newest is not None and Path(path).exists() and newest.code == digest(gathered(Path(path)))
    with deferred() if known else contextlib.nullcontext():
        return load(path)


def _all(stage: str) -> bool:
    return True


def _no_answers(stage: str) -> bool:
    return not stage.startswith("predict.")


@contextlib.contextmanager
def _doors(
    live: Live,
    home: Home,
    settings: Settings,
    training: Mapping[str, float],
    nursery: Nursery | None,
    stop: threading.Event,
) -> Iterator[str]:
    """The system at work and its doors open, in this process or in others; the address."""
    remote = None if settings.grpc_port is None else bind(settings.host, settings.grpc_port, "--grpc-port")
    by_grpc = "" if remote is None else f", by gRPC at {address(remote).removeprefix('http://')}"
    if nursery is None:
        server = Server(live, home, settings, training, remote=remote)
        live.start()
        yield server.start() + by_grpc
        server.stop()
        live.stop()
        return
    with passage() as (path, inside), bind(settings.host, settings.port) as listens:
        file, hosts = live.system.file, (*settings.hosts, settings.host)
        order = Serve(
            str(home.path.absolute()), file.code, file.path, path, key_file=settings.key_file,
            hosts=hosts, bounds=settings.bounds, sync=settings.sync,
            models_bytes=settings.models_bytes // settings.workers,
        )  # fmt: skip
        sockets = [listens] if remote is None else [listens, remote]
        keeper = Keeper(nursery, order, sockets, settings.workers, _told, live.break_off)
        server = Server(live, home, settings, training, inside, elsewhere=keeper.counts)
        live.start()
        server.start()
        keeper.start(stop)
        yield address(listens) + by_grpc
        listens.close()
        if remote is not None:
            remote.close()
        keeper.stop()
        server.stop()
        live.stop()


def _told(text: str) -> None:
    print(f"penstock: {text}", file=sys.stderr)


def _watched(training: dict[str, float], order: Order) -> Version | Failure:
    """Train in a process of its own; how far it is stands in `training` for whoever asks."""
    name = f"{order.intent.model} v{order.intent.version}"

    def progress(line: Line) -> None:
        training[name] = line.done / line.total if line.total else 0.0

    try:
        result = in_process(order, progress)
    finally:
        training.pop(name, None)
    if isinstance(result, Failure):
        _told(f"{name} could not be trained: {result.note}")
    return result


class Webhook(threading.Thread):
    """Alerts to an address, as JSON, each under its id: at least once, in order, from now on."""

    def __init__(self, home: Home, url: str, stop: threading.Event) -> None:
        super().__init__(name="penstock-webhook", daemon=True)
        self.home, self.url, self.stopping = home, url, stop

    def run(self) -> None:
        """Follow the alerts; what was delivered is on the log."""
        log, position = self.home.log, self._begin()
        while not self.stopping.is_set():
            records, position = log.read([ALERTS], position)
            for record in records:
                status = self._deliver(record)
                delivery = Delivery(record.id, status, wall_ms())
                said = draft(DELIVERIES, delivery, key=record.key, t_ms=delivery.t_ms, id=record.id)
                while not self.stopping.is_set():
                    with contextlib.suppress(
                        Unavailable
                    ):  # the disk may be full: it was delivered all the same
                        log.append([said])
                        break
                    self.stopping.wait(0.5)
            if not records:
                log.wait(position, 0.5)

    def _begin(self) -> Any:
        """After the newest alert that was delivered; on a log without deliveries, now."""
        position, last = START, ""
        while True:
            records, position = self.home.log.read([DELIVERIES], position)
            if not records:
                break
            last = records[-1].id
        found = self.home.log.find(ALERTS, last) if last else None
        return type(position)(n=found.position + 1) if found else self.home.log.end()

    def _deliver(self, record: Record) -> int:
        """The status of the answer; 0 when there was none after all tries."""
        alert = read(record, Alert)
        body = to_json({"id": record.id, **msgspec.structs.asdict(alert)})
        asked = urllib.request.Request(
            self.url, body, {"content-type": "application/json", "idempotency-key": record.id}
        )
        status = 0
        for attempt in range(WEBHOOK_TRIES):
            try:
                with urllib.request.urlopen(asked, timeout=WEBHOOK_S) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                status = error.code
            except OSError:
                status = 0
            if self.stopping.wait(0.2 * 2**attempt):
                break
        return status
