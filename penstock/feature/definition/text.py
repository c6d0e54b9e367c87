"""feature: text by scikit-learn's vectorisers: how many tokens, and n-grams hashed into so many numbers.

Hashing learns nothing, so that a text has the same numbers wherever and whenever they are worked out. What learns
a vocabulary (`TfidfVectorizer`) learns it from the training rows: it is a part of the model and belongs into
`fit`, with the text itself as the feature.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Literal

from penstock.feature.definition.expression import Expression, Op, at_line, here
from penstock.record.errors import DefinitionError

Analyzer = Literal["word", "char", "char_wb"]
MOST_HASHED = 4096
OPS = ("hashed", "tokens")


def hashed(
    text: Expression, n: int, *, ngrams: tuple[int, int] = (1, 1), analyzer: Analyzer = "word"
) -> dict[str, Op]:
    """The n-grams of a text hashed into `n` numbers of length 1 together, by their places."""
    if not 0 < n <= MOST_HASHED:
        raise DefinitionError(
            f"hashed() gives 1 to {MOST_HASHED} numbers.", code="arguments", where=at_line(here())
        )
    given = _checked(ngrams, analyzer)
    return {str(i): Op(op="hashed", args=(text, n, *given, i), line=here()) for i in range(n)}


def tokens(text: Expression, *, ngrams: tuple[int, int] = (1, 1), analyzer: Analyzer = "word") -> Op:
    """How many words (or n-grams) a text has, as the vectoriser counts them: words of two letters and more."""
    return Op(op="tokens", args=(text, *_checked(ngrams, analyzer)), line=here())


def _checked(ngrams: tuple[int, int], analyzer: str) -> tuple[int, int, str]:
    low, high = ngrams
    if not 0 < low <= high or analyzer not in ("word", "char", "char_wb"):
        raise DefinitionError(
            'ngrams= is a pair such as (1, 2), analyzer= "word", "char" or "char_wb".',
            code="arguments", where=at_line(here()),
        )  # fmt: skip
    return low, high, analyzer


def version() -> str:
    """The version of scikit-learn: what it makes of a text is part of the meaning."""
    try:
        return importlib.metadata.version("scikit-learn")
    except importlib.metadata.PackageNotFoundError:
        raise DefinitionError(
            "Text needs scikit-learn.", code="not_installed", hint='pip install "penstock[sklearn]".'
        ) from None


def place(text: str, n: int, low: int, high: int, analyzer: str, i: int) -> float:
    """One of a text's numbers; all of them are worked out once."""
    return _vector(text, n, low, high, analyzer)[i]


@lru_cache(maxsize=1024)
def _vector(text: str, n: int, low: int, high: int, analyzer: str) -> list[float]:
    row = _vectoriser(n, low, high, analyzer).transform([text])
    found = [0.0] * n
    for i, value in zip(row.indices.tolist(), row.data.tolist(), strict=True):
        found[i] = value
    return found


def number(text: str, low: int, high: int, analyzer: str) -> int:
    """How many tokens."""
    return len(_analyser(low, high, analyzer)(text))


@cache
def _vectoriser(n: int, low: int, high: int, analyzer: str) -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=n, ngram_range=(low, high), analyzer=analyzer)


@cache
def _analyser(low: int, high: int, analyzer: str) -> Callable[[str], list[str]]:
    made: Callable[[str], list[str]] = _vectoriser(1, low, high, analyzer).build_analyzer()
    return made


def spelled(op: str, text: str, args: tuple[Any, ...]) -> str:
    """An operation on a text as one would write it."""
    n, rest = (args[:1], args[1:-1]) if op == "hashed" else ((), args)
    low, high, analyzer = rest
    parts = [text, *map(str, n)]
    parts += [f"ngrams=({low}, {high})"] if (low, high) != (1, 1) else []
    parts += [f'analyzer="{analyzer}"'] if analyzer != "word" else []
    return f"{op}({', '.join(parts)})" + (f'["{args[-1]}"]' if op == "hashed" else "")
