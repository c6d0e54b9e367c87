"""client: what a load came to. Every latency is kept, so that percentiles are exact."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence

import msgspec

SHARES = (0.5, 0.9, 0.99, 0.999)
SLICES = 60
"""Parts that the time is cut into for the plot."""


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds that so many per cent of the requests took at most; None without any."""

    n: int
    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    most: float | None


class Slice(msgspec.Struct, frozen=True):
    """A part of the time: what was due in it."""

    at_s: float
    answered: int
    other: int
    p50_ms: float | None
    p99_ms: float | None


class Report(msgspec.Struct, frozen=True):
    """What a load came to. `answered` counts right answers within the deadline, `goodput_per_s` is their rate;
    `refused` counts what the server would not take, by status and code; `failed` what was lost, late or never
    sent; `wrong` answers that are not what was asked. Latencies count from when a request was due; `own_late_ms`
    is how late the sender was by its own fault, and `own_cpu` the share of a core that it took."""

    seconds: float
    due: int
    answered: int
    goodput_per_s: float
    refused: dict[str, int]
    failed: dict[str, int]
    wrong: dict[str, int]
    latency_ms: Percentiles
    refusal_ms: Percentiles
    own_late_ms: Percentiles
    own_cpu: float
    over_time: list[Slice]


class Samples:
    """All that is measured while it runs."""

    def __init__(self) -> None:
        self.due_s, self.took_ms = array("d"), array("d")
        self.other_s, self.refusal_ms, self.own_late_ms = array("d"), array("d"), array("d")
        self.refused, self.failed, self.wrong = Counter[str](), Counter[str](), Counter[str]()

    def right(self, due_s: float, took_s: float) -> None:
        """An answer as it should be."""
        self.due_s.append(due_s)
        self.took_ms.append(took_s * 1000)

    def other(self, kind: Counter[str], why: str, due_s: float) -> None:
        """Anything else."""
        kind[why] += 1
        self.other_s.append(due_s)

    def report(self, seconds: float, due: int, own_cpu: float) -> Report:
        """The whole of it, over so many seconds."""
        return Report(
            seconds, due, len(self.took_ms), len(self.took_ms) / seconds,
            dict(self.refused), dict(self.failed), dict(self.wrong),
            percentiles(self.took_ms), percentiles(self.refusal_ms), percentiles(self.own_late_ms), own_cpu,
            self._over_time(seconds),
        )  # fmt: skip

    def _over_time(self, seconds: float) -> list[Slice]:
        wide = seconds / SLICES
        took: list[list[float]] = [[] for _ in range(SLICES)]
        other = [0] * SLICES
        for due_s, took_ms in zip(self.due_s, self.took_ms, strict=True):
            took[min(int(due_s / wide), SLICES - 1)].append(took_ms)
        for due_s in self.other_s:
            other[min(int(due_s / wide), SLICES - 1)] += 1
        parts = [(i * wide, percentiles(one), other[i]) for i, one in enumerate(took)]
        return [Slice(at_s, one.n, odd, one.p50, one.p99) for at_s, one, odd in parts]


def percentiles(values: Sequence[float]) -> Percentiles:
    """By nearest rank: the least value that is not below so many per cent of all."""
    ordered = sorted(values)
    if not ordered:
        return Percentiles(0, None, None, None, None, None)
    p50, p90, p99, p999 = (ordered[max(1, math.ceil(len(ordered) * share)) - 1] for share in SHARES)
    return Percentiles(len(ordered), p50, p90, p99, p999, ordered[-1])


HEIGHT = 8
"""Lines of the plot."""


def plot(slices: Sequence[Slice]) -> list[str]:
    """Latency over time as lines of text: the median and the 99th percentile of each part, on a scale of powers."""
    spans = [None if one.p50_ms is None or one.p99_ms is None else (one.p50_ms, one.p99_ms) for one in slices]
    known = [span for span in spans if span]
    if not known:
        return []
    low = max(min(p50 for p50, _ in known), 1e-3)
    step = max(max(p99 for _, p99 in known) / low, 2.0) ** (1 / (HEIGHT - 1))

    def line(ms: float) -> int:
        return max(0, round(math.log(max(ms, 1e-3) / low, step)))

    lines = []
    for i in reversed(range(HEIGHT)):
        marks = [
            " "
            if not span
            else "o"
            if line(span[0]) == i
            else ":"
            if line(span[0]) < i <= line(span[1])
            else " "
            for span in spans
        ]
        lines.append(f"{low * step**i:9.3g} ms |{''.join(marks).rstrip()}")
    odd = "".join("x" if one.other else " " for one in slices).rstrip()
    end_s = f"{slices[-1].at_s + slices[1].at_s:g} s"
    return [
        *lines,
        f"{'':13}+{'-' * len(slices)}",
        f"{'not good':>12} |{odd}",
        f"{'':14}0 s{end_s:>{len(slices) - 3}}   o median, : up to 99 %",
    ]
