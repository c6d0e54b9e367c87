"""app: the training process: an order on standard input, progress and a version on standard output."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec

from penstock.app.pipeline import load
from penstock.app.place import blobs_of
from penstock.app.train import Order, carry_out
from penstock.log.sqlite import SqliteLog
from penstock.record.decisions import Version
from penstock.record.errors import PenstockError


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the process's output: how far it is, or what came of it."""

    done: int = 0
    total: int = 0
    version: Version | None = None
    code: str = ""
    note: str = ""


def main() -> None:
    """Read one order, carry it out, and say what came of it. What the user's code prints goes to stderr."""
    out = sys.stdout.buffer

    def say(line: Line) -> None:
        out.write(msgspec.json.encode(line) + b"\n")
        out.flush()

    with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):  # told when the order comes
        load(sys.argv[1]) if len(sys.argv) > 1 else None
    text = sys.stdin.buffer.readline()
    if not text:  # whoever started it is gone, or has no order
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    order = msgspec.json.decode(text, type=Order)
    home = Path(order.home)
    log = SqliteLog(home, create=False)
    with contextlib.redirect_stdout(sys.stderr), contextlib.closing(log):
        try:
            blobs = blobs_of(home)
            version = carry_out(
                order, log, blobs, time.perf_counter, lambda done, total: say(Line(done=done, total=total))
            )
            say(Line(version=version))
        except PenstockError as error:
            say(Line(code=error.code, note=str(error)))
        except Exception as error:  # the user's fit may raise anything; the failure is a record, not a crash
            import traceback

            traceback.print_exc()
            say(Line(code="fit_failed", note=f"{type(error).__name__} in fit; see the process's notes."))


def _end_with_parent() -> None:
    """Standard input stays open as long as whoever gave the order lives; what it no longer wants must not
    go on, with all that the user's fit has started."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
