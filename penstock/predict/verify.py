"""predict: every logged prediction made again from the log and the blobs, and compared bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from penstock.dataset.kept import horizon_ms
from penstock.feature import FeatureSet
from penstock.log import Log
from penstock.model.fit import told
from penstock.model.pack import Model
from penstock.predict.refold import Refold, same
from penstock.record.decisions import AGAIN, Prediction, Value, Vector, predictions, read
from penstock.record.errors import PenstockError
from penstock.record.event import Source
from penstock.record.record import Position, Record, Returned
from penstock.stage import folded


class Unequal(msgspec.Struct, frozen=True):
    """One prediction that came out otherwise: which, where, what differs."""

    id: str
    position: int
    what: str


class Verified(msgspec.Struct, frozen=True):
    """How many predictions were made again, and those that differ; of `beyond` retention has taken what they
    saw, so that only their scores were made again; of `elsewhere` another server had made the scores, which are
    no function of the log: only their features were made again."""

    predictions: int
    unequal: list[Unequal]
    beyond: int = 0
    elsewhere: int = 0


Progress = Callable[[int, int], None]


class _Sweep:
    """One pass over the log: requests read again as they come by, compared when their predictions do."""

    def __init__(self, log: Log, again: Refold, load: Callable[[str], Model]) -> None:
        self.log, self.again, self.load = log, again, load
        self.at = again.empty(lambda features: horizon_ms(log, features))
        self.group: dict[str, list[tuple[str, int, Prediction]]] = {}
        self.count = self.beyond = self.elsewhere = 0
        self.unequal: list[Unequal] = []

    def take(self, record: Record) -> None:
        """Take one record of the log's order."""
        if record.topic == predictions(self.again.model):
            self.compare(record)
        else:
            self.again.take(self.at, record)

    def compare(self, record: Record) -> None:
        """Values now; the score once the whole batch that was scored together is known."""
        said = read(record, Prediction)
        self.count += 1
        if self.again.beyond(self.at, said):
            self.beyond += 1
            return self.queue(record, said)
        values = self.again.folded(self.at, said)
        if values is None:
            values = self.long_ago(said) if said.features in self.again.sets else []
        if not same(values, said.values):
            self.unequal.append(Unequal(record.id, record.position, _which(self.again.sets, said, values)))
        if said.error == "expired" and said.t_ms >= max(one.now_ms for one in self.at.folds.values()):
            self.unequal.append(Unequal(record.id, record.position, "expired before its time"))
        self.queue(record, said)

    def long_ago(self, said: Prediction) -> list[Value]:
        """The values of a request that came by too long ago to be kept."""
        asked = self.log.read([said.source], Position(n=said.position), limit=1)[0][0]
        if said.o.n != asked.position:  # it had been buried, and came back there
            asked = Returned(**msgspec.structs.asdict(asked), again=said.o.n)
        if asked.topic == self.again.direct:
            return read(asked, Vector).values
        return self.again.past(self.again.sets[said.features], asked)

    def queue(self, record: Record, said: Prediction) -> None:
        """What was scored together is scored together."""
        group = self.group.setdefault(said.digest, [])
        if group and group[0][2].batch != said.batch:
            self.score(said.digest)
        self.group.setdefault(said.digest, []).append((record.id, record.position, said))

    def score(self, digest: str) -> None:
        """Score one batch again, in one call as it was."""
        group = self.group.pop(digest)
        able = [one for one in group if one[2].error in ("", "model_failed")]
        try:
            model = self.load(digest) if able else None
            if model is None or model.elsewhere:
                self.elsewhere += len(able)
                return
            scores = told(model, [one[2].values for one in able])
        except PenstockError as error:
            scores = [(None, "model_failed", False)] * len(able)
            if any(one[2].error == "" for one in able):
                self.unequal.append(
                    Unequal(able[0][0], able[0][1], f"the model cannot be loaded: {error.code}")
                )
                return
        for (id, position, said), (score, why, _) in zip(able, scores, strict=True):
            if not same([score], [said.score]):
                what = f"score: {why}" if why not in ("", "model_failed") else "score"
                self.unequal.append(Unequal(id, position, what))


def verify(
    log: Log,
    model: str,
    request: Source,
    sets: Mapping[str, FeatureSet],
    load: Callable[[str], Model],
    past: Callable[[FeatureSet, Record], list[Value]],
    progress: Progress = lambda done, total: None,
) -> Verified:
    """Fold the log from its start and compare every prediction of a model with what is on it.

    `sets`: every feature set that its versions were bound to, by digest.
    """
    again = Refold(model, request, sets, past)
    sweep = _Sweep(log, again, load)
    topics = sorted({*again.inputs, predictions(model), AGAIN})
    stop = log.end()
    for records, position in folded(log, f"predict.{model}", topics, stop=stop, limit=4096):
        for record in records:
            sweep.take(record)
        progress(position.n, stop.n)
    for digest in list(sweep.group):
        sweep.score(digest)
    unequal = sorted(sweep.unequal, key=lambda one: one.position)
    return Verified(sweep.count, unequal, sweep.beyond, sweep.elsewhere)


def _which(sets: Mapping[str, FeatureSet], said: Prediction, values: Sequence[Value]) -> str:
    if len(values) != len(said.values):
        return "features"
    names = sets[said.features].names
    return "feature " + next(
        n for n, a, b in zip(names, values, said.values, strict=True) if not same([a], [b])
    )
