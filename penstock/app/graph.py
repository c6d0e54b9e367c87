"""app: the diagram of a pipeline file: which stage reads and writes which topic, as the stages themselves say."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.app.home import inputs_of
from penstock.app.pipeline import File, Plan, within
from penstock.chart import Box, flow
from penstock.feature import JOIN, Scored
from penstock.log.memory import MemoryBlob
from penstock.record.decisions import (
    AGAIN,
    ALERTS,
    DEAD,
    FAILURES,
    INTENTS,
    RELEASES,
    RETRACTIONS,
    TICKS,
    VERDICTS,
    VERSIONS,
    outcomes,
    predictions,
    profiles,
)

ASIDE = (TICKS, AGAIN, RETRACTIONS, DEAD)
"""What nearly every stage has to do with is told in its box, and not drawn."""
FOLDING = ("predict", "consistency", "training")
ORDER = ("predict", "outcome", "consistency", "monitor", "train", "training", "gate", "release")


class Part(msgspec.Struct, frozen=True):
    """Somebody who reads and writes. `features`: whether it folds the features of the model."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    features: bool = False


class Diagram(msgspec.Struct, frozen=True):
    """A model's parts in the order of the loop; `outside`: the topics that none of them writes."""

    model: str
    events: tuple[str, ...]
    features: tuple[str, ...]
    parts: tuple[Part, ...]
    outside: tuple[str, ...]


def written(model: str) -> dict[str, tuple[str, ...]]:
    """The topics that a model's stages write, by kind, and those of the training process."""
    return {
        "predict": (predictions(model), DEAD),
        "outcome": (outcomes(model), "refused", DEAD),
        "monitor": (profiles(model), ALERTS, DEAD),
        "train": (INTENTS, ALERTS),
        "training": (VERSIONS, FAILURES),
        "gate": (VERDICTS,),
        "release": (RELEASES,),
        "consistency": (ALERTS,),
    }


def diagrams(file: File) -> list[Diagram]:
    """One for each model of a file, from its real stages."""
    inputs = inputs_of(file, MemoryBlob())
    return [_diagram(plan, inputs) for plan in file.plans.values()]


def _diagram(plan: Plan, inputs: dict[str, Sequence[str]]) -> Diagram:
    writes = written(plan.name)
    reads = {name.partition(".")[0]: (name, topics) for name, topics in inputs.items() if name in _mine(plan)}
    events = {plan.pipeline.request.topic, *plan.features.sources}
    reads["training"] = (
        "training",
        (INTENTS, outcomes(plan.name), *sorted(events | set(plan.features.topics))),
    )
    made = within([plan.pipeline.request, *plan.features.sources.values()])
    joins = {f"{JOIN}.{topic}": (topic, DEAD) for topic, one in made.items() if isinstance(one, Scored)}
    parts = (
        *(Part(name, tuple(inputs[name]), topics) for name, topics in joins.items()),
        *(
            Part(reads[kind][0], tuple(reads[kind][1]), writes[kind], kind in FOLDING)
            for kind in ORDER
            if kind in reads
        ),
    )
    wrote = {topic for part in parts for topic in part.writes}
    read = dict.fromkeys(topic for part in parts for topic in part.reads)
    outside = tuple(topic for topic in read if topic not in wrote)
    return Diagram(plan.name, tuple(sorted(events)), plan.features.names, parts, outside)


def _mine(plan: Plan) -> set[str]:
    return {"gate", *(f"{kind}.{plan.name}" for kind in ORDER)}


def drawn(one: Diagram) -> str:
    """A diagram as SVG."""
    features = f"features of {one.model}"
    boxes, edges = {}, []
    for topic in one.outside:
        if topic not in ASIDE:
            boxes[topic] = Box(topic, (topic,), "outside")
    boxes[features] = Box(features, (features, f"{len(one.features)} values a request"), "feature")
    edges += [(topic, features) for topic in one.events]
    for part in one.parts:
        boxes[part.name] = Box(part.name, (part.name, *_aside(part)), "work")
        edges += [(features, part.name)] if part.features else []
        folded = one.events if part.features else ()
        edges += [(topic, part.name) for topic in part.reads if topic not in (*ASIDE, *folded)]
        for topic in part.writes:
            if topic not in ASIDE:
                boxes.setdefault(topic, Box(topic, (topic,)))
                edges.append((part.name, topic))
    return flow(list(boxes.values()), edges, title=f"{one.model}: who reads and who writes")


def _aside(part: Part) -> list[str]:
    reads = [topic for topic in part.reads if topic in ASIDE]
    return [f"also {', '.join(reads)}"] * bool(reads) + ["buries in dead"] * (DEAD in part.writes)


def told(one: Diagram) -> str:
    """A diagram in lines for a terminal: topics lead to parts, parts to topics."""
    readers: dict[str, list[str]] = {}
    for part in one.parts:
        for topic in part.reads:
            readers.setdefault(topic, []).append(part.name)
    wide = max(len(topic) for topic in (*one.outside, *readers))
    lines = [one.model, "  from outside"]
    lines += [f"    {topic:{wide}}  -> {', '.join(readers.get(topic, []))}" for topic in one.outside]
    users = ", ".join(part.name for part in one.parts if part.features)
    lines += [f"  features of {', '.join(one.events)}  -> {users}"]
    lines += [f"    {name}" for name in one.features]
    for part in one.parts:
        lines += [f"  {part.name}", f"    <- {', '.join(part.reads)}"]
        lines += [_line(topic, wide, readers.get(topic, [])) for topic in part.writes]
    return "\n".join(lines)


def _line(topic: str, wide: int, readers: Sequence[str]) -> str:
    return f"    -> {topic:{wide}}  -> {', '.join(readers)}".rstrip(" ->") if readers else f"    -> {topic}"
