"""loop: a queue in front of a model in a process of its own: nothing waits at the door, nothing is lost behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.app.dead import again, letters
from penstock.app.home import open_home
from penstock.client import Client
from penstock.record.codec import moment
from penstock.record.errors import NotFound
from tests.loop.test_outside import trained
from tests.loop.test_pressure import metric
from tests.loop.test_up import Up, penstock, until

MOST_LAG = 300
FILE = '''
"""A model with manners that depend on what it is asked."""
import os
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from penstock import Event, Pipeline, better, every, key, queue, source, steps


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float


ask = source(Ask, id="ask_id", time="at")
yes = source("yes", key="ask_id", time="at")


class Odd:
    def predict_proba(self, x):
        for value in x[:, 0]:
            if value == 101:
                raise ValueError("secret")
            if value == 105:
                time.sleep(60)
            if 103 <= value < 104 or (value == 104 and Path(__file__).with_name("broken").exists()):
                os.abort()
        return 1 / (1 + np.exp(-x[:, [0, 0]]))


def fit(data):
    return Odd()


odd = Pipeline(
    request=ask, label=yes, wait="12h", features=[ask.x], fit=fit, train=every("3650d", at_least=100),
    gate=better("log_loss"), release=steps(), serves=queue(within="60s"),
)
'''


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Such a file is up."""
    folder = tmp_path_factory.mktemp("queue")
    path = folder / "odd.py"
    path.write_text(FILE)
    path.with_name("broken").touch()
    home = trained(folder / "home", path, "odd", ("x",))
    one = Up(home, "--max-lag", str(MOST_LAG), file=path)
    yield one
    one.kill()


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    """A client of it."""
    with Client(str(up.client.base_url)) as one:
        yield one


def ask(id: str, x: float, ago_s: float = 0) -> dict[str, Any]:
    """A request."""
    return {
        "ask_id": id,
        "who": id,
        "at": moment(time.time_ns() // 10**6 - round(ago_s * 1000)).isoformat(),
        "x": x,
    }


def answered(client: Client, ids: set[str], after: int = 0) -> dict[str, Any]:
    """The answers to these requests, read in the order of the log."""
    found: dict[str, Any] = {}

    def read() -> bool:
        nonlocal after
        some = client.answers("odd", after, wait_s=1.0)
        after = some.after
        for one in some.answers:
            assert one.request not in found, "twice"
            found[one.request] = one
        return ids <= found.keys()

    until(read)
    return {id: found[id] for id in ids}


@pytest.mark.parametrize(
    "address", ["/models/odd", "/v2/models/odd/infer", "/v1/models/odd:predict", "/invocations"]
)
def test_nobody_is_answered_at_the_door(up: Up, address: str) -> None:
    """Whatever the protocol: the error says where to."""
    bodies = {
        "infer": {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}]},
        "predict": {"instances": [{"who": "a", "x": 1.0}]},
        "invocations": {"dataframe_records": [{"who": "a", "x": 1.0}]},
    }
    body = next((one for name, one in bodies.items() if address.endswith(name)), {"who": "a", "x": 1.0})
    answer = up.client.post(address, json=body)
    assert answer.status_code == 422 and "queue_only" in answer.text and "events to ask" in answer.text, (
        answer.text
    )


def test_every_request_has_one_answer(up: Up, client: Client) -> None:
    """A score, or why not; late ones are not scored; `penstock answers` and an id find the same."""
    rows = [
        ask("good", 2.0),
        ask("raises", 101),
        ask("dies", 103),
        ask("late", 2.0, ago_s=100),
        ask("again", -2.0),
    ]
    assert client.append("ask", rows).appended == 5
    found = answered(client, {row["ask_id"] for row in rows})
    assert {id: one.error for id, one in found.items()} == {
        "good": "", "again": "", "raises": "model_failed", "dies": "model_died", "late": "expired",
    }  # fmt: skip
    assert found["good"].score > 0.85 > 0.15 > found["again"].score and found["late"].score is None
    assert client.answer_to("odd", "good") == found["good"]
    with pytest.raises(NotFound) as caught:
        client.answer_to("odd", "nobody")
    assert caught.value.code == "not_found"
    said = penstock("answers", "odd", "--home", up.home)
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert said.returncode == 0 and {"good", "late"} <= {line["request"] for line in lines}
    alone = penstock("answers", "odd", "--home", up.home, "--request", "late")
    assert json.loads(alone.stdout)["error"] == "expired"
    rest = penstock("answers", "odd", "--home", up.home, "--after", str(lines[-2]["position"]))
    assert [json.loads(line) for line in rest.stdout.splitlines()] == lines[-1:]


