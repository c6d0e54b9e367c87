"""app: the pipeline as the user declares it, and the file that declares it made into something to run."""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.beside import gathered, opened, prepare
from penstock.app.keep import Looking, check_keep
from penstock.app.limits import Limits
from penstock.dataset.outcome import Label
from penstock.feature import Answers, Column, Derived, FeatureSet, Scored, descent, wider
from penstock.feature import compile as compile_features
from penstock.feature import rate as event_rate
from penstock.feature.definition.meaning import OF_A_FILE
from penstock.gate import Gate
from penstock.model.fit import Data
from penstock.model.pack import Predict
from penstock.model.schedule import Every
from penstock.monitor.rules import Rule, check_rules
from penstock.monitor.rules import rate as watched_rate
from penstock.predict.queue import Queue
from penstock.record.codec import digest, span
from penstock.record.decisions import SHARED, outcomes, predictions, profiles, vectors
from penstock.record.errors import DefinitionError, NotFound, PenstockError
from penstock.record.event import TOPIC_NAME, Event, Source, unknown
from penstock.release.stage import Steps, steps

DEFAULT_STEPS = steps()


class Truth(msgspec.Struct, frozen=True, eq=False):
    """A label worked out from the columns of an event by a function."""

    source: Source
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    line: int


def label(source: Source) -> Callable[[Callable[..., Any]], Truth]:
    """Declare the label as a function of the columns of `source`, whose key is the request's id.

    It returns a bool or a number, or None where the event does not tell.
    """

    def wrap(function: Callable[..., Any]) -> Truth:
        code = function.__code__
        return Truth(source, function, code.co_varnames[: code.co_argcount], code.co_firstlineno)

    return wrap


