"""app: the training process, started, watched and ended by whoever carries an order out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.app.child import Line
from penstock.app.train import THREADS, Order
from penstock.log import Log
from penstock.record.decisions import INTENTS, Failure, Intent, Version, read
from penstock.record.errors import NotFound, Refused

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), str(THREADS)
)


def in_process(
    order: Order, limit_s: float, progress: Callable[[Line], None] = lambda line: None
) -> Version | Failure:
    """Carry an order out in a process of its own, with fixed threads and hash seed, in at most `limit_s`."""
    environment = {**os.environ, **_ONE_THREAD, "PYTHONHASHSEED": "0"}
    child = subprocess.Popen(
        [sys.executable, "-m", "penstock.app.child"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment, start_new_session=True,
    )  # fmt: skip
    late = threading.Event()
    timer = threading.Timer(limit_s, _end, (child, late))
    timer.daemon = True
    timer.start()
    last = Line(code="died", note="The training process ended without a word.")
    try:
        assert child.stdin is not None and child.stdout is not None
        with child.stdin:
            child.stdin.write(msgspec.json.encode(order))
        for text in child.stdout:
            last = msgspec.json.decode(text, type=Line)
            progress(last)
    except BrokenPipeError:
        pass
    finally:
        timer.cancel()
        _end(child, threading.Event())
        child.wait()
    if late.is_set():
        last = Line(code="time_limit", note=f"Training took longer than {limit_s:g} s.")
    if last.version is not None:
        return last.version
    intent = order.intent
    code = last.code or "died"
    return Failure(intent.id, intent.model, intent.version, intent.t_ms, code, last.note)


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
    order = Order(str(home), read(found, Intent), version.code, path)
    result = in_process(order, limit_s, lambda line: progress(line.done, line.total))
    if isinstance(result, Failure):
        raise Refused(result.note, code=result.code)
    return result.digest


def _end(child: subprocess.Popen[bytes], late: threading.Event) -> None:
    if child.poll() is None:
        late.set()
        os.killpg(child.pid, signal.SIGKILL)
