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

import numpy as np
import pytest

from tests.faults.served import MODEL, PIPELINE, prepare

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")


@pytest.fixture(scope="module", params=["0", "2"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a server in one process, and in several."""
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
    found = re.search(r"gRPC at (\S+)", process.stdout.readline())
    assert found is not None
    made = triton.InferenceServerClient(found.group(1))
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
