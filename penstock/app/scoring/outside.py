"""app: a model that scores outside of Python, made ready to be asked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import msgspec

from penstock.app.scoring.apart import PATIENT, Apart
from penstock.app.scoring.line import line
from penstock.app.scoring.order import Limits
from penstock.app.scoring.piped import Speech
from penstock.app.scoring.pool import Pool
from penstock.model.outside import Endpoint, Program
from penstock.model.pack import Model


def scorer(
    model: Model,
    limits: Limits = PATIENT,
    noted: Callable[[str], None] = lambda code: None,
    pool: Callable[[Speech], Pool] = Pool,
) -> Apart | None:
    """What scores a model outside of Python; None of any other model. `pool` makes the processes of a program."""
    if isinstance(model.fitted, Program):
        return Apart(pool(line(model, model.fitted)), limits, noted=noted)
    if isinstance(model.fitted, Endpoint):
        from penstock.app.scoring.remote import Remote  # a client, of which most have no need

        return Apart(Remote(model, model.fitted, time.monotonic), limits, noted=noted)
    return None


@contextlib.contextmanager
def ready(model: Model) -> Iterator[Model]:
    """A model that can be asked, within this block, wherever it scores; raises Unavailable where it does not come
    up."""
    one = scorer(model)
    if one is None:
        yield model
        return
    try:
        one.start()
        yield msgspec.structs.replace(model, apart=one)
    finally:
        one.close()
