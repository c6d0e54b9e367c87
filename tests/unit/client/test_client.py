"""client: both clients answer alike, repeat what is safe to repeat and nothing else, and end in time."""

from __future__ import annotations

import asyncio
import inspect
import math
import random
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.client import Answer, Answers, AsyncClient, Client, Failed, Policy, Tensor
from penstock.client.aio import AsyncClient as Aio
from penstock.log.memory import MemoryLog
from penstock.record.errors import NotFound, PenstockError, Refused, Unavailable
from penstock.serve.identity import key_line, new_key, read_keys
from tests.unit.client.planted import Door, Planted, count

ROW = {"who": "a", "x": 1.5, "n": 2, "flag": None}
EVENTS = [
    {"ask_id": f"e{i}", "who": "a", "at": "2026-01-01T00:00:00Z", "x": 1.0, "z": None} for i in range(3)
]
YES = [{"ask_id": "e1", "at": "2026-01-01T00:00:00Z"}, {"ask_id": "e2", "at": "2026-01-01T00:00:00Z"}]


class Both:
    """One of the clients, its coroutines run to their end."""

    def __init__(self, kind: type[Client | AsyncClient], url: str, **options: Any) -> None:
        self.pauses: list[float] = []
        self.loop = asyncio.new_event_loop()
        sleep: Callable[[float], Any] = self.pauses.append
        if kind is AsyncClient:

            async def sleep(seconds: float) -> None:  # type: ignore[misc,no-redef]
                self.pauses.append(seconds)

        self.client: Any = kind(url, **{"rng": random.Random(7), "sleep": sleep, "timeout_s": 5.0} | options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        def called(*given: Any, **named: Any) -> Any:
            found = method(*given, **named)
            return self.loop.run_until_complete(found) if inspect.isawaitable(found) else found

        return called

    def end(self) -> None:
        """Close its connections, and the loop."""
        self.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """The server."""
    one = Door()
    yield one
    one.close()


@pytest.fixture
def log(door: Door) -> MemoryLog:
    """What the server appends to."""
    door.log = MemoryLog()
    return door.log


@pytest.fixture
def front(door: Door, log: MemoryLog) -> Iterator[Planted]:
    """The way to it, which fails as told."""
    one = Planted(door.port)
    yield one
    one.close()


@pytest.fixture(params=[Client, AsyncClient])
def client(front: Planted, request: pytest.FixtureRequest) -> Iterator[Both]:
    """Each of the clients."""
    one = Both(request.param, front.url)
    yield one
    one.end()


def test_both_have_the_same_calls() -> None:
    """Whatever one client can do, the other can, with the same arguments."""

    def calls(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(found).parameters)
            for name, found in vars(kind).items()
            if not name.startswith("_")
        }

    assert calls(Client) == calls(Aio)


def test_predict(client: Both, front: Planted) -> None:
    """Plain columns in, an answer a row; the server is told how long there is."""
    assert client.predict("m", ROW) == Answer(0.25, False, 3, "predict.m:ask:7:0", "r0")
    assert [one.request_id for one in client.predict_many("m", [ROW, ROW])] == ["r0", "r1"]
    assert 4000 < int(front.heads[0]["timeout-ms"]) <= 5000 and front.connections == 1


def test_infer_and_metadata(client: Both) -> None:
    """The protocol's own words, outputs chosen."""
    tensors = [Tensor("who", "BYTES", [1], ["a"]), Tensor("x", "FP64", [1], [1.0])]
    said = client.infer("m", tensors, outputs=["score"])
    assert [(one.name, one.data) for one in said.outputs] == [("score", [0.25])] and said.model_version == "3"
    assert client.metadata("m")["versions"] == ["3"]


def test_look(client: Both) -> None:
    """What JSON has no word for is put back in its place."""
    found = client.look("m", ["a"], t=5, o=9)
    assert found.names == list("abcdefgh") and (found.o, found.age_ms) == (9, 7)
    assert math.isnan(found.values[0][1]) and found.values[0][2:4] == [math.inf, -math.inf]
    assert found.values[0][6] == "NaN"


def test_answers(client: Both, front: Planted) -> None:
    """Where there are none, whoever waits is told so in time."""
    assert client.answers("m", 0, wait_s=0.2) == Answers([], 0)
    assert front.heads[-1][":path"] == "/models/m/answers?after=0&limit=1000&wait-ms=200"


def test_health(client: Both, front: Planted) -> None:
    """A server that is not well has answered; one that is not there has not."""
    assert client.health().live
    front.faults = ["drop"] * 4
    with pytest.raises(Unavailable):
        client.health()


