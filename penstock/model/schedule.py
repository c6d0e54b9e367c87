"""model: when to train: by period, by number of new labels, on an alert, or because a person asks."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from penstock.record.codec import span
from penstock.record.decisions import (
    ALERTS,
    DECISIONS,
    FAILURES,
    INTENTS,
    RELEASES,
    TICKS,
    VERSIONS,
    Alert,
    Decision,
    Failure,
    Intent,
    Outcome,
    Release,
    Tick,
    Version,
    draft,
    outcomes,
    read,
)
from penstock.record.errors import DefinitionError
from penstock.record.record import Draft, Position, Record, output_id
from penstock.stage import Stage, stage

FAILING = "training"
"""The rule that a training comes to a version. It needs no declaration."""


class Every(msgspec.Struct, frozen=True):
    """When and on what to train. Spans in milliseconds of event time; 0: not by this."""

    period_ms: int
    window_ms: int
    labels: int
    at_least: int
    holdout: float
    on_alert: str
    limit_s: float


def every(
    period: str = "",
    *,
    window: str = "",
    labels: int = 0,
    at_least: int = 200,
    holdout: float = 0.25,
    on_alert: str = "",
    limit: str = "10min",
) -> Every:
    """Train each `period` and/or after `labels` new labels, on the requests of the last `window`.

    The first training starts as soon as there are `at_least` labels, and, while none has come to a version, again
    each time when there are twice as many as before: the first labels may all be of one class. `holdout` is the
    newest share of the rows, kept for the gate. `on_alert` names a kind of rule
    ("drift", "loss", ...) that trains when it breaks, too. `limit` is how long the
    training process may take.
    """
    try:
        times = [span(text) if text else 0 for text in (period, window, limit)]
    except ValueError as error:
        raise DefinitionError(f"{error}.", code="unit") from None
    if not period and not labels and not on_alert:
        raise DefinitionError(
            'Say when to train: every("7d"), every(labels=5000) or every(on_alert="drift").'
        )
    if not 0 < holdout < 1:
        raise DefinitionError("holdout= is a share between 0 and 1, such as 0.25.")
    return Every(times[0], times[1], labels, at_least, holdout, on_alert, times[2] / 1000)


class Schedule(msgspec.Struct, frozen=True):
    """The stage's state."""

    next: int = 1
    labels: int = 0
    fresh: int = 0
    last_ms: int = 0
    pending: str = ""
    champion: int = 0
    recipes: dict[str, dict[str, Any]] = {}
    asked: Decision | None = None
    alert: str = ""
    tried: int = 0
    """The labels that there were at the newest training."""
    failures: int = 0
    """Trainings that failed since the newest version."""


def train_stage(model: str, plan: Every, params: dict[str, Any], seed: int) -> Stage[Schedule]:
    """The stage `train.MODEL`: folds ticks, outcomes and decisions into training intents, one at a time."""

    def step(state: Schedule, record: Record) -> tuple[Schedule, list[Draft]]:
        if record.topic == outcomes(model):
            got = read(record, Outcome).label is not None
            return msgspec.structs.replace(state, labels=state.labels + got, fresh=state.fresh + got), []
        if record.topic == TICKS:
            return due(state, record)
        if record.key != model:
            return state, []
        after = note(state, record)
        return after, _alerts(model, state, after, record.time_ms)

    def note(state: Schedule, record: Record) -> Schedule:
        match record.topic:
            case topic if topic == VERSIONS:
                version = read(record, Version)
                recipes = {**state.recipes, str(version.version): version.params}
                pending = "" if version.intent == state.pending else state.pending
                return msgspec.structs.replace(state, pending=pending, recipes=recipes, failures=0)
            case topic if topic == FAILURES and read(record, Failure).intent == state.pending:
                return msgspec.structs.replace(state, pending="", failures=state.failures + 1)
            case topic if topic == RELEASES:
                return _released(state, read(record, Release))
            case topic if topic == DECISIONS and read(record, Decision).kind == "train":
                return msgspec.structs.replace(state, asked=read(record, Decision))
            case topic if topic == ALERTS and plan.on_alert:
                alert = read(record, Alert)
                if alert.state == "raised" and alert.rule.startswith(f"{plan.on_alert}("):
                    return msgspec.structs.replace(state, alert=alert.rule)
        return state

    def due(state: Schedule, record: Record) -> tuple[Schedule, list[Draft]]:
        now_ms = read(record, Tick).t_ms
        reason = "" if state.pending else _reason(plan, state, now_ms)
        if not reason:
            return state, []
        recipe = state.recipes.get(str(state.champion), {})  # a retrained champion stays what it is
        given = {**params, **recipe, **(state.asked.params if state.asked else {})}
        id = output_id(f"train.{model}", record.topic, record.position, 0)
        o = Position(n=record.position)
        intent = Intent(id, "train", model, state.next, reason, now_ms, o, given, seed, state.champion)
        state = msgspec.structs.replace(
            state,
            next=state.next + 1,
            fresh=0,
            last_ms=now_ms,
            pending=id,
            asked=None,
            alert="",
            tried=state.labels,
        )
        return state, [draft(INTENTS, intent, key=model, t_ms=now_ms, id=id)]

    inputs = (outcomes(model), TICKS, VERSIONS, FAILURES, RELEASES, DECISIONS, ALERTS)
    return stage(f"train.{model}", inputs, Schedule, step)


def _reason(plan: Every, state: Schedule, now_ms: int) -> str:
    if state.asked:
        return f"{state.asked.who} asked: {state.asked.reason}"
    if state.labels < plan.at_least:
        return ""
    if state.next == 1 or (not state.recipes and state.labels >= 2 * max(1, state.tried)):
        return f"the first {state.labels} labels"
    if state.alert:
        return f"alert: {state.alert}"
    if plan.period_ms and now_ms - state.last_ms >= plan.period_ms:
        return "the period is over"
    if plan.labels and state.fresh >= plan.labels:
        return f"{state.fresh} new labels"
    return ""


def _alerts(model: str, before: Schedule, after: Schedule, t_ms: int) -> list[Draft]:
    """What whoever watches is told: that trainings fail, once, and that one came to a version again."""
    if bool(before.failures) == bool(after.failures):
        return []
    state: Literal["raised", "cleared"] = "raised" if after.failures else "cleared"
    alert = Alert(model, FAILING, state, float(after.failures), 0.0, 0, after.tried, t_ms)
    return [draft(ALERTS, alert, key=model, t_ms=t_ms)]


def _released(state: Schedule, release: Release) -> Schedule:
    if release.step == "champion":
        return msgspec.structs.replace(state, champion=release.version)
    if release.step == "rolled_back":
        return msgspec.structs.replace(state, champion=release.restored)
    return state
