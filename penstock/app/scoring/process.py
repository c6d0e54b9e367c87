"""app: the process that has loaded a model, and what it forks: each is asked, and answers, over a channel of its own.

Standard input is the socket over which it is told to fork.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import msgspec

from penstock.app.deferred import deferred
from penstock.app.pipeline import load_text
from penstock.app.place import blobs_of
from penstock.app.scoring.become import bound
from penstock.app.scoring.order import HEAD_BYTES, Rows, Scores, Scoring
from penstock.model.brought import Brought
from penstock.model.fit import answers
from penstock.model.pack import Model, load
from penstock.record.codec import pack, unpack
from penstock.record.errors import PenstockError

ORDER_BYTES, WORD_BYTES = 1 << 16, 64
BEHIND = 10
"""The niceness of loading."""
EXIT_TRIES = 50


def main() -> None:
    """Load the model, then fork as often as told."""
    control = socket.socket(fileno=0)
    os.dup2(2, 1)  # what the user's code prints is no answer
    bound()
    model, code, opened = None, "", _count("fd")
    try:
        model = _behind(_model, msgspec.json.decode(control.recv(ORDER_BYTES), type=Scoring))
    except PenstockError as error:
        code = error.code
    gc.collect()
    gc.freeze()  # no collection writes to the memory that is shared
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        word, fds, _, _ = socket.recv_fds(control, WORD_BYTES, 1)
        if not word:
            return None
        channel = socket.socket(fileno=fds[0])  # one more than there were
        if sys.platform != "linux" or _count("task") > 1 or _count("fd") > opened + 1:
            with contextlib.suppress(OSError):
                control.sendall(b"alone")
            return _serve(channel, model, code)
        _fork(control, channel, model, code)
        channel.close()


def _behind(make: Callable[[Scoring], Model], order: Scoring) -> Model:
    """Made on a thread that others come before: those who are answered by other models notice little of it."""

    def yielding() -> None:
        if sys.platform == "linux":  # elsewhere niceness is the process's, and is not given back
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BEHIND)

    with ThreadPoolExecutor(1, initializer=yielding) as aside:
        made = aside.submit(make, order).result()
    for _ in range(EXIT_TRIES):  # a thread that was joined may be on its way out still
        if _count("task") <= 1:
            break
        time.sleep(0.001)
    return made


def _count(what: str) -> int:
    """How many threads ("task") or open files ("fd") this process has, as Linux tells. A fork takes the locks of other
    threads along, and not who would let them go; and a file or a connection would be read by several."""
    return len(list(Path(f"/proc/self/{what}").iterdir())) if sys.platform == "linux" else 0


def _fork(control: socket.socket, channel: socket.socket, model: Model | None, code: str) -> None:
    """Fork a process that scores, and say which it is."""
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))  # it is not reaped before it is known
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))
        control.close()
        os.open(os.devnull, os.O_RDONLY)  # standard input, from here on
        bound()
        if os.getppid() == parent:
            _ending(_serve, channel, model, code)
        os._exit(1)
    known = os.pidfd_open(pid)
    with contextlib.suppress(OSError):
        socket.send_fds(control, [str(pid).encode()], [known])
    os.close(known)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))


def _reap(number: int, frame: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _ending(do: Callable[..., None], *arguments: object) -> None:
    """A forked process ends here, whatever happens: it never returns to what its parent was about to do."""
    status = 1
    try:
        do(*arguments)
        status = 0
    except BaseException:  # the user's code may raise anything; it must not reach the code that forks
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _serve(channel: socket.socket, model: Model | None, code: str) -> None:
    """Say that it is here, with an empty answer, then answer until nothing more is asked."""
    source, out = channel.makefile("rb"), channel.makefile("wb")
    _write(out, Scores([], code))
    while model is not None and (data := _read(source)) is not None:
        asked = unpack(data, Rows)
        try:
            _write(out, Scores(answers(model, asked.rows)))
        except PenstockError as error:
            _write(out, Scores([], error.code))


def _model(order: Scoring) -> Model:
    blobs = blobs_of(Path(order.home))
    with deferred():
        file = load_text(blobs.get(order.code), order.path)
    model = load(blobs.get(order.digest), file.plan(order.model).pipeline.predict)
    if isinstance(
        model.fitted, Brought
    ):  # its library is loaded when it is first asked: before anybody waits
        with contextlib.suppress(PenstockError):
            answers(model, [[None] * len(model.kinds)])
    return model


def _read(source: IO[bytes]) -> bytes | None:
    head = source.read(HEAD_BYTES)
    return source.read(int.from_bytes(head)) if len(head) == HEAD_BYTES else None


def _write(out: IO[bytes], said: Scores) -> None:
    data = pack(said)
    with contextlib.suppress(BrokenPipeError):
        out.write(len(data).to_bytes(HEAD_BYTES) + data)
        out.flush()


if __name__ == "__main__":
    main()
