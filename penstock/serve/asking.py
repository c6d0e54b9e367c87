"""serve: what every protocol needs to ask a model: which one, for how long at most, and bodies of JSON."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request

from penstock.predict.stage import VERSION
from penstock.record.codec import repeats_a_key
from penstock.record.decisions import Prediction
from penstock.record.errors import NotFound, Refused
from penstock.record.record import Draft
from penstock.release.registry import Entry
from penstock.serve.answers import TIMEOUT_S, NotJson
from penstock.serve.carried import CARRIED
from penstock.serve.desk import Desk, Spoken
from penstock.serve.front.call import Answer
from penstock.serve.front.wire import TooLarge
from penstock.serve.infer import are_features, face_of
from penstock.serve.tensors import BadRequest

BODY_BYTES = 16 << 20
"""What a compressed body may unpack to."""
PIECE_BYTES = 4096
"""Unpacked at a time: a piece bursts to a thousand times as much, which is held twice for a moment."""
AT_ONCE = 256
"""So many rows are answered on the event loop itself."""
_WINDOWS = {"gzip": 31, "deflate": 15}
Answered = Prediction | Spoken


class Shaped(msgspec.Struct, frozen=True):
    """What a body asks, in whatever words: rows that hold the request's columns, or every feature; and what is
    answered once something is said of each."""

    rows: Sequence[Mapping[str, Any]]
    features: bool
    told: Callable[[Sequence[Answered]], Answer]


Shape = Callable[[Any, Desk, str], Shaped]
"""Reads the JSON of a body for a model; raises Refused naming the place."""


async def body_of(request: Request, *kinds: str) -> bytes:
    """The body, unpacked; raises NotJson where its type is wrong, TooLarge where it unpacks to too much."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    from_a_page = "origin" in request.headers  # other programs may leave the type out, as some clients do
    if kind not in kinds and (kind or from_a_page):
        raise NotJson
    return unpacked(await request.body(), request.headers.get("content-encoding", "identity").lower())


def unpacked(body: bytes, coding: str) -> bytes:
    """A body without what it is packed by."""
    if coding == "identity":
        return body
    if coding not in _WINDOWS:
        raise NotJson("A body may be packed by gzip or deflate.", code="content_encoding")
    unpacker, found, read = zlib.decompressobj(_WINDOWS[coding]), bytearray(), 0
    try:
        while read < len(body) and not unpacker.eof:
            piece = body[read : read + PIECE_BYTES]
            found += unpacker.decompress(piece, BODY_BYTES + 1 - len(found))
            read += len(piece)
            if len(found) > BODY_BYTES:
                raise TooLarge
    except zlib.error:
        raise BadRequest("The body is not packed as it says.", code="content_encoding") from None
    if not unpacker.eof or unpacker.unused_data or read < len(body):
        raise BadRequest("The body is not packed as it says.", code="content_encoding")
    return bytes(found)


def json_in(body: bytes) -> Any:
    """The JSON in a body; raises BadRequest where it is none, or names a key twice."""
    try:
        body.isascii() or body.decode()
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON.") from None
    if repeats_a_key(body):
        raise BadRequest("The body names a key twice.", code="duplicate_key")
    return found


def entry_of(desk: Desk, request: Request) -> tuple[str, Entry, int]:
    """The model in the path, its entry, and the version in the path, 0 without one."""
    return entry_named(desk, request.path_params["name"], request.path_params.get("version", ""))


def entry_named(desk: Desk, name: str, text: str) -> tuple[str, Entry, int]:
    """The same by the model's name and the version's text."""
    face = face_of(desk.faces, name)
    entry = desk.registry().models.get(face.name, Entry())
    number = int(text) if text.isdigit() and len(text) < 10 else 0
    if text and number not in entry.versions:
        raise NotFound(f"{face.name} has no such version.", code="no_version")
    return face.name, entry, number


def answers(entry: Entry, number: int) -> bool:
    """Whether a version answers who asks for it by its number; 0: whether any does."""
    return entry.route.champion is not None and (
        not number or number in {ref.version for _, ref in entry.route.versions()}
    )


def must_answer(name: str, entry: Entry, number: int) -> int:
    """The champion's number; raises NotFound where a version is asked for by its number that does not score now."""
    scoring = {ref.version for _, ref in entry.route.versions()}
    if number and number not in scoring:
        told = ", ".join(f"v{one}" for one in sorted(scoring))
        raise NotFound(
            f"{name} answers with {told or 'no version yet'}.", code="not_champion",
            hint="A version has an address from its shadow on until its successor has settled.",
        )  # fmt: skip
    return entry.route.champion.version if entry.route.champion else 0


