"""app: a model at an address: what is asked there, what its answers mean, what becomes of those that never come."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from penstock.app.scoring.apart import Apart
from penstock.app.scoring.order import Limits
from penstock.app.scoring.remote import Remote
from penstock.model.outside import Endpoint, named
from penstock.model.pack import Model, dump, outside
from penstock.record.errors import Refused, Unavailable
from tests.unit.app.asker import said as answers

LIMITS = Limits(batch_s=0.4, tries_s=2.0, strikes=3, rest_s=0.3)


class There(ThreadingHTTPServer):
    """A server whose answers are given: a body, or a function of what was asked. It keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.says: Any = {}
        self.asked: list[tuple[str, Any, str]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._say("null")

            def do_POST(self) -> None:
                self._say(self.rfile.read(int(self.headers["content-length"])).decode())

            def _say(self, text: str) -> None:
                there: Any = self.server
                there.asked.append((self.path, json.loads(text), self.headers.get("authorization", "")))
                said = there.says(json.loads(text)) if callable(there.says) else there.says
                status, body = said if isinstance(said, tuple) else (200, said)
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def there() -> Iterator[There]:
    """Such a server."""
    server = There()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def apart(there: There) -> Iterator[Any]:
    """Makes a model that is scored there, of these columns."""
    made: list[Apart] = []

    def make(kinds: tuple[str, ...] = ("number", "number"), **more: Any) -> Apart:
        endpoint = Endpoint(f"http://127.0.0.1:{there.server_port}", "m", **more)
        model = Model("f", "binary", list(kinds), endpoint, None)
        made.append(Apart(Remote(model, endpoint), LIMITS))
        return made[-1]

    yield make
    for one in made:
        one.close()


def v2(data: list[Any], shape: list[int], name: str = "out") -> dict[str, Any]:
    """An answer of the Open Inference Protocol."""
    other = {"name": "label", "datatype": "INT64", "shape": [1], "data": [1]}
    one = {"name": name, "datatype": "FP64", "shape": shape, "data": data}
    return {"model_name": "m", "outputs": [one, other]}


@pytest.mark.parametrize(
    ("said", "scores"),
    [
        (v2([0.1, 0.2], [2]), [0.1, 0.2]),
        (v2([0.1, 0.2], [2, 1]), [0.1, 0.2]),
        (v2([[0.1], [None]], [2, 1]), [0.1, None]),
        (v2([0.9, 0.1, 0.8, 0.2], [2, 2]), [0.1, 0.2]),
    ],
)
def test_a_vector_by_v2(said: Any, scores: list[float], apart: Any, there: There) -> None:
    """One tensor of all features; an answer of one number a row, or of two, of which the last counts."""
    there.says = said
    assert [one for one, _ in answers(apart(input="in", datatype="FP32"), [[1, None], [True, 0.5]])] == scores
    sent = {"name": "in", "datatype": "FP32", "shape": [2, 2], "data": [1, None, 1, 0.5]}
    assert there.asked == [("/v2/models/m/infer", {"inputs": [sent]}, "")]


def test_columns_by_v2(apart: Any, there: There, tmp_path: Path) -> None:
    """Each under its name there, texts among them; the named output counts; a key goes along, from its file."""
    (tmp_path / "key").write_text("k1\n")
    there.says = v2([0.3], [1], "p")
    one = apart(("number", "category"), columns=["a", "b"], output="p", key_file=str(tmp_path / "key"))
    assert answers(one, [[2.0, "x"]]) == [(0.3, "")]
    _, asked, key = there.asked[0]
    assert key == "Bearer k1" and asked["outputs"] == [{"name": "p"}] and asked["inputs"] == [
        {"name": "a", "datatype": "FP64", "shape": [1, 1], "data": [2.0]},
        {"name": "b", "datatype": "BYTES", "shape": [1, 1], "data": ["x"]},
    ]  # fmt: skip
    there.says = v2([0.3], [1], "q")
    assert answers(one, [[2.0, "x"]]) == [(None, "model_failed")]


OBJECTS = [{"q": 1, "p": 0.1}, {"q": 1, "p": 0.2}]


@pytest.mark.parametrize(
    ("said", "output"),
    [([0.1, 0.2], ""), ([[0.1], [0.2]], ""), ([[0.9, 0.1], [0.8, 0.2]], ""), (OBJECTS, "p")],
)
def test_tensorflows_rest(said: Any, output: str, apart: Any, there: There) -> None:
    """Rows as lists, or as objects where columns are named."""
    there.says = {"predictions": said}
    assert answers(apart(protocol="tensorflow", output=output), [[1, None], [2, 3]]) == [(0.1, ""), (0.2, "")]
    assert answers(apart(protocol="tensorflow", columns="ab", output=output), [[1, 2], [3, 4]])[1] == (
        0.2,
        "",
    )
    assert there.asked[0][:2] == ("/v1/models/m:predict", {"instances": [[1, None], [2, 3]]})
    assert there.asked[1][1] == {"instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}


def test_a_row_that_it_refuses_costs_no_other(apart: Any, there: There) -> None:
    """It is found row by row, as often as it comes: whoever sends such rows silences nobody."""

    def says(asked: Any) -> Any:
        n = len(asked["instances"])
        return (400, {"error": "bad"}) if [3] in asked["instances"] else {"predictions": [0.5] * n}

    there.says = says
    one = apart(("number",), protocol="tensorflow")
    for _ in range(5):
        assert answers(one, [[1], [3], [2]]) == [(0.5, ""), (None, "model_failed"), (0.5, "")]


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_one_that_cannot_is_left_alone(status: int, apart: Any, there: There) -> None:
    """After three falls for a while; then it is asked again."""
    there.says = (status, {"error": "secret"})
    one, code = apart(), "model_failed" if status == 500 else "model_away"
    assert [answers(one, [[1, 2]])[0][1] for _ in range(4)] == [code] * 3 + ["model_rests"]
    asked = len(there.asked)
    assert answers(one, [[1, 2]]) == [(None, "model_rests")] and len(there.asked) == asked
    there.says = v2([0.1], [1])
    time.sleep(0.35)
    assert answers(one, [[1, 2]]) == [(0.1, "")]


def test_one_that_is_late(apart: Any, there: There) -> None:
    """All its repeats within one deadline, and no row alone after it."""

    def says(asked: Any) -> Any:
        time.sleep(0.8)
        return v2([0.1], [1])

    there.says = says
    began = time.monotonic()
    assert answers(apart(), [[1, 2]] * 50) == [(None, "model_late")] * 50
    assert time.monotonic() - began < 0.7 and len(there.asked) == 1


def test_nonsense_is_no_score(apart: Any, there: There) -> None:
    """Another number of rows, texts, or no JSON of the protocol."""
    for said in (v2([0.1, 0.2], [2]), v2(["a"], [1]), {"predictions": 1}):
        there.says = said
        assert answers(apart(), [[1, 2]]) == [(None, "model_failed")]


def test_starting_asks_whether_the_model_is_known(apart: Any, there: There) -> None:
    """A training that could not evaluate it fails."""
    apart().start()
    apart(protocol="tensorflow").start()
    assert [path for path, *_ in there.asked] == ["/v2/models/m", "/v1/models/m"]
    there.says = (404, {})
    with pytest.raises(Unavailable) as raised:
        apart().start()
    assert raised.value.code == "model_away"


def test_its_version_is_its_address() -> None:
    """Kept as data; it says that it is elsewhere; what cannot be asked is refused at training."""
    one = Model("f", "binary", ["number"], Endpoint("http://h", "m"), None)
    again = outside(dump(one))
    assert again is not None and again.elsewhere and again.fitted == one.fitted
    with pytest.raises(Refused, match="address"):
        Remote(one, Endpoint("ftp://h", "m"))
    with pytest.raises(Refused, match="Texts"):
        named(one.fitted, ["a"], ["category"])
    with pytest.raises(Refused, match="names 2 columns of 1"):
        named(Endpoint("http://h", "m", columns=("a", "b")), ["a"], ["number"])
    with pytest.raises(Refused):
        Endpoint("http://h", "m", protocol="v3")  # type: ignore[arg-type]
