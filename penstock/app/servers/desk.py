"""app: the desks that the doors ask: a live system's functions, and what a serving process has of them."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.append import Numbered, Report, append
from penstock.app.counters import Count, plain
from penstock.app.home import Views
from penstock.app.live import Admit, Live
from penstock.app.looks import Looks
from penstock.app.pipeline import File, Plan
from penstock.app.retract import Retracted, retract
from penstock.app.system import System
from penstock.feature import JOIN, asked, raw
from penstock.record.errors import Broken, NotFound, Unavailable
from penstock.release.registry import REGISTRY
from penstock.serve.carried import CARRIED
from penstock.serve.desk import Desk, ModelFace
from penstock.serve.identity import Keys, read_keys
from penstock.stage import View

DURABILITY = "safe against a killed process; against power loss within 20 ms"
SYNCED = "safe against power loss"


def keys_of(file: str) -> Keys | None:
    """The keys of a file, where one is named."""
    if not file:
        return None
    try:
        return read_keys(Path(file).read_text())
    except OSError:
        raise NotFound(
            "There is no key file there.", hint="Make one with `penstock key NAME --key-file FILE`."
        ) from None


def desk(
    live: Live,
    file: File,
    views: Views,
    looks: Looks,
    training: Mapping[str, float],
    elsewhere: Callable[[], Sequence[Count]] = tuple,
) -> Desk:
    """The desk that the doors ask: the live system's functions, with reads one at a time. `training` says how far
    the trainings under way have read the log, `elsewhere` what serving processes have counted."""
    lock = threading.Lock()
    system = live.system

    async def take(
        topic: str, rows: Sequence[Mapping[str, Any] | bytes], numbered: Numbered
    ) -> dict[str, Any]:
        def admitted() -> Report:
            with live.admit(len(rows), ()):
                return append(
                    file,
                    system.log,
                    topic,
                    rows,
                    now_ms=live.now_ms(),
                    sync=False,
                    numbered=numbered,
                    headers=CARRIED.get(),
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
        since = plain([*live.tally.read(), *_repeated(system), *elsewhere()])
        return {**found, "training": dict(training), "since_start": since}

    def registry() -> Any:
        with lock:
            return views.registry()

    def health() -> dict[str, str]:
        return {"broken": live.broken, "held": _held(live.admit)}

    return Desk(
        _faces(file),
        live.ask,
        live.ask_vectors,
        take,
        take_back,
        live.requests,
        live.vectors,
        live.at_once,
        live.post,
        live.crowd,
        looks.ask,
        looks.told,
        registry,
        status,
        health,
        _durability(system),
        system.log,
        system.blobs,
        live.tally.add,
        live.allow,
    )


def _held(admit: Admit) -> str:
    """The code of what producers meet now; "" where they are let in."""
    try:
        with admit(0, ()):
            return ""
    except Unavailable as error:
        return error.code


def _repeated(system: System) -> list[Count]:
    """The stages' outputs that stood on the log already, made again after a crash or a try that failed. What a
    stage joins is mostly there: whoever asked has joined it already."""
    return [
        Count("outputs_repeated", {"stage": name}, one.repeated)
        for name, one in list(system.running.items())
        if not name.startswith(f"{JOIN}.")
    ]


def _faces(file: File) -> dict[str, ModelFace]:
    def face(name: str, plan: Plan) -> ModelFace:
        one = plan.pipeline
        gather_s = one.limits.gather_ms / 1000
        return ModelFace(name, raw(asked(one.request)), plan.features.names, one.serves is None, gather_s)

    return {name: face(name, plan) for name, plan in file.plans.items()}


def _durability(system: System) -> str:
    return SYNCED if system.sync_answers else DURABILITY


def serving_desk(live: Live, file: File) -> Desk:
    """The desk of a process that only answers requests: what else is asked goes elsewhere."""
    lock = threading.Lock()
    view = View(REGISTRY, live.system.log)

    def registry() -> Any:
        with lock:
            return view.read()

    def health() -> dict[str, str]:
        return {"broken": live.broken, "held": _held(live.admit)}

    return Desk(
        _faces(file),
        live.ask,
        live.ask_vectors,
        _elsewhere,
        _elsewhere,
        live.requests,
        live.vectors,
        live.at_once,
        live.post,
        live.crowd,
        _elsewhere,
        _elsewhere,
        registry,
        _elsewhere,
        health,
        _durability(live.system),
        live.system.log,
        live.system.blobs,
        live.tally.add,
        live.allow,
    )


def _elsewhere(*asked: object) -> Any:
    raise Broken("This is answered by another process, and was asked here.", code="elsewhere")


def note(error: BaseException) -> None:
    """Errors that are ours, for whoever reads the process's notes."""
    traceback.print_exception(error, file=sys.stderr)
