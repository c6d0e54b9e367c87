"""release: folds verdicts, live evidence and people's decisions into release steps, one model a stage.

shadow -> canary (1 %, 10 %, 50 %) -> champion -> settled, and `rolled_back` from every one of them.
Live evidence is paired: both versions score every request, so each outcome compares them. The test is
an e-process, valid however often it is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.gate.sequential import Evidence, e_worse, observe
from penstock.record.codec import pack, span, unpack
from penstock.record.decisions import (
    DECISIONS,
    RELEASES,
    TICKS,
    VERDICTS,
    VERSIONS,
    Decision,
    Outcome,
    Prediction,
    Release,
    ReleaseStep,
    Said,
    Tick,
    Verdict,
    Version,
    draft,
    outcomes,
    predictions,
    read,
)
from penstock.record.errors import DefinitionError
from penstock.record.record import Draft, Record
from penstock.release.route import Ref, Route, follow
from penstock.stage import Emitted, Stage


class Steps(msgspec.Struct, frozen=True):
    """How a version is released. Spans in milliseconds of event time, `canary` in percent."""

    shadow_ms: int
    canary: tuple[int, ...]
    hold_ms: int
    guard_ms: int
    flips: float
    at_least: int
    alpha: float


def steps(
    *,
    shadow: str = "1d",
    canary: tuple[int, ...] = (1, 10, 50),
    hold: str = "1d",
    guard: str = "1d",
    flips: float = 1.0,
    at_least: int = 100,
    alpha: float = 0.01,
) -> Steps:
    """Release through a shadow, canaries of growing share, and a guarded start as champion.

    `hold` is the time of each canary step, `guard` the time for which the old champion goes on scoring
    beside the new one, `flips` the greatest share of decisions that may change, `at_least` the number of
    requests that each step must see, `alpha` the chance of rolling an equal version back.
    """
    if list(canary) != sorted(set(canary)) or not all(0 < share < 100 for share in canary):
        raise DefinitionError("canary= takes rising percentages between 1 and 99, such as (1, 10, 50).")
    try:
        spans = [span(text) for text in (shadow, hold, guard)]
    except ValueError as error:
        raise DefinitionError(f"{error}.", code="unit") from None
    return Steps(spans[0], canary, spans[1], spans[2], flips, at_least, alpha)


class Trial(msgspec.Struct):
    """A version on its way: where it stands and what has been seen of it beside its rival."""

    ref: Ref
    rival: Ref
    step: ReleaseStep
    share: int
    entered_ms: int
    seen: int = 0
    pairs: int = 0
    flipped: int = 0
    failed: int = 0
    loss: Evidence = msgspec.field(default_factory=Evidence)
    failures: Evidence = msgspec.field(default_factory=Evidence)


class Releasing(msgspec.Struct):
    """The stage's state: the route, the trial under way, the next one, and all known versions."""

    route: Route = Route()
    trial: Trial | None = None
    next: Verdict | None = None
    digests: dict[str, str] = {}
    heard: tuple[str, Said] | None = None
    past: list[Ref] = []


def release_stage(model: str, plan: Steps) -> Stage[Releasing]:
    """The stage `release.MODEL`."""
    spoken, joined = predictions(model), outcomes(model)

    def fold(state: Releasing, record: Record) -> list[Draft]:
        if record.topic == spoken:
            return _compare(state, read(record, Prediction))
        if record.topic == joined:
            return _learn(state, read(record, Outcome))
        if record.topic == TICKS:
            return _tick(model, plan, state, read(record, Tick).t_ms)
        if record.key != model:
            return []
        if record.topic == VERSIONS:
            version = read(record, Version)
            state.digests[str(version.version)] = version.digest
            return []
        if record.topic == VERDICTS:
            return _judged(model, plan, state, read(record, Verdict), record.id)
        return _decided(model, state, read(record, Decision))

    def step_many(state: Releasing, records: Sequence[Record]) -> tuple[Releasing, list[Emitted]]:
        return state, [(record, made) for record in records for made in fold(state, record)]

    return Stage(
        f"release.{model}",
        (spoken, joined, VERSIONS, VERDICTS, DECISIONS, TICKS),
        Releasing,
        step_many,
        pack,
        lambda data: unpack(data, Releasing),
        snapshot_every=4000,
    )


