"""demo: play the shop, tell what happens as it happens, count it, and stay up for whoever wants to look."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console

from penstock.app.home import Home, open_home
from penstock.app.live import Live
from penstock.app.pipeline import load
from penstock.app.replay import Played, replay
from penstock.app.system import System
from penstock.app.up import Server, Settings
from penstock.app.worker import Ahead
from penstock.demo import world
from penstock.record.codec import millis, moment
from penstock.record.decisions import (
    ALERTS,
    RELEASES,
    VERDICTS,
    VERSIONS,
    Alert,
    Prediction,
    Release,
    Verdict,
    Version,
    outcomes,
    predictions,
    read,
)
from penstock.record.record import START, Draft, Position, Record
from penstock.stage import View, stage

HOUR_MS = 3_600_000
SHOP = Path(__file__).with_name("shop.py")


class Count(msgspec.Struct, frozen=True):
    """What the closing line counts, besides records of a topic."""

    versions: int = 0
    shipped: int = 0
    blocked: int = 0
    rolled_back: int = 0
    alerts: int = 0


def _count(count: Count, record: Record) -> tuple[Count, list[Draft]]:
    add = {
        VERSIONS: ("versions", True),
        VERDICTS: ("blocked", record.topic == VERDICTS and read(record, Verdict).decision == "block"),
        ALERTS: ("alerts", record.topic == ALERTS and read(record, Alert).state == "raised"),
    }.get(record.topic)
    if record.topic == RELEASES:
        step = read(record, Release).step
        add = {"champion": ("shipped", True), "rolled_back": ("rolled_back", True)}.get(step)
    if add is None or not add[1]:
        return count, []
    return msgspec.structs.replace(count, **{add[0]: getattr(count, add[0]) + 1}), []


COUNT = stage("count", (VERSIONS, VERDICTS, RELEASES, ALERTS), Count, _count)


def play(
    home_path: Path | None,
    seed: int,
    port: int,
    *,
    leave: bool,
    stop: threading.Event,
    log: tuple[str, str] = ("", ""),
) -> int:
    """The whole demo; returns the exit status. `log`: the address of a log elsewhere, and its settings."""
    with contextlib.ExitStack() as stack:
        folder = home_path or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-demo-")))
        home = open_home(folder, create=True, log=log[0], settings=log[1])
        stack.callback(home.log.close)
        trainer = Ahead(str(SHOP))
        stack.callback(trainer.close)
        system = System(load(SHOP), home.log, home.blobs, folder, time.perf_counter, trainer, sync=False)
        system.deploy(millis(world.START_AT))
        teller = Teller(home)
        played = replay(system, _until(stop, world.history(seed)), period_ms=HOUR_MS, told=teller.told)
        system.save()
        print(loop_line(home, system, teller.events), flush=True)
        if not leave and not stop.is_set():
            _stay(system, home, port, played.now_ms, stop)
    return 0


def _until(stop: threading.Event, history: Iterator[world.Timed]) -> Iterator[world.Timed]:
    for event in history:
        if stop.is_set():
            return
        yield event


def loop_line(home: Home, system: System, events: int) -> str:
    """The closing line."""
    found = View(COUNT, home.log).read()
    said = sum(home.log.count(predictions(name)) for name in system.file.plans)
    known = sum(home.log.count(outcomes(name)) for name in system.file.plans)
    return (
        f"loop: {events} events, {found.versions} versions, {found.shipped} shipped, {found.blocked} blocked, "
        f"{found.rolled_back} rolled back, {said} predictions, {known} outcomes, {found.alerts} alerts"
    )


def _stay(system: System, home: Home, port: int, end_ms: int, stop: threading.Event) -> None:
    """Serve on, with time going on from where the story ended."""
    begun = time.monotonic()
    live = Live(system, lambda: end_ms + int((time.monotonic() - begun) * 1000), tick_s=5.0)
    server = Server(live, home, Settings(port=port))
    live.start()
    print(f"console: {server.start()} (Ctrl-C ends it)", flush=True)
    while not stop.wait(0.2) and not live.broken:
        pass
    server.stop()
    live.stop()


class Teller:
    """Tells on the terminal what happened in the log, in a sentence each."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.events = 0
        self.position: Position = START
        self.first = True
        self.console = Console(highlight=False)
        self.status = self.console.status("the shop opens") if self.console.is_terminal else None
        if self.status:
            self.status.start()

    def told(self, played: Played) -> None:
        """After each period: what is new."""
        self.events = played.events
        records, self.position = self.home.log.read([VERSIONS, VERDICTS, RELEASES, ALERTS], self.position)
        for record in records:
            self.say(record.time_ms, *_sentence(record))
        if self.first:
            self._first_answer(played)
        day = (played.now_ms - millis(world.START_AT)) / 86_400_000
        if self.status:
            self.status.update(f"day {day:.1f} of {world.DAYS}: {played.events:,} events")
        if self.status and day >= world.DAYS:
            self.status.stop()

    def say(self, time_ms: int, colour: str, text: str) -> None:
        """One line of the story."""
        at = moment(time_ms)
        day = (at - world.START_AT).days + 1
        self.console.print(f"day {day:>2} {at:%H:%M}  {text}", style=colour, markup=False, soft_wrap=True)

    def _first_answer(self, played: Played) -> None:
        records, _ = self.home.log.read([predictions("buy")], START, limit=1)
        if records:
            self.first = False
            said = read(records[0], Prediction)
            self.say(
                said.t_ms,
                "",
                f"buy v{said.version} answers its first request: {said.score or 0:.0%} likely to buy",
            )


def _sentence(record: Record) -> tuple[str, str]:
    """The colour and the words for a record."""
    if record.topic == VERSIONS:
        version = read(record, Version)
        return (
            "",
            f"{version.model} v{version.version} trained on {version.training.rows} rows ({version.reason})",
        )
    if record.topic == VERDICTS:
        verdict = read(record, Verdict)
        colour = {"ship": "green", "block": "red"}.get(verdict.decision, "yellow")
        return colour, f"{verdict.model} v{verdict.version} gate: {verdict.decision}. {verdict.reasons[0]}"
    if record.topic == ALERTS:
        alert = read(record, Alert)
        colour = "red" if alert.state == "raised" else "green"
        return (
            colour,
            f"{alert.model} alert {alert.state}: {alert.rule} (is {alert.value:.3g} over {alert.rows} rows)",
        )
    release = read(record, Release)
    step = f"canary for {release.share} %" if release.step == "canary" else release.step.replace("_", " ")
    colour = {"champion": "bold green", "rolled_back": "bold red"}.get(release.step, "")
    return colour, f"{release.model} v{release.version} is {step}. {release.reason}"
