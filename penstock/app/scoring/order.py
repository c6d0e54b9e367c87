"""app: what a scoring process is given, asked and answers."""

from __future__ import annotations

import msgspec

from penstock.record.decisions import Value


class Scoring(msgspec.Struct, frozen=True):
    """Which model to score: its bytes by digest, and the code and name that it was trained by."""

    home: str
    digest: str
    code: str
    path: str
    model: str


class Rows(msgspec.Struct, frozen=True, array_like=True):
    """A batch."""

    rows: list[list[Value]]


class Scores(msgspec.Struct, frozen=True, array_like=True):
    """What a model says of each row; null where it fails. `code`: why it says nothing at all."""

    scores: list[float | None]
    code: str = ""


HEAD_BYTES = 4
"""Every message goes behind its length."""
