"""serve: the door answers what it must, refuses what it must, and never says what it must not."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.feature import source
from penstock.feature.lookup import Looked
from penstock.log.memory import MemoryBlob, MemoryLog
from penstock.record.decisions import Prediction
from penstock.record.errors import NotFound, Refused, Unavailable
from penstock.record.event import Event, key
from penstock.record.record import START, Draft, Position
from penstock.release.registry import Entry, Registry
from penstock.release.route import Ref, Route
from penstock.serve.desk import Asked, Desk, ModelFace, Spoken
from penstock.serve.front.wire import Limits
from penstock.serve.identity import Keys, key_line, may_bind, new_key, read_keys
from tests.unit.serve.wire import asked, head_alone, raw


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float
    n: int
    flag: bool | None


FACE = ModelFace("m", source(Ask, id="ask_id", time="at"), ("x", "total"))
noted: list[BaseException] = []


async def ask(model: str, rows: Any, timeout_s: float) -> list[Prediction]:
    """What a live system would answer, or raise."""
    who = str(rows[0].get("who", "")) if isinstance(rows[0], dict) else ""
    if who == "late":
        raise Unavailable("Not in time.", code="deadline")
    if who == "boom":
        raise RuntimeError("secret insides")
    if who == "odd":
        raise Refused("This does not fit.", code="wrong_type")
    return [
        Prediction(
            "m", 3, "d", "champion", True, f"r{i}", who, "ask", 7 + i, 0, START, "f", [], 7, 0.25, False
        )
        for i in range(len(rows))
    ]


def requests(model: str, rows: Any) -> list[Draft]:
    """Records of rows; whether these fit, `ask` says."""
    return [Draft("ask", str(row.get("who", "")), 0, b"", f"r{i}") for i, row in enumerate(rows)]


def vectors(model: str, rows: Any) -> list[Draft]:
    """The same of values."""
    return [Draft("m.vectors", "", 0, b"", f"r{i}") for i in range(len(rows))]


def at_once(model: str, drafts: Any) -> dict[str, Spoken] | None:
    """Nobody is in a hurry here, but for those who say so."""
    if any(draft.key != "quick" for draft in drafts):
        return None
    return {one.id: Spoken("m", 3, True, one.id, "ask", 7 + i, 0.25, False) for i, one in enumerate(drafts)}


async def posted(model: str, drafts: Any) -> list[asyncio.Future[Prediction]]:
    """What is not answered at once is answered at the next turn, as by `ask`."""
    futures = [asyncio.get_running_loop().create_future() for _ in drafts]
    for future, said in zip(
        futures, await ask(model, [{"who": one.key} for one in drafts], 1.0), strict=True
    ):
        future.set_result(said)
    return futures


numbers: list[tuple[str, int]] = []


async def append(topic: str, rows: Any, numbered: tuple[str, int]) -> dict[str, Any]:
    """A report as the app gives it."""
    numbers.append(numbered)
    good = [row for row in rows if b"bad" not in bytes(row)]
    return {
        "appended": len(good),
        "duplicates": 0,
        "refused": {"wrong_type": len(rows) - len(good)},
        "notes": [],
    }


def registry() -> Registry:
    """v3 is champion."""
    version: Any = msgspec.UNSET
    return Registry({"m": Entry({3: version}, route=Route(champion=Ref(3, "d")))})


STATUS = {
    "end": 5,
    "topics": {"ask": 5},
    "stages": {"gate": {"position": 5, "lag": 0}},
    "models": {"m": {"alerts": []}},
}
taken_back: list[tuple[str, str, tuple[str, int]]] = []
looked: list[Asked] = []


async def retract(topic: str, id: str, numbered: tuple[str, int]) -> dict[str, Any]:
    """A retraction as the app tells of it."""
    taken_back.append((topic, id, numbered))
    if id == "none":
        raise NotFound("There is no event of this id.", code="unknown_id")
    return {"topic": topic, "id": id, "position": 3, "gone_from": 8, "repeated": False}


async def look(name: str, asked: Asked, timeout_s: float) -> Looked:
    """Odd values, one a feature."""
    looked.append(asked)
    if name != "m":
        raise NotFound('"mm" is no set; did you mean "m"?')
    row = [None, math.nan, math.inf, -math.inf, 0.1, 2**53 + 1, "NaN", True]
    return Looked(tuple("abcdefgh"), [list(row) for _ in asked.entities], 1000, Position(n=9), 7, "d" * 64)


SETS = [{"name": "m", "digest": "d" * 64}]
DESK = Desk(
    {"m": FACE}, ask, ask, append, retract, requests, vectors, at_once, posted, lambda model, timeout_s: None,
    look, lambda: SETS, registry, lambda: STATUS,
    lambda: {"broken": "", "held": ""}, "durable", MemoryLog(), MemoryBlob(),
)  # fmt: skip
SECRET = new_key(b"x" * 24)
KEYS = read_keys(key_line("alice", SECRET))


def call(
    method: str, path: str, *, keys: Keys | None = None, host: str = "127.0.0.1", **options: Any
) -> httpx.Response:
    """One request to the door."""
    return asked(
        DESK, noted.append, lambda client: client.request(method, path, **options), keys=keys, host=host
    )


JSON = {"content-type": "application/json"}


def post(content: bytes, **headers: str) -> httpx.Response:
    """An infer call with these very bytes."""
    return call("POST", "/v2/models/m/infer", content=content, headers={**JSON, **headers})


def tensor(name: str, datatype: str, *data: Any, shape: list[int] | None = None) -> dict[str, Any]:
    """An input."""
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": list(data)}


def infer(*inputs: Any, **more: Any) -> httpx.Response:
    """An infer call."""
    return call("POST", "/v2/models/m/infer", json={"inputs": list(inputs), **more})


def test_an_answer_is_as_the_protocol_says() -> None:
    """Model, version, the caller's id, and one tensor an output."""
    answer = infer(
        tensor("who", "BYTES", "a", "b"), tensor("x", "FP64", 1, 2.5), tensor("n", "INT64", 1, 2), id="mine"
    )
    body = answer.json()
    assert answer.status_code == 200 and (body["model_name"], body["model_version"], body["id"]) == (
        "m",
        "3",
        "mine",
    )
    assert {one["name"]: one["datatype"] for one in body["outputs"]} == {
        "score": "FP64", "positive": "BOOL", "version": "INT64", "prediction_id": "BYTES", "request_id": "BYTES",
    }  # fmt: skip
    assert all(one["shape"] == [2] and len(one["data"]) == 2 for one in body["outputs"])
    assert body["outputs"][3]["data"][1] == "predict.m:ask:8:0" and body["parameters"] == {
        "durability": "durable"
    }
    only = infer(tensor("who", "BYTES", "a"), outputs=[{"name": "score"}]).json()
    assert [one["name"] for one in only["outputs"]] == ["score"]


