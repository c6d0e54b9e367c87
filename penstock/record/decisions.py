"""record: the types of the records that Penstock itself writes, and the topics they lie on.

High-volume topics belong to one model (`late.predictions`); decisions of all models share a topic
and carry the model's name as their key.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from penstock.record.codec import pack, unpack
from penstock.record.errors import Broken
from penstock.record.record import Draft, Position, Record

# Topics that all models share.
TICKS = "ticks"
INTENTS = "intents"
FAILURES = "failures"
VERSIONS = "versions"
VERDICTS = "verdicts"
RELEASES = "releases"
ALERTS = "alerts"
DECISIONS = "decisions"
DEPLOYMENTS = "deployments"
DELIVERIES = "deliveries"
REFUSED = "refused"
DEAD = "dead"
AGAIN = "again"
RETENTION = "retention"
REPAIRS = "repairs"
RETRACTIONS = "retractions"
SHARED = frozenset((
    TICKS, INTENTS, FAILURES, VERSIONS, VERDICTS, RELEASES, ALERTS, DECISIONS, DEPLOYMENTS, DELIVERIES, REFUSED,
    DEAD, AGAIN, RETENTION, REPAIRS, RETRACTIONS,
))  # fmt: skip


def predictions(model: str) -> str:
    """The topic of a model's predictions."""
    return f"{model}.predictions"


def outcomes(model: str) -> str:
    """The topic of a model's outcomes."""
    return f"{model}.outcomes"


def profiles(model: str) -> str:
    """The topic of a model's live profiles, one record an hour."""
    return f"{model}.profiles"


def vectors(model: str) -> str:
    """The topic of requests that bring all feature values themselves."""
    return f"{model}.vectors"


Value = float | int | str | bool | None
"""One feature value."""


Role = Literal["champion", "candidate", "previous"]
"""What a version was to a request: the champion, the candidate tried beside it, or the champion
before, which goes on scoring until the new one has stood its guard time."""


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Time has reached `t_ms`. Horizons, schedules and rates fold ticks, never a clock."""

    t_ms: int


class Vector(msgspec.Struct, frozen=True):
    """A request that brings every feature value itself, in the order of the feature set. `request`: the id of the
    one that is scored again by it, with the values that it had then."""

    values: list[Value]
    request: str = ""


class Prediction(msgspec.Struct, frozen=True):
    """What one version said to one request, and everything needed to say it again.

    The request itself is the record `position` of topic `source`; `o` is the log position that
    its features see, `values` what they were. Requests scored in one call share `batch`, the
    position of its first request, since a linear-algebra library may round a batch differently.
    """

    model: str
    version: int
    digest: str
    role: Role
    served: bool
    request: str
    entity: str
    source: str
    position: int
    t_ms: int
    o: Position
    features: str
    values: list[Value]
    batch: int
    score: float | None
    positive: bool | None
    error: str = ""
    latency_s: float = 0.0


class Said(msgspec.Struct, frozen=True, gc=False):
    """One version's answer inside an outcome."""

    version: int
    role: Role
    served: bool
    score: float | None
    positive: bool | None
    error: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """The truth about one request, joined with what each version had said.

    `observed`: the label came in time (`label` is its number). `expired`: it did not come within the
    wait; where silence is itself the truth (a payment not charged back), `label` is 0, else null.
    `amends` marks a later truth that replaces an earlier outcome of the same request.
    """

    model: str
    request: str
    entity: str
    position: int
    t_ms: int
    known_ms: int
    state: Literal["observed", "expired"]
    label: float | None
    said: list[Said]
    amends: bool = False


class ColumnProfile(msgspec.Struct, frozen=True):
    """What one feature or output looked like in a set of rows.

    Numbers: `edges` are the inner quantile edges, ascending and distinct, `shares` the share of the
    non-missing rows in each of the len(edges) + 1 cells (a value equal to an edge lies below it).
    Categories: `categories` are the most frequent ones as text, `shares` has one more cell for the rest.
    """

    kind: Literal["number", "category"]
    missing: float
    edges: list[float] = []
    categories: list[str] = []
    shares: list[float] = []
    mean: float | None = None


