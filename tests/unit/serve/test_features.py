"""serve: features at the door: strict in what is asked, exact in what is told, silent about who asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.record.codec import moment
from penstock.serve.features import MOST_ENTITIES
from tests.unit.serve.test_http import DESK, JSON, KEYS, SECRET, call, looked, noted, taken_back
from tests.unit.serve.wire import head_alone

PATH = "/v2/features/m"


def look(content: bytes, path: str = PATH, **headers: str) -> Any:
    """A look-up with these very bytes."""
    return call("POST", path, content=content, headers={**JSON, **headers})


def test_null_and_nan_stay_apart() -> None:
    """JSON has no NaN: it is null among the values and named in `odd`; a text that reads so is a text."""
    answer = look(b'{"entities": [{"who": "w1"}, "w2"]}')
    body = json.loads(answer.text, parse_constant=pytest.fail)
    assert answer.status_code == 200 and body["names"] == list("abcdefgh")
    assert body["values"] == [[None, None, None, None, 0.1, 2**53 + 1, "NaN", True]] * 2
    assert body["odd"] == [
        [i, j, word] for i in (0, 1) for j, word in ((1, "NaN"), (2, "Infinity"), (3, "-Infinity"))
    ]
    assert (body["o"], body["age_ms"], body["digest"]) == (9, 7, "d" * 64)
    assert body["t"] == moment(1000).isoformat().replace("+00:00", "Z")


def test_what_is_asked_reaches_the_app() -> None:
    """Times in both ways, a position, some features."""
    looked.clear()
    look(b'{"entities": ["w"], "t": "1970-01-01T00:00:01Z", "o": 3, "features": ["x"]}')
    look(b'{"entities": ["w"], "t": 1000}')
    first, second = looked
    assert first.t == moment(1000) and first.o == 3 and first.features == ["x"]
    assert second.t == 1000 and second.o is None and second.features == []


MANY = json.dumps({"entities": ["w"] * (MOST_ENTITIES + 1)}).encode()
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "no JSON": (b'{"entities": [', 400, "malformed"),
    "NaN": (b'{"entities": [{"x": NaN}]}', 400, "malformed"),
    "deep": (b"[" * 100_000, 400, "malformed"),
    "no entities": (b"{}", 400, "malformed"),
    "numbers": (b'{"entities": [1]}', 400, "malformed"),
    "more than it knows": (b'{"entities": [], "secret": 1}', 400, "malformed"),
    "a key twice": (b'{"entities": [{"x": 1, "x": 2}]}', 400, "duplicate_key"),
    "a time": (b'{"entities": [], "t": "secret"}', 400, "malformed"),
    "a surrogate": (b'{"entities": ["\\ud800"]}', 400, "malformed"),
    "bytes": (b'{"entities": ["\xff"]}', 400, "malformed"),
    "too many": (MANY, 422, "too_many"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_what_to_do(case: str) -> None:
    """The right status, a stable code, and nothing of what was sent."""
    body, status, code = REFUSED[case]
    answer = look(body)
    assert (answer.status_code, answer.json()["code"]) == (status, code) and "secret" not in answer.text


def test_the_rest_is_as_at_every_door() -> None:
    """Unknown sets, contents, methods, lengths and keys."""
    assert look(b'{"entities": []}', "/v2/features/mm").status_code == 404
    assert call("GET", PATH).status_code == 405
    assert look(b"{}", **{"content-type": "text/plain"}).status_code == 415
    long = b"POST /v2/features/m HTTP/1.1\r\nhost: localhost\r\ncontent-length: 17825792"
    assert head_alone(DESK, noted.append, long)[0] == 413
    for method, path in (("GET", "/v2/features"), ("POST", PATH), ("DELETE", "/events/ask/1")):
        assert call(method, path, keys=KEYS).status_code == 401
        assert call(method, path, keys=KEYS, headers={"authorization": f"Bearer {SECRET}"}).status_code != 401


def test_the_sets_are_told() -> None:
    """As the app tells of them."""
    assert call("GET", "/v2/features").json() == {"sets": [{"name": "m", "digest": "d" * 64}]}


def test_an_event_is_taken_back_by_its_id() -> None:
    """Whatever characters the id has, under the producer's number where there is one."""
    taken_back.clear()
    answer = call(
        "DELETE", "/events/ask/a%2Fb%20c", headers={"Penstock-Producer": "p", "Penstock-Sequence": "4"}
    )
    assert answer.status_code == 200 and answer.json()["gone_from"] == 8
    assert taken_back == [("ask", "a/b c", ("p", 4))]
    missing = call("DELETE", "/events/ask/none")
    assert missing.status_code == 404 and missing.json()["code"] == "unknown_id"
    assert call("DELETE", "/events/ask").status_code == 405
    assert call("DELETE", "/events/ask/1", headers={"Penstock-Producer": "p"}).status_code == 422


VALID = json.dumps({"entities": [{"who": "w", "x": 1.5}], "t": 1000, "o": 7, "features": ["a"]}).encode()


@given(st.data())
def test_a_mutated_body_never_breaks_it(data: st.DataObject) -> None:
    """Whatever bytes come: 200 or 4xx, and strict JSON."""
    body = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    answer = look(bytes(body))
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    json.loads(answer.text, parse_constant=pytest.fail)
