"""app: bring a pipeline file up: its stages on threads, its doors on a port, its alerts to a webhook."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from penstock.app.child import Line
from penstock.app.counters import Count, plain
from penstock.app.home import Books, Home, Views, open_home, pressure, wall_ms
from penstock.app.live import Admit, Live
from penstock.app.looks import Looks
from penstock.app.pipeline import File, load
from penstock.app.pressure import Bounds
from penstock.app.retract import Retracted, retract
from penstock.app.system import Numbered, Report, System, append
from penstock.app.train import Order
from penstock.app.upkeep import Caretaker
from penstock.app.worker import in_process
from penstock.console import Sight, pages
from penstock.feature import raw
from penstock.monitor.rules import watched
from penstock.record.codec import to_json
from penstock.record.decisions import ALERTS, DELIVERIES, Alert, Delivery, Failure, Version, draft, read
from penstock.record.errors import NotFound, Unavailable
from penstock.record.record import START, Record
from penstock.serve.desk import Desk, ModelFace
from penstock.serve.door import Door
from penstock.serve.http import create
from penstock.serve.identity import Keys, may_bind, read_keys

DURABILITY = "safe against a killed process; against power loss within 100 ms"
SWEEP_S = 0.5
"""Between two looks at the connections for what takes too long."""
GRACE_S = 5.0
"""How long requests under way may take once the server is to stop."""
WEBHOOK_S = 5.0
WEBHOOK_TRIES = 5


class Settings(msgspec.Struct, frozen=True):
    """Where and how to serve. `hosts`: names besides loopback to answer under; `log`: see `open_home`."""

    host: str = "127.0.0.1"
    port: int = 8411
    key_file: str = ""
    webhook: str = ""
    hosts: tuple[str, ...] = ()
    tick_s: float = 1.0
    log: str = ""
    log_settings: str = ""
    bounds: Bounds = Bounds()


def keys_of(settings: Settings) -> Keys | None:
    """The keys of the settings' file; raises Refused where the address needs them and there are none."""
    keys = None
    if settings.key_file:
        try:
            keys = read_keys(Path(settings.key_file).read_text())
        except OSError:
            raise NotFound(
                "There is no key file there.", hint="Make one with `penstock key NAME --key-file FILE`."
            ) from None
    may_bind(settings.host, keys)
    return keys


def desk(live: Live, file: File, views: Views, looks: Looks, training: Mapping[str, float]) -> Desk:
    """The desk that the doors ask: the live system's functions, with reads one at a time. `training`
    says how far the trainings under way have read the log."""
    lock = threading.Lock()
    system = live.system

    async def take(
        topic: str, rows: Sequence[Mapping[str, Any] | bytes], numbered: Numbered
    ) -> dict[str, Any]:
        def admitted() -> Report:
            with live.admit(len(rows), ()):
                return append(
                    file, system.log, topic, rows, now_ms=live.now_ms(), sync=False, numbered=numbered
                )

        report = await asyncio.to_thread(admitted)
        return {n: getattr(report, n) for n in ("appended", "duplicates", "refused", "notes")}

    async def take_back(topic: str, id: str, numbered: Numbered) -> dict[str, Any]:
        def admitted() -> list[Retracted]:
            with live.admit(1, ()):
                return retract(file, system.log, topic, [id], sync=False, numbered=numbered)

        (done,) = await asyncio.to_thread(admitted)
        return msgspec.structs.asdict(done)

    def status() -> dict[str, Any]:
        with lock:
            found = {**views.status(), "broken": live.broken, "held": _held(live.admit)}
        found["counters"] += plain(live.sizes.counts)
        since = plain([*live.tally.read(), *_repeated(system)])
        return {**found, "training": dict(training), "since_start": since}

    def registry() -> Any:
        with lock:
            return views.registry()

    faces = {n: ModelFace(n, raw(p.pipeline.request), p.features.names) for n, p in file.plans.items()}
    return Desk(
        faces,
        live.ask,
        live.ask_vectors,
        take,
        take_back,
        live.requests,
        live.vectors,
        live.at_once,
        looks.ask,
        looks.told,
        registry,
        status,
        DURABILITY,
        system.log,
        system.blobs,
        live.tally.add,
    )


