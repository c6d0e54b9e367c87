"""crash: two models behind queues, the second given the first one's answers; some requests come too late."""

from datetime import datetime

from pipeline import fit

from penstock import Event, Pipeline, every, key, mean, not_worse, queue, scored, source, steps


class Ask(Event):
    ask_id: str
    who: str = key()
    at: datetime
    x: float
    z: float | None


ask = source(Ask, id="ask_id", time="at")
yes = source("yes", key="ask_id", time="at")
usual_x = mean(ask.x, window="2d")

rules = {
    "label": yes,
    "wait": "6h",
    "fit": fit,
    "train": every("1d", window="2d", at_least=60),
    "gate": not_worse("log_loss", margin=1.0),
    "release": steps(shadow="3h", canary=(50,), hold="3h", guard="6h", flips=1.0, at_least=20),
    "serves": queue(within="40m"),
}
first = Pipeline(request=ask, features=[ask.x, ask.z, usual_x], **rules)
given = scored(ask, "first")
second = Pipeline(request=given, features=[ask.x, given.first_score], **rules)
