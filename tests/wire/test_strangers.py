"""wire: MLflow's client and a generator of odd calls, from an environment of their own (`make strangers`)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.served import MODEL, Up, prepare

BIN = Path(__file__).parents[2] / ".venv-bench" / "strangers" / "bin"
MLFLOW = """
import json, sys
import pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

client = ScoringServerClient("127.0.0.1", int(sys.argv[1]))
client.wait_server_ready(10)
frame = client.invoke(pd.DataFrame({"who": ["a", "b"], "x": [0.5, 1.5]})).get_predictions()
rows = client.invoke([[0.5, 1.0, 2.0, 0.3]]).get_predictions()
try:
    client.invoke(pd.DataFrame({"secret": [1]}))
    refused = ""
except Exception as error:
    refused = str(error)
print(json.dumps([frame[0].tolist(), rows[0].tolist(), client.get_version(), refused]))
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a champion."""
    if not (BIN / "schemathesis").exists():
        pytest.skip("the strangers' environment is not there: `make strangers` makes it")
    up = Up(prepare(tmp_path_factory.mktemp("strangers")), 1)
    yield up.url
    assert up.close() == 0


def test_mlflows_client_is_answered(url: str) -> None:
    """Frames and lists, its version, and an error as it reads them."""
    port = url.rpartition(":")[2]
    done = subprocess.run(
        [BIN / "python", "-c", MLFLOW, port], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    frame, rows, version, refused = json.loads(done.stdout.splitlines()[-1])
    assert len(frame) == 2 and all(0 < one < 1 for one in [*frame, *rows]) and version
    assert "unknown_column" in refused


def test_odd_calls_find_no_error_of_ours(url: str) -> None:
    """What the description allows and what it does not: each is answered as it says, none with 500."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [
        BIN / "schemathesis", "run", f"{url}/openapi.json", "--checks", checks, "--max-examples", "30", "--seed", "1",
        "--phases", "examples,coverage,fuzzing",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert MODEL in done.stdout