def _judged(model: str, plan: Steps, state: Releasing, verdict: Verdict, id: str) -> list[Draft]:
    if verdict.decision != "ship":
        return []
    ref = Ref(verdict.version, state.digests[str(verdict.version)])
    champion = state.route.champion
    if champion is None:
        return [
            _go(model, state, ref, "champion", 100, "The first version to pass the gate.", verdict.t_ms, id)
        ]
    if state.trial is not None and state.trial.step != "shadow":
        state.next = verdict
        return []
    made = []
    if state.trial is not None:
        old = state.trial.ref
        made.append(_go(model, state, old, "withdrawn", 0, "A newer version passed the gate.", verdict.t_ms))
    state.trial = Trial(ref, champion, "shadow", 0, verdict.t_ms)
    return [*made, _go(model, state, ref, "shadow", 0, "It passed the gate.", verdict.t_ms, id)]


def _compare(state: Releasing, said: Prediction) -> list[Draft]:
    """Pair the trial's answer with its rival's on the same request: failures and flips need no label.

    Answers to one request stand side by side on the log, so remembering the last one is enough.
    """
    trial = state.trial
    if trial is None or said.version not in (trial.ref.version, trial.rival.version):
        return []
    one = Said(said.version, said.role, said.served, said.score, said.positive, said.error)
    before, state.heard = state.heard, (said.request, one)
    if before is None or before[0] != said.request or before[1].version == said.version:
        return []
    other = before[1]
    mine, rival = (one, other) if one.version == trial.ref.version else (other, one)
    trial.seen += 1
    trial.failed += bool(mine.error)
    trial.flipped += mine.positive != rival.positive
    trial.failures = observe(trial.failures, float(bool(rival.error)) - float(bool(mine.error)))
    return []


def _learn(state: Releasing, outcome: Outcome) -> list[Draft]:
    """An outcome that both versions foresaw is one paired difference of loss."""
    trial = state.trial
    if trial is None or outcome.label is None or outcome.amends:
        return []
    scores = {said.version: said.score for said in outcome.said}
    mine, rival = scores.get(trial.ref.version), scores.get(trial.rival.version)
    if mine is not None and rival is not None:
        trial.pairs += 1
        trial.loss = observe(trial.loss, improvement(outcome.label, mine, rival))
    return []


def improvement(label: float, mine: float, rival: float) -> float:
    """How much nearer to the truth than its rival a version was, within [-1, 1].

    For probabilities the difference of squared errors; for other numbers the difference of absolute
    errors over their sum, since those have no bound of their own.
    """
    if label in (0.0, 1.0) and 0.0 <= mine <= 1.0 and 0.0 <= rival <= 1.0:
        return (rival - label) ** 2 - (mine - label) ** 2
    a, b = abs(rival - label), abs(mine - label)
    return (a - b) / (a + b) if a + b else 0.0


def _tick(model: str, plan: Steps, state: Releasing, now_ms: int) -> list[Draft]:
    trial = state.trial
    if trial is None:
        return []
    against = _against(plan, trial)
    if against:
        return _back(model, state, against, now_ms, "rule")
    held_ms = {"shadow": plan.shadow_ms, "canary": plan.hold_ms, "champion": plan.guard_ms}[trial.step]
    if now_ms - trial.entered_ms < held_ms or trial.seen < plan.at_least:
        return []
    return _forward(model, plan, state, trial, now_ms)