class Profile(msgspec.Struct, frozen=True):
    """Statistics of rows: the training rows of a version, or an hour of its life."""

    rows: int
    columns: dict[str, ColumnProfile]


class Dataset(msgspec.Struct, frozen=True):
    """The rows of a training or a test: requests of `source` in a range of request times, seen at `o`.

    `digest` is over the rows themselves (request ids, values, labels), in order.
    """

    source: str
    from_ms: int
    to_ms: int
    o: Position
    rows: int
    positives: int
    digest: str


class Intent(msgspec.Struct, frozen=True):
    """Something a worker shall do: today always `train`. The result comes back under `id`."""

    id: str
    kind: Literal["train"]
    model: str
    version: int
    reason: str
    t_ms: int
    o: Position
    params: dict[str, Any]
    seed: int
    champion: int = 0


class Failure(msgspec.Struct, frozen=True):
    """An intent that could not be carried out."""

    intent: str
    model: str
    version: int
    t_ms: int
    code: str
    note: str


class Version(msgspec.Struct, frozen=True):
    """A checkpoint of a model: its bytes by digest, and all that made them.

    `evaluation` is the digest of an `Evaluation` blob: the candidate and the champion on the same
    held-out rows; `form` that of what scores in the model's place, tried on `form_rows` rows. `form_kind` is its
    kind; without one "program" where the bytes are a program's, or "elsewhere" where answers come from a server
    and are no function of the log. Seconds and bytes are measurements; everything else is the same in a rebuild.
    """

    model: str
    version: int
    digest: str
    intent: str
    reason: str
    t_ms: int
    training: Dataset
    holdout: Dataset
    features: str
    names: list[str]
    code: str
    environment: str
    params: dict[str, Any]
    seed: int
    threads: int
    metrics: dict[str, float]
    profile: Profile
    evaluation: str
    champion: int = 0
    size_bytes: int = 0
    train_s: float = 0.0
    form: str = ""
    form_kind: str = ""
    form_difference: float = 0.0
    form_rows: int = 0


class Evaluation(msgspec.Struct, frozen=True):
    """Two sets of answers on the same held-out rows: the gate's evidence. A blob, named by digest.

    Lists have one item a row, in request order. `champion` is empty when there is none; `baseline`
    is then the constant that knows only the training rows' mean label.
    """

    kind: Literal["binary", "number"]
    labels: list[float]
    candidate: list[float | None]
    champion: list[float | None]
    baseline: float
    slices: dict[str, list[str]]
    candidate_latency_s: list[float]
    champion_latency_s: list[float]
    candidate_bytes: int
    champion_bytes: int
    t_ms: list[int]


class SliceResult(msgspec.Struct, frozen=True):
    """The paired difference (positive: the candidate is better) on one slice of the rows."""

    column: str
    value: str
    rows: int
    candidate: float
    champion: float
    difference: float
    low: float
    high: float
    p_worse: float
    worse: bool


class Verdict(msgspec.Struct, frozen=True):
    """What the gate says of a version, with its numbers.

    `difference` is the mean paired improvement in the metric's loss with a `level` interval; `needs`
    is the number of further rows after which an inconclusive test would probably decide.
    """

    model: str
    version: int
    against: int
    decision: Literal["ship", "block", "inconclusive"]
    reasons: list[str]
    metric: str
    rows: int
    candidate: float
    champion: float
    difference: float
    low: float
    high: float
    level: float
    p_value: float
    needs: int
    slices: list[SliceResult]
    p99_s: float
    size_bytes: int
    evaluation: str
    t_ms: int


ReleaseStep = Literal["shadow", "canary", "champion", "settled", "withdrawn", "rolled_back"]


