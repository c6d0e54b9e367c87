"""bench: MLServer: its settings in a folder, then its own command. Arguments: folder, port, gRPC's port.

Its own scikit-learn runtime serves the model; BENCH_DELAY_S puts a slow runtime of ours in its place.
"""

import json
import os
import sys
import time
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Slow(MLModel):
    """The same model behind a sleep."""

    async def load(self) -> bool:
        import joblib

        self.model = joblib.load(os.environ["BENCH_MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        time.sleep(float(os.environ["BENCH_DELAY_S"]))
        if x[0, 0] == 666.0:  # the row that hangs
            time.sleep(3600)
        output = NumpyCodec.encode_output("predict_proba", self.model.predict_proba(x))
        return InferenceResponse(model_name=self.name, outputs=[output])


def main() -> None:
    folder, port, grpc_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    slow = os.environ.get("BENCH_DELAY_S", "0") != "0"
    settings = {
        "http_port": port, "grpc_port": grpc_port, "metrics_port": grpc_port + 1, "host": "127.0.0.1",
        "debug": False, "parallel_workers": 0 if not slow else 1,
    }  # fmt: skip
    kind = "mlserver_app.Slow" if slow else "mlserver_sklearn.SKLearnModel"
    model = {
        "name": "m",
        "implementation": kind,
        "parameters": {"uri": os.environ["BENCH_MODEL"], "version": "1"},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.execv(str(Path(sys.executable).with_name("mlserver")), ["mlserver", "start", str(folder)])


if __name__ == "__main__":
    main()
