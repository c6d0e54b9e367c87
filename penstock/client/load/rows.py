"""client: what to ask about: rows of a file with what is expected, or rows made up from the model's metadata."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.client.aio import AsyncClient
from penstock.client.calls import predict
from penstock.client.wire import Request
from penstock.record.errors import NotFound, Refused

WORDS = 100
"""Different texts in a column that is made up."""


class Asked(msgspec.Struct, frozen=True):
    """One request of one row, and the score that it should get, if that is known."""

    request: Request
    expected: float | None = None


def read(model: str, lines: Iterable[bytes], expect: str) -> list[Asked]:
    """Requests from JSON lines, a row each. `expect` names the field that holds the expected score; it is not
    sent. Raises Refused for a line that is none."""
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
            expected = row.pop(expect) if expect else None
            if expected is not None:
                expected = msgspec.convert(expected, float)
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
            more = " with the expected score in it" if expect else ""
            raise Refused(
                f"This is no JSON object{more}.", code="malformed", where=f"line {number}"
            ) from None
        found.append(Asked(predict(model, [row], safe=False).request, expected))
    if not found:
        raise NotFound("There are no rows to ask about.", code="no_rows")
    return found


async def made(client: AsyncClient, model: str, n: int, rng: random.Random) -> list[Asked]:
    """`n` requests with values drawn for the columns that the model takes. Columns that the server fills in are
    left out: which these are, and which texts are times, a few trial requests tell."""
    kinds = {one["name"]: one["datatype"] for one in (await client.metadata(model))["inputs"]}
    columns = await _fitting(client, model, kinds, rng)
    rows = (_row(columns, rng) for _ in range(n))
    return [Asked(predict(model, [row], safe=False).request) for row in rows]


async def _fitting(
    client: AsyncClient, model: str, kinds: Mapping[str, str], rng: random.Random
) -> dict[str, str]:
    """The kind of each column to send, found by asking: a text that does not fit is left out; one that says whose
    request it is, too. Raises what the server says where nothing fits."""
    columns = dict(kinds)
    while True:
        row = _row(columns, rng)
        try:
            answer = await client.predict(model, row)
        except Refused as error:
            odd = _named(error, [name for name, kind in columns.items() if kind == "BYTES"])
            if odd is None:
                raise
            del columns[odd]
            continue
        texts = {name for name, value in row.items() if value == answer.request_id}
        return {name: kind for name, kind in columns.items() if name not in texts}


def _named(error: Refused, names: Sequence[str]) -> str | None:
    """The column that a refusal is about: the server writes it as a place in the row, or as a tensor's name."""
    text = str(error)
    return next((name for name in names if f"`$.{name}`" in text or text.startswith(f"{name}, ")), None)


def _row(columns: Mapping[str, str], rng: random.Random) -> dict[str, Any]:
    return {name: _value(kind, rng) for name, kind in columns.items()}


def _value(kind: str, rng: random.Random) -> Any:
    if kind == "BOOL":
        return rng.random() < 0.5
    if kind == "BYTES":
        return f"word-{rng.randrange(WORDS)}"
    return rng.randrange(100) if "INT" in kind else rng.gauss(0.0, 1.0)
