"""app: a training intent carried out: replay, fit, evaluate, and the version record that comes of it."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import msgspec

from penstock.app.mlmodel import reading
from penstock.app.pipeline import File, Plan, load_text
from penstock.app.scoring.outside import ready
from penstock.app.threads import spread
from penstock.dataset.profile import profile
from penstock.dataset.rows import Progress, Row, described, rows, sealed, split
from penstock.log import Blob, Log
from penstock.model.fit import evaluate, fit_rows, formed, task_of
from penstock.model.pack import Model, dump, load, where
from penstock.record.codec import digest, pack
from penstock.record.decisions import Intent, Version
from penstock.record.errors import Refused
from penstock.release.registry import registry

THREADS = 1


class Order(msgspec.Struct, frozen=True):
    """What the training process is given: an intent and the code to carry it out with, by digest."""

    home: str
    intent: Intent
    code: str
    path: str
    limit_s: float = 3600.0
    sealed: tuple[str, str] = ("", "")
    """Of a rebuild whose events retention has taken: the rows of training and holdout, by digest."""


@functools.cache
def environment() -> tuple[str, bytes]:
    """The installed distributions and the interpreter, as text, and its digest."""
    found = {(dist.name or "").lower(): dist.version for dist in importlib.metadata.distributions()}
    lines = [f"python=={platform.python_version()} {sys.platform} {platform.machine()}"]
    text = "\n".join(lines + [f"{name}=={found[name]}" for name in sorted(found)]).encode()
    return digest(text), text


def carry_out(
    order: Order,
    log: Log,
    blobs: Blob,
    clock: Callable[[], float],
    progress: Progress = lambda done, total: None,
    *,
    read_file: Callable[[bytes, str], File] = load_text,
) -> Version:
    """Train, evaluate and store a version; raises Refused when there is nothing to train on.

    The same log, code, environment and intent give the same model bytes. `read_file` makes a file of
    the text that the order names.
    """
    intent, began = order.intent, clock()
    plan = read_file(blobs.get(order.code), order.path).plan(intent.model)
    if order.sealed[0]:
        return _refit(order, plan, log, blobs)
    spec = plan.pipeline.train
    since_ms = intent.t_ms - spec.window_ms if spec.window_ms else -sys.maxsize
    slices = plan.pipeline.gate.slices
    found = rows(
        log, plan.features, plan.name, o=intent.o, from_ms=since_ms, facts=slices, progress=progress, spread=spread()
    )  # fmt: skip
    champion = (
        registry(log, intent.o).models[plan.name].versions[intent.champion] if intent.champion else None
    )
    training, holdout = split(found, spec.holdout, champion.training.to_ms + 1 if champion else -sys.maxsize)
    if not training:
        raise Refused("There are no labelled rows to train on beside the holdout.", code="no_rows")
    task = task_of([row.label for row in found])
    pipeline = plan.pipeline
    model = fit_rows(
        reading(pipeline.fit), pipeline.predict, training, plan.features, task, intent.params, intent.seed
    )
    data = dump(model)
    quick = formed(model, [row.values for row in (*holdout, *training)])
    rival = _champion(champion, order, plan, blobs) if champion else None
    rival_values = _seen_by(rival, plan, log, intent, since_ms, holdout) if rival else []
    baseline = sum(row.label for row in training) / len(training)
    with ready(quick.model if quick else model) as one, ready(rival[1]) if rival else nullcontext() as other:
        evaluation = evaluate(
            (one, len(data)),
            (other, rival[2]) if rival and other else None,
            holdout,
            rival_values,
            slices,
            baseline,
            clock,
        )
    environment_digest, text = environment()
    blobs.put(text)
    said = [score for score in evaluation.candidate if score is not None]
    columns = [[*row.values, score] for row, score in zip(holdout, evaluation.candidate, strict=True)]
    names = [*plan.features.names, "score"]
    return Version(
        model=plan.name,
        version=intent.version,
        digest=blobs.put(data),
        intent=intent.id,
        reason=intent.reason,
        t_ms=intent.t_ms,
        training=described(training, pipeline.request.topic, intent.o, blobs),
        holdout=described(holdout, pipeline.request.topic, intent.o, blobs),
        features=plan.features.digest,
        names=list(plan.features.names),
        code=order.code,
        environment=environment_digest,
        params=intent.params,
        seed=intent.seed,
        threads=THREADS,
        metrics={"base_rate": baseline, "mean_score": sum(said) / len(said) if said else 0.0},
        profile=profile(names, columns or [[*row.values, None] for row in training]),
        evaluation=blobs.put(pack(evaluation)),
        champion=intent.champion,
        size_bytes=len(data),
        train_s=clock() - began,
        form=blobs.put(quick.data) if quick else "",
        form_kind=quick.kind if quick else where(model),
        form_difference=quick.difference if quick else 0.0,
        form_rows=quick.rows if quick else 0,
    )


def _refit(order: Order, plan: Plan, log: Log, blobs: Blob) -> Version:
    """The version that an intent made, with the model that comes of its sealed rows now."""
    intent, pipeline = order.intent, plan.pipeline
    training, holdout = (sealed(blobs, digest) for digest in order.sealed)
    task = task_of([row.label for row in (*training, *holdout)])
    model = fit_rows(
        reading(pipeline.fit), pipeline.predict, training, plan.features, task, intent.params, intent.seed
    )
    known = registry(log).models[plan.name].versions[intent.version]
    return msgspec.structs.replace(known, digest=blobs.put(dump(model)))


Rival = tuple[Plan, Model, int]


def _champion(version: Version, order: Order, plan: Plan, blobs: Blob) -> Rival:
    """The champion with the plan of its own code, which may be older than the candidate's."""
    own = (
        plan if version.code == order.code else load_text(blobs.get(version.code), order.path).plan(plan.name)
    )
    data, form = blobs.get(version.digest), blobs.get(version.form) if version.form else b""
    return own, load(data, own.pipeline.predict, form), len(data)


def _seen_by(
    rival: Rival, plan: Plan, log: Log, intent: Intent, since_ms: int, holdout: list[Row]
) -> list[list[Any]]:
    """The held-out requests as the champion's own feature set sees them."""
    if rival[0].features.digest == plan.features.digest:
        return [list(row.values) for row in holdout]
    found = rows(log, rival[0].features, plan.name, o=intent.o, from_ms=since_ms, spread=spread())
    values = {row.request: list(row.values) for row in found}
    return [values[row.request] for row in holdout]