class Pipeline(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One model from its events to its watch: what the user writes.

    `label` is a source (an event is a true label, silence a false one after `wait`), a column of a
    source, or a `@label` function. `fit(data)` returns the model; `predict(model, x)` replaces its
    `predict_proba`. `threshold` makes a score positive. Of the share `consistency` of the keys all that is
    served is folded again and compared; 0 does without. `serves=queue()`: requests come as events only, and their
    answers are read when they are there. `limits` bound what callers may ask. Everything else has a default or says
    when.
    """

    request: Source
    label: Source | Column | Truth
    wait: str
    features: Sequence[Any]
    fit: Callable[[Data], Any]
    train: Every
    gate: Gate
    release: Steps = DEFAULT_STEPS
    watch: Sequence[Rule] = ()
    predict: Predict | None = None
    params: dict[str, Any] = {}
    seed: int = 0
    threshold: float = 0.5
    consistency: float = 1.0
    serves: Queue | None = None
    limits: Limits = Limits()
    name: str = ""


def rate(of: Any, window: str = "1h", **options: Any) -> Any:
    """How often something happens. Of events or a column it is a feature: how many a second in the window (`per`
    says another unit). Of a name it is what a rule watches: the share of answers, `rate("positive", "1h")`."""
    return (
        watched_rate(of, window, **options)
        if isinstance(of, str)
        else event_rate(of, window=window, **options)
    )


class Plan(msgspec.Struct, frozen=True, eq=False):
    """A pipeline, checked and compiled: what the rooms are built from."""

    name: str
    pipeline: Pipeline
    features: FeatureSet
    label: Label


class File(msgspec.Struct, frozen=True, eq=False):
    """A pipeline file, loaded: its plans by model name, its sources by topic, its text and digest.
    `derived`, `scored`: the topics that its own stages write from those sources."""

    path: str
    text: bytes
    code: str
    plans: dict[str, Plan]
    sources: dict[str, Source]
    derived: dict[str, Derived] = {}
    scored: dict[str, Scored] = {}

    @property
    def kept(self) -> list[Source]:
        """Every source of events that lie on the log."""
        return [*self.sources.values(), *self.derived.values(), *self.scored.values()]

    def order(self, model: str) -> list[str]:
        """The models that answer a request of a model, each after those whose answers it is given; itself last."""
        given = [one.model for one in descent(self.plan(model).pipeline.request) if isinstance(one, Scored)]
        before = [name for one in reversed(given) for name in self.order(one)]
        return list(dict.fromkeys([*before, model]))

    def plan(self, model: str) -> Plan:
        """The plan of a model; raises NotFound with the nearest name."""
        if model not in self.plans:
            raise NotFound(unknown(model, self.plans, "a model of this file"))
        return self.plans[model]

    def source(self, topic: str) -> Source:
        """The source of a topic; raises NotFound with the nearest name."""
        if topic not in self.sources:
            raise NotFound(unknown(topic, self.sources, "a topic of this file"), code="unknown_topic")
        return self.sources[topic]


def load(path: str | Path) -> File:
    """Load a pipeline file; raises DefinitionError with the line and the mend."""
    where = Path(path)
    try:
        text = gathered(where)
    except OSError:
        raise NotFound(f"There is no pipeline file at {where}.") from None
    return load_text(text, str(where))


def load_text(text: bytes, path: str) -> File:
    """Load a pipeline from its text (see `app.beside`); `path` names it in messages and tracebacks.

    The module is named after the text's digest, so that a model's pickled classes are found again
    and two texts of one file may be in use side by side.
    """
    code = digest(text)
    module = types.ModuleType(f"{OF_A_FILE}{code[:16]}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    bundle = opened(text)
    places = prepare(module, bundle, path)
    try:
        exec(compile(bundle.text, path, "exec"), module.__dict__)
        return build(vars(module), path, text)
    except DefinitionError as error:
        raise DefinitionError(
            error.what, code=error.code, hint=error.hint, where=_where(error, path, places)
        ) from error
    except PenstockError:
        raise
    except Exception as error:  # whatever the user's file raises is told by its own line
        sentence = f"{type(error).__name__}: {error}."
        raise DefinitionError(sentence, code="file", where=_where(error, path, places)) from error


def _where(error: BaseException, path: str, places: Collection[str]) -> str:
    """The place in the user's files: the line that the error names, or the innermost one of the traceback."""
    said = error.where if isinstance(error, PenstockError) else ""
    lines = [
        (f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__) if f.filename in places
    ]
    file, line = lines[-1] if lines else (path, None)
    if isinstance(error, SyntaxError) and error.filename in places:
        file, line = str(error.filename), error.lineno
    if not said and line:
        said = f"line {line}"
    return f"{file}, {said}" if said else path


def build(namespace: Mapping[str, Any], path: str = "", text: bytes = b"") -> File:
    """Check and compile every pipeline of a namespace: a file's, or a notebook's `globals()`."""
    found = {id(value): (name, value) for name, value in namespace.items() if isinstance(value, Pipeline)}
    if not found:
        raise DefinitionError("The file declares no Pipeline.", hint="Add NAME = Pipeline(...).")
    defined = {name: value for name, value in namespace.items() if not isinstance(value, Pipeline)}
    plans = [_plan(value.name or name, value, defined) for name, value in found.values()]
    found_sources = [value for value in namespace.values() if isinstance(value, Source)]
    for plan in plans:
        found_sources += [plan.pipeline.request, plan.label.source, *plan.features.sources.values()]
    models = {plan.name: plan for plan in plans}
    sources = [one for one in found_sources if not isinstance(one, Answers)]
    made = within(sources)
    moved = {topic: one for topic, one in made.items() if isinstance(one, Derived)}
    joins = {topic: one for topic, one in made.items() if isinstance(one, Scored)}
    bases = [*(one.derivation.base for one in moved.values()), *(one.base for one in joins.values())]
    sent = [one for one in (*sources, *bases) if one.topic not in moved and not isinstance(one, Scored)]
    file = File(path, text, digest(text), models, _topics(sent, models, joins), moved, joins)
    for plan in plans:
        _check_answers(plan, models)
    for one in joins.values():
        _check_asked(one, _known(one, models).pipeline.request)
    for other in (each for source in sources for each in descent(source) if isinstance(each, Scored)):
        if joins[other.topic] is not other:
            raise _shared(other, joins[other.topic])
    looks = looking(file)
    for source in file.kept:
        check_keep(source, looks)
    return file


def looking(file: File) -> list[Looking]:
    """How far back each model of a file looks."""
    return [(plan.features, plan.pipeline.train.window_ms) for plan in file.plans.values()]


def within(sources: Iterable[Source]) -> dict[str, Derived | Scored]:
    """The sources that stages write, by topic, each after what it is made of."""
    found: dict[str, Derived | Scored] = {}
    for one in sources:
        if isinstance(one, Scored):
            found |= within([one.base]) | {one.topic: one}
        elif isinstance(one, Derived):
            found |= within([one.derivation.base])
            found |= {one.topic: one} if one.derivation.at == "transit" else {}
    return found


def _check_answers(plan: Plan, models: Mapping[str, Plan], path: tuple[str, ...] = ()) -> None:
    """Models whose answers a model reads are there, and do not read its own."""
    if plan.name in path:
        chain = " -> ".join([*path[path.index(plan.name) :], plan.name])
        raise DefinitionError(f"Models read each other's answers in a circle: {chain}.", code="cycle")
    for one in _answers(plan):
        if not (isinstance(one, Answers) and one.elsewhere):
            _check_answers(_known(one, models), models, (*path, plan.name))


def _known(one: Answers | Scored, models: Mapping[str, Plan]) -> Plan:
    """The plan of a model whose answers are read."""
    if one.model not in models:
        hint = f'Of another file on the same log: predictions("{one.model}", elsewhere=True).'
        raise DefinitionError(
            unknown(one.model, models, "a model of this file"),
            code="unknown_model", hint=hint if isinstance(one, Answers) else "",
        )  # fmt: skip
    return models[one.model]


def _answers(plan: Plan) -> list[Answers | Scored]:
    read = [plan.pipeline.request, *plan.features.sources.values()]
    said = [one for one in read if isinstance(one, Answers)]
    return [*said, *(one for one in within(read).values() if isinstance(one, Scored))]


def _check_asked(one: Scored, request: Source) -> None:
    """A model whose answer is given with a request has been asked by that request."""
    if request.topic not in {base.topic for base in descent(one.base)}:
        raise DefinitionError(
            f"{one.model} answers requests of {request.topic}, so none of {one.base.topic} has its answer.",
            code="not_its_request", where=f"line {one.line}",
            hint=f'Score what it is asked by: scored({request.topic}, "{one.model}").',
        )  # fmt: skip


def _topics(sources: Sequence[Source], models: Iterable[str], joins: Iterable[str]) -> dict[str, Source]:
    own = SHARED.union(topic(name) for name in models for topic in (predictions, outcomes, profiles, vectors))
    own = own.union(joins)
    topics: dict[str, Source] = {}
    for source in sources:
        other = topics.get(source.topic, source)
        widest = wider(other, source)
        if widest is not None:
            topics[source.topic] = widest
        else:
            raise _shared(source, other)
        if source.topic in own:
            raise DefinitionError(
                f'"{source.topic}" is a topic of Penstock\'s own.',
                code="topic_taken", where=f"line {source.line}", hint="Give the source another topic=.",
            )  # fmt: skip
    return topics


def _shared(source: Source, other: Source) -> DefinitionError:
    return DefinitionError(
        f'Two sources share the topic "{source.topic}".',
        code="topic_taken", where=f"line {source.line}",
        hint=f"Give one of them topic= (the other: line {other.line}).",
    )  # fmt: skip


def _plan(name: str, pipeline: Pipeline, namespace: Mapping[str, Any]) -> Plan:
    if not TOPIC_NAME.fullmatch(name):
        raise DefinitionError(f'"{name}" cannot be the name of a model: use a-z, 0-9, ".", "_", "-".')
    truth = _label(pipeline)
    if isinstance(pipeline.request, Answers) or isinstance(truth.source, (Answers, Scored)):
        raise DefinitionError(
            "What a model said is neither a request nor the truth.", code="not_a_source",
            hint="Aggregate it: last(risk.score, where=risk.served), for example.",
        )  # fmt: skip
    column = pipeline.label.name if isinstance(pipeline.label, Column) else ""
    if not pipeline.request.id:
        raise DefinitionError(
            f"{name}'s requests have no id, so no label could find its prediction.",
            code="no_id", where=f"line {pipeline.request.line}",
            hint='Declare it: source(..., id="payment_id").',
        )  # fmt: skip
    if not 0 <= pipeline.consistency <= 1:
        raise DefinitionError(
            "consistency= is a share of the keys, from 0 (none) to 1 (all).", code="arguments"
        )
    features = compile_features(
        pipeline.features, pipeline.request, namespace, label=truth.source, label_column=column
    )
    check_rules(pipeline.watch, (*pipeline.request.columns, *features.names))
    _check_slices(pipeline, features)
    return Plan(name, pipeline, features, truth)


def _check_slices(pipeline: Pipeline, features: FeatureSet) -> None:
    known = {*pipeline.request.columns, *features.names}
    for name in pipeline.gate.slices:
        if name not in known:
            raise DefinitionError(unknown(name, known, "a column to slice by"), code="unknown_column")


def _label(pipeline: Pipeline) -> Label:
    try:
        wait_ms = span(pipeline.wait)
    except ValueError as error:
        raise DefinitionError(f"wait=: {error}.", code="unit") from None
    given = pipeline.label
    if isinstance(given, Source):
        return Label(_keyed(given), lambda event: 1.0, wait_ms, 0.0)
    if isinstance(given, Column):
        name = given.name
        return Label(_keyed(given.source), lambda event: _number(getattr(event, name)), wait_ms)
    columns = given.source.columns
    for argument in given.arguments:
        if argument not in columns:
            text = unknown(argument, columns, f"a column of {given.source.topic}")
            raise DefinitionError(text, code="unknown_column", where=f"line {given.line}")
    return Label(_keyed(given.source), _called(given), wait_ms)


def _called(truth: Truth) -> Callable[[Event], float | None]:
    def value(event: Event) -> float | None:
        return _number(truth.function(*[getattr(event, name) for name in truth.arguments]))

    return value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _keyed(source: Source) -> Source:
    if not source.key:
        raise DefinitionError(
            f"The label's source {source.topic} has no key to join the requests by.",
            code="no_key", where=f"line {source.line}",
            hint="Declare the column that holds the request's id: key=.",
        )  # fmt: skip
    return source
