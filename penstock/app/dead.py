"""app: the dead letters of a log: which stand open, and the word to fold their records after all."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.log import Log
from penstock.record.decisions import AGAIN, DEAD, Again, DeadLetter, draft, read
from penstock.record.errors import NotFound, Refused
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
    log.append(drafts)
    return words
