"""gate: the report: a verdict and its evidence as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from penstock.chart import calibration, forest
from penstock.gate.judge import percentile, rival_scores
from penstock.record.codec import moment
from penstock.record.decisions import Evaluation, Verdict, Version

if TYPE_CHECKING:
    import jinja2

BINS = 10


@cache
def _template() -> jinja2.Template:
    import jinja2

    loader = jinja2.PackageLoader("penstock.gate")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["time"] = lambda time_ms: f"{moment(time_ms):%Y-%m-%d %H:%M}"
    environment.filters["ms"] = lambda seconds: f"{seconds * 1000:.2f} ms"
    environment.filters["bytes"] = lambda n: f"{n / 1000:,.1f} kB"
    return environment.get_template("report.html")


def report(version: Version, verdict: Verdict, evaluation: Evaluation) -> str:
    """The page of one verdict. Nothing in it comes from outside, and it needs no script."""
    rival = f"v{verdict.against}" if verdict.against else "the mean label"
    rows = [("all rows", verdict.difference, verdict.low, verdict.high)]
    rows += [(f"{one.column} = {one.value}", one.difference, one.low, one.high) for one in verdict.slices]
    bins = bins_of(evaluation.labels, evaluation.candidate) if evaluation.kind == "binary" else []
    return _template().render(
        version=version,
        verdict=verdict,
        rival=rival,
        forest=Markup(
            forest(
                rows, title=f"{verdict.metric}: how much better than {rival} ({verdict.level:.0%} intervals)"
            )
        ),
        bins=bins,
        rival_bins=bins_of(evaluation.labels, rival_scores(evaluation)) if bins else [],
        calibration=Markup(calibration(bins, title="Calibration: said and was")) if bins else "",
        speeds=[_speed(f"v{version.version}", evaluation.candidate_latency_s, evaluation.candidate_bytes)]
        + (
            [_speed(rival, evaluation.champion_latency_s, evaluation.champion_bytes)]
            if evaluation.champion
            else []
        ),
        failed=sum(score is None for score in evaluation.candidate),
    )


def bins_of(labels: Sequence[float], scores: Sequence[float | None]) -> list[tuple[float, float, int]]:
    """Bins of equal count by score: mean score, observed share, rows."""
    pairs = sorted((score, label) for score, label in zip(scores, labels, strict=True) if score is not None)
    parts = np.array_split(np.array(pairs), min(BINS, len(pairs))) if pairs else []
    return [(float(part[:, 0].mean()), float(part[:, 1].mean()), len(part)) for part in parts]


def _speed(name: str, latencies: Sequence[float], size: int) -> dict[str, Any]:
    return {"name": name, "bytes": size, **{f"p{p}": percentile(latencies, p) for p in (50, 90, 99)}}