def _held(admit: Admit) -> str:
    """The code of what producers meet now; "" where they are let in."""
    try:
        with admit(0, ()):
            return ""
    except Unavailable as error:
        return error.code


def _repeated(system: System) -> list[Count]:
    """The stages' outputs that stood on the log already, made again after a crash or a try that failed."""
    return [
        Count("outputs_repeated", {"stage": one.stage.name}, one.repeated)
        for one in [*system.predicting, *system.folding]
    ]


class Server:
    """The doors of a live system on a thread of their own."""

    def __init__(
        self, live: Live, home: Home, settings: Settings, training: Mapping[str, float] | None = None
    ) -> None:
        file = live.system.file
        views = Views(file, home.log, home.blobs)
        books = Books(file, home.log, home.blobs)
        self._looks = Looks(books.all_sets(), file, home.log, live.now_ms)
        self.desk = desk(live, file, views, self._looks, {} if training is None else training)
        rules = {
            name: [str(rule) for rule in watched(plan.pipeline.watch)] for name, plan in file.plans.items()
        }
        sets = {name: books.sets(name) for name in file.plans}
        sight = Sight(home.log, home.blobs, self.desk.status, self.desk.registry, rules, books.trace, sets)
        self._app = create(self.desk, pages(sight), note)
        self._ready: queue.SimpleQueue[int | OSError] = queue.SimpleQueue()
        self._loop = uvloop.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-http", daemon=True)
        self.settings = settings

    def start(self, within_s: float = 10.0) -> str:
        """Open the door; returns its address. Raises Unavailable when the port is taken."""
        self._thread.start()
        port = self._ready.get(timeout=within_s)
        if not isinstance(port, int):
            raise Unavailable(
                f"Port {self.settings.port} cannot be opened.", code="port", hint="Take another: --port."
            )
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{port}"

    def stop(self) -> None:
        """Let the requests under way finish, then close."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        self._looks.stop()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        settings = self.settings
        door = Door(self.desk, self._app, keys_of(settings), (*settings.hosts, settings.host), note)
        try:
            server = await self._loop.create_server(door.front, settings.host, settings.port)
        except OSError as error:
            self._ready.put(error)
            return
        self._ready.put(int(server.sockets[0].getsockname()[1]))
        while not self._stopping.is_set():
            door.front.sweep(self._loop.time())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), SWEEP_S)
        server.close()
        door.front.close()
        until_s = self._loop.time() + GRACE_S
        while door.front.busy and self._loop.time() < until_s:
            await asyncio.sleep(0.02)
        door.front.abort()


def note(error: BaseException) -> None:
    """Errors that are ours, for whoever reads the process's notes."""
    traceback.print_exception(error, file=sys.stderr)


def up(
    path: str, home_path: Path, settings: Settings, said: Callable[[str], None], stop: threading.Event
) -> None:
    """Bring a file up and stay until `stop` is set or the system breaks."""
    keys_of(settings)
    file = load(path)
    home = open_home(home_path, create=True, log=settings.log, settings=settings.log_settings)
    training: dict[str, float] = {}
    trainer = functools.partial(_watched, training)
    system = System(file, home.log, home.blobs, home_path, time.perf_counter, trainer)
    system.deploy(wall_ms())
    bounds = pressure(file, home, settings.bounds)
    live = Live(system, wall_ms, tick_s=settings.tick_s, admit=bounds.admit)
    server = Server(live, home, settings, training)
    live.start()
    said(server.start())
    hook = Webhook(home, settings.webhook, stop) if settings.webhook else None
    if hook:
        hook.start()
    Caretaker(home_path, home.log, stop).start()
    while not stop.wait(0.2) and not live.broken:
        pass
    stop.set()
    server.stop()
    live.stop()
    home.log.close()
    if live.broken:
        raise Unavailable(f"The system stopped itself: {live.broken}", code="broken")


def _watched(training: dict[str, float], order: Order) -> Version | Failure:
    """Train in a process of its own; how far it is stands in `training` for whoever asks."""
    name = f"{order.intent.model} v{order.intent.version}"

    def progress(line: Line) -> None:
        training[name] = line.done / line.total if line.total else 0.0

    try:
        return in_process(order, progress)
    finally:
        training.pop(name, None)


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
