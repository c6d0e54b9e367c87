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
from collections.abc import Callable, Sequence
from pathlib import Path

from penstock.app.collector import settle
from penstock.app.deferred import deferred
from penstock.app.home import open_home, pressure, wall_ms
from penstock.app.live import Live
from penstock.app.parts import one_thread
from penstock.app.pipeline import load_text
from penstock.app.servers.desk import keys_of, note, serving_desk
from penstock.app.servers.elsewhere import elsewhere
from penstock.app.servers.listening import Listening
from penstock.app.servers.nursery import line
from penstock.app.servers.order import Serve, Word
from penstock.app.system import Serving, System
from penstock.predict.stage import share_name
from penstock.record.errors import PenstockError
from penstock.serve.door import Door
from penstock.serve.http import create

COUNT_S = 0.5
"""How often what was counted is told."""

_QUIET = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def begin(order: Serve, listens: Sequence[socket.socket], channel: socket.socket) -> None:
    """Serve until the channel is shut or a signal says so; the requests under way are answered first."""
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    os.environ.update(_QUIET)  # for what is loaded from here on
    one_thread()
    threading.Thread(target=_watch_parent, args=(channel, stop), daemon=True).start()
    say = functools.partial(_say, channel)
    try:
        serve(order, listens, stop, say)
    except PenstockError as error:
        say(Word(code=error.code, note=str(error)))
        sys.exit(1)


def serve(
    order: Serve, listens: Sequence[socket.socket], stop: threading.Event, say: Callable[[Word], None]
) -> None:
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
    settle()
    keys = keys_of(order.key_file)
    door = Listening(lambda: Door(desk, app, keys, order.hosts, note), *listens)
    live.start()
    door.start()
    say(Word(serves=True))
    while not stop.wait(COUNT_S) and not live.broken:
        say(Word(counts=live.tally.read()))
    door.stop()
    say(Word(counts=live.tally.read()))
    live.stop()
    home.log.close()
    if live.broken:
        sys.exit(1)


def _say(channel: socket.socket, word: Word) -> None:
    with contextlib.suppress(OSError):  # whoever started this has gone: the channel says so, too
        channel.sendall(line(word))


def _watch_parent(channel: socket.socket, stop: threading.Event) -> None:
    """The channel stays open as long as whoever started this lives."""
    with contextlib.suppress(OSError):
        channel.recv(1)
    stop.set()
