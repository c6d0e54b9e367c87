"""feature: what a model said, as a source: its own topic of predictions, read and never scored again."""

from __future__ import annotations

from functools import cache

from penstock.feature.definition.source import Declared
from penstock.record.decisions import predictions as topic_of
from penstock.record.event import Event, key


class Spoken(Event):
    """One version's answer to one request, as far as features read it. Answers nobody was served (of a
    candidate in the shadow, say) are among them: `served` tells. Measured seconds are left out: no two
    replays share them."""

    request: str
    t_ms: int
    version: int
    role: str
    served: bool
    score: float | None
    positive: bool | None
    error: str
    entity: str = key()


class Answers(Declared, frozen=True, eq=False):
    """A model's predictions. Penstock writes them; no door takes them. `elsewhere`: another file's model."""

    model: str = ""
    elsewhere: bool = False


@cache
def predictions(model: str, *, elsewhere: bool = False) -> Answers:
    """What a model has said so far, to be aggregated like any source: `last(risk.score, where=risk.served)`.

    The model is one of this file; `elsewhere`: of another file on the same log (while nobody writes there, the
    values are those of no history). A request sees what lies below it, so never what is said to itself.
    """
    return Answers(topic_of(model), Spoken, "", "entity", "t_ms", model=model, elsewhere=elsewhere)
