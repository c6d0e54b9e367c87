"""app: requests that wait for their predictions, by model, in the order in which they came."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from penstock.record.codec import unpack
from penstock.record.decisions import DEAD, Prediction
from penstock.record.errors import Refused, Unavailable
from penstock.record.record import Draft

MOST_WAITING = 10_000
"""Requests that may wait for their answers at once; one more is refused."""
CROWDED = 0.7
"""Where somebody has waited for this part of a request's time, that request would hardly be answered in it: whoever
comes is behind him."""


def _crowded() -> Unavailable:
    return Unavailable(
        "Too many requests wait for their answers.", code="busy", hint="Send more slowly, or wait for longer."
    )


class _Waits:
    """Who waits for one prediction, and since when."""

    __slots__ = ("futures", "since_s")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.futures: list[asyncio.Future[Prediction]] = []


class Answers:
    """Requests that wait for their prediction: registered before the append, resolved after the commit. `of_model`:
    how many of a model may wait, where its file says."""

    def __init__(
        self,
        most: int = MOST_WAITING,
        clock: Callable[[], float] = time.monotonic,
        of_model: Mapping[str, int] | None = None,
    ) -> None:
        self.most, self.clock, self.of_model = most, clock, of_model or {}
        self._waiting: dict[str, dict[str, _Waits]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def room(self, model: str) -> int:
        """How many more of a model's requests may wait."""
        left, most = self.most - self._count, self.of_model.get(model, 0)
        return max(0, min(left, most - len(self._waiting.get(model, {}))) if most else left)

    def waiting(self, model: str) -> int:
        """How many of a model's requests wait."""
        return len(self._waiting.get(model, ()))

    def full(self, model: str) -> Unavailable:
        """What the next one is told where there is no room."""
        if self._count >= self.most:
            return _crowded()
        most = self.of_model.get(model, 0)
        return Unavailable(
            f"No more than {most} rows may wait for {model} here.", code="queue", hint="Send more slowly."
        )

    def crowd(self, model: str, timeout_s: float) -> Unavailable | None:
        """What a request is refused with that would not be answered within its time; None where it would."""
        return _crowded() if self._oldest_s(model) > CROWDED * timeout_s else None

    def _oldest_s(self, model: str) -> float:
        """For how long the first of a model's requests has waited."""
        if not self._count:
            return 0.0
        with self._lock:
            first = next(iter(self._waiting.get(model, {}).values()), None)
        return self.clock() - first.since_s if first is not None else 0.0

    def expect(self, model: str, request: str) -> asyncio.Future[Prediction]:
        """A future of the served prediction; called on the event loop. Callers of one id each have their own, and
        who cancels it waits no longer."""
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        now_s = self.clock()
        with self._lock:
            self._waiting.setdefault(model, {}).setdefault(request, _Waits(now_s)).futures.append(future)
            self._count += 1
        future.add_done_callback(partial(self._forget, model, request))
        return future

    def _forget(self, model: str, request: str, future: asyncio.Future[Prediction]) -> None:
        with self._lock:
            waiting = self._waiting.get(model, {})
            waits = waiting.get(request)
            if waits is None or future not in waits.futures:
                return
            waits.futures.remove(future)
            self._count -= 1
            if not waits.futures:
                del waiting[request]

    def tell(self, outputs: Sequence[Draft]) -> None:
        """Predictions are on the log: whoever waits for one of them may have it."""
        if not self._count:
            return
        for output in outputs:
            if output.topic == DEAD:
                continue
            prediction = unpack(output.value, Prediction)
            if prediction.served:
                self.give(prediction)

    def give(self, prediction: Prediction) -> None:
        """Hand a prediction to all who wait for it."""
        for future in self._pop(prediction.model, prediction.request):
            future.get_loop().call_soon_threadsafe(_settle, future, prediction)

    def refuse(self, model: str, request: str, error: Refused) -> None:
        """Tell all who wait for a prediction that there will be none."""
        for future in self._pop(model, request):
            future.get_loop().call_soon_threadsafe(_fail, future, error)

    def _pop(self, model: str, request: str) -> list[asyncio.Future[Prediction]]:
        with self._lock:
            waits = self._waiting.get(model, {}).pop(request, None)
            self._count -= len(waits.futures) if waits is not None else 0
        return waits.futures if waits is not None else []


def _settle(future: asyncio.Future[Prediction], prediction: Prediction) -> None:
    if not future.done():
        future.set_result(prediction)


def _fail(future: asyncio.Future[Prediction], error: Refused) -> None:
    if not future.done():
        future.set_exception(error)
