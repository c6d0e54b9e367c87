"""gate: the judgement: a version's evaluation against what the user asked, in a verdict with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from penstock.gate.paired import LEAST_ROWS, Floats, Paired, compare, compare_auc, holm, losses, rows_needed
from penstock.gate.spec import Gate
from penstock.record.decisions import Evaluation, SliceResult, Verdict, Version

Decision = Literal["ship", "block", "inconclusive"]
_PROBABILITIES = ("log_loss", "brier", "accuracy", "roc_auc")


def judge(version: Version, evaluation: Evaluation, gate: Gate) -> Verdict:
    """Ship, block or inconclusive. Without a champion the rival is the training rows' mean label."""
    paired, doubt = _overall(evaluation, gate)
    slices = _slices(evaluation, gate) if paired.rows >= LEAST_ROWS else []
    p99_s = percentile(evaluation.candidate_latency_s, 99)
    blocks = (
        _against(gate, paired, slices, p99_s, evaluation.candidate_bytes, version.champion)
        if not doubt
        else []
    )
    decision, reasons = _decide(gate, paired, doubt, blocks, version.champion)
    return Verdict(
        model=version.model,
        version=version.version,
        against=version.champion,
        decision=decision,
        reasons=reasons,
        metric=gate.metric,
        rows=paired.rows,
        candidate=paired.candidate,
        champion=paired.champion,
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        level=gate.level,
        p_value=paired.p_value,
        needs=rows_needed(paired, gate.level) if decision == "inconclusive" and not doubt else 0,
        slices=slices,
        p99_s=p99_s,
        size_bytes=evaluation.candidate_bytes,
        evaluation=version.evaluation,
        t_ms=version.t_ms,
    )


def rival_scores(evaluation: Evaluation) -> Sequence[float | None]:
    """The champion's answers, or the baseline's where there is no champion."""
    return evaluation.champion or [evaluation.baseline] * len(evaluation.labels)


def percentile(values: Sequence[float], share: float) -> float:
    """A percentile; 0.0 of nothing."""
    return float(np.percentile(values, share)) if values else 0.0


def _overall(evaluation: Evaluation, gate: Gate) -> tuple[Paired, str]:
    """The test on all rows, and why it cannot be held, if so."""
    labels, rows = evaluation.labels, len(evaluation.labels)
    none = Paired(rows, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    if rows < LEAST_ROWS:
        return (
            none,
            f"Only {rows} labelled rows that neither version was trained on; {LEAST_ROWS} are needed.",
        )
    if gate.metric in _PROBABILITIES and evaluation.kind != "binary":
        return none, f"{gate.metric} needs labels that are true or false; these are numbers."
    if gate.metric == "roc_auc" and len(set(labels)) < 2:
        return none, "All labels of the held-out rows are the same."
    return _test(evaluation, gate, range(rows), gate.margin), ""


def _test(evaluation: Evaluation, gate: Gate, rows: Sequence[int], margin: float) -> Paired:
    labels = [evaluation.labels[i] for i in rows]
    mine = [evaluation.candidate[i] for i in rows]
    rival = rival_scores(evaluation)
    other = [rival[i] for i in rows]
    if gate.metric == "roc_auc" and len(set(labels)) == 2:
        return compare_auc(labels, _ranked(mine), _ranked(other), gate.level, margin)
    metric = "brier" if gate.metric == "roc_auc" else gate.metric
    return compare(metric, losses(metric, labels, mine), losses(metric, labels, other), gate.level, margin)


def _ranked(scores: Sequence[float | None]) -> Floats:
    """A row without a score ranks in the middle: it says nothing."""
    return np.array([0.5 if score is None else score for score in scores], dtype=np.float64)


def _slices(evaluation: Evaluation, gate: Gate) -> list[SliceResult]:
    """The same test on every slice with enough rows; "worse" is corrected for their number (Holm)."""
    found: list[tuple[str, str, Paired]] = []
    for column, values in evaluation.slices.items():
        for value in sorted(set(values)):
            rows = [i for i, one in enumerate(values) if one == value]
            if len(rows) >= LEAST_ROWS:
                found.append((column, value, _test(evaluation, gate, rows, gate.slice_margin)))
    adjusted = holm([one.p_worse for _, _, one in found])
    return [
        SliceResult(
            column,
            value,
            p.rows,
            p.candidate,
            p.champion,
            p.difference,
            p.low,
            p.high,
            p_worse,
            p_worse < 1 - gate.level,
        )
        for (column, value, p), p_worse in zip(found, adjusted, strict=True)
    ]


def _against(
    gate: Gate, paired: Paired, slices: Sequence[SliceResult], p99_s: float, size_bytes: int, champion: int
) -> list[str]:
    """Every reason to block."""
    said = [
        f"On {one.column}={one.value} it is worse by {-one.difference:.4f} ({one.rows} rows)."
        for one in slices
        if one.worse
    ]
    if paired.high < -gate.margin:
        said.insert(
            0,
            f"{gate.metric} is worse than {_rival(champion)} by {-paired.difference:.4f} {_range(gate, paired)}.",
        )
    if gate.p99_s and p99_s > gate.p99_s:
        said.append(
            f"A single row takes {p99_s * 1000:.1f} ms at the 99th percentile; {gate.p99_s * 1000:g} ms are allowed."
        )
    if gate.size_bytes and size_bytes > gate.size_bytes:
        said.append(f"It has {size_bytes / 1e6:.1f} MB; {gate.size_bytes / 1e6:g} MB are allowed.")
    return said


def _decide(
    gate: Gate, paired: Paired, doubt: str, blocks: list[str], champion: int
) -> tuple[Decision, list[str]]:
    if doubt:
        return "inconclusive", [doubt]
    if blocks:
        return "block", blocks
    if paired.low > (0.0 if gate.strict else -gate.margin):
        word = "better" if paired.difference >= 0 else "not worse by more than the margin"
        return "ship", [
            f"{gate.metric} is {word} than {_rival(champion)}: {paired.difference:+.4f} {_range(gate, paired)}."
        ]
    needs = rows_needed(paired, gate.level)
    more = f"about {needs} more rows would decide" if needs < 10_000_000 else "no number of rows would decide"
    return "inconclusive", [
        f"{gate.metric} differs by {paired.difference:+.4f} {_range(gate, paired)}; {more}."
    ]


def _rival(champion: int) -> str:
    return f"v{champion}" if champion else "the mean label"


def _range(gate: Gate, paired: Paired) -> str:
    return f"({gate.level:.0%} interval {paired.low:+.4f} to {paired.high:+.4f}, {paired.rows} rows)"
