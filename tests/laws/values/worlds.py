"""laws: random pipelines and random logs: every row of the table of hard cases, by a seed."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec

from penstock.feature import (
    Declared,
    FeatureSet,
    case,
    compile,
    count,
    distinct,
    first,
    last,
    last_k,
    max,
    mean,
    min,
    rate,
    since,
    source,
    std,
    sum,
)
from penstock.feature.definition.language import Family
from penstock.record.decisions import AGAIN, TICKS
from penstock.record.event import Event, key
from tests.laws.values.oracle import SUMS, Meant

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
T0_MS = 20_000 * DAY_MS


class Paid(Event):
    payment: str
    card: str | None = key()
    shop: int | None
    at: int
    amount: float | None
    items: int | None
    country: str | None
    ok: bool | None


class Visit(Event):
    visit: str
    card: str | None = key()
    at: int
    page: str | None


class Ask(Event):
    ask: str
    card: str | None = key()
    shop: int | None
    at: int
    x: float | None


paid = source(Paid, id="payment", time="at")
visit = source(Visit, id="visit", time="at")
ask = source(Ask, id="ask", time="at")
SOURCES: dict[str, Declared] = {"paid": paid, "visit": visit, "ask": ask}

WORDS: dict[str, Any] = {
    "count": count, "sum": sum, "mean": mean, "std": std, "min": min, "max": max, "first": first, "last": last,
    "distinct": distinct, "last_k": last_k, "since": since, "rate": rate,
}  # fmt: skip
ROWS = ("count", "rate", "since")
TEXTS = ("count", "rate", "since", "first", "last", "distinct", "last_k")

NUMBERS = {  # an expression of a row, and the same in SQL
    "paid": [
        (paid.amount, "amount"),
        (paid.amount, "amount"),
        (paid.items, "items"),
        (paid.amount * 2 - 1, "finite(amount * 2 - 1)"),
        (paid.amount / paid.items, "case when items <> 0 then finite(amount / items) end"),
        (paid.amount.log(), "case when amount > 0 and isfinite(amount) then ln(amount) end"),
        (paid.items.coalesce(-1), "coalesce(items, -1)"),
        (
            paid.amount.clip(0.0, 100.0),
            "case when amount < 0 then 0.0 when amount > 100 then 100.0 else amount end",
        ),
        (paid.country.length(), "length(country)"),
        (
            paid.column("at").hour("Europe/Berlin") + paid.column("at").weekday("Europe/Berlin"),
            "hour(berlin(t)) + isodow(berlin(t)) - 1",
        ),
    ],
    "ask": [(ask.x, "x")],
}
OTHERS = {
    "paid": [
        (paid.country, "country"),
        (paid.ok, "ok"),
        (paid.country.lower().part(0, 1), "lower(country)[1:1]"),
    ],
    "visit": [(visit.page, "page")],
}
WHERES = {
    "paid": [
        (paid.ok, "ok"),
        (paid.country == "DE", "country = 'DE'"),
        ((paid.amount > 1) | paid.ok, "amount > 1 or ok"),
        (~(paid.country.is_in("DE", "US") & paid.ok), "not (country in ('DE', 'US') and ok)"),
        (paid.amount.is_null() | (paid.items % 2 == 1), "amount is null or (items % 2 + 2) % 2 = 1"),
    ],
    "visit": [(visit.page.contains("a"), "contains(page, 'a')")],
    "ask": [(ask.x >= 0, "x >= 0")],
}
WINDOWS = {"6h": 6 * HOUR_MS, "1d": DAY_MS, "36h": 36 * HOUR_MS, "3d": 3 * DAY_MS}
HOPS = {"6h": 6 * HOUR_MS, "5h": 5 * HOUR_MS, "1d": DAY_MS}
CATEGORIES = ("DE", "US")
CATEGORIES_SQL = [*(f"country = '{one}'" for one in CATEGORIES), "country not in ('DE', 'US')"]


class World(msgspec.Struct, frozen=True):
    """A pipeline's features, and what each of them means."""

    features: FeatureSet
    meant: dict[str, Meant]

    @property
    def topics(self) -> tuple[str, ...]:
        """What the answering stage reads."""
        return tuple(sorted({*self.features.topics, "ask", TICKS, AGAIN}))