class Release(msgspec.Struct, frozen=True):
    """One step of a version towards serving, or away from it. The fold of these is the route.

    `shadow`: scores beside the champion, answers nobody. `canary`: answers `share` percent of the
    entities. `champion`: answers all. `withdrawn`: a newer candidate takes its place. `settled`: the
    champion has stood its guard time and `previous` stops scoring. `rolled_back`: the version is
    taken out of service by evidence or by a person; `restored` is the champion from here on.
    """

    model: str
    version: int
    digest: str
    step: ReleaseStep
    share: int
    reason: str
    by: str
    t_ms: int
    evidence: dict[str, float] = {}
    verdict: str = ""
    restored: int = 0
    restored_digest: str = ""


class Decision(msgspec.Struct, frozen=True):
    """What a person asked for."""

    model: str
    kind: Literal["train", "promote", "rollback"]
    who: str
    reason: str
    t_ms: int
    version: int = 0
    params: dict[str, Any] = {}


class Alert(msgspec.Struct, frozen=True):
    """A rule that broke, or holds again."""

    model: str
    rule: str
    state: Literal["raised", "cleared"]
    value: float
    bound: float
    window_ms: int
    rows: int
    t_ms: int


class Hour(msgspec.Struct, frozen=True):
    """A model's life in one hour of event time: what the charts are drawn from.

    `versions` holds, by version number as text, sums over the outcomes that became known in the
    hour: rows, loss (log loss or squared error), wrong, positives. `drift` is the population
    stability index of the last day by column against the champion's training profile, every sixth hour.
    """

    model: str
    from_ms: int
    to_ms: int
    requests: int
    served: int
    positives: int
    errors: int
    latency_p50_s: float
    latency_p99_s: float
    missing: dict[str, float]
    means: dict[str, float]
    drift: dict[str, float]
    versions: dict[str, dict[str, float]]


class Deployment(msgspec.Struct, frozen=True):
    """A pipeline file that was brought up: which code, by digest, declares which models, and into how
    many shares answering is divided."""

    path: str
    code: str
    models: dict[str, str]
    t_ms: int
    shares: int = 1


class Delivery(msgspec.Struct, frozen=True):
    """What a webhook answered to an alert."""

    alert: str
    status: int
    t_ms: int


class Refusal(msgspec.Struct, frozen=True):
    """Events of one append that were not taken for one reason: where they were meant to go, and why,
    without their content. `note` is the first one's, `count` how many they are."""

    topic: str
    code: str
    note: str
    t_ms: int
    count: int = 1


class DeadLetter(msgspec.Struct, frozen=True):
    """A record on the log that a stage could not take, which it left out and went on.

    `o` is where the stage met it: its own position, or that of the `Again` that brought it back in vain.
    `id` and `key` are masked where they are personal; `sample` tells fields and their types, no value.
    """

    stage: str
    topic: str
    position: int
    o: int
    id: str
    key: str
    code: str
    note: str
    sample: str
    t_ms: int


class Again(msgspec.Struct, frozen=True):
    """The word to fold a dead letter's record after all, now, in the stages that had buried it."""

    topic: str
    position: int
    stages: list[str]
    who: str
    t_ms: int


class Retraction(msgspec.Struct, frozen=True):
    """The word that an event is taken back: features do not count it from here on. `position`: the place from
    which on it counted; `value`: its bytes, by which a fold finds whose it was."""

    topic: str
    id: str
    position: int
    time_ms: int
    value: bytes


S = TypeVar("S", bound=msgspec.Struct)


def draft(topic: str, value: msgspec.Struct, *, key: str, t_ms: int, id: str = "") -> Draft:
    """A draft of one of Penstock's own records."""
    return Draft(topic=topic, key=key, time_ms=t_ms, value=pack(value), id=id)


def read(record: Record, type_: type[S]) -> S:
    """The value of one of Penstock's own records; raises Broken where it has another shape."""
    try:
        return unpack(record.value, type_)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        where = f"{record.topic}@{record.position}"
        raise Broken(f"The record is not a {type_.__name__}: {error}.", where=where) from None