def test_what_failed_is_scored_again(up: Up, client: Client) -> None:
    """It is a dead letter by its reason, brought back under its id as often as need be; then it has its score."""

    log = open_home(Path(up.home)).log

    def place() -> str:
        return next((f"{one.topic}@{one.position}" for one in letters(log) if one.id == "retried"), "")

    client.append("ask", [ask("retried", 104)])
    assert answered(client, {"retried"})["retried"].error == "model_died"
    first = place()
    again(log, [first], "me", 0)
    second = until(place)
    assert first.startswith("ask@") and second.startswith("odd.vectors@")
    assert until(lambda: client.answer_to("odd", "retried").error == "model_died")
    Path(up.home).with_name("broken").unlink()
    end = client.answer_to("odd", "retried").position
    said = penstock("dead", "--home", up.home, "--again", second)
    assert said.returncode == 0 and "1 records brought back" in said.stdout
    assert answered(client, {"retried"}, end)["retried"].score > 0.99
    assert client.answer_to("odd", "retried").error == "" and place() == ""
    with pytest.raises(NotFound):
        again(log, [second], "me", 0)
    log.close()


def test_who_hangs_delays_nobody(up: Up, client: Client) -> None:
    """It is given up long before its deadline of 5 s while others lie behind it; those are answered, each alone."""
    end, began = up.client.get("/status").json()["end"], time.monotonic()
    rows = [ask(f"behind{i}", 1.0 + i / 64) for i in range(64)]
    client.append("ask", [*rows[:5], ask("hangs", 105), *rows[5:]])
    found = answered(client, {row["ask_id"] for row in rows} | {"hangs"}, end - 1)
    assert time.monotonic() - began < 4.5
    assert found.pop("hangs").error == "model_late" and {one.error for one in found.values()} == {""}


def memory(up: Up) -> int:
    """What the server holds."""
    status = Path(f"/proc/{up.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def test_a_queue_that_does_not_get_on_holds_its_producers_back(up: Up, client: Client) -> None:
    """A model that falls again and again is left alone for a while: what comes meanwhile waits, up to the bound, and
    producers are told when to come back. Killed and up again, each request that was taken has its score, once."""
    client.append("ask", [ask(f"fall{i}", 103.5 + i / 8) for i in range(3)])
    answered(client, {f"fall{i}" for i in range(3)}, client.answer_to("odd", "retried").position)
    before, end, taken = memory(up), up.client.get("/status").json()["end"], list[str]()
    for n in range(1000):
        rows = [ask(f"waits{n}-{i}", 2.0) for i in range(20)]
        answer = up.client.post("/events/ask", json=rows)
        if answer.status_code != 200:
            break
        taken += [row["ask_id"] for row in rows]
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "lag", "1")
    assert up.client.get("/status").json()["stages"]["predict.odd"]["lag"] <= MOST_LAG + 40
    assert MOST_LAG - 40 < len(taken) <= MOST_LAG + 20 and memory(up) - before < 50 << 20
    assert metric(up.client, "penstock_since_start_turns_held", 'code="model_rests"')
    up.kill()
    after = Up(Path(up.home), file=Path(up.home).parent / "odd.py")
    with Client(str(after.client.base_url)) as other:
        found = answered(other, set(taken), end - 1)
    assert {one.error for one in found.values()} == {""}
    assert after.close() == 0
    verified = penstock("verify", "--home", up.home)
    assert verified.returncode == 0 and " 0 unequal" in verified.stdout