def world(chance: random.Random, size: int) -> World:
    """Some random definitions: several kinds over the same events, so that they share a series."""
    space: dict[str, Any] = {}
    meant: dict[str, Meant] = {}
    while len(meant) < size:
        shape = _shape(chance)
        for kind in chance.sample(shape.kinds, len(shape.kinds))[: chance.choice([1, 2, 5])]:
            name = f"f{len(space)}"
            space[name], told = _definition(chance, kind, shape)
            made = dict(space[name].flat(name)) if isinstance(space[name], Family) else {name: space[name]}
            meant.update(zip(made, told, strict=True))
    space["ratio"], space["mix"] = _over(space, meant)
    return World(compile(list(space.values()), ask, space), meant)


def only(one: World, names: list[str]) -> World:
    """The part of a world that gives some of its features."""
    meant = {name: one.meant[name] for name in names}
    nodes = {node.name: node for node in one.features.nodes}
    space = {n: nodes[n].aggregate for n in names if nodes[n].aggregate is not None}
    return World(compile(list(space.values()), ask, space), meant)


def _over(space: dict[str, Any], meant: dict[str, Meant]) -> tuple[Any, Any]:
    """Two expressions over features."""
    space["n"], meant["n"] = count(paid, window="1d"), Meant("count", "paid", window_ms=DAY_MS)
    space["s"] = sum(paid.items, window="1d")
    meant["s"] = Meant("sum", "paid", "items", window_ms=DAY_MS)
    meant["ratio"] = Meant("", needs=("s", "n"), made=lambda s, n: s / n if n else None)
    meant["mix"] = Meant("", needs=("s", "n"), made=lambda s, n: s * 2 if s > n else n)
    s, n = space["s"], space["n"]
    return s / n, case((s > n, s * 2), otherwise=n)


class Shape(msgspec.Struct, frozen=True):
    """Which events are read, as one writes it (`options`) and as it is meant (`base`)."""

    kinds: list[str]
    of: Any
    options: dict[str, Any]
    base: dict[str, Any]
    by: bool
    windows_ms: list[int]


def _shape(chance: random.Random) -> Shape:
    topic, of, value, kinds = _of(chance)
    options: dict[str, Any] = {}
    base: dict[str, Any] = {"source": topic, "value": value}
    if chance.random() < 0.35:
        options["where"], base["where"] = chance.choice(WHERES[topic])
    if topic == "paid" and chance.random() < 0.25:
        options["entity"] = base["mine"] = base["asked"] = "shop"
    windows = chance.choice([[], [], *([one] for one in WINDOWS), chance.sample(list(WINDOWS), 2)])
    if len(windows) == 1:
        options["window"] = windows[0]
    elif windows:
        options["windows"] = tuple(windows)
    if windows and chance.random() < 0.3:
        hop = chance.choice(list(HOPS))
        options["hop"], base["hop_ms"] = hop, HOPS[hop]
    elif chance.random() < 0.25:
        options["cap"] = base["cap"] = chance.choice([1, 3, 10])
    by = topic == "paid" and chance.random() < 0.1
    if by:
        options["by"], options["categories"] = paid.country, CATEGORIES
    kinds = [
        k for k in kinds if not (k == "rate" and not windows) and not (k == "last_k" and "hop" in options)
    ]
    return Shape(kinds, of, options, base, by, [WINDOWS[one] for one in windows] or [0])


def _of(chance: random.Random) -> tuple[str, Any, str, list[str]]:
    """The source, what of its rows, and what one may ask of that."""
    drawn = chance.random()
    if drawn < 0.15:
        topic = chance.choice(list(SOURCES))
        return topic, SOURCES[topic], "", list(ROWS)
    if drawn < 0.35:
        topic = chance.choice(list(OTHERS))
        return topic, *chance.choice(OTHERS[topic]), list(TEXTS)
    topic = "paid" if drawn < 0.95 else "ask"
    return topic, *chance.choice(NUMBERS[topic]), list(WORDS)


