"""gRPC: one client in C for every server (calls.c), on connections of its own; every answer is checked."""

from __future__ import annotations

import json
import struct
import subprocess
import warnings
from pathlib import Path
from typing import Any

import msgspec

from bench.log import note
from bench.serve.data import TOLERANCE
from bench.serve.process import LOAD_CORE, Running, compiled, cpu_s
from bench.serve.servers import OURS

MANY = 32
TIMEOUT_S = 10.0


class Rate(msgspec.Struct, frozen=True):
    """What a server did by gRPC: right answers a second, their latency, its CPU a call."""

    per_s: float
    p50: float
    p99: float
    cpu_us: float


def message(up: Running, row: list[float]) -> bytes:
    """A call's message: a row as each server takes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tritonclient.grpc import service_pb2 as pb
    request = pb.ModelInferRequest(model_name=up.server.grpc)
    named = {f"x{j}": [value] for j, value in enumerate(row)} if up.server is OURS else {"x": row}
    for name, values in named.items():
        shape = [1] if up.server is OURS else [1, len(values)]
        tensor = request.inputs.add(name=name, datatype="FP64", shape=shape)
        tensor.contents.fp64_contents.extend(values)
    if up.server.name == "mlserver":
        request.outputs.add(name="predict_proba")
    return bytes(request.SerializeToString())


def remote_rate(up: Running, seconds: float) -> Rate | None:
    """What a server does by gRPC; None where it fails, or an answer is wrong."""
    file, output = up.place.folder / "calls.bin", b"score" if up.server.name.startswith("penstock") else b""
    scores = up.server.expected(up.place.case.scores)
    parts = [struct.pack("=dI", TOLERANCE, len(output)), output]
    for row, score in zip(up.place.case.rows, scores, strict=True):
        data = message(up, row)
        parts += [struct.pack("=I", len(data)), data, struct.pack("=d", score)]
    file.write_bytes(b"".join(parts))
    client = compiled(up.place.folder, "calls")
    _run(client, up, file, min(1.0, seconds))  # the first calls wake caches and threads
    before = cpu_s(up.process.pid)
    found = _run(client, up, file, seconds)
    took_s = cpu_s(up.process.pid) - before
    if found is None or not found["right"] or found["wrong"] + found["lost"] + found["late"]:
        note(f"gRPC of {up.server.name}: {found}")
        return None
    return Rate(
        found["right"] / found["seconds"], found["p50_ms"], found["p99_ms"], took_s / found["right"] * 1e6
    )


def _run(client: Path, up: Running, file: Path, seconds: float) -> dict[str, Any] | None:
    words = [up.place.grpc_port, file, MANY, seconds, TIMEOUT_S]
    command = ["taskset", "-c", str(LOAD_CORE), str(client), *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        note(f"gRPC of {up.server.name}: {done.stderr.strip()[:200]}")
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found
