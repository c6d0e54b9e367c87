"""feature: requests with what another model answered them, as a source that a further model may be asked by.

Nothing is scored here: the answer is the one that was served and stands on the log. A request and its answer make
the same record whoever joins them: the stage `join.TOPIC`, or whoever is waiting for what is said of it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import msgspec

from penstock.feature.definition.derive import Nothing
from penstock.feature.definition.expression import at_line, here
from penstock.feature.definition.said import Answers
from penstock.feature.definition.source import Derived, Scored, descent
from penstock.record.codec import pack, unpack
from penstock.record.decisions import AGAIN, Prediction, predictions, read
from penstock.record.errors import DefinitionError
from penstock.record.event import TOPIC_NAME, Event, Source
from penstock.record.record import Draft, Record, output_id
from penstock.stage import Emitted, Stage, each

JOIN = "join"
"""The kind of the stage."""
SAID = {"score": float, "positive": bool, "version": int}
"""What of an answer becomes a column, and of what type; null where no score came of the request."""


@cache
def scored(source: Source, model: str, /) -> Scored:
    """The requests of `source` with what `model` answered them: `MODEL_score`, `MODEL_positive`, `MODEL_version`.

    As a pipeline's request: whoever asks gives the columns of `source`, the model is asked first, and its answer is
    there as a column. The model answers requests of `source`, or of what `source` itself was scored from.
    """
    where = at_line(here())
    if any(isinstance(one, Answers) or _in_transit(one) for one in descent(source)):
        raise DefinitionError(
            f"{source.topic} is written by a stage, so nobody asks with its events.",
            code="not_a_source", where=where, hint="Score the requests themselves: scored(payment, ...).",
        )  # fmt: skip
    topic = f"{source.topic}.scored.{model}"
    if not TOPIC_NAME.fullmatch(topic):
        raise DefinitionError(
            f'"{topic}" cannot be a topic, or is too long for one.', code="topic", where=where
        )
    names = answer_columns(model)
    taken = next((name for name in names if name in source.columns), "")
    if taken:
        raise DefinitionError(
            f'{source.topic} has a column "{taken}" already.', code="name_taken", where=where
        )
    hints = {name: kind | None for name, kind in zip(names, SAID.values(), strict=True)}
    space = {"__annotations__": hints, "__module__": source.schema.__module__, **dict.fromkeys(hints)}
    schema: type[Event] = types.new_class(
        source.schema.__name__, (source.schema,), {}, lambda body: body.update(space)
    )
    return Scored(
        topic, schema, source.id, source.key, source.time, here(), source.keep, base=source, model=model
    )


def _in_transit(one: Source) -> bool:
    return isinstance(one, Derived) and one.derivation.at == "transit"


@cache
def answer_columns(model: str) -> tuple[str, ...]:
    """The columns that a model's answer becomes."""
    return tuple(f"{re.sub(r'[^a-z0-9_]', '_', model)}_{name}" for name in SAID)


def asked(source: Source) -> Source:
    """What callers give of a request: the event, without what is answered on the way."""
    while isinstance(source, Scored):
        source = source.base
    return source


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What of a prediction goes into a further request: a part of its record, by the same names."""

    request: str
    source: str
    position: int
    version: int
    served: bool
    score: float | None
    positive: bool | None

    @staticmethod
    def of(said: Prediction) -> Answer:
        """The same of a prediction."""
        return msgspec.convert(said, Answer, from_attributes=True)


def joined(source: Scored, event: Event, said: Answer, headers: dict[str, str]) -> Draft:
    """A request with its answer. It keeps its id, for labels and for whoever asks again, and what it carries."""
    told = zip(answer_columns(source.model), (said.score, said.positive, said.version), strict=True)
    made = source.draft(source.schema(**msgspec.structs.asdict(event), **dict(told)))
    return msgspec.structs.replace(made, headers=headers)


def requests(
    source: Source, sent: Sequence[Draft], said: Mapping[str, Mapping[str, Answer]]
) -> Sequence[Draft]:
    """What was sent as requests of `source`, with the answers so far, by model and request. What some model did not
    answer is left out."""
    if not isinstance(source, Scored):
        return sent
    answers, schema = said[source.model], source.base.schema
    return [
        joined(source, unpack(one.value, schema), answers[one.id], one.headers)
        for one in requests(source.base, sent, said)
        if one.id in answers
    ]


Find = Callable[[str, str], Record | None]
"""The record with an id on a topic."""


def answers(source: Scored, request: str, find: Find) -> Iterator[Record]:
    """The served answer that is given with a request: its model was asked by one of what that was scored from."""
    for topic in dict.fromkeys(one.topic for one in descent(source.base)):
        asked = find(topic, request)
        id = output_id(f"predict.{source.model}", topic, asked.position, 0) if asked else ""
        found = find(predictions(source.model), id) if id else None
        if found is not None:
            yield found


def join_inputs(source: Scored) -> tuple[str, ...]:
    """The topics that the stage reads."""
    return source.base.topic, predictions(source.model), AGAIN


def join_stage(source: Scored, find: Find) -> Stage[Nothing]:
    """The stage `join.TOPIC`: a request and the answer that was served to it in, both as one record out.

    The later of the two makes it, and looks the other up: so nothing waits here for an answer that never comes, of a
    model without a champion or to a request that was buried.
    """
    name, base, spoken = f"{JOIN}.{source.topic}", source.base, predictions(source.model)
    topics = {one.topic for one in descent(base)}

    def pairs(record: Record, look: Find) -> list[tuple[Record | None, Record]]:
        """A request with its answer, one of which this is."""
        if record.topic == spoken:
            said = read(record, Answer)
            return [(look(base.topic, said.request), record)] if said.served and said.source in topics else []
        if len(topics) == 1:
            return []  # the answer is to this very record, so it lies above
        return [(record, answer) for answer in answers(source, record.id, look)]

    def join(record: Record, look: Find) -> list[Draft]:
        return [
            joined(source, base.event(request), read(answer, Answer), request.headers)
            for request, answer in pairs(record, look)
            if request is not None and min(request.o, answer.o) < record.o
        ]

    def step_many(state: Nothing, records: Sequence[Record]) -> tuple[Nothing, list[Emitted]]:
        near = {(one.topic, one.id): one for one in records if type(one) is Record}

        def look(topic: str, id: str) -> Record | None:
            return near.get((topic, id)) or find(topic, id)

        return state, each(name, lambda record: join(record, look), records)

    return Stage(
        name, join_inputs(source), Nothing, step_many, pack, lambda data: unpack(data, Nothing),
        snapshot_every=1000, sync=False,
    )  # fmt: skip
