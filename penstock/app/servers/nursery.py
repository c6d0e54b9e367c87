"""app: where serving processes come from: a process that has loaded all they need and opened nothing, and forks them.

It is itself forked before the system has a thread or an open file. A serving process then begins in the time of a
fork and shares the memory of what was loaded; and one that replaces another begins as clean as the first.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

import msgspec

from penstock.app.servers.order import Serve, Word
from penstock.record.errors import Unavailable

Begin = Callable[[Serve, Sequence[socket.socket], socket.socket], None]
"""What a serving process does with its order, with the sockets that it serves, and with the one on which it says
its words and hears the end."""

ORDER_BYTES, MOST_SOCKETS = 1 << 16, 8


class Nursery:
    """The process that forks the others. It ends when this one closes it, or ends."""

    def __init__(self, begin: Begin) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            with _ending():
                _tend(theirs, begin)
        theirs.close()

    def begin(self, order: Serve, listens: Sequence[socket.socket]) -> socket.socket:
        """Have a process begin; its words come from the socket that is returned, and it ends when that is shut."""
        ours, its = socket.socketpair()
        fds = [one.fileno() for one in (*listens, its)]
        try:
            socket.send_fds(self._control, [msgspec.json.encode(order)], fds)
        except OSError:
            ours.close()
            raise Unavailable("Serving processes cannot be started any more.", code="worker") from None
        finally:
            its.close()
        return ours

    def close(self) -> None:
        """Let it end."""
        self._control.close()
        os.waitpid(self._pid, 0)


def _tend(control: socket.socket, begin: Begin) -> None:
    """Fork whatever is ordered, and say of each how it ended."""
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever started this decides when it ends
        signal.signal(number, signal.SIG_IGN)
    _hush()
    gc.collect()
    gc.freeze()  # no collection writes to the memory that is shared
    alive: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that tells of a process's end
    while True:
        ready: list[int] = select.select([control.fileno(), *alive], [], [])[0]
        for one in ready:
            if one in alive:
                pid, channel = alive.pop(one)
                os.close(one)
                _, status = os.waitpid(pid, 0)
                with contextlib.suppress(OSError), channel:
                    channel.sendall(line(Word(ended=os.waitstatus_to_exitcode(status))))
                continue
            data, fds, _, _ = socket.recv_fds(control, ORDER_BYTES, MOST_SOCKETS)
            if not data:
                return
            *listens, channel = (socket.socket(fileno=fd) for fd in fds)
            pid = os.fork()
            if pid == 0:
                control.close()
                for descriptor, (_, other) in alive.items():
                    os.close(descriptor)
                    other.close()
                with _ending():
                    begin(msgspec.json.decode(data, type=Serve), listens, channel)
            with contextlib.suppress(OSError):
                channel.sendall(line(Word(pid=pid)))
            for door in listens:
                door.close()  # who asks is refused once those that serve are gone
            alive[os.pidfd_open(pid)] = pid, channel


def line(word: Word) -> bytes:
    """A word as it is said."""
    return msgspec.json.encode(word) + b"\n"


def _hush() -> None:
    """Nothing comes from standard input and nothing goes to standard output: they are another process's."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """A forked process ends here, whatever happens: it never returns to what its parent was about to do."""
    status = 1
    try:
        yield
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # whatever it is, it must not reach the code that the parent goes on with
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
