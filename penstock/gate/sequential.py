"""gate: evidence that may be looked at after every row: paired differences judged by betting.

An e-process starts at 1 and multiplies by a fair bet against the null at each row; if the null is true
it exceeds 1/alpha at any time with probability at most alpha (Ville's inequality). The bet is a mixture
over fixed fractions. Method: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 2023.
"""

from __future__ import annotations

import math

import msgspec

BETS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_LARGEST = 700.0  # the exponent at which a float ends


class Evidence(msgspec.Struct, frozen=True):
    """What paired differences in [-1, 1] say so far; positive ones speak for the candidate.

    `worse` and `better` are the log wealths of bets on a mean below and above zero, one a fraction.
    """

    n: int = 0
    total: float = 0.0
    worse: tuple[float, ...] = (0.0,) * len(BETS)
    better: tuple[float, ...] = (0.0,) * len(BETS)


def observe(evidence: Evidence, difference: float) -> Evidence:
    """The evidence after one more difference; what lies outside [-1, 1] counts as its end."""
    d = max(-1.0, min(1.0, difference))
    if d == 0.0:  # no bet wins or loses
        return Evidence(evidence.n + 1, evidence.total, evidence.worse, evidence.better)
    return Evidence(
        evidence.n + 1,
        evidence.total + d,
        tuple(w + math.log1p(-bet * d) for w, bet in zip(evidence.worse, BETS, strict=True)),
        tuple(w + math.log1p(bet * d) for w, bet in zip(evidence.better, BETS, strict=True)),
    )


def e_worse(evidence: Evidence) -> float:
    """The e-value against "the candidate is not worse": 20 is as rare as 1 in 20 when that is true."""
    return _mixture(evidence.worse)


def e_better(evidence: Evidence) -> float:
    """The e-value against "the candidate is not better"."""
    return _mixture(evidence.better)


def _mixture(wealths: tuple[float, ...]) -> float:
    return sum(math.exp(min(wealth, _LARGEST)) for wealth in wealths) / len(wealths)
