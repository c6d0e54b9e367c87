"""serve: what the doors ask of whoever runs the stages. A struct of functions, so that no door knows how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.log import Blob, Log
from penstock.record.decisions import Prediction
from penstock.record.event import Source
from penstock.release.registry import Registry


class ModelFace(msgspec.Struct, frozen=True):
    """What a client may know of a model: its request's columns and its features, in order."""

    name: str
    request: Source
    features: Sequence[str]


class Desk(msgspec.Struct, frozen=True):
    """The app's side of every door.

    `ask(model, rows, timeout_s)` appends one request a row (a mapping of the request's columns; a
    missing id or time is filled in) and returns the served predictions, in order. `ask_vectors` is the
    same for rows that bring every feature value themselves. `append(topic, rows, numbered)` takes
    events, under the producer's name and its number for them where it gives one (else "" and 0), and
    returns the report as builtins. All raise Refused or Unavailable. `count(name, labels)` counts since
    the process began.
    """

    faces: Mapping[str, ModelFace]
    ask: Callable[[str, Sequence[Mapping[str, Any]], float], Awaitable[list[Prediction]]]
    ask_vectors: Callable[[str, Sequence[Sequence[Any]], float], Awaitable[list[Prediction]]]
    append: Callable[[str, Sequence[Mapping[str, Any] | bytes], tuple[str, int]], Awaitable[dict[str, Any]]]
    registry: Callable[[], Registry]
    status: Callable[[], dict[str, Any]]
    durability: str
    log: Log
    blobs: Blob
    count: Callable[[str, Mapping[str, str]], None] = lambda name, labels: None
