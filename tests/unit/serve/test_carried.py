"""serve: what a call carries goes onto its records, bounded and checked; what is odd is left out."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from penstock.record.errors import Refused
from penstock.record.record import NO_HEADERS
from penstock.serve.carried import CARRIED, MOST, carried, structured
from tests.unit.serve.test_http import DESK, JSON, PROTOCOLS, call, noted
from tests.unit.serve.wire import asked

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_traces_and_attributes() -> None:
    """By their names; nothing else of a call's headers."""
    headers = [
        (b"traceparent", TRACE.encode()),
        (b"ce-id", b"7"),
        (b"ce-type", b"paid"),
        (b"cookie", b"secret"),
    ]
    assert carried(headers) == {"traceparent": TRACE, "ce-id": "7", "ce-type": "paid"}
    assert carried([(b"accept", b"*/*")]) is NO_HEADERS


ODD: list[tuple[bytes, bytes]] = [
    (b"traceparent", b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01"),
    (b"traceparent", b"ff" + TRACE.encode()[2:]),
    (b"traceparent", TRACE.upper().encode()),
    (b"ce-id", b"x" * 257),
    (b"ce-id", b"a\x01b"),
    (b"ce-bad_name", b"x"),
    (b"ce-", b"x"),
    (b"ce-" + b"n" * 21, b"x"),
]


@pytest.mark.parametrize("one", ODD)
def test_what_is_odd_is_left_out(one: tuple[bytes, bytes]) -> None:
    """It is no reason to refuse the call."""
    assert carried([one]) is NO_HEADERS


def test_there_is_an_end_to_attributes() -> None:
    """So many and no more."""
    assert len(carried([(b"ce-a%d" % n, b"x") for n in range(40)])) == MOST


def test_the_structured_form() -> None:
    """Data and attributes apart; without what an event must have it is none."""
    event = {
        "specversion": "1.0",
        "id": "7",
        "source": "till",
        "type": "paid",
        "data": {"x": 1},
        "n": 3,
        "b": True,
    }
    assert structured({**event, "traceparent": TRACE, "odd": [1]}) == (
        {"x": 1},
        {
            "ce-specversion": "1.0", "ce-id": "7", "ce-source": "till", "ce-type": "paid", "ce-n": "3", "ce-b": "true",
            "traceparent": TRACE,
        },
    )  # fmt: skip
    for absent in ("specversion", "id", "source", "type", "data"):
        with pytest.raises(Refused):
            structured({name: value for name, value in event.items() if name != absent})


@pytest.mark.parametrize("way", ["", "?long"])
@pytest.mark.parametrize("path", PROTOCOLS)
def test_each_call_has_its_own(path: str, way: str) -> None:
    """Side by side, in a hurry and not, and nothing stays for the next one. The answer is traced as it was asked."""
    seen: list[Any] = []

    def requests(model: str, rows: Any) -> Any:
        seen.append((rows[0]["who"], dict(CARRIED.get())))
        return DESK.requests(model, rows)

    desk = msgspec.structs.replace(DESK, requests=requests)

    async def calls(client: Any) -> list[Any]:
        headers = {"traceparent": TRACE, "ce-source": "/here"}
        traced = client.post(path + way, json=PROTOCOLS[path]("a"), headers=headers)
        return await asyncio.gather(traced, client.post(path + way, json=PROTOCOLS[path]("b")))

    first, second = asked(desk, noted.append, calls)
    assert sorted(seen) == [("a", {"traceparent": TRACE, "ce-source": "/here"}), ("b", {})]
    assert first.headers["traceparent"] == TRACE and "traceparent" not in second.headers


def test_a_cloudevent_is_an_event() -> None:
    """In both forms."""
    event = b'{"specversion": "1.0", "id": "7", "source": "till", "type": "paid", "data": {"a": 1}}'
    headers = {"content-type": "application/cloudevents+json"}
    assert call("POST", "/events/ask", content=event, headers=headers).json()["appended"] == 1
    assert (
        call("POST", "/events/ask", content=b'{"a": 1}', headers={**JSON, "ce-id": "7"}).json()["appended"]
        == 1
    )
    assert call("POST", "/events/ask", content=b'{"a": 1}', headers=headers).json()["code"] == "cloudevent"