def _definition(chance: random.Random, kind: str, shape: Shape) -> tuple[Any, list[Meant]]:
    """One definition, and the meanings of all its members in order."""
    options, base = dict(shape.options), shape.base | {"kind": kind}
    if kind in SUMS and chance.random() < 0.3:
        options["exact"] = base["exact"] = True
    elif kind in SUMS and chance.random() < 0.2:
        options["quantum"] = base["quantum"] = 0.01
    if chance.random() < 0.15:
        options["default"] = base["default"] = chance.choice([-1, 0.5])
    if kind == "rate":
        options["per"], base["per_ms"] = "1h", HOUR_MS
    if kind == "last" and "window" in options:
        options["max_age"] = options.pop("window")
    ks = (1, 2, 3) if kind == "last_k" else (0,)
    made = WORDS[kind](shape.of, *([3] if kind == "last_k" else []), **options)
    categories = CATEGORIES_SQL if shape.by else [""]
    return made, [_meant(base, w, c, k) for k in ks for c in categories for w in shape.windows_ms]


def _meant(base: dict[str, Any], window_ms: int, category: str, k: int) -> Meant:
    """The meaning of one member of a family."""
    old = base.get("where", "")
    where = f"({old}) and ({category})" if old and category else old or category
    return Meant(**{**base, "where": where, "window_ms": window_ms, "k": k})


# Logs.


class Move(msgspec.Struct, frozen=True):
    """One thing that happens. `ref`: the move that it is about; `n`: what it is called."""

    n: int
    what: str
    t_ms: int = 0
    card: str | None = None
    shop: int | None = None
    amount: float | None = None
    items: int | None = None
    text: str | None = None
    ok: bool | None = None
    ref: int = -1


AMOUNTS = [
    None,
    math.nan,
    0.0,
    -0.0,
    1.5,
    1.5,
    -2.25,
    1e-9,
    123456.789,
    0.1,
    1e16,
    -1e16,
    1.0,
    3e11,
    1e-300,
    250.0,
]
CARDS = ["a", "a", "a", "b", "c", None]
SHOPS = [1, 1, 2, None]
STEPS_MS = [0, 0, 0, 1, 60_000, HOUR_MS, 3 * HOUR_MS, 6 * HOUR_MS]
SHIFTS_MS = [
    0,
    0,
    0,
    0,
    0,
    -1,
    1,
    -HOUR_MS,
    -6 * HOUR_MS,
    -DAY_MS,
    -4 * DAY_MS,
    -9 * DAY_MS,
    5 * HOUR_MS,
    2 * DAY_MS,
]


def moves(chance: random.Random, size: int, *, huge: float = 0.0) -> list[Move]:
    """What happens in a random world. `huge`: the share of numbers that no sum in quanta can take."""
    now_ms = T0_MS
    made: list[Move] = []
    for n in range(size):
        now_ms += chance.choice(STEPS_MS)
        what = chance.choices(
            ["paid", "visit", "ask", "tick", "retract", "again", "restart"], [40, 8, 30, 8, 6, 3, 3]
        )[0]
        if what in ("retract", "again"):
            events = [move.n for move in made if move.what in ("paid", "visit", "ask")]
            ref = chance.choice(events[-12:] if chance.random() < 0.6 else events) if events else -1
            made.append(Move(n, what, now_ms, ref=ref))
        elif what in ("tick", "restart"):
            now_ms += chance.choice([0, 0, DAY_MS]) if what == "tick" else 0
            made.append(Move(n, what, now_ms))
        else:
            made.append(_happening(chance, n, what, now_ms, huge))
    return made


def _happening(chance: random.Random, n: int, what: str, now_ms: int, huge: float) -> Move:
    shift_ms = chance.choice(
        SHIFTS_MS if what != "ask" else [0, 0, 0, 0, -1, 1, -HOUR_MS, -DAY_MS, -5 * DAY_MS]
    )
    edge_ms = (
        (now_ms + shift_ms) // (6 * HOUR_MS) * 6 * HOUR_MS if chance.random() < 0.3 else now_ms + shift_ms
    )
    amount = chance.choice(AMOUNTS) if chance.random() < 0.7 else chance.uniform(-1e4, 1e4)
    if amount is not None and abs(amount) > 4e11 and chance.random() > huge:
        amount = amount / 1e5
    return Move(
        n, what, edge_ms, chance.choice(CARDS), chance.choice(SHOPS), amount,
        chance.choice([None, 0, 1, 2, 3, -7, 2**40]), chance.choice([None, "DE", "US", "FR", "äß", ""]),
        chance.choice([None, True, False]),
    )  # fmt: skip
