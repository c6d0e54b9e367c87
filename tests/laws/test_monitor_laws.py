"""laws: watching has one result however its records are cut, and its windows hold what a plain count says."""

from __future__ import annotations

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.monitor.rules import drift, errors, loss, missing, rate
from penstock.monitor.stage import Watching
from penstock.stage import Emitted, Stage
from tests.unit.monitor.world import MINUTE_MS, T0_MS, Story, alerts, learned, said, watching

RULES = (
    missing("previous_page", "12min", at_least=2) < 0.5,
    rate("positive", at_least=2) < 0.5,
    drift("price", "1h", at_least=5) < 0.25,
    errors(at_least=2) < 0.3,
    loss("1h", at_least=2) < 0.7,
)


def life(seed: int) -> Story:
    """Some hours of a model with many versions, late answers, errors and changes of champion."""
    rng, story, versions = random.Random(seed), Story(), 0
    minute = 0.0
    for _ in range(250):
        minute += rng.choice((0.0, 0.5, 1.0, 7.0))
        late = max(0.0, minute - rng.choice((0, 0, 0, 5, 90)))
        match rng.randrange(8):
            case 0:
                versions += 1
                story.version(versions, learned([(rng.random() * versions, "a", 0.2) for _ in range(20)]))
            case 1 if versions:
                story.release(rng.randint(1, versions), "champion")
            case 2 if versions:
                story.release(versions, "rolled_back", restored=rng.randint(1, versions))
            case 3 | 4:
                story.ask(late, rng.choice(("home", None)))
            case 5 | 6:
                score = rng.choice((None, rng.random()))
                story.answer(late, score, (rng.choice((None, rng.random())), rng.choice("ab")))
                story.truth(late, rng.choice((0.0, 1.0, None)), said(score, max(1, versions)))
        story.tick(minute)
    return story


def folded(
    stage: Stage[Watching], story: Story, cuts: list[int], *, restart: bool
) -> tuple[bytes, list[Emitted]]:
    """The end of a story taken in pieces, with a restart between them if asked for."""
    state, emitted = stage.empty(), []
    for start, stop in zip([0, *cuts], [*cuts, len(story.records)], strict=True):
        state, more = stage.step_many(state, story.records[start:stop])
        emitted += more
        if restart:
            state = stage.load(stage.dump(state))
    return stage.dump(state), emitted


cut_points = st.lists(st.integers(0, 400), max_size=6).map(sorted)


@settings(max_examples=10)
@given(st.integers(0, 1000), cut_points)
def test_batches_change_nothing(seed: int, cuts: list[int]) -> None:
    """One record at a time, any batches, and all at once end in the same bytes and the same outputs."""
    stage, story = watching(*RULES), life(seed)
    whole = folded(stage, story, [], restart=False)
    assert folded(stage, story, list(range(1, len(story.records))), restart=False) == whole
    assert folded(stage, story, [min(at, len(story.records)) for at in cuts], restart=False) == whole


@settings(max_examples=10)
@example(173, [264])  # a restart after version 10: state must not hang on the order of a dict
@given(st.integers(0, 1000), cut_points)
def test_restarts_change_nothing(seed: int, cuts: list[int]) -> None:
    """A state that was written and read back goes on as if it had never been away: replay equals live."""
    stage, story = watching(*RULES), life(seed)
    cuts = [min(at, len(story.records)) for at in cuts]
    assert folded(stage, story, cuts, restart=True) == folded(stage, story, [], restart=False)


Line = tuple[str, float, int, int]


def counted(visits: list[tuple[int, int, bool]], ticks: list[tuple[int, int]], window: int) -> list[Line]:
    """The alerts of `missing < 0.5` on two rows or more, by counting every row again at every tick.

    Minutes only. A visit is (place in the log, minute, blank), a tick (place, minute).
    """
    rows: list[tuple[int, bool]] = []
    lines: list[Line] = []
    judged, before, raised, held, left = -(10**9), 0, False, 0, list(visits)
    for place, now in ticks:
        while left and left[0][0] < place:
            _, minute, blank = left.pop(0)
            rows.append((max(minute, judged + 1), blank))
        until, before = before, max(before, now)
        if until <= max(judged, 0):
            continue
        judged = until
        inside = [blank for minute, blank in rows if until - window < minute <= until]
        if len(inside) < (1 if raised else 2):
            continue
        value = sum(inside) / len(inside)
        held = held + 1 if value < 0.5 else 0
        if (not raised and value >= 0.5) or (raised and held >= 2):
            raised = not raised
            lines.append(("raised" if raised else "cleared", value, len(inside), now))
    return lines


@given(
    st.lists(st.tuples(st.sampled_from(("visit", "blank", "late", "tick")), st.integers(0, 4)), max_size=120)
)
def test_windows_hold_what_a_plain_count_says(moves: list[tuple[str, int]]) -> None:
    """Every alert has the value, rows and time that counting each row of (until - window, until] gives."""
    story, visits, ticks, minute = Story(), [], [], 1
    for kind, more in moves:
        minute += more
        place = len(story.records)
        if kind == "tick":
            story.tick(minute)
            ticks.append((place, minute))
            continue
        at = max(1, minute - (7 if kind == "late" else 0))
        story.ask(at, None if kind != "visit" else "home")
        visits.append((place, at, kind != "visit"))
    made = alerts(watching(missing("previous_page", "12min", at_least=2) < 0.5), story)
    lines = [(one.state, one.value, one.rows, (one.t_ms - T0_MS) // MINUTE_MS) for one in made]
    assert lines == counted(visits, ticks, 12)
