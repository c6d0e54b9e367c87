"""client: when to send again: what is safe to repeat, after a pause, within the deadline and a budget.

Source of the pause: exponential with full jitter (Brooker, "Exponential Backoff And Jitter", 2015); of the
budget: a share of all calls, as in gRPC's retry throttling.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import msgspec

from penstock.client.wire import Lost, Reply, Request

NOT_DONE = (429,)
"""Statuses after which nothing was done: any request may be sent again."""
UNKNOWN = (502, 503, 504, 507)
"""Statuses after which it may have been done: what is safe to repeat may be sent again."""
Outcome = Reply | Lost


class Policy(msgspec.Struct, frozen=True):
    """How often and when. Each call earns `share` of a repeat; at most `burst` of them are saved up.
    The n-th pause is drawn between 0 and `first_s` * 2^n, `most_s` at most, on top of Retry-After."""

    tries: int = 4
    first_s: float = 0.05
    most_s: float = 2.0
    share: float = 0.1
    burst: float = 10.0


class Send(msgspec.Struct, frozen=True):
    """Send this now, and wait so long for the reply."""

    request: Request
    timeout_s: float


class Wait(msgspec.Struct, frozen=True):
    """Wait so long."""

    seconds: float


class Budget:
    """Repeats that are left, for all calls of a client together: a server that is down is not hammered."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self.left = policy, policy.burst

    def earn(self) -> None:
        """A call begins."""
        self.left = min(self._policy.burst, self.left + self._policy.share)

    def spend(self) -> bool:
        """Take a repeat, if one is left."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


Tries = Generator[Send | Wait, Outcome | None, Outcome]


def tries(
    request: Request,
    timeout_s: float,
    policy: Policy,
    budget: Budget,
    clock: Callable[[], float],
    chance: Callable[[], float],
) -> Tries:
    """What to do, step by step, until there is an outcome to live with: send in what each step's sending
    came to. `clock` gives seconds, `chance` numbers in [0, 1)."""
    until = clock() + timeout_s
    budget.earn()
    n = 0
    while True:
        outcome = yield Send(request, max(0.0, until - clock()))
        assert outcome is not None
        pause_s = retry_after(outcome) + chance() * min(policy.most_s, policy.first_s * 2**n)
        in_time = clock() + pause_s < until
        n += 1
        if n == policy.tries or not repeatable(request, outcome) or not in_time or not budget.spend():
            return outcome
        yield Wait(pause_s)


def repeatable(request: Request, outcome: Outcome) -> bool:
    """Whether a request that came to this may be sent again."""
    if isinstance(outcome, Lost):
        return not outcome.late and (request.safe or not outcome.sent)
    return outcome.status in NOT_DONE or (request.safe and outcome.status in UNKNOWN)


def retry_after(outcome: Outcome) -> float:
    """The seconds that a reply asks to wait; 0 where it names none, or a date."""
    text = "" if isinstance(outcome, Lost) else outcome.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0
