"""Triton's own server, as it comes with pytriton, with a backend in C: a model repository, weights, and its command."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import joblib
import numpy as np

HERE = Path(__file__).parent
CONFIG = """name: "m"
backend: "bench"
max_batch_size: 64
input [{ name: "x" data_type: TYPE_FP64 dims: [30] }]
output [{ name: "score" data_type: TYPE_FP64 dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""


def command(site: Path, folder: Path, model: Path, port: int, grpc_port: int) -> list[str]:
    """The command line of the server; what it needs lies in the folder by then."""
    backend, version = folder / "backends" / "bench", folder / "models" / "m" / "1"
    backend.mkdir(parents=True)
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    library = str(backend / "libtriton_bench.so")
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", library, str(HERE / "triton.c"), "-lm"], check=True
    )
    weights = folder / "weights"
    weights.write_bytes(weights_of(joblib.load(model)))
    return [
        "env", f"BENCH_WEIGHTS={weights}", str(site / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={version.parent.parent}", f"--backend-directory={folder / 'backends'}",
        "--http-address=127.0.0.1", f"--http-port={port}", f"--grpc-port={grpc_port}", "--allow-metrics=false",
        "--grpc-address=127.0.0.1", "--log-info=false",
    ]  # fmt: skip


def weights_of(model: object) -> bytes:
    """A scikit-learn model as triton.c reads it."""
    coefficients, nodes, roots = np.zeros(0), list[bytes](), list[int]()
    if hasattr(model, "estimators_"):
        prior = model.init_.class_prior_[1]  # type: ignore[attr-defined]
        intercept = float(np.log(prior / (1 - prior)))
        for stage in model.estimators_[:, 0]:
            tree, first = stage.tree_, len(nodes)
            roots.append(first)
            for i in range(tree.node_count):
                leaf = tree.children_left[i] < 0
                value = tree.value[i, 0, 0] * model.learning_rate if leaf else tree.threshold[i]  # type: ignore[attr-defined]
                left, right = first + tree.children_left[i], first + tree.children_right[i]
                nodes.append(struct.pack("=iiiid", -1 if leaf else tree.feature[i], left, right, 0, value))
    else:
        coefficients, intercept = model.coef_[0], float(model.intercept_[0])  # type: ignore[attr-defined]
    return b"".join([
        struct.pack("=dI", intercept, len(coefficients)), np.asarray(coefficients, "<f8").tobytes(),
        struct.pack("=I", len(nodes)), *nodes, struct.pack(f"=I{len(roots)}I", len(roots), *roots),
    ])  # fmt: skip
