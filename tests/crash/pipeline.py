"""crash: a pipeline without a library to load, so that a process starts quickly."""

from datetime import datetime

import numpy as np

from penstock import Data, Event, Pipeline, better, count, every, key, mean, missing, source, steps


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float
    z: float | None


ask = source(Ask, id="ask_id", time="at")
yes = source("yes", key="ask_id", time="at")

asks_1d = count(ask, window="1d")
usual_x = mean(ask.x, window="2d")


class Line:
    def __init__(self, weights):
        self.weights = weights

    def predict_proba(self, x):
        return 1 / (1 + np.exp(-(np.nan_to_num(x) @ self.weights[1:] + self.weights[0])))


def fit(data: Data):
    x = np.hstack([np.ones((len(data.y), 1)), np.nan_to_num(data.x)])
    weights = np.zeros(x.shape[1])
    for _ in range(150):
        weights += 0.3 * x.T @ (data.y - 1 / (1 + np.exp(-x @ weights))) / len(data.y)
    return Line(weights)


agree = Pipeline(
    request=ask,
    label=yes,
    wait="12h",
    features=[ask.x, ask.z, asks_1d, usual_x],
    fit=fit,
    train=every("2d", window="2d", at_least=120),
    gate=better("log_loss"),
    release=steps(shadow="3h", canary=(50,), hold="3h", guard="6h", flips=1.0, at_least=20),
    watch=[missing("z", "3h", at_least=10) < 0.3],
)
