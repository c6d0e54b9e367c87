"""wire: the Open Inference Protocol by gRPC, asked by Triton's client."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from penstock.app.home import open_home
from penstock.record.codec import unpack
from penstock.record.decisions import Prediction, predictions, read
from penstock.record.record import Position
from tests.faults.served import MODEL, PIPELINE, prepare

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")


@pytest.fixture(scope="module", params=["0", "2"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a server in one process, and in several; `home` is that server's, `url` where it is asked in JSON."""
    home = prepare(tmp_path_factory.mktemp("grpc"))
    command = [sys.executable, "-m", "penstock.cli", "up", str(PIPELINE), "--home", str(home), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--workers", request.param, "--grpc-port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "it did not come up"
    found = re.search(r"(http\S+), by gRPC at (\S+)", process.stdout.readline())
    assert found is not None
    made = triton.InferenceServerClient(found[2])
    made.home, made.url = home, found[1]
    yield made
    made.close()
    process.terminate()
    process.communicate(timeout=40)
    assert process.returncode == 0


def tensor(name: str, kind: str, data: Any) -> Any:
    """An input of the client's."""
    made = triton.InferInput(name, list(data.shape), kind)
    made.set_data_from_numpy(data)
    return made


def test_health_and_metadata(client: Any) -> None:
    """As the protocol says."""
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    told = client.get_model_metadata(MODEL)
    assert told.platform == "penstock" and {one.name: one.datatype for one in told.inputs}["x"] == "FP64"
    assert client.get_server_metadata().name == "penstock"


def test_rows_are_answered(client: Any) -> None:
    """By the request's columns, by every feature, one and many; each on the log."""
    who, x = np.array(["w1", "w2"], dtype=object), np.array([0.5, 1.5])
    answer = client.infer(MODEL, [tensor("who", "BYTES", who), tensor("x", "FP64", x)], request_id="mine")
    assert answer.as_numpy("score").shape == (2,) and (answer.as_numpy("score") > 0).all()
    ids = [one.decode() for one in answer.as_numpy("prediction_id")]
    assert answer.get_response().id == "mine" and all(one.startswith(f"predict.{MODEL}:ask:") for one in ids)
    matrix = client.infer(
        MODEL,
        [tensor("features", "FP32", np.ones((3, 4), np.float32))],
        outputs=[triton.InferRequestedOutput("score")],
    )
    assert matrix.as_numpy("score").shape == (3,) and matrix.as_numpy("version") is None
    assert len(set(matrix.as_numpy("score").tolist())) == 1


def test_an_answer_is_on_the_log_as_one_to_json_is(client: Any) -> None:
    """With its request, its values and its headers, whichever way it came; and it can be made again from there."""
    who, x = np.array(["w3"], dtype=object), np.array([0.25])
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    answer = client.infer(MODEL, [tensor("who", "BYTES", who), tensor("x", "FP64", x)], headers=headers)
    said = httpx.post(f"{client.url}/models/{MODEL}", json={"who": "w3", "x": 0.25}, headers=headers).json()
    by_grpc, by_json = (
        logged(client.home, id)
        for id in (answer.as_numpy("prediction_id")[0].decode(), said["prediction_id"])
    )
    assert by_grpc == by_json and by_grpc["x"] == 0.25
    assert by_grpc["headers"] == by_grpc["again"] == {**headers, "share": ""}
    assert answer.get_response().parameters["durability"].string_param
    command = [sys.executable, "-m", "penstock.cli", "verify", "--home", str(client.home)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout.endswith(
        " 0 unequal\n"
    )


def logged(home: Any, id: str) -> dict[str, Any]:
    """A prediction's record and its request's, without what no two have in common."""
    log = open_home(home).log
    found = log.find(predictions(MODEL), id)
    assert found is not None
    said = read(found, Prediction)
    (asked, *_), _ = log.read([said.source], Position(n=said.position), limit=1)
    log.close()
    assert (found.key, said.request, len(said.values), said.score is None) == (asked.id, asked.id, 4, False)
    names = ("model", "version", "digest", "role", "served", "entity", "source", "features", "error")
    event = {name: value for name, value in unpack(asked.value, dict).items() if name not in ("ask_id", "at")}
    headers = {"headers": {**asked.headers, "share": ""}, "again": {**found.headers, "share": ""}}
    return {**event, **headers, "key": asked.key, **{name: getattr(said, name) for name in names}}


def test_the_repository(client: Any) -> None:
    """What there is, and that it is loaded."""
    (found,) = client.get_model_repository_index().models
    assert (found.name, found.version, found.state) == (MODEL, "1", "READY")
    client.load_model(MODEL)


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_packed_call(client: Any, packing: str) -> None:
    """As the client's option says; with a deadline of its own."""
    matrix = tensor("features", "FP64", np.ones((500, 4)))
    answer = client.infer(MODEL, [matrix], compression_algorithm=packing, client_timeout=5, timeout=5_000_000)
    assert answer.as_numpy("score").shape == (500,)


REFUSED = {
    "another model": ("nobody", "x", "INVALID", "NOT_FOUND"),
    "a strange column": (MODEL, "y", "FP64", "INVALID_ARGUMENT"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_errors_are_statuses(client: Any, case: str) -> None:
    """With the sentence and the code, and no trace."""
    model, name, _, status = REFUSED[case]
    with pytest.raises(
        triton.InferenceServerException if hasattr(triton, "InferenceServerException") else Exception
    ) as caught:
        client.infer(model, [tensor(name, "FP64", np.array([0.5]))])
    assert status in str(caught.value.status()) and "Traceback" not in str(caught.value)
