"""gRPC: one ordinary client for every server, in an environment of its own; its calls are checked like the others."""

from __future__ import annotations

import json
import subprocess

from bench.log import note
from bench.serve.process import LOAD_CORE, Running
from bench.serve.servers import HERE, OURS, python_of


def remote_rate(up: Running, seconds: float) -> float | None:
    """Right answers a second over gRPC; None where the client cannot be had, or an answer is wrong."""
    words = {
        "port": up.place.grpc_port, "model": up.server.grpc, "seconds": seconds, "rows": up.place.case.rows[:100],
        "expected": up.server.expected(up.place.case.scores)[:100], "columns": up.server is OURS,
        "outputs": ["predict_proba"] if up.server.name == "mlserver" else [],
        "output": "score" if up.server is OURS else "",
    }  # fmt: skip
    command = ["taskset", "-c", str(LOAD_CORE), python_of("grpc"), str(HERE / "peers" / "grpc_app.py")]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(words),
            capture_output=True,
            text=True,
            timeout=seconds + 30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        note(f"gRPC of {up.server.name}: {error}")
        return None
    if done.returncode:
        note(f"gRPC of {up.server.name}: {(done.stderr.strip().splitlines() or ['it failed'])[-1][:200]}")
        return None
    found = json.loads(done.stdout)
    if found["wrong"]:
        note(f"gRPC of {up.server.name}: {found['wrong']} wrong answers")
        return None
    return float(found["right"] / found["seconds"])