ERRORS: dict[str, tuple[type[PenstockError], str, Callable[[Both], Any]]] = {
    "no model": (NotFound, "not_found", lambda c: c.predict("nobody", ROW)),
    "no answer": (NotFound, "not_found", lambda c: c.answer_to("m", "a/b?c")),
    "no set": (NotFound, "not_found", lambda c: c.look("mm", ["a"])),
    "no topic": (NotFound, "unknown_topic", lambda c: c.append("nothing", EVENTS)),
    "unknown column": (Refused, "unknown_column", lambda c: c.predict("m", {"hwo": "a"})),
    "its own refusal": (Refused, "wrong_type", lambda c: c.predict("m", {**ROW, "who": "odd"})),
    "late": (Unavailable, "deadline", lambda c: c.predict("m", {**ROW, "who": "late"})),
    "broken": (Failed, "internal", lambda c: c.predict("m", {**ROW, "who": "boom"})),
    "ragged rows": (Refused, "shape", lambda c: c.predict_many("m", [ROW, {"who": "a"}])),
    "mixed column": (Refused, "wrong_type", lambda c: c.predict_many("m", [{"x": 1.0}, {"x": "a"}])),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_the_houses(client: Both, case: str) -> None:
    """Each refusal comes as an error of the family, under the server's code, its sentence once."""
    kind, code, ask = ERRORS[case]
    with pytest.raises(kind) as raised:
        ask(client)
    assert (type(raised.value), raised.value.code) == (kind, code)
    assert str(raised.value).count(f"[{code}]") == 1


@pytest.mark.parametrize("fault", ["drop", "lose", "half", "garbage", (503, {}), (502, {}), (429, {})])
def test_what_is_safe_is_repeated(client: Both, front: Planted, fault: Any) -> None:
    """With an id of its own a request is asked again, under the same id."""
    front.faults = [fault, fault]
    assert client.predict("m", {"who": "a"}, id="ask_id").score == 0.25
    assert len(front.heads) == 3 and len(client.pauses) == 2


@pytest.mark.parametrize("fault", ["drop", "lose", "half", (503, {}), (504, {})])
def test_what_is_not_safe_is_not_repeated(client: Both, front: Planted, fault: Any) -> None:
    """Without an id the server might count a repeat as a second request."""
    front.faults = [fault]
    with pytest.raises(Unavailable):
        client.predict("m", ROW)
    assert len(front.heads) == 1 and client.pauses == []


def test_busy_means_not_done(client: Both, front: Planted) -> None:
    """After a 429 any request may be sent again, when the server says so, or a little later."""
    front.faults = [(429, {"retry-after": "2"})]
    assert client.predict("m", ROW).score == 0.25
    assert 2.0 <= client.pauses[0] < 2.05


def test_an_id_of_the_callers_stays(client: Both, front: Planted, log: MemoryLog) -> None:
    """The client draws an id only where there is none, and a repeat has the one that was drawn."""
    from penstock.client.numbering import with_ids

    rng = random.Random(1)
    mine, other = with_ids([{"a": 1, "id": "mine"}, {"a": 2}], "id", rng)
    assert mine["id"] == "mine" and len(other["id"]) == 24


def test_no_pause_beyond_the_deadline(client: Both, front: Planted) -> None:
    """What could not be answered in time any more is told at once."""
    front.faults = [(429, {"retry-after": "60"})] * 3
    with pytest.raises(Unavailable) as raised:
        client.predict("m", ROW)
    assert raised.value.status == 429 and len(front.heads) == 1 and client.pauses == []


def test_the_deadline_ends_a_call(client: Both, front: Planted) -> None:
    """A server that is slow is not waited for longer than was said."""
    front.faults = [1.0]
    began = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        client.predict("m", ROW, id="ask_id", timeout_s=0.2)
    assert raised.value.code == "deadline" and time.monotonic() - began < 0.8
    assert len(front.heads) == 1


def test_nobody_there(client: Both, front: Planted) -> None:
    """A connection that was never made is tried again, whatever was to be sent."""
    front.close()
    with pytest.raises(Unavailable) as raised:
        client.predict("m", ROW)
    assert raised.value.code == "unreachable" and len(client.pauses) == 3


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_budget_bounds_repeats(front: Planted, kind: Any) -> None:
    """However many calls fail, the repeats stay a share of them."""
    one = Both(kind, front.url, policy=Policy(tries=4, share=0.1, burst=3.0))
    front.faults = [(503, {})] * 500
    for _ in range(50):
        with pytest.raises(Unavailable):
            one.predict("m", {"who": "a"}, id="ask_id")
    one.end()
    assert 50 + 3 <= len(front.heads) <= 50 + 3 + 5


def test_connections_are_kept(client: Both, front: Planted) -> None:
    """One connection serves call after call; one that the server has closed is not used again."""
    for _ in range(5):
        client.predict("m", ROW)
    assert front.connections == 1
    front.faults = ["close"]
    client.predict("m", ROW)
    for _ in range(20):  # until the end of the connection has come
        time.sleep(0.005)
        client.loop.run_until_complete(asyncio.sleep(0))
    client.predict("m", ROW)
    assert front.connections == 2 and client.pauses == []


@pytest.mark.parametrize("fault", ["drop", "lose", "half", (503, {}), (429, {"retry-after": "1"})])
def test_events_are_appended_once(client: Both, front: Planted, log: MemoryLog, fault: Any) -> None:
    """Whatever happens on the way, events without an id stand once; the next ones follow."""
    front.faults = ["", fault]
    for _ in range(3):
        assert sum(_counts(client.append("yes", YES))) == 2
    assert count(log, "yes") == 6
    numbers = [head["penstock-sequence"] for head in front.heads]
    assert numbers == ["1", "2", "2", "3"] and len({head["penstock-producer"] for head in front.heads}) == 1


def _counts(done: Any) -> tuple[int, int]:
    return done.appended, done.duplicates


def test_after_an_append_that_is_lost(client: Both, front: Planted, log: MemoryLog) -> None:
    """Nobody knows whether it was taken: what follows goes under another producer, so that it is no repeat."""
    front.faults = ["lose"] * 4
    with pytest.raises(Unavailable):
        client.append("yes", YES)
    assert _counts(client.append("yes", YES[:1])) == (1, 0)
    assert count(log, "yes") == 3 and len({head["penstock-producer"] for head in front.heads}) == 2


def test_the_caller_may_number(client: Both, log: MemoryLog) -> None:
    """The same number twice changes nothing; a gap is refused."""
    assert _counts(client.append("yes", YES, number=("till-7", 1))) == (2, 0)
    assert _counts(client.append("yes", YES, number=("till-7", 1))) == (0, 2)
    with pytest.raises(Refused, match="sequence"):
        client.append("yes", YES, number=("till-7", 3))
    assert count(log, "yes") == 2


def test_refused_events_are_told(client: Both, log: MemoryLog) -> None:
    """Some or all of the events: the report says why; none is not asked about."""
    bad = {**EVENTS[0], "x": "no number"}
    some = client.append("ask", [*EVENTS, bad])
    assert (some.appended, some.refused) == (3, {"wrong_type": 1}) and "row 4" in some.notes[0]
    assert client.append("ask", [bad]).refused == {"wrong_type": 1}
    assert client.append("ask", []).appended == 0
    assert client.append("ask", EVENTS).duplicates == 3


def test_keys() -> None:
    """The key goes with every call; without it the server refuses."""
    secret = new_key(b"k" * 24)
    door = Door(read_keys(key_line("alice", secret)))
    url = f"http://127.0.0.1:{door.port}"
    with Client(url, secret) as client:
        assert client.predict("m", ROW).score == 0.25
    with Client(url) as client, pytest.raises(Refused) as raised:
        client.predict("m", ROW)
    door.close()
    assert raised.value.status == 401 and raised.value.code == "unauthorised"


def test_threads_share_a_client(front: Planted, log: MemoryLog) -> None:
    """Calls at once have connections each, and appends go one after the other."""
    with Client(front.url) as client:

        def work() -> None:
            for _ in range(10):
                client.predict("m", ROW)
                client.append("yes", YES)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert count(log, "yes") == 80


def test_tasks_share_a_client(front: Planted, log: MemoryLog) -> None:
    """The same with tasks; one that is cancelled leaves no other's answer on its connection."""

    async def run() -> None:
        async with AsyncClient(front.url) as client:
            front.faults = [0.3]
            slow = asyncio.create_task(client.append("yes", YES))
            await asyncio.sleep(0.1)
            slow.cancel()
            asked: list[Awaitable[Any]] = [client.predict("m", ROW) for _ in range(20)]
            asked += [client.append("yes", YES) for _ in range(10)]
            said = await asyncio.gather(*asked)
            assert all(one.score == 0.25 for one in said[:20]) and all(
                _counts(one) == (2, 0) for one in said[20:]
            )

    asyncio.run(run())


@pytest.mark.parametrize("url", ["ftp://here", "http://", "http://h:port", "http://me:secret@here"])
def test_no_address(url: str) -> None:
    """What is no server's address is refused, and not repeated to anybody."""
    with pytest.raises(Refused) as raised:
        Client(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_certificates(door: Door, tmp_path: Path, kind: Any) -> None:
    """Over TLS the server's certificate is checked: a known one is talked to, another is not."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (it makes the certificate)")
    made, secret = str(tmp_path / "made.pem"), str(tmp_path / "key.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    more = "-addext subjectAltName=DNS:localhost"
    subprocess.run(
        [*f"{command} {more}".split(), "-keyout", secret, "-out", made], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, secret)
    front = Planted(door.port, context)
    url = front.url.replace("http://127.0.0.1", "https://localhost")
    known = Both(kind, url, context=ssl.create_default_context(cafile=made))
    assert known.predict("m", ROW).score == 0.25
    known.end()
    other = Both(kind, url)
    with pytest.raises(Unavailable, match="certificate"):
        other.predict("m", ROW)
    other.end()
    front.close()
