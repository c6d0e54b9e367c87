"""The servers: how each is started on a port, how it is asked about a row, and where its answer has the score."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.serve.data import WIDTH, Case
from bench.serve.triton import command

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SYNCED = (
    "--sync",
    "--synced",
    "--durable",
)  # names that `penstock up` may give to "synced before the answer"
GRPC = ("--grpc-port",)


class Place(msgspec.Struct, frozen=True):
    """Where one start of a server lives."""

    folder: Path
    case: Case
    port: int
    grpc_port: int


class Server(msgspec.Struct, frozen=True):
    """A server. `second`: the first number of its answer is the other class's. `grpc`: it is asked so, too."""

    name: str
    command: Callable[[Place], list[str]]
    where: str
    body: Callable[[list[float]], Any]
    marker: str
    product: bool = True
    second: bool = False
    health: str = ""
    grpc: str = ""

    def expected(self, scores: Sequence[float]) -> list[float]:
        """The number that its answer begins with, a row each."""
        return [1 - score for score in scores] if self.second else list(scores)


@functools.cache
def option(names: tuple[str, ...]) -> str:
    """Which of these options `penstock up` has; "" for none."""
    command = [sys.executable, "-m", "penstock.cli", "up", "--help"]
    words = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.replace(",", " ").split()
    )
    return next((name for name in names if name in words), "")


def ours(place: Place, *more: str) -> list[str]:
    """Our own command line, on a copy of the case's home, as a user starts it."""
    home = place.folder / "home"
    shutil.copytree(place.case.home, home)
    command = [sys.executable, "-m", "penstock.cli", "up", str(place.case.pipeline), "--home", str(home)]
    grpc = [GRPC[0], str(place.grpc_port)] if option(GRPC) else []
    return [*command, "--port", str(place.port), "--workers", "1", *grpc, *more]


def python_of(peer: str) -> str:
    """The interpreter of a peer's environment."""
    return str(ROOT / ".venv-bench" / f"serve-{peer}" / "bin" / "python")


def columns(row: list[float]) -> dict[str, Any]:
    """A row as the protocol's named columns."""
    return {
        "inputs": [
            {"name": f"x{j}", "datatype": "FP64", "shape": [1], "data": [v]} for j, v in enumerate(row)
        ]
    }


def entity(row: list[float]) -> dict[str, Any]:
    """Whose row it is, alone."""
    return {"inputs": [{"name": "who", "datatype": "BYTES", "shape": [1], "data": [f"w{int(row[0])}"]}]}


def tensor(row: list[float]) -> dict[str, Any]:
    """A row as one tensor."""
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, WIDTH], "data": row}]}


def asked_for_scores(row: list[float]) -> dict[str, Any]:
    """The same for MLServer, which gives classes unless it is asked for probabilities."""
    return {**tensor(row), "outputs": [{"name": "predict_proba"}]}


def plain(row: list[float]) -> dict[str, Any]:
    """A row as each product's own plain form has it."""
    return {"x": row}


def _app(peer: str, *words: str) -> list[str]:
    return [python_of(peer), str(HERE / "peers" / f"{peer}_app.py"), *words]


def triton(place: Place) -> list[str]:
    """Triton's server from pytriton's package, with a backend of ours in C."""
    site = next((ROOT / ".venv-bench" / "serve-pytriton").glob("lib/python3*/site-packages"), Path("nowhere"))
    return command(site, place.folder, place.case.model, place.port, place.grpc_port)


INFER = "/v2/models/m/infer"
OURS = Server(
    "penstock", ours, "/v2/models/bench/infer", columns, '"name":"score","datatype":"FP64","shape":[1],"data":',
    product=False, health="/v2/health/ready", grpc="bench",
)  # fmt: skip
ONE_TENSOR = msgspec.structs.replace(OURS, name="penstock, one tensor", body=tensor)
"""The same, asked as the other servers of the protocol are: with every feature in one tensor."""
PEERS = [
    Server(
        "fastapi",
        lambda p: [python_of("fastapi"), "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(HERE / "peers"),
                   "--port", str(p.port), "--log-level", "warning"],
        "/predict", plain, '"score":', health="/health",
    ),
    Server("mlserver", lambda p: _app("mlserver", str(p.folder / "mlserver"), str(p.port), str(p.grpc_port)),
           INFER, asked_for_scores, '"data":', second=True, health="/v2/health/ready", grpc="m"),
    Server("bentoml",
           lambda p: [python_of("bentoml"), "-m", "bentoml", "serve", "bentoml_app:Scores", "--working-dir",
                      str(HERE / "peers"), "--host", "127.0.0.1", "--port", str(p.port)],
           "/predict", plain, '"score":', health="/readyz"),
    Server("litserve", lambda p: _app("litserve", str(p.port)), "/predict", plain, '"score":', health="/health"),
    Server("kserve", lambda p: _app("kserve", str(p.port), str(p.grpc_port)), INFER, tensor, '"data":',
           health="/v2/health/ready", grpc="m"),
    Server("mlflow", lambda p: _app("mlflow", str(p.folder / "saved"), str(p.port)), "/invocations",
           lambda row: {"inputs": [row]}, '"predictions":', second=True, health="/ping"),
    Server("pytriton", lambda p: _app("pytriton", str(p.port), str(p.grpc_port)), INFER, tensor, '"data":',
           health="/v2/health/ready", grpc="m"),
    Server("triton", triton, INFER, tensor, '"data":', product=False, health="/v2/health/ready", grpc="m"),
]  # fmt: skip


def environment(case: Case, delay_s: float) -> dict[str, str]:
    """What a server's process finds: the model, one thread for it, and no reports home."""
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    model = {"BENCH_MODEL": str(case.model), "BENCH_DELAY_S": f"{delay_s:g}"}
    return {**os.environ, **quiet, **model, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
