"""bench: LitServe: one worker on the CPU. BENCH_MODEL names the model, the argument the port."""

import os
import sys
import time

import joblib
import litserve


class Scores(litserve.LitAPI):
    def setup(self, device):
        self.model = joblib.load(os.environ["BENCH_MODEL"])
        self.delay_s = float(os.environ.get("BENCH_DELAY_S", "0"))

    def decode_request(self, request):
        return request["x"]

    def predict(self, x):
        time.sleep(self.delay_s)
        if x[0] == 666.0:  # the row that hangs
            time.sleep(3600)
        return float(self.model.predict_proba([x])[0, 1])

    def encode_response(self, output):
        return {"score": output}


if __name__ == "__main__":
    server = litserve.LitServer(Scores(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="error",
    )
