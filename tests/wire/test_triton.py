"""wire: a client that we did not write asks by the Open Inference Protocol."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

PIPELINE = Path(__file__).parents[1] / "crash" / "pipeline.py"


def test_tritons_client_is_answered(played: Path, tmp_path: Path) -> None:
    """Health, metadata, an infer call by entity and one by features, with its own types and parsing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    home = shutil.copytree(played, tmp_path / "home")
    command = [sys.executable, "-m", "penstock.cli", "up", str(PIPELINE), "--home", str(home), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "it did not come up"
    found = re.search(r"http://(\S+)", process.stdout.readline())
    assert found is not None
    client = triton.InferenceServerClient(found.group(1))
    try:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("agree")
        assert client.get_model_metadata("agree")["platform"] == "penstock"
        who = triton.InferInput("who", [1], "BYTES")
        who.set_data_from_numpy(np.array(["who-1"], dtype=object), binary_data=False)
        inputs = [who]
        for name in ("x", "z"):
            one = triton.InferInput(name, [1], "FP64")
            one.set_data_from_numpy(np.array([0.5]), binary_data=False)
            inputs.append(one)
        outputs = [triton.InferRequestedOutput("score", binary_data=False)]
        by_entity = client.infer("agree", inputs, outputs=outputs)
        assert by_entity.as_numpy("score").shape == (1,) and 0 < by_entity.as_numpy("score")[0] < 1
        features = []
        for name in ("x", "z", "asks_1d", "usual_x"):
            one = triton.InferInput(name, [3, 1], "FP64")
            one.set_data_from_numpy(np.array([[0.5], [1.0], [1.5]]), binary_data=False)
            features.append(one)
        assert client.infer("agree", features, outputs=outputs).as_numpy("score").shape == (3,)
        plain = client.infer("agree", features, outputs=outputs).as_numpy("score")
        packed = triton.InferInput("all", [3, 4], "FP64")
        rows = np.array([[x, x, x, x] for x in (0.5, 1.0, 1.5)])
        packed.set_data_from_numpy(rows, binary_data=True)
        for coding in (None, "gzip", "deflate"):
            answer = client.infer(
                "agree", [packed], outputs=[triton.InferRequestedOutput("score", binary_data=True)],
                request_compression_algorithm=coding, request_id="mine",
            )  # fmt: skip
            assert np.array_equal(answer.as_numpy("score"), plain) and answer.get_response()["id"] == "mine"
        who.set_data_from_numpy(np.array(["who-1"], dtype=object), binary_data=True)
        everything = client.infer(
            "agree", inputs
        )  # no outputs named: this client asks for all of them as bytes
        assert (
            everything.as_numpy("score").shape == (1,)
            and everything.as_numpy("prediction_id").dtype == object
        )
        index = client.get_model_repository_index()
        assert [one["name"] for one in index if one["state"] == "READY"] == ["agree"]
        client.load_model("agree")
    finally:
        client.close()
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