def test_metadata_and_health() -> None:
    """Of the server, the model, its versions; health is open."""
    assert call("GET", "/v2").json()["name"] == "penstock"
    told = call("GET", "/v2/models/m").json()
    assert (
        told["versions"] == ["3"]
        and {one["name"]: one["datatype"] for one in told["inputs"]}["flag"] == "BOOL"
    )
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/m/ready",
        "/v2/models/m/versions/3/ready",
    ):
        assert call("GET", path).status_code == 200, path
    assert 'penstock_stage_lag{stage="gate"} 0' in call("GET", "/metrics").text


X, WHO = tensor("x", "FP64", 1.0), tensor("who", "BYTES", "a")
REFUSED: dict[str, tuple[int, str, Any]] = {
    "two sizes": (400, "rows", lambda: infer(tensor("who", "BYTES", "a", "b"), X)),
    "shape": (400, "shape", lambda: infer(tensor("x", "FP64", 1.0, shape=[2]))),
    "datatype": (400, "datatype", lambda: infer(tensor("x", "FP63", 1.0))),
    "a column": (422, '"who"', lambda: infer(tensor("whoo", "BYTES", "a"))),
    "a type": (422, "x, row 1", lambda: infer(tensor("x", "FP64", 1.0, "secret"))),
    "too much": (
        422,
        "features: n.",
        lambda: infer(X, tensor("total", "FP64", 1.0), tensor("n", "INT64", 1)),
    ),
    "an output": (400, "score", lambda: infer(WHO, outputs=[{"name": "scores"}])),
    "a model": (404, '"m"', lambda: call("POST", "/v2/models/mm/infer", json={"inputs": [X]})),
    "a version": (404, "version", lambda: call("GET", "/v2/models/m/versions/9")),
    "no JSON": (400, "JSON", lambda: post(b'{"inputs": [')),
    "NaN": (400, "JSON", lambda: post(b'{"inputs": [NaN]}')),
    "deep": (400, "inference", lambda: post(b"[" * 100_000)),
    "a content": (415, "application/json", lambda: post(b"{}", **{"content-type": "text/plain"})),
    "a page's content": (
        415,
        "application/json",
        lambda: call("POST", "/v2/models/m/infer", headers={"origin": "x"}),
    ),
    "a method": (405, "method", lambda: call("GET", "/v2/models/m/infer")),
    "nothing": (404, "nothing", lambda: call("GET", "/nowhere")),
    "a host": (400, "host", lambda: call("GET", "/v2", host="evil.example")),
    "time": (504, "time", lambda: infer(tensor("who", "BYTES", "late"))),
    "what does not fit": (422, "fit", lambda: infer(tensor("who", "BYTES", "odd"))),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_what_to_do(case: str) -> None:
    """The right status, a stable code, a sentence that helps, and nothing of what was sent."""
    status, word, ask_it = REFUSED[case]
    answer = ask_it()
    assert answer.status_code == status, answer.text
    assert word in answer.json()["error"] and answer.json()["code"] and "secret" not in answer.text


PROTOCOLS: dict[str, Callable[[str], Any]] = {
    "/v2/models/m/infer": lambda who: {"inputs": [tensor("who", "BYTES", who)]},
    "/models/m": lambda who: {"who": who},
    "/models/m/invocations": lambda who: {"dataframe_records": [{"who": who}]},
    "/invocations": lambda who: {"dataframe_split": {"columns": ["who"], "data": [[who]]}},
    "/v1/models/m:predict": lambda who: {"instances": [{"who": who}]},
    "/v1/models/m:classify": lambda who: {"examples": [{"who": who}]},
    "/v1/models/m:regress": lambda who: {"examples": [{"who": who}]},
}
"""How one request of somebody is asked."""


@pytest.mark.parametrize("who", ["quick", "slow", "odd", "late", "boom"])
@pytest.mark.parametrize("path", PROTOCOLS)
def test_in_a_hurry_or_not_the_answer_is_the_same(path: str, who: str) -> None:
    """Whether it is answered at once, later, or refused. A query is a way to be in no hurry."""

    async def both(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post(path + way, json=PROTOCOLS[path](who)) for way in ("", "?long")]

    hurried, other = asked(DESK, noted.append, both)
    assert (hurried.status_code, hurried.json()) == (other.status_code, other.json())
    status = {"odd": 422, "late": 504, "boom": 500}.get(who, 200)
    assert hurried.status_code == status and hurried.headers == other.headers


def test_hurried_calls_go_in_one_write() -> None:
    """Whatever protocol they come by."""
    puts: list[int] = []

    def at_once(model: str, drafts: Any) -> Any:
        puts.append(len(drafts))
        return DESK.at_once(model, drafts)

    async def together(client: httpx.AsyncClient) -> list[httpx.Response]:
        asks = [client.post(path, json=ask("quick")) for path, ask in PROTOCOLS.items()]
        return await asyncio.gather(*asks)

    faces = {"m": msgspec.structs.replace(FACE, gather_s=0.2)}
    said = asked(msgspec.structs.replace(DESK, at_once=at_once, faces=faces), noted.append, together)
    assert all(one.status_code == 200 for one in said) and puts == [len(PROTOCOLS)]


def test_a_length_that_is_too_long_is_refused_before_the_body() -> None:
    """Of the body nothing need come."""
    long = b"POST /events/ask HTTP/1.1\r\nhost: localhost\r\ncontent-length: 16777217"
    status, text = head_alone(DESK, noted.append, long)
    assert status == 413 and json.loads(text)["code"] == "too_large"


def test_a_stream_that_is_too_long_is_cut() -> None:
    """Without a length the body is counted as it comes."""

    async def parts() -> Any:
        for _ in range(18):
            yield b" " * (1 << 20)

    answer = call("POST", "/events/ask", content=parts(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_bodies_share_their_room() -> None:
    """What comes in while the room is taken is told to come again; an answer, whichever, gives its room back."""

    async def run(client: httpx.AsyncClient) -> list[int]:
        first = asyncio.Event()

        async def slowly() -> Any:
            yield b'{"bad":' + b" " * 600
            await first.wait()
            yield b"1}"

        async def sent(content: Any) -> int:
            answer = await client.post("/events/ask", content=content, headers=JSON)
            assert answer.status_code != 429 or answer.headers["retry-after"] == "1"
            return answer.status_code

        slow = asyncio.create_task(sent(slowly()))
        await asyncio.sleep(0.05)
        during = [await sent(b'{"a": 1}' + b" " * n) for n in (500, 300)]
        first.set()
        return [*during, await slow, *[await sent(b'{"a": 1}' + b" " * 900) for _ in range(3)]]

    limits = Limits(bodies_bytes=1000)
    assert asked(DESK, noted.append, run, limits=limits) == [429, 200, 422, 200, 200, 200]


def test_who_leaves_in_the_middle_is_counted() -> None:
    """Nothing of a body that breaks off reaches the app, and it is no error of ours."""
    numbers.clear()
    noted.clear()
    told: list[Any] = []
    desk = msgspec.structs.replace(
        DESK, count=lambda name, labels, n: told.append((name, labels["code"])) if "code" in labels else None
    )

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /events/ask HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{")
        await asyncio.sleep(0.05)
        writer.close()
        await asyncio.sleep(0.05)

    raw(desk, noted.append, leave)
    assert told == [("answers_refused", "left")] and noted == [] and numbers == []


def test_our_own_errors_stay_inside() -> None:
    """The caller learns that it was not their fault, whoever keeps the notes learns the rest."""
    noted.clear()
    answer = infer(tensor("who", "BYTES", "boom"))
    assert answer.status_code == 500 and answer.json() == {
        "error": "internal error [internal]",
        "code": "internal",
    }
    assert [str(one) for one in noted] == ["secret insides"]


ROUTES = (
    ("GET", "/v2"),
    ("GET", "/v2/models/m"),
    ("GET", "/status"),
    ("GET", "/metrics"),
    ("GET", "/nowhere"),
    ("POST", "/v2/models/m/infer"),
    ("POST", "/events/ask"),
)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_but_health_asks_for_a_key(method: str, path: str) -> None:
    """Bearer or the password of a login; a wrong one is none."""
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic !"},
        {"authorization": "x"},
    ):
        answer = call(method, path, keys=KEYS, headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"]
    assert call(method, path, keys=KEYS, headers={"authorization": f"Bearer {SECRET}"}).status_code != 401
    assert call(method, path, keys=KEYS, auth=("any", SECRET)).status_code != 401
    assert call("GET", "/v2/health/live", keys=KEYS).status_code == 200


def test_a_metrics_label_may_hold_any_text() -> None:
    """Quotes, backslashes and line ends are written as the format wants them; sizes of states go up and down."""
    count = {"name": "state_events", "labels": {"series": 'a == "b\\"\n'}, "value": 3}
    desk = msgspec.structs.replace(DESK, status=lambda: {**STATUS, "counters": [count]})
    told = asked(desk, noted.append, lambda client: client.get("/metrics")).text
    assert (
        '# TYPE penstock_state_events gauge\npenstock_state_events{series="a == \\"b\\\\\\"\\n"} 3\n' in told
    )


def test_events_are_taken_by_object_array_and_line() -> None:
    """All refused is 422; some taken is 200."""
    json_type, lines = {"content-type": "application/json"}, {"content-type": "application/x-ndjson"}
    assert call("POST", "/events/ask", content=b'{"a": 1}', headers=json_type).json()["appended"] == 1
    assert (
        call("POST", "/events/ask", content=b'[{"a": 1}, {"a": 2}]', headers=json_type).json()["appended"]
        == 2
    )
    assert call("POST", "/events/ask", content=b'{"a": 1}\n\n{"a": 2}\n{"bad": 1}', headers=lines).json()[
        "refused"
    ]
    assert call("POST", "/events/ask", content=b'{"bad": 1}', headers=lines).status_code == 422


def test_a_producer_numbers_its_appends() -> None:
    """Both headers or none reach the app; anything odd in them is refused before it."""
    numbers.clear()

    def sent(**headers: str) -> int:
        given = {f"Penstock-{name}": text for name, text in headers.items()}
        return call("POST", "/events/ask", content=b'{"a": 1}', headers={**JSON, **given}).status_code

    assert [sent(), sent(Producer="till-1", Sequence="7")] == [200, 200]
    odd = [{"Producer": "p"}, {"Sequence": "1"}, {"Producer": "a b", "Sequence": "1"}]
    odd += [{"Producer": "p" * 65, "Sequence": "1"}]
    odd += [{"Producer": "p", "Sequence": text} for text in ("-1", "x", "1.0", "9" * 19)]
    assert {sent(**headers) for headers in odd} == {422} and numbers == [("", 0), ("till-1", 7)]


def test_headers_are_careful() -> None:
    """On every answer, a refusal too."""
    for answer in (call("GET", "/v2"), call("GET", "/nowhere")):
        assert (
            answer.headers["x-content-type-options"] == "nosniff"
            and answer.headers["cache-control"] == "no-store"
        )


def test_only_loopback_is_open() -> None:
    """Any other address needs keys."""
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        may_bind(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", ""):
        with pytest.raises(Refused) as caught:
            may_bind(host, None)
        assert caught.value.code == "needs_key"
        may_bind(host, KEYS)
    for wrong in ("", "alice", "alice 12", "alice " + "g" * 64):
        with pytest.raises(Refused):
            read_keys(wrong)


VALID = json.dumps(
    {"inputs": [tensor("who", "BYTES", "a"), tensor("x", "FP64", 1.0), tensor("flag", "BOOL", None)]}
).encode()


@given(st.data())
def test_a_mutated_body_never_breaks_it(data: st.DataObject) -> None:
    """Whatever bytes come: 200 or 4xx, and strict JSON."""
    body = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        cut = data.draw(st.integers(0, 8))
        body[at : at + cut] = data.draw(st.binary(max_size=8))
    answer = call(
        "POST", "/v2/models/m/infer", content=bytes(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    json.loads(answer.text, parse_constant=pytest.fail)
