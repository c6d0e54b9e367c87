"""laws: shares say what the undivided stage says, however many there are, whoever owns them, whenever that changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.app.pipeline import load
from penstock.app.system import own
from penstock.log.memory import MemoryLog
from penstock.model.pack import Model
from penstock.predict.stage import Means, predict_stage
from penstock.record.codec import pack
from penstock.record.decisions import Prediction, Release, Vector, draft, predictions, read, vectors
from penstock.record.record import START, Draft
from penstock.stage import AnyStage, Running, replay

FILE = load(Path(__file__).parents[1] / "crash" / "pipeline.py")
PLAN = FILE.plan("agree")
SETS = {PLAN.features.digest: PLAN.features}
HOUR_MS = 3_600_000


class Sum:
    """A model whose score does not depend on who else is in the batch."""

    def predict_proba(self, x: Any) -> Any:
        return np.array([sum(v for v in row if v == v) % 1.0 for row in x.tolist()])


MODEL = Model(PLAN.features.digest, "binary", ["number"] * 4, Sum(), None)


def stage_of(k: int, n: int) -> AnyStage:
    """Share k of n; its state is written at every other commit or so."""
    means = Means(
        lambda digest: None, lambda digest: MODEL, lambda f, r: [], lambda f, stop: None, lambda: 0.0
    )  # type: ignore[arg-type,return-value]
    return predict_stage("agree", PLAN.pipeline.request, SETS, means, snapshot_every=4, share=(k, n))


def filled(rows: list[tuple[int, float, bool]]) -> MemoryLog:
    """A log with a champion from the fifth record on, requests by event and by vector, and ticks."""
    log, request = MemoryLog(), PLAN.pipeline.request
    for i, (who, x, direct) in enumerate(rows):
        at_ms = i * HOUR_MS
        if i == 5:
            release = Release("agree", 1, "d", "champion", 0, "first", "test", at_ms)
            log.append([draft("releases", release, key="agree", t_ms=at_ms)])
        if direct:
            log.append([Draft(vectors("agree"), "", at_ms, pack(Vector([x, x, 1, x])), f"v{i}")])
        else:
            text = f"2024-01-{1 + i // 24:02}T{i % 24:02}:00:00Z"
            row = {"ask_id": f"a{i}", "who": f"w{who}", "at": text, "x": x, "z": None}
            log.append([request.draft(request.parse(row))])
    return log


def said(log: Any) -> dict[str, Any]:
    """What was answered, by id, without the batch that it was scored in."""
    records = log.read([predictions("agree")], START, limit=10**6)[0]
    found = {r.id: msgspec.structs.replace(read(r, Prediction), batch=0) for r in records}
    assert len(found) == len(records)
    return found


def work(log: Any, phases: list[tuple[int, list[Any]]], take: Callable[..., Running[Any]] = own) -> None:
    """In each phase all shares of a division are taken over, and move as told; in the last one, to the end."""
    for n, moves in phases:
        shares = [take(stage_of(k, n), log) for k in range(n)]
        for move, which in moves:
            k = which % n
            shares[k].batch = 3
            if move == "crash":
                shares[k] = take(stage_of(k, n), log)
            elif move == "save":
                shares[k].save()
            else:
                shares[k].advance()
    for share in shares:
        while share.advance() is not None:
            pass


ROWS = st.lists(st.tuples(st.integers(0, 9), st.floats(0, 9), st.booleans()), min_size=8, max_size=40)
MOVES = st.lists(
    st.tuples(st.sampled_from(["go", "go", "go", "crash", "save"]), st.integers(0, 9)), max_size=12
)
PHASES = st.lists(st.tuples(st.integers(1, 5), MOVES), min_size=1, max_size=4)


@settings(max_examples=40)
@given(ROWS, PHASES)
def test_shares_say_what_the_stage_says(rows: list[Any], phases: list[Any]) -> None:
    """Same ids, same values, same scores, each once, through crashes, hand-overs and other numbers of shares."""
    whole, divided = filled(rows), filled(rows)
    work(whole, [(1, [])])
    work(divided, phases)
    assert said(divided) == said(whole) and said(whole)


@given(ROWS, st.integers(2, 5))
def test_every_share_holds_the_whole_state(rows: list[Any], n: int) -> None:
    """The bytes of any share's state are those of the undivided stage's: one can begin with another's."""
    log = filled(rows)
    states = {
        stage.dump(replay(stage, log)) for stage in [stage_of(0, 1), *(stage_of(k, n) for k in range(n))]
    }
    assert len(states) == 1


@given(ROWS)
def test_a_new_division_begins_where_all_have_come(rows: list[Any]) -> None:
    """Nothing is answered again when a log that was at rest is divided otherwise."""
    log = filled(rows)
    work(log, [(2, [])])
    before = log.stages()["predict.agree/1of2"].position
    assert own(stage_of(0, 3), log).position == before == own(stage_of(0, 1), log).position


def test_a_planted_bug_is_caught() -> None:
    """A share that begins where the furthest of the others stands leaves requests without an answer."""

    def furthest(stage: AnyStage, log: Any) -> Running[Any]:
        running = own(stage, log)
        far = max(one.position.n for one in log.stages().values())
        running.position = type(START)(n=far)
        return running

    rows = [(i, i / 7, False) for i in range(30)]
    whole, divided = filled(rows), filled(rows)
    work(whole, [(1, [])])
    work(divided, [(2, [("go", 0)] * 5), (3, [])], furthest)
    assert said(divided).keys() < said(whole).keys()


def test_who_is_behind_goes_on_where_the_share_is() -> None:
    """A share that has gone on since is not taken back to where the other division ended, unseen."""
    log, whole, half = filled([(0, 1.0, False)] * 9), stage_of(0, 1), stage_of(0, 2)
    Running(whole, log, batch=4).advance()
    seen = log.stages()
    ahead = own(half, log, seen)
    while ahead.advance() is not None:
        pass
    gone = log.stages()[half.name].position
    assert gone.n > seen[whole.name].position.n and own(half, log, seen).position == gone
