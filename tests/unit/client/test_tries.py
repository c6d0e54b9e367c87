"""client: the law of repeats, whatever comes: within tries, deadline and budget, and never what is not safe."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.client.tries import NOT_DONE, UNKNOWN, Budget, Policy, Send, tries
from penstock.client.wire import Lost, Reply, Request

OUTCOMES = st.one_of(
    st.builds(Lost, sent=st.booleans(), late=st.booleans()),
    st.builds(
        Reply,
        st.sampled_from([200, 400, 404, 422, 429, 500, 502, 503, 504, 507]),
        st.sampled_from([{}, {"retry-after": "3"}, {"retry-after": "soon"}]),
        st.just(b""),
    ),
)


@given(
    st.lists(st.tuples(OUTCOMES, st.floats(0, 4)), min_size=6, max_size=6),
    st.booleans(),
    st.floats(0.1, 20),
    st.floats(0, 5),
    st.floats(0, 0.999),
)
def test_repeats(coming: list[Any], safe: bool, timeout_s: float, left: float, chance: float) -> None:
    """No send after the deadline, no more than the tries, none that the budget lacks, each after the pause that
    was asked for, and only where it is safe."""
    policy, now = Policy(), 0.0
    budget = Budget(policy)
    budget.left = left
    walk = tries(Request("POST", "/", safe=safe), timeout_s, policy, budget, lambda: now, lambda: chance)
    sends, step = 0, next(walk)
    try:
        while True:
            assert isinstance(step, Send) and now < timeout_s and step.timeout_s == timeout_s - now
            outcome, took = coming[sends]
            sends += 1
            now += took
            step = walk.send(outcome)
            assert not isinstance(step, Send)
            if isinstance(outcome, Reply):
                assert outcome.status in NOT_DONE or (safe and outcome.status in UNKNOWN)
                assert step.seconds >= (3 if outcome.headers.get("retry-after") == "3" else 0)
            else:
                assert not outcome.late and (safe or not outcome.sent)
            assert now + step.seconds < timeout_s
            now += step.seconds
            step = walk.send(None)
    except StopIteration as done:
        settled = done.value
    assert settled is coming[sends - 1][0]
    assert sends <= policy.tries and sends - 1 <= left + policy.share
