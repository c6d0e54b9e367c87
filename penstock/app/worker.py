"""app: the training process, started, watched and ended by whoever carries an order out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.app.child import Line
from penstock.app.pipeline import load_text
from penstock.app.place import blobs_of
from penstock.app.train import THREADS, Order
from penstock.dataset.kept import horizon_ms
from penstock.log import Log
from penstock.record.decisions import INTENTS, Failure, Intent, Version, read
from penstock.record.errors import NotFound, Refused, Unavailable

WATCH_S = 0.1
"""How soon a training that is called off is ended."""

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), str(THREADS)
)


def start(ahead: str = "") -> subprocess.Popen[bytes]:
    """A training process that waits for its order; `ahead` names a pipeline file whose imports it may load."""
    environment = {**os.environ, **_ONE_THREAD, "PYTHONHASHSEED": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "penstock.app.child", *([ahead] if ahead else [])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True,
    )  # fmt: skip


class Stopped(Unavailable):
    """The training was called off."""

    code = "stopped"


class Ahead:
    """A trainer that starts the next process while there is nothing to train: its imports cost no time then.

    For replays, where trainings come one after the other; it costs the memory of an idle process.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._next: subprocess.Popen[bytes] | None = start(path)

    def __call__(self, order: Order) -> Version | Failure:
        """Carry an order out in the process that waits, and start another."""
        child, self._next = self._next, None
        result = in_process(order, child=child)
        self._next = start(self.path)
        return result

    def close(self) -> None:
        """End the process that waits."""
        if self._next is not None:
            _end(self._next, threading.Event())
            self._next.communicate()


def in_process(
    order: Order,
    progress: Callable[[Line], None] = lambda line: None,
    *,
    child: subprocess.Popen[bytes] | None = None,
    stop: threading.Event | None = None,
) -> Version | Failure:
    """Carry an order out in a process of its own, with fixed threads and hash seed, within its limit.

    It ends with this process, however that ends. Raises Stopped when `stop` is set meanwhile.
    """
    child = child or start()
    late = threading.Event()
    watch = threading.Thread(target=_watch, args=(child, order.limit_s, late, stop), daemon=True)
    watch.start()
    last = Line(code="died", note="The training process ended without a word.")
    with child:
        try:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(msgspec.json.encode(order) + b"\n")
            child.stdin.flush()
            for text in child.stdout:
                last = msgspec.json.decode(text, type=Line)
                progress(last)
        except BrokenPipeError:
            pass
        finally:
            _end(child, threading.Event())
    watch.join()
    if stop is not None and stop.is_set() and last.version is None:
        raise Stopped
    if late.is_set():
        last = Line(code="time_limit", note=f"Training took longer than {order.limit_s:g} s.")
    if last.version is not None:
        return last.version
    intent = order.intent
    code = last.code or "died"
    return Failure(intent.id, intent.model, intent.version, intent.t_ms, code, last.note)


def _watch(
    child: subprocess.Popen[bytes], limit_s: float, late: threading.Event, stop: threading.Event | None
) -> None:
    """End a training that is not wanted any more, or takes too long."""
    stop = stop or threading.Event()
    deadline = time.monotonic() + limit_s
    while child.poll() is None:
        if stop.wait(min(WATCH_S, max(0.0, deadline - time.monotonic()))):
            return _end(child, threading.Event())
        if time.monotonic() >= deadline:
            return _end(child, late)


def rebuild(
    home: Path,
    log: Log,
    path: str,
    version: Version,
    progress: Callable[[int, int], None],
    *,
    limit_s: float = 3600.0,
) -> str:
    """Train a version again by its own intent and code; the digest that comes out. Raises Refused when
    the training fails now."""
    found = log.find(INTENTS, version.intent)
    if found is None:
        raise NotFound("The log no longer holds what this version was trained by.", code="no_intent")
    blobs = blobs_of(home)
    features = load_text(blobs.get(version.code), path).plan(version.model).features
    gone = version.training.from_ms < horizon_ms(log, features)
    rows = (version.training.digest, version.holdout.digest) if gone else ("", "")
    order = Order(str(home), read(found, Intent), version.code, path, limit_s, rows)
    result = in_process(order, lambda line: progress(line.done, line.total))
    if isinstance(result, Failure):
        raise Refused(result.note, code=result.code)
    return result.digest


def _end(child: subprocess.Popen[bytes], late: threading.Event) -> None:
    if child.poll() is None:
        late.set()
        os.killpg(child.pid, signal.SIGKILL)
