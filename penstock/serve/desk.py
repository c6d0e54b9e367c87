"""serve: what the doors ask of whoever runs the stages. A struct of functions, so that no door knows how."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from penstock.feature.lookup import Looked
from penstock.log import Blob, Log
from penstock.record.decisions import Prediction
from penstock.record.errors import Unavailable
from penstock.record.event import Source
from penstock.record.record import Draft
from penstock.release.registry import Registry


class ModelFace(msgspec.Struct, frozen=True):
    """What a client may know of a model: its request's columns and its features, in order. Not `asked`: it serves a
    queue, and answers nobody at the door. `gather_s`: so long a request waits for others to be answered with it."""

    name: str
    request: Source
    features: Sequence[str]
    asked: bool = True
    gather_s: float = 0.0


class Spoken(msgspec.Struct, frozen=True, gc=False):
    """What of a prediction goes to whoever asked: a part of its record, by the same names."""

    model: str
    version: int
    served: bool
    request: str
    source: str
    position: int
    score: float | None
    positive: bool | None
    error: str = ""


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A look-up: whose features, at which time and position (none: as it is now), which of them (none: all)."""

    entities: list[dict[str, Any] | str]
    t: datetime | int | None = None
    o: int | None = None
    features: list[str] = []


def too_late() -> Unavailable:
    """The answer to whoever has waited for as long as was said."""
    return Unavailable("The prediction was not ready in time; the request is on the log.", code="deadline")


class Desk(msgspec.Struct, frozen=True):
    """The app's side of every door.

    `ask(model, rows, timeout_s)` appends one request a row (a mapping of the request's columns; a
    missing id or time is filled in) and returns the served predictions, in order. `ask_vectors` is the
    same for rows that bring every feature value themselves. `append(topic, rows, numbered)` takes
    events, under the producer's name and its number for them where it gives one (else "" and 0), and
    returns the report as builtins. `retract(topic, id, numbered)` takes an event back and says as
    builtins from where on. `look(set, asked, timeout_s)` looks features up, `sets()` tells of those there are.
    `requests(model, rows)` and `vectors(model, rows)` are the records of requests, checked; `at_once(model,
    drafts)` appends such and returns the served predictions by the requests' ids, without a wait: None where that
    cannot be, and no word of those that were asked before. `post(model, drafts)` puts them on the log and returns
    futures of their served predictions, on this event loop: who waits for one no longer cancels it. `crowd(model,
    timeout_s)` is what a request is refused with that would wait in vain.
    `health()` says why the system stopped itself and what holds producers back ("": nothing).
    `allow(model, n)` takes `n` rows of what the model may be asked now, or gives them back where that is negative.
    All raise Refused or Unavailable. `count(name, labels, n)` counts `n` more since the process began.
    """

    faces: Mapping[str, ModelFace]
    ask: Callable[[str, Sequence[Mapping[str, Any]], float], Awaitable[list[Prediction]]]
    ask_vectors: Callable[[str, Sequence[Sequence[Any]], float], Awaitable[list[Prediction]]]
    append: Callable[[str, Sequence[Mapping[str, Any] | bytes], tuple[str, int]], Awaitable[dict[str, Any]]]
    retract: Callable[[str, str, tuple[str, int]], Awaitable[dict[str, Any]]]
    requests: Callable[[str, Sequence[Mapping[str, Any]]], list[Draft]]
    vectors: Callable[[str, Sequence[Sequence[Any]]], list[Draft]]
    at_once: Callable[[str, Sequence[Draft]], Mapping[str, Spoken] | None]
    post: Callable[[str, Sequence[Draft]], Awaitable[list[Future[Prediction]]]]
    crowd: Callable[[str, float], Unavailable | None]
    look: Callable[[str, Asked, float], Awaitable[Looked]]
    sets: Callable[[], list[dict[str, Any]]]
    registry: Callable[[], Registry]
    status: Callable[[], dict[str, Any]]
    health: Callable[[], dict[str, str]]
    durability: str
    log: Log
    blobs: Blob
    count: Callable[[str, Mapping[str, str], int], None] = lambda name, labels, n: None
    allow: Callable[[str, int], None] = lambda model, n: None
