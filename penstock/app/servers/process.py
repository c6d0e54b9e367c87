"""app: a serving process: it owns a share of every answering stage, and the door of its requests."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.deferred import deferred
from penstock.app.home import open_home, pressure, wall_ms
from penstock.app.live import Live
from penstock.app.pipeline import load_text
from penstock.app.servers.calling import Calling
from penstock.app.servers.desk import keys_of, note, serving_desk
from penstock.app.servers.elsewhere import elsewhere
from penstock.app.servers.listening import Listening
from penstock.app.servers.order import Serve, Word
from penstock.app.system import Serving, System
from penstock.predict.stage import share_name
from penstock.record.errors import PenstockError
from penstock.serve.door import Door
from penstock.serve.http import create

COUNT_S = 0.5
"""How often what was counted is told."""


def main() -> None:
    """Serve until standard input ends or a signal says so; the requests under way are answered first."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Serve)
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    try:
        serve(order, stop, functools.partial(_say, sys.stdout.buffer))
    except PenstockError as error:
        _say(sys.stdout.buffer, Word(code=error.code, note=str(error)))
        sys.exit(1)


def serve(order: Serve, stop: threading.Event, say: Any) -> None:
    """Serve a share until asked to stop."""
    home = open_home(Path(order.home))
    with deferred():
        file = load_text(home.blobs.get(order.code), order.path)
    mine = {share_name(f"predict.{name}", order.k, order.n) for name in file.plans}
    system = System(
        file, home.log, home.blobs, home.path, time.perf_counter, None,
        shares=order.n, serving=Serving(mine.__contains__, order.sync, True, order.models_bytes),
    )  # fmt: skip
    live = Live(system, wall_ms, admit=pressure(file, home, order.bounds).admit)
    desk = serving_desk(live, file)
    app = create(desk, elsewhere(order.elsewhere), note, alone=True)
    system.warm()
    gc.collect()
    gc.freeze()  # what is here now stays: no collection need look at it again
    gc.set_threshold(50_000, 20, 50)
    listens = socket.socket(fileno=order.socket)
    keys = keys_of(order.key_file)
    door = Listening(lambda: Door(desk, app, keys, order.hosts, note), listens)
    calling = None if order.grpc_port is None else Calling(desk, keys, note, order.host, order.grpc_port)
    live.start()
    door.start()
    if calling is not None:
        calling.start()
    say(Word(serves=True))
    while not stop.wait(COUNT_S) and not live.broken:
        say(Word(counts=live.tally.read()))
    if calling is not None:
        calling.stop()
    door.stop()
    say(Word(counts=live.tally.read()))
    live.stop()
    home.log.close()
    if live.broken:
        sys.exit(1)


def _say(out: Any, word: Word) -> None:
    with contextlib.suppress(OSError):  # whoever started this has gone: standard input says so, too
        out.write(msgspec.json.encode(word) + b"\n")
        out.flush()


def _watch_parent(stop: threading.Event) -> None:
    """Standard input stays open as long as whoever started this lives."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    stop.set()


if __name__ == "__main__":
    main()
