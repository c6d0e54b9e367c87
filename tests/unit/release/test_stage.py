"""release: a version's way through shadow and canary, and back from every step."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.log.memory import MemoryLog
from penstock.record.codec import pack, unpack
from penstock.record.decisions import (
    DECISIONS,
    RELEASES,
    TICKS,
    VERDICTS,
    VERSIONS,
    Dataset,
    Decision,
    Outcome,
    Prediction,
    Profile,
    Release,
    Said,
    Tick,
    Verdict,
    Version,
    outcomes,
    predictions,
)
from penstock.record.record import START, Position, Record
from penstock.release.registry import registry
from penstock.release.route import Ref, Route, bucket
from penstock.release.stage import Releasing, release_stage, steps

HOUR_MS = 3_600_000
DATA = Dataset("t", 0, 1, START, 1, 1, "d")
STAGE = release_stage("m", steps(shadow="2h", canary=(10, 50), hold="2h", guard="4h", flips=0.3, at_least=20))


class Walk:
    """Feeds the stage records, and keeps what it writes."""

    def __init__(self) -> None:
        self.state: Releasing = STAGE.empty()
        self.records: list[Record] = []
        self.releases: list[Release] = []
        self.hour = 0

    def feed(self, topic: str, value: Any, key: str = "m") -> None:
        """One record."""
        record = Record(topic, len(self.records), "", key, 0, pack(value))
        self.records.append(record)
        self.state, made = STAGE.step_many(self.state, [record])
        self.releases += [unpack(one.value, Release) for _, one in made]

    def trained(self, n: int, decision: str = "ship") -> None:
        """A version and its verdict."""
        version = Version(
            "m", n, f"d{n}", f"i{n}", "", 0, DATA, DATA, "f", [], "c", "e", {}, 0, 1, {}, Profile(0, {}), ""
        )
        self.feed(VERSIONS, version)
        self.feed(
            VERDICTS,
            Verdict(
                "m",
                n,
                0,
                decision,
                ["r"],
                "log_loss",
                9,
                0,
                0,
                0,
                0,
                0,
                0.95,
                0,
                0,
                [],
                0,
                0,
                "",
                self.hour * HOUR_MS,
            ),  # type: ignore[arg-type]
        )

    def hours(self, n: int, mine: float = 0.6, rival: float = 0.6, *, failing: bool = False) -> None:
        """Hours of requests answered by all, with outcomes; `mine`: what the newest says of true labels."""
        for _ in range(n):
            for i in range(30):
                self.answered(f"{self.hour}-{i}", mine, rival, failing)
            self.hour += 1
            self.feed(TICKS, Tick(self.hour * HOUR_MS), "")

    def answered(self, request: str, mine: float, rival: float, failing: bool) -> None:
        """One request, answered by every version on the route; its label is true."""
        newest = max((ref.version for _, ref in self.state.route.versions()), default=0)
        said = []
        for role, ref in self.state.route.versions():
            score = mine if ref.version == newest else rival
            failed = failing and ref.version == newest
            one = Said(
                ref.version,
                role,
                role == "champion",
                None if failed else score,
                None if failed else score >= 0.5,
                "x" * failed,
            )
            said.append(one)
            made = Prediction(
                "m", ref.version, ref.digest, role, one.served, request, "e", "t", 0, 0, START, "f", [], 0,
                one.score, one.positive, one.error,
            )  # fmt: skip
            self.feed(predictions("m"), made, request)
        self.feed(outcomes("m"), Outcome("m", request, "e", 0, 0, 0, "observed", 1.0, said), request)

    @property
    def steps(self) -> list[tuple[int, str, int]]:
        """What happened: version, step, share."""
        return [(one.version, one.step, one.share) for one in self.releases]


def walked(hours: int) -> Walk:
    """v1 is champion, v2 passed the gate some hours ago."""
    walk = Walk()
    walk.trained(1)
    walk.hours(1)
    walk.trained(2)
    walk.hours(hours)
    return walk


WHOLE_WAY = [
    (1, "champion", 100),
    (2, "shadow", 0),
    (2, "canary", 10),
    (2, "canary", 50),
    (2, "champion", 100),
    (2, "settled", 100),
]


def test_the_whole_way() -> None:
    """Shadow, canary by shares, champion, settled; each after its time."""
    walk = walked(14)
    assert walk.steps == WHOLE_WAY
    assert walk.state.route == Route(champion=Ref(2, "d2"))


@pytest.mark.parametrize("hours", [1, 3, 5, 7])
def test_live_evidence_takes_it_back_at_every_step(hours: int) -> None:
    """A version whose live outcomes are worse goes, from the shadow, the canary or the championship."""
    walk = walked(hours)
    assert walk.steps[-1] == WHOLE_WAY[: {1: 2, 3: 3, 5: 4, 7: 5}[hours]][-1]
    walk.hours(6, mine=0.2, rival=0.9)
    assert walk.steps[-1] == (2, "rolled_back", 0)
    assert walk.state.route == Route(champion=Ref(1, "d1"))


def test_failures_take_it_back() -> None:
    """A version that cannot answer needs no labels to be taken back."""
    walk = walked(1)
    walk.hours(2, failing=True)
    assert walk.steps[-1][1] == "rolled_back" and "failed" in walk.releases[-1].reason


def test_too_many_flips_take_it_back() -> None:
    """A version that would change too many decisions is stopped in the shadow."""
    walk = walked(0)
    walk.hours(2, mine=0.51, rival=0.49)
    assert walk.steps[-1][1] == "rolled_back" and "decisions" in walk.releases[-1].reason


@pytest.mark.parametrize("hours", [1, 3, 7, 14])
def test_a_person_takes_it_back_from_every_state(hours: int) -> None:
    """Also after it has settled; the log says who."""
    walk = walked(hours)
    walk.feed(DECISIONS, Decision("m", "rollback", "ana", "no", walk.hour * HOUR_MS))
    assert walk.steps[-1] == (2, "rolled_back", 0) and walk.releases[-1].by == "ana"
    assert walk.state.route.champion == Ref(1, "d1") and walk.state.route.candidate is None


def test_a_person_promotes() -> None:
    """A version that the gate did not ship serves when somebody says so."""
    walk = Walk()
    walk.trained(1)
    walk.trained(2, "block")
    walk.feed(DECISIONS, Decision("m", "promote", "ana", "I know", 0, 2))
    assert walk.steps[-1] == (2, "champion", 100)
    assert walk.state.route.previous == Ref(1, "d1")


def test_a_newer_version_takes_the_shadow() -> None:
    """A candidate in the shadow is withdrawn for a newer one; one in the canary is not."""
    walk = walked(1)
    walk.trained(3)
    assert walk.steps[-2:] == [(2, "withdrawn", 0), (3, "shadow", 0)]
    walk = walked(3)
    walk.trained(3)
    assert walk.steps[-1] == (2, "canary", 10)


def test_batches_change_nothing() -> None:
    """All at once gives the same steps and the same state as one by one."""
    walk = walked(9)
    state, made = STAGE.step_many(STAGE.empty(), walk.records)
    assert [unpack(one.value, Release) for _, one in made] == walk.releases
    assert STAGE.dump(state) == STAGE.dump(walk.state)
    assert msgspec.structs.asdict(STAGE.load(STAGE.dump(state)).route) == msgspec.structs.asdict(state.route)


def test_the_canary_is_sticky_and_grows() -> None:
    """About the share of the entities, and whoever is in stays in as it grows."""
    entities = [f"e{i}" for i in range(5000)]
    ten = {e for e in entities if bucket("m", e) < 10}
    half = {e for e in entities if bucket("m", e) < 50}
    assert ten < half and 400 < len(ten) < 600 and 2350 < len(half) < 2650


def test_the_registry_is_read_at_a_position() -> None:
    """The alias `champion` is a fold, as of now or of any position before."""
    log, walk = MemoryLog(), walked(14)
    from penstock.record.decisions import draft

    for record in walk.records:
        if record.topic == VERSIONS:
            log.append([draft(VERSIONS, unpack(record.value, Version), key="m", t_ms=0)])
    for release in walk.releases:
        log.append([draft(RELEASES, release, key="m", t_ms=release.t_ms)])
    assert registry(log).champion("m").version == 2
    assert registry(log, Position(n=4)).champion("m").version == 1
    assert registry(log).version("m@v1").version == 1
