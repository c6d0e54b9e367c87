"""app: how long a source's events are kept, and how long its models need them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from penstock.app.pressure import bytes_of
from penstock.dataset.kept import span_ms
from penstock.feature import FeatureSet
from penstock.record.codec import span
from penstock.record.errors import DefinitionError
from penstock.record.event import Source

Looking = tuple[FeatureSet, int]
"""A model's features, and how far back it trains, in milliseconds; 0: on everything."""


class Keep(msgspec.Struct, frozen=True):
    """How long a source's events are kept: by age of event time, by bytes; None: not by this."""

    age_ms: int | None = None
    size: int | None = None


def keep_of(source: Source) -> Keep:
    """A source's `keep=`, read; raises DefinitionError."""
    texts = [source.keep] if isinstance(source.keep, str) else list(source.keep)
    age, size = None, None
    for text in filter(None, texts):
        try:
            if text.rstrip().upper().endswith("B"):
                size = bytes_of(text)
            else:
                age = span(text)
        except ValueError:
            raise DefinitionError(
                f'keep="{text}" is neither an age nor a size.', code="unit", where=f"line {source.line}",
                hint='Write keep="90d", keep="10GB" or keep=("90d", "10GB").',
            ) from None  # fmt: skip
    return Keep(age, size)


def check_keep(source: Source, models: Sequence[Looking]) -> None:
    """Raise DefinitionError where a source is kept for less time than models look back."""
    keep = keep_of(source)
    needed = 0 if keep == Keep() else needed_ms(models, source.topic)
    if needed == 0:
        return
    if needed is None:
        raise DefinitionError(
            f"{source.topic} has keep=, but a model looks back over all of it.",
            code="keep", where=f"line {source.line}",
            hint="Give its features windows and its training one: train=every(..., window=...).",
        )  # fmt: skip
    if keep.age_ms is not None and keep.age_ms < needed:
        raise DefinitionError(
            f"{source.topic} is kept for less time than the models look back.",
            code="keep", where=f"line {source.line}",
            hint=f"The training window and the longest feature window need {-(-needed // 86_400_000)}d.",
        )  # fmt: skip


def needed_ms(models: Iterable[Looking], topic: str) -> int | None:
    """How far back from now models may ask for events of a topic; None: all of them."""
    needed = 0
    for features, window_ms in models:
        if topic in (features.request.topic, *features.topics):
            reach = span_ms(features, topic)
            if reach is None or not window_ms:
                return None
            needed = max(needed, reach + window_ms)
    return needed
