"""log: the bell wakes those who wait; who rings often is heard every few milliseconds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from penstock.log import bell as module
from penstock.log.bell import SELDOM_S, Bell


def test_every_ring_is_heard(tmp_path: Path) -> None:
    """At once, unless it is said that the next comes soon; nothing is owed then."""
    bell = Bell(tmp_path)
    for n in (1, 2, 3):
        bell.ring()
        assert bell.rings == n
    bell.settle()
    assert bell.rings == 3


def test_who_rings_often_is_heard_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rings that come soon after one that was heard, the last is told of when things are settled, once."""
    now_s, bell = 1.0, Bell(tmp_path)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now_s))
    heard = []
    for after_s in (0.0, SELDOM_S / 2, SELDOM_S / 4, SELDOM_S, SELDOM_S / 2):
        now_s += after_s
        bell.ring(seldom=True)
        heard.append(bell.rings)
    assert heard == [1, 1, 1, 2, 2]
    for _ in range(2):
        bell.settle()
        assert bell.rings == 3
