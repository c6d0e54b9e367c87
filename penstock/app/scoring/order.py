"""app: what a scoring process is given, asked and answers, and within which bounds."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import msgspec

from penstock.record.decisions import Value

Row = Sequence[Value]


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
    """What a model says of each row; null where it fails. `code`: why it says nothing at all. `alone`: each row was
    asked by itself."""

    scores: list[float | None]
    code: str = ""
    alone: bool = False


HEAD_BYTES = 4
"""Every message goes behind its length."""


class Limits(msgspec.Struct, frozen=True):
    """`start_s`: to load; `batch_s`: for one batch; `tries_s`: for a batch tried row by row; `most_bytes`: of
    memory, of all processes together, beyond which one is replaced; after `strikes` falls in a row nothing is asked
    for `rest_s`; a row that a process fell over is not asked again for `known_s`."""

    start_s: float = 60.0
    batch_s: float = 5.0
    tries_s: float = 8.0
    most_bytes: int = 2 << 30
    strikes: int = 3
    rest_s: float = 5.0
    known_s: float = 30.0


class Fell(Exception):
    """There is no answer: a process died, or took too long, or a server is away. `code` says which; `whole`: row by
    row it would be no better; `later` has the answer that comes after all, or None where none does."""

    def __init__(self, code: str, *, whole: bool = False, later: Future[Scores | None] | None = None) -> None:
        super().__init__(code)
        self.code, self.whole, self.later = code, whole, later