def index_of(desk: Desk) -> list[dict[str, str]]:
    """The versions of all models, and whether each scores."""
    known = desk.registry().models
    found = []
    for name in desk.faces:
        entry = known.get(name, Entry())
        for number in entry.versions:
            scores = any(ref.version == number for _, ref in entry.route.versions())
            state = ("READY", "") if scores else ("UNAVAILABLE", "not released")
            found.append({"name": name, "version": str(number), "state": state[0], "reason": state[1]})
    return found


def must_be_loaded(name: str, entry: Entry) -> None:
    """Raise Refused where a model is not loaded: it is, as soon as it is released."""
    if entry.route.champion is None:
        raise Refused(
            f"{name} has no released version to load.", code="no_champion", hint="Releases load models."
        )


def stays(name: str) -> Refused:
    """What is said to whoever would unload a model."""
    return Refused(
        f"{name} is loaded as long as its release says so.", code="released", hint="Take the release back."
    )


def time_for(request: Request, asked_us: Any = None) -> float:
    """The seconds that a caller gives an answer: a header in milliseconds, or a parameter in microseconds."""
    text = request.headers.get("timeout-ms", "")
    if text:
        if not text.isdigit() or not 0 < int(text) < 10**9:
            raise BadRequest("A time is a whole number of milliseconds.", where="timeout-ms")
        return min(TIMEOUT_S, int(text) / 1000)
    if type(asked_us) is int and asked_us > 0:
        return min(TIMEOUT_S, asked_us / 1e6)
    return TIMEOUT_S


async def ask(
    desk: Desk,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    features: bool,
    timeout_s: float,
    number: int = 0,
) -> Sequence[Answered]:
    """What is said of rows that hold the request's columns, or every feature: at once where that can be, and where
    it does not keep others waiting. `number`: the version that is to say it; raises NotFound where another has."""
    desk.allow(name, len(rows))
    if number:
        CARRIED.set({**CARRIED.get(), VERSION: f"{name}/{number}"})
    said = await _ask(desk, name, rows, features, timeout_s)
    if number and any(one.version != number for one in said):
        raise NotFound(
            f"v{number} of {name} scores no more: another version has answered.", code="not_champion"
        )
    return said


async def _ask(
    desk: Desk, name: str, rows: Sequence[Mapping[str, Any]], features: bool, timeout_s: float
) -> Sequence[Answered]:
    if len(rows) <= AT_ONCE:
        drafts = drafts_of(desk, name, rows, features)
        found = desk.at_once(name, drafts) or {}
        if all(draft.id in found for draft in drafts):
            return [found[draft.id] for draft in drafts]
    if features:
        return await desk.ask_vectors(name, _values(desk, name, rows), timeout_s)
    return await desk.ask(name, rows, timeout_s)


def drafts_of(desk: Desk, name: str, rows: Sequence[Mapping[str, Any]], features: bool) -> list[Draft]:
    """The records of requests; raises Refused where a row does not fit."""
    return desk.vectors(name, _values(desk, name, rows)) if features else desk.requests(name, rows)


def _values(desk: Desk, name: str, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    return [[row[one] for one in desk.faces[name].features] for row in rows]


def alike(rows: Sequence[Any], desk: Desk, name: str, most: int) -> tuple[list[dict[str, Any]], bool]:
    """Rows as mappings of one kind, from mappings, or lists of all features in order, or single values where there
    is one feature; and whether they hold features. Raises Refused naming the row."""
    face = desk.faces[name]
    if not 0 < len(rows) <= most:
        raise BadRequest(f"A request has 1 to {most} rows.")
    if all(type(row) is dict for row in rows):
        for i, row in enumerate(rows):
            if row.keys() != rows[0].keys():
                raise Refused("The rows name different columns.", code="missing_column", where=f"row {i}")
        return list(rows), are_features(rows[0], face)
    made = []
    for i, row in enumerate(rows):
        values = row if type(row) is list else [row]
        if type(row) is dict or len(values) != len(face.features):
            raise Refused(
                f"A row is a mapping of columns, or a list of all {len(face.features)} features.",
                code="shape", where=f"row {i}",
            )  # fmt: skip
        made.append(dict(zip(face.features, values, strict=True)))
    for i, mapped in enumerate(made):
        for column, value in mapped.items():
            if value is not None and type(value) not in (float, int, bool, str):
                raise Refused(
                    "A feature is a number, a text, true, false or null.",
                    code="wrong_type",
                    where=f"{column}, row {i}",
                )
    return made, True
