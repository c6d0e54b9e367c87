"""cli: the verb that writes a training set."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path

from penstock.app.dataset import write
from penstock.app.home import open_home
from penstock.app.pipeline import File, load
from penstock.cli import show
from penstock.record.codec import millis
from penstock.record.errors import Refused


def dataset(given: argparse.Namespace) -> int:
    """Write the rows that a model would be trained on now."""
    file, home = load(given.file), open_home(Path(given.home))
    plan = file.plan(given.model or _only(file))
    try:
        with show.bar("rows", quiet=given.json) as progress:
            made = write(home.log, plan, Path(given.out), from_ms=_since_ms(given.since), progress=progress)
    finally:
        home.log.close()
    if given.json:
        show.as_json(made)
    else:
        print(
            f"dataset: {made.path} holds {made.rows} rows of {made.model} ({made.positives} positive) and "
            f"{len(made.columns)} columns, {made.size_bytes / 1e6:.1f} MB, as known below position {made.o}"
        )
    return 0


def _only(file: File) -> str:
    if len(file.plans) == 1:
        return next(iter(file.plans))
    raise Refused(
        f"The file has several models: {', '.join(file.plans)}.",
        code="which_model",
        hint="Name one: --model.",
    )


def _since_ms(text: str) -> int:
    try:
        return millis(datetime.fromisoformat(text)) if text else -sys.maxsize
    except ValueError:
        raise Refused(
            "--from takes a time such as 2026-01-01 or 2026-01-01T12:00.", code="arguments"
        ) from None
