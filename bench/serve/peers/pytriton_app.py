"""bench: pytriton: Triton's server with a Python callback. Arguments: port, gRPC's port. BENCH_MODEL: the model."""

import os
import sys
import time

import joblib
import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

model = joblib.load(os.environ["BENCH_MODEL"])
delay_s = float(os.environ.get("BENCH_DELAY_S", "0"))


@batch
def scores(x):
    time.sleep(delay_s)
    if (x[:, 0] == 666.0).any():  # the row that hangs
        time.sleep(3600)
    return [model.predict_proba(x)[:, 1:]]


if __name__ == "__main__":
    port, grpc_port = int(sys.argv[1]), int(sys.argv[2])
    config = TritonConfig(
        http_port=port, grpc_port=grpc_port, metrics_port=grpc_port + 1, http_address="127.0.0.1", log_verbose=0,
    )  # fmt: skip
    with Triton(config=config) as triton:
        triton.bind(
            model_name="m", infer_func=scores,
            inputs=[Tensor(name="x", dtype=np.float64, shape=(30,))],
            outputs=[Tensor(name="score", dtype=np.float64, shape=(1,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher()), strict=True,
        )  # fmt: skip
        triton.serve()
