"""app: who runs which share of which stage now. On one machine a seat is a locked file in the home.

Seats only spread the work: a stage that two processes think theirs is decided by its epoch on the log.
A lock goes with its process, however that ends, so whoever stands by takes the seat at its next look.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

Seat = tuple[str, int]
"""A stage by name, and one of its shares."""


class Seats(Protocol):
    """This process's seats among all processes that run the same stages."""

    def look(self) -> None:
        """Take and give up seats as others come and go. One thread calls it, again and again."""

    def held(self) -> frozenset[Seat]:
        """The seats that are ours. Safe from any thread."""

    def close(self) -> None:
        """Give up every seat."""


class LockSeats:
    """Seats as locks in a folder. Each process holds its fair part of a stage's seats, and keeps those
    it has; `leave` is called with each one before it is given up."""

    def __init__(self, folder: Path, shares: Mapping[str, int], leave: Callable[[Seat], None]) -> None:
        self.folder, self.shares, self.leave = folder, dict(shares), leave
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._here: dict[str, int] = {}  # the descriptor that says we are there, by stage
        self._held: dict[Seat, int] = {}

    def look(self) -> None:
        """See `Seats`."""
        for stage, n in self.shares.items():
            here = self.folder / f"{stage}.{n}"
            here.mkdir(parents=True, exist_ok=True)
            part = self._part(stage, n, self._present(stage, here))
            mine = [seat for seat in self._held if seat[0] == stage]
            for seat in mine[part:]:
                self._give(seat)
            for k in range(n):
                if len(mine) < part and (stage, k) not in self._held:
                    descriptor = _lock(here / str(k))
                    if descriptor is not None:
                        self._held = {**self._held, (stage, k): descriptor}
                        mine.append((stage, k))

    def held(self) -> frozenset[Seat]:
        """See `Seats`."""
        return frozenset(self._held)

    def close(self) -> None:
        """See `Seats`."""
        for seat in list(self._held):
            self._give(seat)
        for stage, descriptor in self._here.items():
            with contextlib.suppress(OSError):
                (self.folder / f"{stage}.{self.shares[stage]}" / f"by-{self._name}").unlink()
            os.close(descriptor)
        self._here = {}

    def _present(self, stage: str, here: Path) -> list[str]:
        """The processes that run a stage, by name; what the dead left behind is swept away."""
        own = here / f"by-{self._name}"
        if stage not in self._here or not own.exists():
            made = here / f".{self._name}"
            descriptor = _lock(made)  # under another name until it is locked: nobody may think it dead
            assert descriptor is not None
            made.rename(own)
            self._here[stage] = descriptor
        for other in here.glob("by-*"):
            descriptor = _lock(other) if other != own else None
            if descriptor is not None:
                other.unlink(missing_ok=True)
                os.close(descriptor)
        return sorted(one.name for one in here.glob("by-*"))

    def _part(self, stage: str, n: int, present: list[str]) -> int:
        """How many of a stage's seats are ours: the same for all, the odd ones to other processes for
        each stage."""
        turned = (present.index(f"by-{self._name}") + zlib.crc32(stage.encode())) % len(present)
        return n // len(present) + (turned < n % len(present))

    def _give(self, seat: Seat) -> None:
        descriptor = self._held[seat]
        self._held = {one: held for one, held in self._held.items() if one != seat}
        self.leave(seat)
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Lock a file, made if need be; None when another holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
