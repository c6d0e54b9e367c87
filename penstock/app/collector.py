"""app: Python's collector, kept out of the way of who answers: while it looks, every thread of the process waits.

Nothing here is made in circles request by request: what is done with goes at once. So it may look rarely, and need not
look at what is here to stay.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

RARELY = (50_000, 20, 50)
"""How many objects more than before there are when it looks at the newest, and so on, as of `gc.set_threshold`."""


def settle() -> None:
    """What is here now stays for good: no collection looks at it again, and there are few from here on."""
    gc.freeze()
    gc.set_threshold(*RARELY)


@contextlib.contextmanager
def staying() -> Iterator[None]:
    """What is made within it stays for good: no collection looks at it, then or later."""
    gc.disable()
    try:
        yield
        settle()
    finally:
        gc.enable()
