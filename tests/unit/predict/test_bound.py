"""predict: a model is bound to the feature set that it was trained on, by digest; it is never given another."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.feature import compile
from penstock.log.memory import MemoryLog
from penstock.predict.stage import predict_stage
from penstock.record.decisions import Prediction, predictions, read
from penstock.stage import Running, every
from tests.laws import consistency as world


def said(sets: dict[str, Any], bound: str) -> list[Prediction]:
    """What a model that is bound to a digest answers where these sets are folded."""
    log, means = MemoryLog(), world.means()

    def model(digest: str) -> Any:
        return msgspec.structs.replace(means.model(digest), features=bound, kinds=["number"])

    log.append(world.drafts(30, 1))
    stage = predict_stage(world.MODEL, world.ask, sets, msgspec.structs.replace(means, model=model))
    running = Running(stage, log)
    while running.advance() is not None:
        pass
    return [read(record, Prediction) for record in every(log, [predictions(world.MODEL)])]


def test_a_model_refuses_another_feature_set() -> None:
    """With a definition changed, and nothing else folded, the model of the old one scores nothing and says why."""
    window = {"seen": world.count(world.paid, window="1h")}
    other = {"seen": world.count(world.paid, window="2h")}
    old, new = (compile(list(one.values()), world.ask, one) for one in (window, other))
    assert old.names == new.names and old.digest != new.digest
    refused = said({new.digest: new}, old.digest)
    assert {(one.error, one.score, len(one.values)) for one in refused} == {("features_unknown", None, 0)}
    both = said({new.digest: new, old.digest: old}, old.digest)
    assert {(one.error, one.score, one.features) for one in both} == {("", 0.0, old.digest)} and len(
        both
    ) == 30
