"""faults: what a harness found: how often it provoked, what differed, and which planted bugs it caught."""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One row of the table that `make faults` prints."""

    name: str
    provoked: int
    differences: int
    planted: str = ""
    caught: int = 0
    planned: int = 0
    seconds: float = 0.0
    note: str = ""
