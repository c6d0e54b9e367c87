"""app: how much may be asked of a model: rows a second, rows that wait for their answers, processes that score."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import msgspec

from penstock.record.codec import span
from penstock.record.errors import DefinitionError, Unavailable


class Limits(msgspec.Struct, frozen=True):
    """What callers meet; 0 is no limit. `processes`: that a model scored apart has at most; `gather_ms`: how long a
    request waits for others."""

    rate: float = 0.0
    queue: int = 0
    processes: int = 2
    gather_ms: int = 0


MOST_GATHER_MS = 1_000


def limits(*, rate: float = 0.0, queue: int = 0, processes: int = 2, gather: str = "") -> Limits:
    """Limit a model: `rate` rows a second are taken on average (what was not used in the last second may come at
    once), and of a model that may take its time `queue` rows wait at most. What is more is told 429. A model that is
    scored apart has `processes` at most: one is asked, another goes on where that one hangs. `gather`, a span like
    "2ms": a request waits for so long that those that come meanwhile are scored and written with it."""
    if rate < 0 or queue < 0:
        raise DefinitionError("A limit is 0 (none) or more.", code="arguments")
    if processes < 1:
        raise DefinitionError("A model is scored by 1 process or more.", code="arguments")
    try:
        gather_ms = span(gather) if gather else 0
    except ValueError as error:
        raise DefinitionError(str(error), code="arguments") from None
    if not 0 <= gather_ms <= MOST_GATHER_MS:
        raise DefinitionError("Requests are gathered for a second at most.", code="arguments")
    return Limits(float(rate), int(queue), int(processes), gather_ms)


class Rates:
    """What each model may still be asked now. Any thread may take. `parts`: processes that share the limits alike;
    `clock`: seconds."""

    def __init__(self, found: Mapping[str, Limits], parts: int, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.rates = {name: one.rate / parts for name, one in found.items() if one.rate}
        self._left = {name: (max(1.0, rate), clock()) for name, rate in self.rates.items()}
        self._lock = threading.Lock()

    def take(self, model: str, n: int) -> None:
        """Take `n` rows, or give them back where that is negative; raises Unavailable where nothing is left. A call of
        more rows than there are left is let in; those after it wait for what it was lent."""
        rate = self.rates.get(model)
        if rate is None:
            return
        with self._lock:
            now_s = self.clock()
            left, then_s = self._left[model]
            left = min(max(1.0, rate), left + rate * (now_s - then_s))
            if left < 1.0 and n > 0:
                raise Unavailable(
                    f"{model} takes {rate:g} rows a second here.", code="rate", hint="Send more slowly."
                )
            self._left[model] = left - n, now_s
