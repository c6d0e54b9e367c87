"""demo: the world outside the shop: visitors, buyers, fraudsters and faults, from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from penstock.record.codec import millis
from penstock.record.decisions import DECISIONS, Decision

Timed = tuple[int, str, Any]

START_AT = datetime(2024, 3, 4, tzinfo=UTC)
DAYS = 12
VIEWS_AN_HOUR = 90
VISITORS = 800
CATEGORIES = {"books": 30.0, "garden": 40.0, "kitchen": 50.0, "audio": 60.0}
PAGES = ("search", "category", "home", "ad", "mail")

# What happens when, in days from the start.
CAMPAIGN_SWAPPED = 4.3
TRACKING_FAULT = (6.0, 7.0)
PRICES_UP = 8.0
FRAUD_WAVE = (11.0, 11.25)
ASKED = (
    (1.5, "ana", "trees may see what a line cannot", {"model": "trees"}),
    (3.2, "ben", "one split may be enough", {"model": "coarse"}),
    (4.2, "cleo", "the campaign's code should help", {"model": "trees", "campaign": True}),
)


def history(seed: int) -> Iterator[Timed]:
    """Everything that happens, as it becomes known: (UTC ms, topic, row), in order of time."""
    chance = random.Random(seed)
    events: list[Timed] = []
    for hour in range(24 * DAYS):
        day = hour / 24
        for i in range(_poisson(chance, VIEWS_AN_HOUR)):
            events += _visit(chance, day, f"{hour}-{i}")
        if FRAUD_WAVE[0] <= day < FRAUD_WAVE[1]:
            for i in range(70):
                events += _order(
                    chance,
                    day + chance.random() / 24,
                    f"wave-{hour}-{i}",
                    f"bot-{chance.randrange(6)}",
                    400.0,
                    True,
                )
    events += [_asked(day, who, why, params) for day, who, why, params in ASKED]
    end_ms = millis(START_AT + timedelta(days=DAYS))
    return iter(sorted((event for event in events if event[0] < end_ms), key=lambda event: event[0]))


def _at(day: float) -> datetime:
    return START_AT + timedelta(milliseconds=round(day * 86_400_000))


def _asked(day: float, who: str, why: str, params: dict[str, Any]) -> Timed:
    at_ms = millis(_at(day))
    return at_ms, DECISIONS, Decision("buy", "train", who, why, at_ms, 0, {"campaign": False, **params})


def _poisson(chance: random.Random, mean: float) -> int:
    return max(0, round(chance.gauss(mean, math.sqrt(mean))))


def _visit(chance: random.Random, day: float, id: str) -> list[Timed]:
    """One view of a page and, within the hour, perhaps a purchase and its order."""
    at = day + chance.random() / 24
    visitor = f"visitor-{chance.randrange(VISITORS)}"
    category = chance.choice(list(CATEGORIES))
    level = 2.6 if at >= PRICES_UP else 1.0
    ratio = chance.lognormvariate(0, 0.5)
    price = round(CATEGORIES[category] * level * ratio, 2)
    mobile = chance.random() < 0.55
    page = chance.choice(PAGES)
    campaign = chance.choice(("none", "none", "spring", "loyal"))
    lost = TRACKING_FAULT[0] <= at < TRACKING_FAULT[1] and chance.random() < 0.08
    row = {
        "view_id": f"view-{id}", "visitor": visitor, "at": _at(at), "category": category, "price": price,
        "device": "mobile" if mobile else "desktop", "previous_page": None if lost else page, "campaign": campaign,
    }  # fmt: skip
    events: list[Timed] = [(millis(_at(at)), "view", row)]
    if chance.random() < _buys(at, price / CATEGORIES[category] / level, mobile, page, campaign):
        then = at + chance.uniform(2, 40) / 1440
        bought = {"view_id": row["view_id"], "visitor": visitor, "at": _at(then), "price": price}
        events.append((millis(_at(then)), "purchase", bought))
        events += _order(chance, then, id, visitor, price, chance.random() < 0.03)
    return events


def _buys(day: float, dear: float, mobile: bool, page: str, campaign: str) -> float:
    """How likely a view ends in a purchase. Dear goods deter on the phone; at a desk they attract."""
    push = 3.5 if mobile else -1.5
    logit = -2.6 - push * math.log(dear) + {"mail": 2.6, "search": 1.4, "ad": -1.0}.get(page, 0.0)
    spring, loyal = ("loyal", "spring") if day >= CAMPAIGN_SWAPPED else ("spring", "loyal")
    logit += 2.0 if campaign == spring else -1.5 if campaign == loyal else 0.0
    return 1 / (1 + math.exp(-logit))


def _order(
    chance: random.Random, day: float, id: str, customer: str, price: float, crooked: bool
) -> list[Timed]:
    """An order and, where it is fraud, its chargeback days later."""
    amount = round(price * chance.uniform(1.0, 2.5) * (3.0 if crooked else 1.0), 2)
    row = {
        "order_id": f"order-{id}", "customer": customer, "at": _at(day), "amount": amount,
        "country": chance.choice(("DE", "FR", "NL", "US")),
        "card_days": chance.randrange(3) if crooked else chance.randrange(1, 900),
    }  # fmt: skip
    events: list[Timed] = [(millis(_at(day)), "order", row)]
    if crooked and chance.random() < 0.95:
        then = day + chance.uniform(0.3, 2.5)
        events.append((millis(_at(then)), "chargeback", {"order_id": row["order_id"], "at": _at(then)}))
    return events
