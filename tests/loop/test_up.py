"""loop: a file that is up: other processes append and ask, bad input stops nothing, keys hold."""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.app.home import open_home
from penstock.record.decisions import Prediction, predictions, read

PIPELINE = Path(__file__).parents[1] / "crash" / "pipeline.py"
COMMAND = [sys.executable, "-m", "penstock.cli"]


def penstock(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """One verb, run to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )


class Up:
    """`penstock up` in a process of its own, started by a command that ends in it, if one is given."""

    def __init__(self, home: Path, *arguments: str, file: Path = PIPELINE, by: Sequence[str] = ()) -> None:
        command = [*by, *COMMAND, "up", str(file), "--home", str(home), "--port", "0", *arguments]
        self.home = str(home)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], "it did not come up"
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found is not None
        self.client = httpx.Client(base_url=found.group(), timeout=20)

    def close(self) -> int:
        """Ask it to end; its status."""
        self.client.close()
        self.process.terminate()
        self.process.communicate(timeout=30)
        return self.process.returncode

    def kill(self) -> None:
        """End it at once."""
        self.client.close()
        self.process.kill()
        self.process.communicate(timeout=30)


def until(true: Any, within_s: float = 30.0) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not become true")


def lines(rows: list[dict[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def up(played: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A file that is up on such a home."""
    one = Up(Path(shutil.copytree(played, tmp_path_factory.mktemp("up") / "home")))
    yield one
    assert one.close() == 0


def infer(client: httpx.Client, who: str, x: float, ask_id: str = "") -> httpx.Response:
    """Ask by entity and own columns."""
    inputs = [
        {"name": "who", "datatype": "BYTES", "shape": [1], "data": [who]},
        {"name": "x", "datatype": "FP64", "shape": [1], "data": [x]},
        {"name": "z", "datatype": "FP64", "shape": [1], "data": [None]},
    ]
    if ask_id:
        inputs.append({"name": "ask_id", "datatype": "BYTES", "shape": [1], "data": [ask_id]})
    return client.post("/v2/models/agree/infer", json={"inputs": inputs})


def output(response: httpx.Response, name: str) -> Any:
    """The first value of an output."""
    assert response.status_code == 200, response.text
    return next(one["data"][0] for one in response.json()["outputs"] if one["name"] == name)


def test_the_answer_is_on_the_log_before_it_leaves(up: Up) -> None:
    """Another process finds the prediction, with its inputs and values, as soon as the answer is here."""
    answer = infer(up.client, "w1", 2.0)
    home = open_home(Path(up.home))
    record = home.log.find(predictions("agree"), output(answer, "prediction_id"))
    home.log.close()
    assert record is not None
    said = read(record, Prediction)
    assert said.score == output(answer, "score") and said.values[0] == 2.0 and said.served


def test_all_features_may_be_given(up: Up) -> None:
    """A request that brings every feature is answered without a look-up."""
    names = ("x", "z", "asks_1d", "usual_x")
    inputs = [{"name": n, "datatype": "FP64", "shape": [2], "data": [1.5, -1.5]} for n in names]
    answer = up.client.post("/v2/models/agree/infer", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    scores = answer.json()["outputs"][0]["data"]
    assert len(scores) == 2 and scores[0] != scores[1] and all(0 < one < 1 for one in scores)


def test_a_second_process_appends(up: Up) -> None:
    """Events from another process are on the log at once, and features see them."""
    before = json.loads(penstock("status", "--home", up.home, "--json").stdout)["topics"]["ask"]
    rows = [
        {"ask_id": f"more-{i}", "who": "newcomer", "at": "2024-01-08T23:00:00Z", "x": 1.0, "z": None}
        for i in range(3)
    ]
    done = penstock("append", "ask", "-", "--home", up.home, text=lines([*rows, rows[0]]))
    assert done.returncode == 0 and "3 appended, 1 duplicates" in done.stdout
    until(lambda: up.client.get("/status").json()["topics"]["ask"] == before + 3)


def test_a_request_id_is_answered_once(up: Up) -> None:
    """The same id gives the same prediction, whatever comes with it."""
    first, again = infer(up.client, "w1", 1.0, "twice"), infer(up.client, "w2", -3.0, "twice")
    assert output(first, "prediction_id") == output(again, "prediction_id")
    assert output(first, "score") == output(again, "score")


def test_an_id_from_before_the_champion(up: Up) -> None:
    """It was never answered and never will be; that is said at once."""
    refused = infer(up.client, "w1", 1.0, "0-1")
    assert refused.status_code == 422 and refused.json()["code"] == "unanswered"


def test_a_swap_drops_no_request(up: Up) -> None:
    """While another version takes over, and goes again, every request is answered by one of the two."""
    versions, stop, codes = [], threading.Event(), []

    def ask() -> None:
        with httpx.Client(base_url=up.client.base_url, timeout=20) as client:
            while not stop.is_set():
                answer = infer(client, "w5", 1.0)
                codes.append(answer.status_code)
                versions.append(output(answer, "version"))

    asker = threading.Thread(target=ask)
    asker.start()
    first = until(lambda: versions and versions[-1])
    other = 1 if first != 1 else 2
    assert penstock("promote", f"agree@v{other}", "--home", up.home).returncode == 0
    until(lambda: versions[-1] == other)
    assert penstock("rollback", "agree", "--home", up.home).returncode == 0
    until(lambda: versions[-1] == first)
    stop.set()
    asker.join()
    assert set(codes) == {200} and set(versions) == {first, other}
    turns = [a for a, b in itertools.pairwise(versions) if a != b]
    assert turns == [first, other]


BAD = {
    "malformed": (b'{"ask_id": ', "malformed"),
    "wrong type": (
        b'{"ask_id": "b1", "who": "secret-w", "at": "2024-02-01T00:00:00Z", "x": "secret-x", "z": null}',
        "wrong_type",
    ),
    "no key": (b'{"ask_id": "b2", "who": null, "at": "2024-02-01T00:00:00Z", "x": 1.0, "z": null}', "no_key"),
    "missing column": (b'{"ask_id": "b3", "who": "w1"}', "missing_column"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_event_gets_a_clear_answer(up: Up, case: str) -> None:
    """It is refused with its code, its values stay out of the answer, it is counted, and nothing stops."""
    body, code = BAD[case]
    refused = up.client.post("/events/ask", content=body, headers={"content-type": "application/x-ndjson"})
    assert refused.status_code == 422 and refused.json()["refused"] == {code: 1}
    assert "secret" not in refused.text
    by_hand = penstock("append", "ask", "-", "--home", up.home, text=body.decode() + "\n")
    assert by_hand.returncode == 2 and code in by_hand.stdout and "secret" not in by_hand.stderr
    assert f"<td>{code}</td>" in up.client.get("/").text
    assert infer(up.client, "w1", 1.0).status_code == 200


def test_an_unknown_topic_and_a_duplicate(up: Up) -> None:
    """The nearest topic is named; the first event of an id stands; both are counted."""
    unknown = up.client.post("/events/aks", json={})
    assert unknown.status_code == 404 and '"ask"' in unknown.json()["error"]
    row = {"ask_id": "0-1", "who": "w1", "at": "2024-02-01T00:00:00Z", "x": 1.0, "z": None}
    twice = up.client.post("/events/ask", json=row)
    assert twice.status_code == 200 and twice.json()["duplicates"] == 1
    page = up.client.get("/").text
    assert "<td>duplicate</td>" in page and "<td>unknown_topic</td>" in page
    assert penstock("append", "aks", "-", "--home", up.home, text="{}\n").returncode == 2


def test_a_second_process_reads(up: Up) -> None:
    """Status, trace and verify work beside the running one."""
    answer = infer(up.client, "w3", 0.7)
    champion = output(answer, "version")
    status = json.loads(penstock("status", "--home", up.home, "--json").stdout)
    assert status["models"]["agree"]["champion"] == champion
    trace = json.loads(penstock("trace", output(answer, "prediction_id"), "--home", up.home, "--json").stdout)
    assert trace["prediction"]["score"] == output(answer, "score")
    assert trace["version"]["version"] == champion and len(trace["features"]) == 4
    verify = penstock("verify", "--home", up.home)
    assert verify.returncode == 0 and re.fullmatch(r"verify: \d+ predictions, 0 unequal\n", verify.stdout)


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, played: Path) -> None:
    """A killed server, brought up again, gives the same answer to the same request id."""
    shutil.copytree(played, tmp_path / "killed")
    one = Up(tmp_path / "killed")
    first = infer(one.client, "w", 0.3, "mine")
    one.kill()
    two = Up(tmp_path / "killed")
    again = infer(two.client, "w", 9.9, "mine")
    assert output(first, "score") == output(again, "score")
    assert output(first, "prediction_id") == output(again, "prediction_id")
    assert two.close() == 0


def test_others_need_a_key(tmp_path: Path) -> None:
    """An address that others can reach is refused without keys; with them, all but health asks for one."""
    refused = penstock("up", str(PIPELINE), "--home", str(tmp_path / "h"), "--host", "0.0.0.0")
    assert refused.returncode == 2 and "key" in refused.stderr and "[needs_key]" in refused.stderr
    keys = tmp_path / "keys"
    made = penstock("key", "alice", "--key-file", str(keys)).stdout.strip()
    assert made not in keys.read_text() and keys.stat().st_mode & 0o077 == 0
    one = Up(tmp_path / "h", "--host", "0.0.0.0", "--key-file", str(keys))
    port = one.client.base_url.port
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/v2/health/live").status_code == 200
        for path in (
            "/",
            "/v2",
            "/status",
            "/metrics",
            "/v2/models/agree",
            "/models/agree",
            "/static/style.css",
        ):
            assert client.get(path).status_code == 401, path
            assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
            assert client.get(path, headers={"authorization": f"Bearer {made}"}).status_code == 200, path
            assert client.get(path, auth=("anyone", made)).status_code == 200
    assert one.close() == 0
