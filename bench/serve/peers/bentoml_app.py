"""bench: BentoML: one worker. BENCH_MODEL names the model."""

import os
import time

import bentoml
import joblib


@bentoml.service(workers=1)
class Scores:
    def __init__(self) -> None:
        self.model = joblib.load(os.environ["BENCH_MODEL"])
        self.delay_s = float(os.environ.get("BENCH_DELAY_S", "0"))

    @bentoml.api
    def predict(self, x: list[float]) -> dict[str, float]:
        time.sleep(self.delay_s)
        if x[0] == 666.0:  # the row that hangs
            time.sleep(3600)
        return {"score": float(self.model.predict_proba([x])[0, 1])}
