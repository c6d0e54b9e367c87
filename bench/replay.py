"""bench: the replay by itself: how long a training set of 100,000 requests takes after decoding.

    python bench/replay.py [--events 1000000]

1 M events of 10,000 keys, 5 % late, and 100,000 requests over 60 days; 7 windows of count, sum, mean, std, min, max and
last. Once with uniform keys and once with a key that holds a quarter of the events. Compilation is not timed.
"""

from __future__ import annotations

import argparse
import time
from array import array

import numpy as np

from penstock import Event, count, key, last, max, mean, min, source, std, sum
from penstock.feature import compile
from penstock.feature.replay import Decoded, replay

DAY_MS = 86_400_000
WINDOWS = ("5m", "1h", "6h", "1d", "3d", "7d", "30d")


class Payment(Event):
    payment_id: str
    card: int | None = key()
    at: int
    amount: float


class Ask(Event):
    ask_id: str
    card: int | None = key()
    at: int


payment = source(Payment, id="payment_id", time="at")
ask = source(Ask, id="ask_id", time="at")
DEFINED = {"n": count(payment.amount, windows=WINDOWS)} | {
    one.__name__: one(payment.amount, windows=WINDOWS) for one in (sum, mean, std, min, max, last)
}
FEATURES = compile(list(DEFINED.values()), ask, DEFINED)


def made(events: int, requests: int, keys: int, hot: bool, seed: int) -> Decoded:
    """Columns as `decoded` makes them of records, without the records."""
    chance = np.random.default_rng(seed)
    n = events + requests
    whose = chance.integers(0, keys, n)
    if hot:
        whose[chance.random(n) < 0.25] = 7
    at = np.sort(chance.integers(0, 60 * DAY_MS, n))
    late = chance.random(n) < 0.05
    asked = np.zeros(n, np.bool_)
    asked[chance.choice(n, requests, replace=False)] = True
    times = np.where(late & ~asked, at - chance.integers(0, 2 * DAY_MS, n), at)
    amounts = np.round(chance.lognormal(3, 1, n), 2)
    found = Decoded(FEATURES)
    for one in found.taken:
        one.numbers, one.entities = {k: k for k in range(keys)}, list(range(keys))
        places = np.flatnonzero(~asked)
        one.whose, one.times = array("q", whose[places].tolist()), array("q", times[places].tolist())
        one.since, one.values = array("q", places.tolist()), array("d", amounts[places].tolist())
        one.units = array("q", np.rint(amounts[places] / one.table.key.quantum).astype(np.int64).tolist())
    found.columns = [whose[asked].tolist()]
    found.t_ms, found.o = array("q", at[asked].tolist()), array("q", np.flatnonzero(asked).tolist())
    return found


def main() -> None:
    """Time both, in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    sets = {hot: made(given.events, given.requests, given.keys, hot, given.seed) for hot in (False, True)}
    taken: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(given.times + 1):
        for hot, one in sets.items():
            began = time.perf_counter()
            found = replay(one)
            if turn:
                taken[hot].append(time.perf_counter() - began)
    values = given.requests * len(found)
    for hot, times in taken.items():
        name, best, middle = "one hot key" if hot else "uniform", np.min(times), np.median(times)
        print(f"{name:12} {values:,} values: {middle:.3f} s median, {best:.3f} s best of {len(times)}")


if __name__ == "__main__":
    main()
