"""gate: the stage: each new version is judged, once, by what lies on the log and in its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from penstock.gate.judge import judge
from penstock.gate.spec import Gate
from penstock.record.codec import unpack
from penstock.record.decisions import VERDICTS, VERSIONS, Evaluation, Version, draft, read
from penstock.record.record import Draft, Record
from penstock.stage import Stage, stage


class Judged(msgspec.Struct, frozen=True):
    """The stage's state: how many verdicts of each kind there were."""

    verdicts: dict[str, int] = {}


def gate_stage(gates: Mapping[str, Gate], get: Callable[[str], bytes]) -> Stage[Judged]:
    """The stage `gate`. `get` reads a blob: bytes named by digest never change, so a step may."""

    def step(state: Judged, record: Record) -> tuple[Judged, list[Draft]]:
        version = read(record, Version)
        if version.model not in gates:
            return state, []
        evaluation = unpack(get(version.evaluation), Evaluation)
        verdict = judge(version, evaluation, gates[version.model])
        counted = {**state.verdicts, verdict.decision: state.verdicts.get(verdict.decision, 0) + 1}
        return Judged(counted), [draft(VERDICTS, verdict, key=version.model, t_ms=version.t_ms)]

    return stage("gate", (VERSIONS,), Judged, step)
