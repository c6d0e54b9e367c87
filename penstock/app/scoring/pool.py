"""app: the processes of one model: one is asked, another is ready to go on where that one does not answer.

A process that is overdue (`pace.py`) is left alone: the others go on. One that was asked about a single row has until
its deadline, and what it says then is kept; one that was asked about several is ended, for its rows are asked again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from penstock.app.scoring.order import Fell, Limits, Row, Scores
from penstock.app.scoring.pace import Pace
from penstock.app.scoring.piped import Piped, Speech

LOOK_S = 0.02
"""How often a batch that is overdue, and held up nobody, is looked at again."""
WEIGH_S = 1.0
"""How often memory is told exactly, which takes milliseconds, where the processes may be too large."""


class Pool:
    """Up to `most` processes that speak so; alone, a process has its whole deadline. One batch at a time is asked.
    `waiting`: how many rows wait for this model now, those that are asked among them: where nobody else does, a row has
    its whole deadline, too."""

    def __init__(
        self,
        speech: Speech,
        most: int = 1,
        waiting: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.speech, self.waiting, self.clock = speech, waiting, clock
        self.all = [Piped(speech, clock) for _ in range(most)]
        self.pace = Pace()
        self._ready: list[Piped] = []
        self._cold = list(self.all)  # not begun, or ended
        self._coming: list[Piped] = []  # being begun, beside
        self._left: list[Piped] = []  # overdue, the first one first
        self._turn = threading.Condition()
        self._last: Row | None = None  # a row that was answered
        self._closed = False
        self._no_spare_before_s = self._weighed_s = float("-inf")

    def start(self, limits: Limits) -> None:
        """Have one process ready; raises Fell."""
        self._give(self._take(limits))

    def ask(self, rows: Sequence[Row], limits: Limits) -> Scores:
        """The answer to a batch; raises Fell, with `later` where it may still come."""
        one = self._take(limits)
        began_s = self.clock()
        try:
            one.put(rows, limits)
            said = one.hear(self.pace.overdue_s(len(rows)))
            while said is None and not self._holds_up(rows):
                said = one.hear(LOOK_S)
        except Fell:
            self._lay_by(one)
            self._spare(limits)
            raise
        if said is None:
            raise Fell("model_late", later=self._leave(one, rows, began_s, limits))
        self.pace.took(len(rows), self.clock() - began_s)
        self._last = rows[-1] if said.scores and said.scores[-1] is not None else self._last
        self._give(one)
        self._spare(limits)
        return said

    def memory(self) -> int:
        """What its processes hold together, in bytes."""
        return sum(one.memory() for one in self.all) + self.speech.memory()

    def trim(self, limits: Limits) -> bool:
        """Keep its processes within their memory: what hangs goes first, then the spare ones; whether the one that was
        asked last had to go, too."""
        with self._turn:
            resident = self._ready[0].resident() if self._ready else 0
            if resident * (len(self.all) + 1) <= limits.most_bytes:  # theirs, and of what they were forked of
                return False
            now_s, most = self.clock(), limits.most_bytes
            if resident <= most and now_s < self._weighed_s + WEIGH_S:
                return False
            self._weighed_s = now_s
            if self.memory() <= most:
                return False
            grew = self._ready[0].memory() > most
            for one in self._left:
                one.kill()
            kept = 0 if grew else 1
            for one in self._ready[kept:]:
                one.end()
                self._cold.append(one)
            del self._ready[kept:]
            return grew

    def close(self) -> None:
        """End all of them for good."""
        with self._turn:
            self._closed, ready, self._ready = True, self._ready, []
            self._turn.notify_all()
        for one in self.all:
            one.kill()
        for one in ready:
            one.end()
        self.speech.close()

    def _holds_up(self, rows: Sequence[Row]) -> bool:
        """Whether an overdue batch keeps anybody waiting but the row that is guilty of it, and another process could
        go on."""
        alone = len(self._cold) == len(self.all) - 1
        return not alone and (len(rows) > 1 or self.waiting() > 1)

    def _take(self, limits: Limits) -> Piped:
        """A process that is ready, made so if need be; raises Fell."""
        with self._turn:
            while not self._closed and not self._ready and (self._coming or not self._cold):
                if not self._coming:  # all hang: who has hung for longest goes before his time
                    self._left[0].kill()
                self._turn.wait()
            if self._ready:
                return self._ready.pop(0)
            if self._closed:
                raise Fell("model_died", whole=True)
            one = self._cold.pop(0)
        try:
            one.start(limits)
        except Fell as why:
            self._lay_by(one)
            raise Fell(why.code, whole=True) from None
        return one

    def _give(self, one: Piped) -> None:
        """A process has answered: it is asked next."""
        with self._turn:
            self._ready.insert(0, one)

    def _lay_by(self, one: Piped) -> None:
        with self._turn:
            self._cold.append(one)

    def _spare(self, limits: Limits) -> None:
        """Have another process made ready, beside, where there is room for it."""
        with self._turn:
            if self._closed or self._coming or not self._cold or len(self.all) == 1:
                return
            if self.clock() < self._no_spare_before_s:
                return
            if self.memory() + max(one.memory() for one in self.all) > limits.most_bytes:
                self._no_spare_before_s = self.clock() + limits.rest_s
                return
            one = self._cold.pop(0)
            self._coming.append(one)
        _beside(self._bring, one, limits)

    def _bring(self, one: Piped, limits: Limits) -> None:
        """Make a process ready: begun, and asked a row that was answered before, so that it is as quick as the others
        when somebody waits for it."""
        came = False
        with contextlib.suppress(Fell):
            if not self._closed:
                one.start(limits)
                if self._last is not None:
                    one.put([self._last], limits)
                    one.hear()
                came = True
        with self._turn:
            self._coming.remove(one)
            (self._ready if came else self._cold).append(one)
            if not came:
                self._no_spare_before_s = self.clock() + limits.rest_s
            self._turn.notify_all()
            closed = self._closed
        if closed:
            one.end()
        self._spare(limits)

    def _leave(
        self, one: Piped, rows: Sequence[Row], began_s: float, limits: Limits
    ) -> Future[Scores | None] | None:
        """Let an overdue process be; what it still says of a single row."""
        later: Future[Scores | None] = Future()
        with self._turn:
            self._left.append(one)
        if len(rows) > 1:
            one.kill()
        _beside(self._see_out, one, began_s, limits, later)
        return later if len(rows) == 1 else None

    def _see_out(self, one: Piped, began_s: float, limits: Limits, later: Future[Scores | None]) -> None:
        try:
            said = one.hear()
        except Fell:
            said = None
        with self._turn:
            self._left.remove(one)
            if said is None:
                self._coming.append(one)
            else:
                self.pace.took(1, self.clock() - began_s)
                self._ready.append(one)
            later.set_result(said)
            self._turn.notify_all()
        if said is None:
            self._bring(one, limits)


def _beside(do: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=do, args=arguments, name="penstock-apart", daemon=True).start()
