"""loop: models that are given what others answered: to one of them, to one that takes its time, to three."""

from datetime import datetime

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from penstock import Event, Pipeline, better, count, every, key, mean, pii, scored, source, steps


class Ask(Event):
    ask_id: str
    who: str = pii(key())
    at: datetime
    x: float


class Mean:
    """A model of no library's: it is scored in a process of its own."""

    def predict_proba(self, x):
        return np.nan_to_num(np.asarray(x, dtype=float)).mean(axis=1)


ask = source(Ask, id="ask_id", time="at")
yes = source("yes", key="ask_id", time="at")
asks_1h = count(ask, window="1h")
usual_x = mean(ask.x, window="1h")


def fit(data):
    return make_pipeline(SimpleImputer(keep_empty_features=True), LogisticRegression()).fit(data.x, data.y)


common = dict(
    label=yes,
    wait="12h",
    train=every("3650d", at_least=100),
    gate=better("log_loss"),
    release=steps(flips=1.0),
)
fraud = Pipeline(request=ask, features=[ask.x, asks_1h, usual_x], fit=fit, **common)
other = Pipeline(request=ask, features=[asks_1h], fit=fit, **common)

judged = scored(ask, "fraud")
doubt = judged.fraud_score * (1 - judged.fraud_score)
usual_1h = mean(judged.fraud_score, window="1h")
review = Pipeline(request=judged, features=[ask.x, judged.fraud_score, doubt, usual_1h], fit=fit, **common)

slow = Pipeline(request=judged, features=[judged.fraud_score], fit=lambda data: Mean(), **common)

both = scored(judged, "other")
last = scored(both, "review")
final = Pipeline(
    request=last, features=[last.fraud_score, last.other_score, last.review_score], fit=fit, **common
)
