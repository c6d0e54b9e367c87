"""feature: text by scikit-learn's vectorisers: their numbers, once a text, and their version in the meaning."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from penstock.feature import Fold, compile, hashed, mean, source, tokens
from penstock.feature.definition import text
from penstock.record.errors import DefinitionError
from penstock.record.event import Event, key
from penstock.record.record import Record

pytest.importorskip("sklearn")


class Review(Event):
    review_id: str
    buyer: str = key()
    at: datetime
    words: str | None


review = source(Review, id="review_id", time="at")
SAID = [
    "Good, very good!",
    "Nicht gut.",
    "good good good bad",
    "",
    "\u00fcber \u4f60\u597d \u4f60\u597d",
    None,
]


def values(definitions: dict[str, Any], words: str | None) -> list[Any]:
    """The features of one request."""
    fold = Fold(compile(list(definitions.values()), review, definitions))
    row = {"review_id": "r", "buyer": "b", "at": datetime(2024, 1, 1, tzinfo=UTC), "words": words}
    made = review.draft(Review(**row))
    return fold.read(Record(made.topic, 0, made.id, made.key, made.time_ms, made.value))


@pytest.mark.parametrize("words", SAID)
@pytest.mark.parametrize(("ngrams", "analyzer"), [((1, 1), "word"), ((1, 2), "word"), ((2, 4), "char_wb")])
def test_the_numbers_are_the_vectorisers(words: str | None, ngrams: Any, analyzer: Any) -> None:
    """A family of n features holds what HashingVectorizer says of the text; of no text they are null."""
    from sklearn.feature_extraction.text import HashingVectorizer

    found = values({"w": hashed(review.words, 16, ngrams=ngrams, analyzer=analyzer)}, words)
    if words is None:
        assert found == [None] * 16
    else:
        given = HashingVectorizer(n_features=16, ngram_range=ngrams, analyzer=analyzer)
        assert found == given.transform([words]).toarray()[0].tolist()


def test_a_text_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a member of the family."""
    asked = []
    real = text._vectoriser
    monkeypatch.setattr(text, "_vectoriser", lambda *given: asked.append(given) or real(*given))
    assert (
        len(values({"w": hashed(review.words, 64, ngrams=(1, 3))}, "a text that nobody has seen yet")) == 64
    )
    assert len(asked) == 1


def test_tokens_are_counted_as_the_vectoriser_counts() -> None:
    """Words of two letters and more; of events, too."""
    assert values({"n": tokens(review.words)}, "I am a Good good man") == [4]
    assert values({"n": tokens(review.words, ngrams=(1, 2))}, "one two three") == [5]
    usual = mean(tokens(review.words), window="1d")
    assert (
        compile([usual], review, {"usual": usual}).about["usual"].text
        == 'mean(tokens(review.words), window="1d")'
    )


def test_the_version_is_part_of_the_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another scikit-learn may say otherwise, so it makes another set; one without text does not care."""

    def digests() -> list[str]:
        listed = (hashed(review.words, 4), tokens(review.words), review.words.length())
        return [compile([one], review, {"w": one}).digest for one in listed]

    before = digests()
    monkeypatch.setattr(text, "version", lambda: "99.0")
    after = digests()
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True]


def test_a_member_is_spelled_as_it_is_taken() -> None:
    """So that it can be pasted."""
    words = hashed(review.words, 4, ngrams=(1, 2), analyzer="char")
    about = compile([words], review, {"w": words}).about["w_3"]
    assert about.text == 'hashed(review.words, 4, ngrams=(1, 2), analyzer="char")["3"]'
    assert words["3"] is words.members["3"]


@pytest.mark.parametrize("given", [{"n": 0}, {"n": 5000}, {"ngrams": (2, 1)}, {"analyzer": "letters"}])
def test_a_mistake_is_told(given: dict[str, Any]) -> None:
    """Where it is made."""
    with pytest.raises(DefinitionError) as caught:
        hashed(review.words, **{"n": 4, **given})
    assert caught.value.code == "arguments" and caught.value.where.startswith("line ")
