"""bench: FastAPI as its users write it: a typed body, a model loaded at start, one worker. BENCH_MODEL names the model.

The route is a coroutine: handing 90 us of work to a thread cost it a third of its rate.
"""

import os
import time

import joblib
from fastapi import FastAPI
from pydantic import BaseModel

model = joblib.load(os.environ["BENCH_MODEL"])
delay_s = float(os.environ.get("BENCH_DELAY_S", "0"))
app = FastAPI()


class Row(BaseModel):
    x: list[float]


def score(x: list[float]) -> float:
    time.sleep(delay_s)
    if x[0] == 666.0:  # the row that hangs
        time.sleep(3600)
    return float(model.predict_proba([x])[0, 1])


if delay_s:  # what sleeps belongs on a thread, as the documentation says

    @app.post("/predict")
    def predict(row: Row) -> dict[str, float]:
        return {"score": score(row.x)}

else:

    @app.post("/predict")
    async def predict(row: Row) -> dict[str, float]:
        return {"score": score(row.x)}


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"ok": True}
