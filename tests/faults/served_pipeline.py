"""faults: what is served while its processes are killed: windows over requests and events, a model with a form."""

from datetime import datetime

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from penstock import Event, Pipeline, better, count, every, feature, key, mean, source, steps


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float


class Seen(Event):
    seen_id: str
    who: str = key()
    at: datetime
    y: float


ask = source(Ask, id="ask_id", time="at")
seen = source(Seen, id="seen_id", time="at")
yes = source("yes", key="ask_id", time="at")

asks_1h = count(ask, window="1h")
seen_1d = count(seen, window="1d")
usual = mean(ask.x, window="1d")


@feature
def above(x: float, usual: float | None) -> float:
    return x - (usual or 0.0)


def fit(data):
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(data.x, data.y)


served = Pipeline(
    request=ask,
    label=yes,
    wait="12h",
    features=[ask.x, asks_1h, seen_1d, above],
    fit=fit,
    train=every("3650d", at_least=160),
    gate=better("log_loss"),
    release=steps(shadow="3h", canary=(50,), flips=1.0),
)
