"""bench: KServe's own server around a scikit-learn model. Arguments: port, gRPC's port. BENCH_MODEL names the model."""

import os
import sys
import time

import joblib
from kserve import Model, ModelServer
from kserve.utils.utils import get_predict_response


class Scores(Model):
    def __init__(self) -> None:
        super().__init__("m")
        self.model = joblib.load(os.environ["BENCH_MODEL"])
        self.delay_s = float(os.environ.get("BENCH_DELAY_S", "0"))
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        x = payload.inputs[0].as_numpy()
        time.sleep(self.delay_s)
        if x[0, 0] == 666.0:  # the row that hangs
            time.sleep(3600)
        return get_predict_response(payload, self.model.predict_proba(x)[:, 1], self.name)


if __name__ == "__main__":
    port, grpc_port = int(sys.argv[1]), int(sys.argv[2])
    ModelServer(
        http_port=port, grpc_port=grpc_port, workers=1, enable_docs_url=False, access_log_format=None
    ).start([Scores()])
