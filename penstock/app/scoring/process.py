"""app: the scoring process: one model, asked over standard input, answering over standard output."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from penstock.app.deferred import deferred
from penstock.app.pipeline import load_text
from penstock.app.place import blobs_of
from penstock.app.scoring.become import bound
from penstock.app.scoring.order import HEAD_BYTES, Rows, Scores, Scoring
from penstock.model.brought import Brought
from penstock.model.fit import answers
from penstock.model.pack import Model, load
from penstock.record.codec import pack, unpack
from penstock.record.errors import PenstockError


def main() -> None:
    """Load the model, say so with an empty answer, then answer until nothing more is asked."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the user's code prints is no answer
    bound()
    source = sys.stdin.buffer
    try:
        model = _model(msgspec.json.decode(source.readline(), type=Scoring))
        _write(out, Scores([]))
    except PenstockError as error:
        return _write(out, Scores([], error.code))
    while (data := _read(source)) is not None:
        asked = unpack(data, Rows)
        try:
            _write(out, Scores(answers(model, asked.rows)))
        except PenstockError as error:
            _write(out, Scores([], error.code))


def _model(order: Scoring) -> Model:
    blobs = blobs_of(Path(order.home))
    with deferred():
        file = load_text(blobs.get(order.code), order.path)
    model = load(blobs.get(order.digest), file.plan(order.model).pipeline.predict)
    if isinstance(
        model.fitted, Brought
    ):  # its library is loaded when it is first asked: before anybody waits
        with contextlib.suppress(PenstockError):
            answers(model, [[None] * len(model.kinds)])
    return model


def _read(source: BinaryIO) -> bytes | None:
    head = source.read(HEAD_BYTES)
    return source.read(int.from_bytes(head)) if len(head) == HEAD_BYTES else None


def _write(out: BinaryIO, said: Scores) -> None:
    data = pack(said)
    with contextlib.suppress(BrokenPipeError):
        out.write(len(data).to_bytes(HEAD_BYTES) + data)
        out.flush()


if __name__ == "__main__":
    main()