def _against(plan: Steps, trial: Trial) -> str:
    """Why the trial must end, or nothing."""
    if e_worse(trial.loss) >= 1 / plan.alpha:
        return f"Live outcomes say it is worse than v{trial.rival.version} ({trial.pairs} pairs)."
    if e_worse(trial.failures) >= 1 / plan.alpha:
        return f"It failed on {trial.failed} of {trial.seen} requests, more than v{trial.rival.version}."
    if trial.seen >= plan.at_least and trial.flipped > plan.flips * trial.seen:
        share = trial.flipped / trial.seen
        return f"It would change {share:.1%} of the decisions; {plan.flips:.1%} are allowed."
    return ""


def _forward(model: str, plan: Steps, state: Releasing, trial: Trial, now_ms: int) -> list[Draft]:
    beside = f"{trial.seen} requests and {trial.pairs} outcomes beside v{trial.rival.version}"
    why = f"{beside} speak for it or not against."
    if trial.step == "champion":
        made = [_go(model, state, trial.ref, "settled", 100, why, now_ms)]
        state.trial = None
        verdict, state.next = state.next, None
        return made + (_judged(model, plan, state, _again(verdict, now_ms), "") if verdict else [])
    share = next((share for share in plan.canary if share > trial.share), 100)
    step: ReleaseStep = "canary" if share < 100 else "champion"
    made = [_go(model, state, trial.ref, step, share, why, now_ms)]
    trial.step, trial.share, trial.entered_ms, trial.seen, trial.flipped = step, share, now_ms, 0, 0
    return made


def _again(verdict: Verdict, now_ms: int) -> Verdict:
    return msgspec.structs.replace(verdict, t_ms=now_ms)


def _back(model: str, state: Releasing, why: str, now_ms: int, by: str) -> list[Draft]:
    """Out of service, whatever the step: what was champion before is champion after."""
    trial = state.trial
    if trial is not None:
        out, restored = trial.ref, trial.rival
    elif state.route.champion is not None and state.past:
        out, restored = state.route.champion, state.past[-1]
    else:
        return []
    if out == state.route.champion and state.past:
        state.past.pop()
    made = _go(model, state, out, "rolled_back", 0, why, now_ms, by=by, restored=restored)
    state.trial, state.next = None, None
    return [made]


def _decided(model: str, state: Releasing, decision: Decision) -> list[Draft]:
    """A person's word goes before the rules; it is on the log under the person's name."""
    if decision.kind == "rollback":
        return _back(model, state, decision.reason or "Asked for.", decision.t_ms, decision.who)
    digest = state.digests.get(str(decision.version))
    if decision.kind != "promote" or digest is None:
        return []
    ref, champion = Ref(decision.version, digest), state.route.champion
    if ref == champion:
        return []
    state.trial = Trial(ref, champion, "champion", 100, decision.t_ms) if champion else None
    state.next = None
    why = decision.reason or "Asked for."
    return [_go(model, state, ref, "champion", 100, why, decision.t_ms, by=decision.who)]


def _go(
    model: str,
    state: Releasing,
    ref: Ref,
    step: ReleaseStep,
    share: int,
    why: str,
    now_ms: int,
    verdict: str = "",
    by: str = "rule",
    restored: Ref | None = None,
) -> Draft:
    """Take one step: change the route and say so on the log."""
    trial = state.trial
    evidence = {} if trial is None else _evidence(trial)
    release = Release(
        model, ref.version, ref.digest, step, share, why, by, now_ms, evidence, verdict,
        restored.version if restored else 0, restored.digest if restored else "",
    )  # fmt: skip
    if step == "champion" and state.route.champion is not None:
        state.past.append(state.route.champion)
    state.route = follow(state.route, release)
    return draft(RELEASES, release, key=model, t_ms=now_ms)


def _evidence(trial: Trial) -> dict[str, float]:
    return {
        "seen": float(trial.seen),
        "pairs": float(trial.pairs),
        "flipped": float(trial.flipped),
        "failed": float(trial.failed),
        "e_worse": e_worse(trial.loss),
        "e_failing": e_worse(trial.failures),
    }
