"""faults: a serving process with a bug."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from penstock.app import live
from penstock.app.servers.nursery import Begin
from penstock.app.servers.order import Serve
from penstock.app.servers.process import begin as serve
from penstock.log import Appended, Then
from penstock.log.sqlite import SqliteLog
from penstock.record.record import Draft


def forget() -> None:
    """One joint write in twenty is worked out and not written."""
    kept, calls = SqliteLog.join, [0]

    def join(
        self: SqliteLog, drafts: Sequence[Draft], then: Then, *, sync: bool = True
    ) -> tuple[Appended, Appended]:
        calls[0] += 1
        if calls[0] % 20:
            return kept(self, drafts, then, sync=sync)
        n = self.end().n
        done = Appended(list(range(n, n + len(drafts))), [], self.end())
        then(done)
        return done, done

    SqliteLog.join = join  # type: ignore[method-assign]


def mix() -> None:
    """Whoever asks together is answered as the first of them."""
    kept = live.Live.at_once

    def at_once(self: live.Live, model: str, drafts: Sequence[Draft]) -> Any:
        said = kept(self, model, drafts)
        first = next(iter(said.values())) if said else None
        return said and dict.fromkeys(said, first)

    live.Live.at_once = at_once  # type: ignore[method-assign]


def _with(bug: Callable[[], None]) -> Begin:
    def begin(order: Serve, listens: Sequence[socket.socket], channel: socket.socket) -> None:
        bug()
        serve(order, listens, channel)

    return begin


BUGS = {"answered before it is kept": _with(forget), "answered as if asked by the first": _with(mix)}
