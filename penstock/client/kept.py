"""client: what is kept of a scoring until all of it is there: beside a file, or beside a table."""

from __future__ import annotations

import msgspec

COLUMNS = ("score", "positive", "version", "prediction_id", "error")
"""What is written of each answer, behind the row's own id."""


class Kept(msgspec.Struct, frozen=True):
    """What the answers that lie beside the result belong to: the rows by their digest, their ids' type, and how
    they were asked about."""

    digest: str
    ids: str
    model: str
    id: str
    size: int


class Told(msgspec.Struct, frozen=True):
    """The answers that are kept: how many, how many of them without a score, the scores' least, mean and greatest."""

    rows: int
    failed: int
    least: float | None
    mean: float | None
    most: float | None
