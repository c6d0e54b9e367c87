"""app: the dead letters of a log: which stand open, and the word to fold their records after all."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.log import Log
from penstock.predict.answers import again_id
from penstock.predict.stage import SCORING
from penstock.record.codec import pack
from penstock.record.decisions import (
    AGAIN,
    DEAD,
    Again,
    DeadLetter,
    Prediction,
    Vector,
    draft,
    predictions,
    read,
    vectors,
)
from penstock.record.errors import NotFound, Refused
from penstock.record.record import Draft, Position, output_id
from penstock.release.registry import registry
from penstock.stage import every


def letters(log: Log) -> list[DeadLetter]:
    """The dead letters that stand open, without an `Again` after them, in the order of their records."""
    standing: dict[tuple[int, str], DeadLetter] = {}
    for record in every(log, [DEAD, AGAIN]):
        if record.topic == DEAD:
            letter = read(record, DeadLetter)
            standing[letter.position, letter.stage] = letter
        else:
            word = read(record, Again)
            for name in word.stages:
                standing.pop((word.position, name), None)
    return [standing[place] for place in sorted(standing)]


def again(log: Log, places: Sequence[str], who: str, now_ms: int) -> list[Again]:
    """Bring records back to the stages that have buried them; `places` are TOPIC@POSITION (none: all).

    Raises NotFound where no dead letter stands open, Refused where retention has dropped the record.
    Asked twice at once, it is said once.
    """
    standing: dict[str, list[DeadLetter]] = {}
    for letter in letters(log):
        standing.setdefault(f"{letter.topic}@{letter.position}", []).append(letter)
    strange = next((place for place in places if place not in standing), "")
    if strange:
        raise NotFound(
            "No dead letter stands open there.", where=strange[:80], hint="`penstock dead` lists them."
        )
    words, drafts = [], []
    for place in places or list(standing):
        mine = standing[place]
        topic, position = mine[0].topic, mine[0].position
        if position < log.first(topic).n:
            raise Refused("Retention has dropped the record.", where=place, code="log_passed")
        word = Again(topic, position, sorted(one.stage for one in mine), who, now_ms)
        words.append(word)
        id = f"{AGAIN}:{place}:{max(one.o for one in mine)}:{','.join(word.stages)}"
        drafts.append(draft(AGAIN, word, key=topic, t_ms=now_ms, id=id))
        drafts += [_scored_again(log, one, place) for one in mine if one.stage.startswith(SCORING)]
    log.append(drafts)
    return words


def _scored_again(log: Log, letter: DeadLetter, place: str) -> Draft:
    """The request that no score came of, once more: with the values that it had, for features it changes nothing."""
    model = letter.stage.removeprefix(SCORING)
    (asked, *_), _ = log.read([letter.topic], Position(n=letter.position), limit=1)
    found = log.find(predictions(model), output_id(f"predict.{model}", letter.topic, letter.position, 0))
    assert found is not None  # it stands on the log by the same commit as the letter
    said = read(found, Prediction)
    entry = registry(log).models[model]
    champion = entry.route.champion
    if champion is None or entry.versions[champion.version].features != said.features:
        raise Refused(
            "The champion sees other features than this request had.", where=place, code="features",
            hint="Append it again, under another id.",
        )  # fmt: skip
    value, id = pack(Vector(said.values, said.request)), again_id(letter.topic, letter.position)
    return Draft(vectors(model), asked.key, asked.time_ms, value, id, asked.headers)
